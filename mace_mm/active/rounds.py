"""Rounds of active learning: explore until uncertain, label, train, again."""

import logging
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np

from mace_mm.active.config import ActiveConfig
from mace_mm.active.exploration import walk_until_uncertain
from mace_mm.archive.archive import load_archive, save_archive
from mace_mm.archive.open_model import open_model
from mace_mm.data.formats.extxyz import write_extxyz
from mace_mm.data.labels import LabeledMolecule
from mace_mm.evaluate.ase_calculator import MACECalculator
from mace_mm.generation.labels.base import LabelError
from mace_mm.generation.labels.programs import label_frames
from mace_mm.graph.molecule import Molecule
from mace_mm.training.config import FilesConfig, FineTuneConfig, TrainingConfig
from mace_mm.training.start.setup import prepare_frames
from mace_mm.training.train import MakeReporter, train_one
from mace_mm.training.uncertainty.fit import fit_uncertainty

logger = logging.getLogger(__name__)


def run_rounds(
    settings: ActiveConfig,
    *,
    on_round: Callable[[int, int], None] | None = None,
    make_reporter: MakeReporter | None = None,
) -> Path:
    """Explore, label and train, round after round; a finished step is a file and not done again.

    Args:
        settings: of the rounds.
        on_round: called with a round's number and how many frames it labelled.
        make_reporter: shows the progress of each training.

    Returns:
        The archive of the last round, or of the one before where no walk met an uncertain frame.

    Raises:
        ConfigError, DataError: settings or data that cannot be worked with.
    """
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "round-0.pt"
    if not archive.exists():
        _start_archive(settings, archive)
    for number in range(1, settings.rounds + 1):
        found = folder / f"round-{number}-labelled.xyz"
        if not found.exists():
            n_found = _explore_and_label(settings, number, archive, found)
            if on_round is not None:
                on_round(number, n_found)
            if n_found == 0:
                return archive
        archive = _train(settings, number, archive, make_reporter)
    return archive


def _start_archive(settings: ActiveConfig, target: Path) -> None:
    save_archive(target, open_model(settings.model))


def _uncertainty(settings: ActiveConfig, number: int, archive: Path) -> Path:
    """The uncertainty of a round's model, fitted on what it was trained on before this round."""
    path = archive.with_suffix(".uncertainty.pt")
    if not path.exists():
        frames = prepare_frames(_training(settings, number - 1, archive))
        opened = load_archive(archive)
        fit_uncertainty(
            opened.potential, opened.sha256, frames.train.source, frames.validation.source
        ).save(path)
    return path


def _explore_and_label(settings: ActiveConfig, number: int, archive: Path, target: Path) -> int:
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
            logger.info(
                "round %d, start %d, walk %d: %.3f eV/Å after %d steps",
                *(number, index, walker, walk.uncertainty, walk.n_steps),
            )
            if walk.destroyed is not None:
                logger.warning(
                    "round %d, start %d, walk %d went too far, the frame before is labelled: %s",
                    *(number, index, walker, walk.destroyed),
                )
            if not walk.uncertain:
                continue
            try:
                labels = label_frames(settings.label, atoms.numbers, walk.positions[None], charge)
            except LabelError as error:
                logger.warning("start %d cannot be labelled: %s", index, error)
                break
            if labels.failures:
                logger.warning("a frame gets no label: %s", labels.failures[0])
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


def _training(settings: ActiveConfig, number: int, archive: Path) -> TrainingConfig:
    """Settings of the training in a round: everything labelled up to it."""
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


def _train(
    settings: ActiveConfig, number: int, archive: Path, make_reporter: MakeReporter | None
) -> Path:
    target = Path(settings.output) / f"round-{number}.pt"
    if not target.exists():
        config = _training(settings, number, archive)
        train_one(config, make_reporter)
        (Path(config.output) / f"{config.name}.pt").replace(target)
    return target
