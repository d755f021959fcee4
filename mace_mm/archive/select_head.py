"""Reduce a network of several heads to one level of theory."""

from dataclasses import replace

import torch

from mace_mm.errors import ConfigError
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential


def select_head(potential: Potential, head: str | None) -> Potential:
    """Return a potential of one head; the same object if it has only one.

    Raises:
        ConfigError: several heads and none chosen, or no head of that name.
    """
    config = potential.network.config
    heads = config.heads
    if head is None and len(heads) == 1:
        return potential
    if head not in heads:
        raise ConfigError(f"the model has the heads {list(heads)}: choose one, got {head!r}")
    if len(heads) == 1:
        return potential
    index = heads.index(head)
    single = Potential(
        MACE(replace(config, heads=(head,))), potential.atomic_energies.values[index]
    ).to(potential.network.embedding.weight.dtype)
    width = config.readout_mlp
    state = {}
    for name, value in potential.network.state_dict().items():
        if name.endswith("linear_1"):
            value = value[:, index * width : (index + 1) * width]
        elif name.endswith("linear_2") or name in ("scale", "shift"):
            value = value[index : index + 1]
        elif name.startswith("readouts."):
            value = value[:, index : index + 1]
        state[name] = value.detach().clone()
    single.network.load_state_dict(state)
    return single.train(potential.training).requires_grad_(_trains(potential))


def _trains(potential: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in potential.parameters())
