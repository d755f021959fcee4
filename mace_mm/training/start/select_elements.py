"""Reduce a network to some of its elements."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mace_mm.elements import symbol
from mace_mm.errors import ConfigError
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential


def select_elements(potential: Potential, atomic_numbers: Sequence[int]) -> Potential:
    """Return a float64 copy that knows these elements only, and gives them the same energies.

    Raises:
        ConfigError: none, or one that the model lacks.
    """
    config = potential.network.config
    wanted, known = tuple(sorted(set(atomic_numbers))), config.atomic_numbers
    if not wanted or not set(wanted) <= set(known):
        raise ConfigError(
            f"elements must be some of the model's, {' '.join(map(symbol, known))}: got "
            f"{' '.join(map(symbol, wanted)) or 'none'}"
        )
    rows = torch.tensor([known.index(z) for z in wanted])
    network = MACE(replace(config, atomic_numbers=wanted))
    before = potential.network.state_dict()
    # These maps are divided by the root of the number of elements.
    factor = (len(wanted) / len(known)) ** 0.5
    for name, value in network.state_dict().items():
        learned = before[name]
        if learned.shape != value.shape:
            learned = learned[rows]
        scaled = name == "embedding.weight" or ".skip." in name
        value.copy_(learned * factor if scaled else learned)
    return Potential(network, potential.atomic_energies.values[:, rows])
