"""What a run starts from: frames, isolated-atom energies and a network, checked before any step."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mace_mm.data.labels import FrameSource, elements_of
from mace_mm.data.statistics import Statistics, compute_statistics
from mace_mm.elements import atomic_number, symbol
from mace_mm.errors import ConfigError, DataError
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.training.config import ModelConfig, TrainingConfig
from mace_mm.training.frames import WeightedFrames, gather, split, subset
from mace_mm.training.run.checkpoint import Checkpoint
from mace_mm.training.start.domain import Domain
from mace_mm.training.start.finetune import freeze, start_from

_LOG = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """What a run learns from and is judged by.

    Attributes:
        train, validation: frames with weights; single atoms are left out.
        isolated_atoms: energies of single atoms in the training files, eV, by head and atomic
            number.
        domains: the range of the training frames by head.
    """

    train: WeightedFrames
    validation: WeightedFrames
    isolated_atoms: dict[str, dict[int, float]]
    domains: dict[str, Domain]


def prepare_frames(config: TrainingConfig) -> Frames:
    """Open the data, set validation frames aside and read every frame once.

    Raises:
        ConfigError, DataError: a file that is missing, damaged or without labels; NaN labels.
    """
    files = [*config.data.train]
    if config.fine_tune is not None:
        files += config.fine_tune.replay
    if not config.data.validation and any(f.repeat > 1 and not f.train_only for f in files):
        raise ConfigError(
            "repeat needs data.validation files or train_only: copies would be set aside, too"
        )
    frames, isolated = _take_isolated_atoms(gather(files, config.data, config.seed))
    if config.data.validation:
        train = frames
        held = gather(config.data.validation, config.data, config.seed)
        validation, _ = _take_isolated_atoms(held)
    else:
        train, validation = split(
            frames, config.data.validation_fraction, config.data.split_by, config.seed
        )
    known = {entry.subset for part in (train, validation) for entry in part.source.entries}
    unknown = sorted(set(config.data.subset_weights) - known)
    if unknown:
        _LOG.warning("subset_weights names subsets that do not occur: %s", ", ".join(unknown))
    domains = _check_labels(train, "training")
    _check_labels(validation, "validation")
    return Frames(train=train, validation=validation, isolated_atoms=isolated, domains=domains)


def build_potential(
    config: TrainingConfig, frames: Frames, base: Potential | None = None
) -> Potential:
    """Build the potential that a run starts from, in the run's precision.

    Args:
        config: the run.
        frames: its data.
        base: the trained potential named in `config.fine_tune`, opened by the caller.

    Raises:
        ConfigError: elements without an isolated-atom energy, or that the model lacks.
    """
    torch.manual_seed(config.seed)
    given = _given_energies(config, frames.isolated_atoms)
    if config.fine_tune is None:
        # Frames kept apart are far from the others: forces of theirs would set the scale of all.
        usual = np.flatnonzero(frames.train.apart == 0)
        measured = subset(frames.train, usual) if usual.size else frames.train
        potential = _from_scratch(config, measured.source, given)
    elif base is None:
        raise ConfigError("fine_tune needs the trained potential it starts from, got none")
    else:
        _check_elements(base, frames.train.source)
        potential = start_from(base, config, frames.train.source, given)
    _check_elements(potential, frames.train.source)
    _check_elements(potential, frames.validation.source)
    return potential.to(DTYPES[config.run.precision]).train()


def restore_potential(config: TrainingConfig, checkpoint: Checkpoint) -> Potential:
    """Rebuild the potential of a checkpoint with its raw weights, in the run's precision."""
    potential = Potential(MACE(MACEConfig.from_dict(checkpoint.model_config)))
    potential = potential.to(DTYPES[config.run.precision])
    potential.load_state_dict(checkpoint.weights)
    if config.fine_tune is not None:
        freeze(potential, config.fine_tune.freeze)
    return potential.train()


