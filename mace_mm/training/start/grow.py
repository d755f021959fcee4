"""A trained network gets more hidden features, and keeps its energies.

Whatever leads from a new feature to an old one is zero, so nothing changes at first. The gradients
of these weights are not zero, and training takes it from there. What was learned with the cheaper
network is kept (the idea of Chen et al., Net2Net, arXiv:1511.05641).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from mace_mm.errors import ConfigError
from mace_mm.model.mace.couplings import ConvolutionPath, convolution_paths
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential


def grow_hidden(potential: Potential, hidden_l_max: int) -> Potential:
    """Copy a potential to a network with a larger hidden l, of the same energies.

    New weights that meet zeros come from torch's global random state.

    Args:
        potential: of two layers or more.
        hidden_l_max: highest degree of the new network's hidden features.

    Raises:
        ConfigError: the network has features of a higher degree already, or a single layer, which
            has no hidden features.
    """
    old = potential.network
    if hidden_l_max < old.config.hidden_l_max or old.config.n_layers == 1:
        raise ConfigError(
            f"fine_tune.hidden_l_max adds to the hidden features of two layers or more: wanted "
            f"l = {hidden_l_max}, got a network of {old.config.n_layers} layers with "
            f"l = {old.config.hidden_l_max}"
        )
    network = MACE(replace(old.config, hidden_l_max=hidden_l_max))
    known, state = old.state_dict(), network.state_dict()
    for name, value in state.items():
        if name in known and known[name].shape == value.shape:
            value.copy_(known[name])
    for layer in range(1, old.config.n_layers):
        _place_paths(network, old, layer)
    return Potential(network, potential.atomic_energies.values)


def widen_channels(potential: Potential, channels: int) -> Potential:
    """Copy a potential to a network with more channels, of the same energies.

    Weights that lead to new channels come from torch's global random state.

    Raises:
        ConfigError: the network has more channels already.
    """
    old = potential.network
    if channels < old.config.channels:
        raise ConfigError(
            f"fine_tune.channels adds to the model's {old.config.channels}, got {channels}"
        )
    network = MACE(replace(old.config, channels=channels))
    known = old.state_dict()
    for name, value in network.state_dict().items():
        if value.shape == known[name].shape:
            value.copy_(known[name])
        else:
            _place_channels(value, known[name], channels, old.config.channels)
    return Potential(network, potential.atomic_energies.values)


def _place_channels(value: torch.Tensor, learned: torch.Tensor, channels: int, before: int) -> None:
    """Fill a weight; a dimension that grew has `channels` numbers where it had `before`."""
    kept = [
        torch.arange(old)
        if old == new
        else (torch.arange(old // before)[:, None] * channels + torch.arange(before)).flatten()
        for old, new in zip(learned.shape, value.shape, strict=True)
    ]
    factor = 1.0
    if value.shape[:-1] != learned.shape[:-1]:
        value[..., kept[-1]] = 0.0
        # A map is divided by the root of the number of its rows.
        factor = (value.size(-2) / learned.size(-2)) ** 0.5
    value[torch.meshgrid(*kept, indexing="ij")] = learned * factor


def _place_paths(network: MACE, old: MACE, layer: int) -> None:
    """Put what the old paths of a layer's convolution have learned where the same paths are now."""
    channels, l_max = network.config.channels, network.config.l_max
    modules: list[Any] = [n.layers[layer] for n in (network, old)]
    now, before = (module.interaction for module in modules)
    columns, learned = now.radial.weights[-1].data, before.radial.weights[-1].data
    places = dict(_places(old.config.hidden_l_max, l_max))
    for linear in now.linear.weights:
        linear.data.zero_()
    for path, (index, row) in _places(network.config.hidden_l_max, l_max):
        if path not in places:
            continue
        old_index, old_row = places[path]
        columns[:, _block(index, channels)] = learned[:, _block(old_index, channels)]
        rows, old_rows = (i.linear.weights[path.l_out].data for i in (now, before))
        # The map is divided by the root of the number of its rows.
        factor = (rows.size(0) / old_rows.size(0)) ** 0.5
        rows[_block(row, channels)] = old_rows[_block(old_row, channels)] * factor


def _places(hidden_l_max: int, l_max: int) -> Iterator[tuple[ConvolutionPath, tuple[int, int]]]:
    """Every path with its index among all, and among those to the same l_out."""
    seen: Counter[int] = Counter()
    for index, path in enumerate(convolution_paths(hidden_l_max, l_max)):
        yield path, (index, seen[path.l_out])
        seen[path.l_out] += 1


def _block(index: int, channels: int) -> slice:
    return slice(index * channels, (index + 1) * channels)
