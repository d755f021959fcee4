"""``mace-mm simulate``: molecular dynamics of a ligand."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from mace_mm.cli.live_line import LiveLine, StopOnSignal

if TYPE_CHECKING:
    from mace_mm.simulation.ligand import Ligand
    from mace_mm.simulation.run.settings import RunSettings
    from mace_mm.simulation.run.summary import RunSummary
    from mace_mm.simulation.simulate import ModelChoice
    from mace_mm.simulation.watch.settings import WatchSettings

# Exit code of a program that SIGINT ended.
_INTERRUPTED = 130
# Atoms up to which threads wait for each other longer than they compute.
_SMALL = 200
# Reasons of the verdict on the terminal; the report has all.
_SHOWN = 5


def simulate(
    ligand: str = typer.Argument(..., help="A .sdf, .mol or .pdb file, or a SMILES string."),
    name: str | None = typer.Option(None, help="A name for the report."),
    output: Path = typer.Option(Path("run"), "--output", "-o", help="Folder of the run."),
    model: Path | None = typer.Option(
        None, help="An archive, a mace-torch .model file or `medium`; `small` if left out."
    ),
    steps: int = typer.Option(2000, help="Integration steps in all."),
    dt: float = typer.Option(0.5, help="Time step, fs."),
    temperature: float = typer.Option(300.0, help="Temperature, K."),
    friction: float = typer.Option(1.0, help="Friction of the Langevin thermostat, 1/ps."),
    minimize: int = typer.Option(200, help="Iterations of the minimizer at most, 0 for none."),
    log_every: int = typer.Option(10, help="Steps between two lines of the log."),
    frame_every: int = typer.Option(20, help="Steps between two frames of the trajectory."),
    checkpoint_every: int = typer.Option(200, help="Steps between two checkpoints."),
    seed: int = typer.Option(1, help="Seed of velocities and noise."),
    precision: str = typer.Option("single", help="single or double."),
    backend: str = typer.Option("auto", help="auto, torchforce, pythontorchforce or pythonforce."),
    device: str | None = typer.Option(None, help="Device of the model: cpu, cuda."),
    platform: str | None = typer.Option(None, help="OpenMM platform, OpenMM's choice if left out."),
    threads: int | None = typer.Option(
        None, help="CPU threads of the model; 1 for a small molecule if left out.", min=1
    ),
    watch: str = typer.Option(
        "stop",
        help="stop: end the run when bonds break or form or it explodes; strict: at anything that "
        "stands out; flag: never; off: do not look.",
    ),
    force_error_every: int = typer.Option(
        2000, help="Steps between two looks at the expected force error, 0 for none."
    ),
    uncertainty: Path | None = typer.Option(
        None, help="A file of `mace-mm uncertainty` for --model; bundled models have theirs."
    ),
    allow_unknown_charge: bool = typer.Option(
        False, "--allow-unknown-charge", help="For research: charges the model was not trained for."
    ),
    resume: bool = typer.Option(False, "--resume", help="Continue the run in the folder."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Remove a former run first."),
) -> None:
    """Run molecular dynamics and write trajectory, log, checkpoint and an HTML report.

    Ctrl-C stops the run after a checkpoint; --resume continues it. A run whose molecule is
    destroyed ends with an error; --resume goes back to the checkpoint before that.
    """
    from mace_mm.errors import ConfigError
    from mace_mm.simulation.ligand import load_ligand
    from mace_mm.simulation.run.settings import RunSettings
    from mace_mm.simulation.simulate import ModelChoice
    from mace_mm.simulation.watch.settings import WatchSettings

    if resume and overwrite:
        raise ConfigError("--resume and --overwrite exclude each other")
    settings = RunSettings(
        steps=steps,
        timestep_fs=dt,
        temperature_k=temperature,
        friction_per_ps=friction,
        minimize_steps=minimize,
        log_interval=log_every,
        frame_interval=frame_every,
        checkpoint_interval=checkpoint_every,
        seed=seed,
        platform=platform,
    )
    watching = WatchSettings(watch=watch, force_error_interval=force_error_every)
    choice = ModelChoice(
        path=model,
        precision=precision,
        backend=backend,
        device=device,
        uncertainty=uncertainty,
        allow_unknown_charge=allow_unknown_charge,
    )
    loaded = load_ligand(ligand, name)
    _set_threads(threads, loaded.n_atoms)
    if overwrite:
        _remove_former(output)
    _run(loaded, output, settings, choice, watching, resume)


def _remove_former(output: Path) -> None:
    from mace_mm.simulation.report.page import RUN_FILES

    for name in RUN_FILES:
        (output / name).unlink(missing_ok=True)


def _set_threads(threads: int | None, n_atoms: int) -> None:
    import torch

    if threads is None and n_atoms <= _SMALL:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def _run(
    ligand: "Ligand",
    output: Path,
    settings: "RunSettings",
    model: "ModelChoice",
    watch: "WatchSettings",
    resume: bool,
) -> None:
    """Run with a live line, and write the report however the run ends."""
    from mace_mm.errors import GeometryError, RunStoppedError
    from mace_mm.simulation.report.page import write_report
    from mace_mm.simulation.run.summary import SUMMARY_NAME
    from mace_mm.simulation.simulate import simulate as run

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{ligand.name}: {ligand.n_atoms} atoms{ligand.box_in_words}", markup=False)
    try:
        with StopOnSignal() as stop, LiveLine(console) as line:
            summary = run(
                ligand,
                output,
                settings,
                model,
                watch=watch,
                resume=resume,
                on_progress=line.show,
                should_stop=stop.asked,
            )
    except (RunStoppedError, GeometryError):
        # What was computed until then has a report, too; the error ends the command.
        if (output / SUMMARY_NAME).exists():
            console.print(f"report: {write_report(output)}", markup=False)
        raise
    _conclude(summary, write_report(output), settings.steps, console)


def _conclude(summary: "RunSummary", report: Path, steps: int, console: Console) -> None:
    """Say what came of it and where the report is; exit with a status of its own if stopped."""
    speed = summary.result.ns_per_day
    if speed is not None:
        console.print(f"{summary.force} on {summary.result.platform}: {speed:.3g} ns/day")
    console.print(summary.verdict.headline, markup=False)
    for reason in summary.verdict.reasons[:_SHOWN]:
        console.print(f"- {reason}", markup=False)
    console.print(f"report: {report}", markup=False)
    if not summary.result.completed:
        console.print(
            f"stopped at step {summary.result.step} of {steps}; --resume continues the run"
        )
        sys.exit(_INTERRUPTED)
