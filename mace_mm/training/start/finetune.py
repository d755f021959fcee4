"""Starting from a trained model: growth, heads, isolated-atom energies, parts that stay."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from mace_mm.data.labels import FrameSource, elements_of
from mace_mm.elements import atomic_number, symbol
from mace_mm.errors import ConfigError
from mace_mm.graph.batching import build_graph
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.training.config import TrainingConfig
from mace_mm.training.start.grow import grow_hidden, widen_channels
from mace_mm.training.start.narrow import narrow_channels
from mace_mm.training.start.select_elements import select_elements

_LOG = logging.getLogger(__name__)

# Frames used to fit the shift of the isolated-atom energies.
_MAX_FIT_FRAMES = 500


def start_from(
    base: Potential,
    config: TrainingConfig,
    source: FrameSource,
    given: Mapping[str, Mapping[int, float]],
) -> Potential:
    """Return a copy of a one-head potential with the run's heads, ready to be trained further.

    Args:
        base: the trained potential, one head.
        config: the run; `config.fine_tune` is set.
        source: the training frames.
        given: isolated-atom energies by head and atomic number; heads not named keep those of the
            base, shifted to the labels if `refit_atomic_energies`.

    Raises:
        ConfigError: an unknown part to freeze, elements the base lacks, the base has several heads,
            or cannot grow or shrink.
    """
    tune = config.fine_tune
    if tune is None:
        raise ConfigError("fine_tune is not configured")
    if len(base.network.config.heads) != 1:
        raise ConfigError(
            f"fine-tuning starts from one head, got {list(base.network.config.heads)}: select one"
        )
    base = base.double()
    if tune.elements is not None:
        base = select_elements(base, [atomic_number(name) for name in tune.elements])
    _report_absent(base, source)
    if tune.channels is not None and tune.channels < base.network.config.channels:
        base = narrow_channels(base, tune.channels, source, config.seed)
    elif tune.channels is not None:
        base = widen_channels(base, tune.channels)
    if tune.hidden_l_max is not None:
        base = grow_hidden(base, tune.hidden_l_max)
    base.eval()
    potential = expand_heads(base, config.heads())
    energies = potential.atomic_energies.values
    numbers = base.network.config.atomic_numbers
    for row, head in enumerate(config.heads()):
        if head in given:
            missing = [symbol(z) for z in numbers if z not in given[head]]
            if missing:
                raise ConfigError(
                    f"atomic_energies of head {head!r} lack {' '.join(missing)}, elements of the "
                    "model that is fine-tuned"
                )
            energies[row] = torch.tensor([given[head][z] for z in numbers], dtype=torch.float64)
        elif tune.refit_atomic_energies:
            shift = energy_shift(base, source, head, config.seed)
            energies[row] += shift
            _LOG.info(
                "isolated-atom energies of head %s move by %s eV",
                head,
                ", ".join(f"{symbol(z)} {d:+.4f}" for z, d in zip(numbers, shift, strict=True)),
            )
    freeze(potential, tune.freeze)
    return potential


def _report_absent(base: Potential, source: FrameSource) -> None:
    absent = sorted(set(base.network.config.atomic_numbers) - set(elements_of(source)))
    if absent:
        _LOG.warning(
            "no training frame has %s: the tuned model would still take them, untuned; "
            "fine_tune.elements leaves them out",
            ", ".join(map(symbol, absent)),
        )


def expand_heads(base: Potential, heads: tuple[str, ...]) -> Potential:
    """Copy a one-head potential to several heads that all start equal."""
    network = MACE(replace(base.network.config, heads=heads))
    n = len(heads)
    state = {}
    for name, value in base.network.state_dict().items():
        if name.endswith("linear_2") or name in ("scale", "shift"):
            value = value.repeat(n, *[1] * (value.dim() - 1))
        elif name.startswith("readouts."):
            value = value.repeat(1, n)
        state[name] = value
    network.load_state_dict(state)
    return Potential(network, base.atomic_energies.values.repeat(n, 1))


def energy_shift(potential: Potential, source: FrameSource, head: str, seed: int) -> torch.Tensor:
    """Least-norm change of the isolated-atom energies that fits the labels, (n_species,) eV.

    Minimizes sum over frames of (label - model - counts @ shift)^2, frames of one head.
    """
    numbers = potential.network.config.atomic_numbers
    place = {z: i for i, z in enumerate(numbers)}
    order = np.random.default_rng([seed, 29]).permutation(len(source))
    rows, residuals = [], []
    for index in order:
        frame = source[int(index)]
        if frame.head != head or frame.energy is None:
            continue
        graph = build_graph(frame.molecule, numbers, potential.network.config.r_max)
        with torch.enable_grad():
            energy = float(potential(graph).energy.detach())
        counts = np.zeros(len(numbers))
        for z in frame.molecule.atomic_numbers:
            counts[place[int(z)]] += 1
        rows.append(counts)
        residuals.append(frame.energy - energy)
        if len(rows) == _MAX_FIT_FRAMES:
            break
    if not rows:
        return torch.zeros(len(numbers), dtype=torch.float64)
    solution = np.linalg.lstsq(np.array(rows), np.array(residuals), rcond=1e-10)[0]
    return torch.from_numpy(solution)


def freeze(potential: Potential, parts: tuple[str, ...]) -> None:
    """Stop the parameters of the named parts from learning.

    "embedding", "readouts", "radial" (the radial networks of all layers), "layers.i".

    Raises:
        ConfigError: a part that names no parameter.
    """
    for part in parts:
        found = False
        for name, parameter in potential.network.named_parameters():
            if part == "radial":
                hit = ".radial." in name
            else:
                hit = name == part or name.startswith(part + ".")
            if hit:
                parameter.requires_grad_(False)
                found = True
        if not found:
            raise ConfigError(
                f"fine_tune.freeze: {part!r} names no part; parts are embedding, radial, readouts, "
                f"{', '.join(f'layers.{i}' for i in range(potential.network.config.n_layers))}"
            )
