"""From a training checkpoint to an archive that is proven equal."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mace_mm.archive.archive import ArchiveMetadata, load_archive, make_archive, save_archive
from mace_mm.archive.open_model import open_model
from mace_mm.archive.select_head import select_head
from mace_mm.elements import symbol
from mace_mm.errors import ConfigError, DataError, MaceMMError
from mace_mm.model.potential import Potential
from mace_mm.training.config_file import parse_config
from mace_mm.training.run.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from mace_mm.training.run.restore import check_equal, trained_potential
from mace_mm.training.start.domain import Domain
from mace_mm.training.start.setup import prepare_frames

logger = logging.getLogger(__name__)


def domain_of_checkpoint(path: Path, head: str | None) -> Domain | None:
    """The range of the training frames, if they are still where the run found them."""
    checkpoint = load_checkpoint(path)
    try:
        frames = prepare_frames(parse_config(checkpoint.config, origin=f"settings of {path}"))
    except (ConfigError, DataError) as error:
        logger.warning("the archive will not know the limits of its training data: %s", error)
        return None
    return frames.domains.get(head or checkpoint.model_config["heads"][0])


def potential_of_checkpoint(
    checkpoint: Checkpoint, head: str | None, weights: str = "best"
) -> Potential:
    """Rebuild one head of a checkpoint's potential, float64."""
    return select_head(trained_potential(checkpoint, weights), head)


def compile_checkpoint(
    path: Path,
    output: Path,
    *,
    head: str | None = None,
    weights: str = "best",
    domain: Domain | None = None,
) -> None:
    """Write the archive of a checkpoint and check that both agree.

    Without the `domain` of its training frames the archive does not know its limits, and a
    simulation can only warn by general rules. A tuned model's limits are those of its base and of
    its own frames together, unknown where the base does not tell.

    Raises:
        CheckpointError, ArchiveError: a file that cannot be read, or an archive that disagrees.
    """
    checkpoint = load_checkpoint(path)
    potential = potential_of_checkpoint(checkpoint, head, weights)
    data: dict[str, Any] = checkpoint.config["data"]
    tune = checkpoint.config["fine_tune"]
    base = None if tune is None else _base_metadata(tune)
    trained_on, licence = data["description"], data["licence"]
    if base is not None:
        trained_on += f"; started from {base.name} ({base.training_data})"
        licence += f"; of {base.name}: {base.training_data_licence}"
    charges, distances = _limits(domain, base, potential)
    metadata = ArchiveMetadata(
        name=checkpoint.config["name"],
        level_of_theory=data["level_of_theory"],
        training_data=trained_on,
        training_data_licence=licence,
        created=datetime.now(UTC).date().isoformat(),
        results=_results(checkpoint),
        total_charges=charges,
        shortest_distances=distances,
    )
    save_archive(output, make_archive(potential, metadata))
    check_equal(checkpoint, head, weights, load_archive(output).potential)


def _base_metadata(tune: dict[str, Any]) -> ArchiveMetadata:
    """What is known of the model that a tuned one started from."""
    try:
        if not is_checkpoint(tune["model"]):
            return open_model(tune["model"], head=tune["head"]).metadata
        config = load_checkpoint(Path(tune["model"])).config
    except MaceMMError as error:
        logger.warning("the archive will not know what its base was trained on: %s", error)
        return ArchiveMetadata(name=Path(tune["model"]).stem)
    data = config["data"]
    return ArchiveMetadata(
        name=config["name"],
        training_data=data["description"],
        training_data_licence=data["licence"],
    )


def _limits(
    domain: Domain | None, base: ArchiveMetadata | None, potential: Potential
) -> tuple[tuple[int, ...], dict[str, float]]:
    """Charges and shortest distances seen here or by the base; empty where one is not known."""
    if domain is None:
        return (), {}
    charges, distances = domain.charges, domain.shortest_distances()
    if base is not None:
        charges = charges | set(base.total_charges) if base.total_charges else set()
        elements = {symbol(z) for z in potential.network.config.atomic_numbers}
        if not base.shortest_distances:
            distances = {}
        for pair, distance in base.shortest_distances.items():
            if elements.issuperset(pair.split("-")):
                distances[pair] = min(distance, distances.get(pair, distance))
    return tuple(sorted(charges)), distances


def _results(checkpoint: Checkpoint) -> dict[str, Any]:
    best = checkpoint.progress["best_epoch"]
    rows = [r for r in checkpoint.progress["history"] if r["epoch"] == best]
    return {
        "seed": checkpoint.config["seed"],
        "steps": checkpoint.progress["step"],
        "validation": {k: v for k, v in rows[0].items() if v == v} if rows else {},
    }
