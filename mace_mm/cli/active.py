"""``mace-mm active``: explore until uncertain, label, train, again."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from mace_mm.cli.openmp import wait_briefly

if TYPE_CHECKING:
    from mace_mm.cli.active_config import ActiveConfig

_LOG = logging.getLogger(__name__)


def active(
    config: Path = typer.Argument(..., metavar="CONFIG.yaml", help="Settings; see the manual."),
) -> None:
    """Active learning: dynamics that stops where the model is unsure, labels, fine-tuning.

    Every finished step of every round is a file in the output folder; an interrupted run goes on
    after the last of them.
    """
    wait_briefly()
    from mace_mm.cli.active_config import read_active_config

    settings = read_active_config(config)
    console = Console(stderr=True)
    logging.getLogger("mace_mm").setLevel(logging.INFO)
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "round-0.pt"
    if not archive.exists():
        _start_archive(settings, archive)
    for number in range(1, settings.rounds + 1):
        found = folder / f"round-{number}-labelled.xyz"
        if not found.exists():
            n_found = _explore_and_label(settings, number, archive, found)
            console.print(f"round {number}: {n_found} uncertain frames labelled")
            if n_found == 0:
                console.print(f"no walk met an uncertain frame; the model is {archive}")
                return
        archive = _train(settings, number, archive, console)
    console.print(f"{settings.rounds} rounds are done; the model is {archive}")


def _start_archive(settings: "ActiveConfig", target: Path) -> None:
    from mace_mm.deploy.archive import save_archive
    from mace_mm.deploy.open_model import open_model

    save_archive(target, open_model(settings.model))


def _uncertainty(settings: "ActiveConfig", number: int, archive: Path) -> Path:
    """The uncertainty of a round's model, fitted on what it was trained on before this round."""
    from mace_mm.deploy.archive import load_archive
    from mace_mm.training.setup import prepare_frames
    from mace_mm.training.uncertainty import fit_uncertainty

    path = archive.with_suffix(".uncertainty.pt")
    if not path.exists():
        frames = prepare_frames(_training(settings, number - 1, archive))
        opened = load_archive(archive)
        fit_uncertainty(
            opened.potential, opened.sha256, frames.train.source, frames.validation.source
        ).save(path)
    return path


def _explore_and_label(settings: "ActiveConfig", number: int, archive: Path, target: Path) -> int:
    import ase.io
    import numpy as np

    from mace_mm.data.extxyz import write_extxyz
    from mace_mm.data.labels import LabeledMolecule
    from mace_mm.generation.labelling import LabelError, label_frames
    from mace_mm.graph.molecule import Molecule
    from mace_mm.simulation.ase_calculator import MACECalculator
    from mace_mm.simulation.exploration import walk_until_uncertain

    explore = settings.explore
    uncertainty = _uncertainty(settings, number, archive)
    labelled = []
    for index, atoms in enumerate(ase.io.read(settings.starts, ":")):
        charge = round(float(atoms.info.get("total_charge", 0)))
        atoms.calc = MACECalculator(archive, uncertainty=uncertainty)
        for walker in range(explore.walkers):
            walk = walk_until_uncertain(
                atoms,
                temperature_k=explore.temperature_k,
                timestep_fs=explore.timestep_fs,
                n_steps=explore.n_steps,
                check_every=explore.check_every,
                threshold=explore.threshold,
                seed=(settings.seed, number, index, walker),
            )
            _LOG.info(
                "round %d, start %d, walk %d: %.3f eV/Å after %d steps",
                *(number, index, walker, walk.uncertainty, walk.n_steps),
            )
            if walk.destroyed is not None:
                _LOG.warning(
                    "round %d, start %d, walk %d went too far, the frame before is labelled: %s",
                    *(number, index, walker, walk.destroyed),
                )
            if not walk.uncertain:
                continue
            try:
                labels = label_frames(settings.label, atoms.numbers, walk.positions[None], charge)
            except LabelError as error:
                _LOG.warning("start %d cannot be labelled: %s", index, error)
                break
            if labels.failures:
                _LOG.warning("a frame gets no label: %s", labels.failures[0])
                continue
            labelled.append(
                LabeledMolecule(
                    molecule=Molecule(
                        atomic_numbers=np.asarray(atoms.numbers),
                        positions=walk.positions,
                        total_charge=charge,
                    ),
                    energy=float(labels.energies[0]),
                    forces=labels.forces[0],
                    name=f"start-{index}",
                    subset=f"round-{number}",
                    level_of_theory=settings.label.level_of_theory(),
                )
            )
    if labelled:
        write_extxyz(target, labelled)
    return len(labelled)


def _training(settings: "ActiveConfig", number: int, archive: Path):  # type: ignore[no-untyped-def]
    """Settings of the training in a round: everything labelled up to it."""
    from mace_mm.training.config import FilesConfig, FineTuneConfig, TrainingConfig

    folder = Path(settings.output)
    new = [folder / f"round-{i}-labelled.xyz" for i in range(1, number + 1)]
    files = [*settings.data.train, *(FilesConfig(path=str(path)) for path in new)]
    return TrainingConfig(
        name=f"{settings.name}-{number}",
        output=str(folder / f"round-{number}"),
        seed=settings.seed,
        data=settings.data.model_copy(update={"train": tuple(files)}),
        # Only the first round meets a model of another level of theory.
        fine_tune=FineTuneConfig(model=str(archive), refit_atomic_energies=number <= 1),
        optimizer=settings.optimizer,
        stages=settings.stages,
        run=settings.run,
    )


def _train(settings: "ActiveConfig", number: int, archive: Path, console: Console) -> Path:
    from mace_mm.cli.train import train_one

    target = Path(settings.output) / f"round-{number}.pt"
    if not target.exists():
        config = _training(settings, number, archive)
        train_one(config, console, check=False)
        (Path(config.output) / f"{config.name}.pt").replace(target)
    return target
