"""A network with vectors among its hidden features that starts as one without them.

The convolution of the second layer gets paths from vectors. Their rows of the linear map that
mixes paths are zero, so the energies are the small network's; the gradient of these rows is not
zero, and training takes it from there. Everything learned is kept: the medium model needs none of
the first stage of training.
"""

import dataclasses
from collections.abc import Iterator

import torch

from mace_mm.deploy.archive import Archive, make_archive
from mace_mm.model.couplings import convolution_paths
from mace_mm.model.mace import MACE
from mace_mm.model.potential import Potential


def grow(small: Archive, seed: int = 0) -> Archive:
    """The same energies from a network with hidden l = 1.

    Args:
        small: a model of two layers with hidden l = 0.
        seed: of the new weights that start at random.
    """
    old = small.potential.network
    torch.manual_seed(seed)
    network = MACE(dataclasses.replace(old.config, hidden_l_max=1))
    known, state = old.state_dict(), network.state_dict()
    for name, value in state.items():
        if name in known and known[name].shape == value.shape:
            value.copy_(known[name])
    _place_paths(network, old)
    potential = Potential(network, small.potential.atomic_energies.values)
    return make_archive(potential, dataclasses.replace(small.metadata, name="medium"))


def _place_paths(network: MACE, old: MACE) -> None:
    """Put what the old paths have learned where the same paths are now."""
    channels = network.config.channels
    new_layer, old_layer = network.layers[1].interaction, old.layers[1].interaction
    columns, learned = new_layer.radial.weights[-1].data, old_layer.radial.weights[-1].data
    for degree, place, index in _paths_from_scalars(network.config.l_max):
        weight, before = (layer.linear.weights[degree].data for layer in (new_layer, old_layer))
        # The map is divided by the root of the number of its rows.
        kept = before * (weight.size(0) / before.size(0)) ** 0.5
        weight.zero_()
        weight[place * channels : (place + 1) * channels] = kept
        here, there = (slice(i * channels, (i + 1) * channels) for i in (index, degree))
        columns[:, here] = learned[:, there]


def _paths_from_scalars(l_max: int) -> Iterator[tuple[int, int, int]]:
    """Degree, index among the paths to it, and index among all, of a network with vectors."""
    count: dict[int, int] = {}
    for index, path in enumerate(convolution_paths(1, l_max)):
        place = count.get(path.l_out, 0)
        count[path.l_out] = place + 1
        if path.l_in == 0:
            yield path.l_out, place, index