def _from_scratch(
    config: TrainingConfig, source: FrameSource, given: dict[str, dict[int, float]]
) -> Potential:
    model = config.model or ModelConfig()
    statistics = compute_statistics(
        source, cutoff=model.r_max, atomic_energies=given or None, seed=config.seed
    )
    network_config = _network_config(model, statistics, config.heads())
    network = MACE(network_config)
    scale = model.scale
    if scale is None:
        scale = statistics.forces_rms if np.isfinite(statistics.forces_rms) else 1.0
    network.scale.fill_(scale)
    table = [
        [_energy_of(statistics.atomic_energies, head, z) for z in network_config.atomic_numbers]
        for head in network_config.heads
    ]
    for head, energies in zip(network_config.heads, table, strict=True):
        text = ", ".join(
            f"{symbol(z)} {e:.4f}"
            for z, e in zip(network_config.atomic_numbers, energies, strict=True)
        )
        how = "fitted" if statistics.energies_fitted.get(head, False) else "given"
        _LOG.info("isolated-atom energies of head %s (%s), eV: %s", head, how, text)
    return Potential(network, torch.tensor(table, dtype=torch.float64))


def _network_config(
    model: ModelConfig, statistics: Statistics, heads: tuple[str, ...]
) -> MACEConfig:
    elements = statistics.elements if model.elements is None else tuple(sorted(model.elements))
    missing = [symbol(z) for z in statistics.elements if z not in elements]
    if missing:
        raise ConfigError(
            f"model.elements lacks elements of the data: {' '.join(missing)}; "
            f"got {' '.join(symbol(z) for z in elements)}"
        )
    own = ("elements", "scale", "avg_num_neighbors")
    values = {k: v for k, v in model.model_dump().items() if k not in own}
    return MACEConfig(
        atomic_numbers=elements,
        heads=heads,
        avg_num_neighbors=model.avg_num_neighbors or statistics.avg_num_neighbors,
        **values,
    )


def _energy_of(energies: Mapping[str, Mapping[int, float]], head: str, z: int) -> float:
    table = energies.get(head, {})
    if z not in table:
        raise ConfigError(
            f"no isolated-atom energy for {symbol(z)} of head {head!r}: it does not occur in that "
            "head's data; give it under atomic_energies"
        )
    return table[z]


def _given_energies(
    config: TrainingConfig, isolated: dict[str, dict[int, float]]
) -> dict[str, dict[int, float]]:
    given = config.atomic_energies
    if given == "fit":
        return {}
    if given == "isolated":
        if not isolated:
            raise ConfigError("atomic_energies: isolated, but no training frame is one atom alone")
        return isolated
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"atomic_energies: expected energies by element, got {given!r}")
    by_head: dict[str, dict[int, float]] = {}
    for key, value in given.items():
        if isinstance(value, dict):
            by_head[key] = {atomic_number(s): float(e) for s, e in value.items()}
        else:
            for head in config.heads():
                by_head.setdefault(head, {})[atomic_number(key)] = float(value)
    unknown = sorted(set(by_head) - set(config.heads()))
    if unknown:
        raise ConfigError(
            f"atomic_energies names heads {unknown} that no file has; "
            f"the heads are {list(config.heads())}"
        )
    return by_head


def _take_isolated_atoms(
    frames: WeightedFrames,
) -> tuple[WeightedFrames, dict[str, dict[int, float]]]:
    """Single atoms give E0s and teach nothing else; return the other frames and the E0s."""
    sizes = np.array([entry.atomic_numbers.size for entry in frames.source.entries])
    sizes = sizes[frames.source.entry_of_frame]
    energies: dict[str, dict[int, float]] = {}
    for index in np.flatnonzero(sizes == 1):
        frame = frames.source[int(index)]
        if frame.energy is not None:
            energies.setdefault(frame.head, {})[int(frame.molecule.atomic_numbers[0])] = (
                frame.energy
            )
    if not energies:
        return frames, {}
    return subset(frames, np.flatnonzero(sizes > 1)), energies


def _check_labels(frames: WeightedFrames, what: str) -> dict[str, Domain]:
    """Read every frame once: a NaN label or a damaged frame shows now, not after hours.

    Returns the frames' range by head.
    """
    n_energies = n_forces = 0
    domains: dict[str, Domain] = {}
    for index in range(len(frames.source)):
        frame = frames.source[index]
        domains.setdefault(frame.head, Domain()).add(frame)
        n_energies += frame.energy is not None
        n_forces += frame.forces is not None
    if n_energies + n_forces == 0:
        raise DataError(f"none of the {len(frames.source)} {what} frames has a label")
    return domains


def _check_elements(potential: Potential, source: FrameSource) -> None:
    known = set(potential.network.config.atomic_numbers)
    present = set(elements_of(source))
    if not present <= known:
        raise ConfigError(
            f"the data have elements the model lacks: "
            f"{' '.join(symbol(z) for z in sorted(present - known))}; the model knows "
            f"{' '.join(symbol(z) for z in sorted(known))}"
        )
