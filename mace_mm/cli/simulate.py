"""``mace-mm simulate``: molecular dynamics of a ligand."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from mace_mm.cli.live_line import LiveLine, StopOnSignal

if TYPE_CHECKING:
    from mace_mm.simulation.simulate import RunSummary

# Exit code of a program that SIGINT ended.
_INTERRUPTED = 130
# Atoms up to which threads wait for each other longer than they compute.
_SMALL = 200


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
    resume: bool = typer.Option(False, "--resume", help="Continue the run in the folder."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Remove a former run first."),
) -> None:
    """Run molecular dynamics and write trajectory, log, checkpoint and an HTML report.

    Ctrl-C stops the run after a checkpoint; --resume continues it.
    """
    import torch

    from mace_mm.errors import ConfigError
    from mace_mm.simulation.ligand import load_ligand
    from mace_mm.simulation.report import RUN_FILES, write_report
    from mace_mm.simulation.run_settings import RunSettings
    from mace_mm.simulation.simulate import ModelChoice
    from mace_mm.simulation.simulate import simulate as run

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
    choice = ModelChoice(path=model, precision=precision, backend=backend, device=device)
    loaded = load_ligand(ligand, name)
    if threads is None and loaded.n_atoms <= _SMALL:
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)
    if overwrite:
        for name in RUN_FILES:
            (output / name).unlink(missing_ok=True)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"{loaded.name}: {loaded.n_atoms} atoms", markup=False)
    with StopOnSignal() as stop, LiveLine(console) as line:
        summary = run(
            loaded,
            output,
            settings,
            choice,
            resume=resume,
            on_progress=line.show,
            should_stop=stop.asked,
        )
    _conclude(summary, write_report(output), settings.steps, console)


def _conclude(summary: "RunSummary", report: Path, steps: int, console: Console) -> None:
    """Say how fast it ran and where the report is; exit with a status of its own if stopped."""
    speed = summary.result.ns_per_day
    if speed is not None:
        console.print(f"{summary.force} on {summary.result.platform}: {speed:.3g} ns/day")
    console.print(f"report: {report}", markup=False)
    if not summary.result.completed:
        console.print(
            f"stopped at step {summary.result.step} of {steps}; --resume continues the run"
        )
        sys.exit(_INTERRUPTED)
