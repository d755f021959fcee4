"""A trained network gets fewer channels: those stay that move the forces most.

A channel belongs to a convolution, where it has its own radial functions, or to a product, where it
has its own polynomial. Everything between is linear and is multiplied out, without loss. The score
of a channel is the squared change of a random projection of the forces with a factor in front of
the channel, summed over frames (first order, as Molchanov et al., CVPR 2019, arXiv:1906.10771).
The energies are not those of before: training takes it from there.
"""

import copy
from dataclasses import replace

import numpy as np
import torch

from mace_mm.data.labels import FrameSource
from mace_mm.errors import ConfigError
from mace_mm.graph.batching import build_graph
from mace_mm.model.mace.couplings import convolution_paths
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential

_MAX_FRAMES = 200

# Of both layers: ("convolution", layer, l of the features sent) or ("product", layer, 0).
Site = tuple[str, int, int]


def narrow_channels(
    potential: Potential, channels: int, source: FrameSource, seed: int
) -> Potential:
    """Copy a potential of two layers to a network with fewer channels.

    Args:
        potential: float64, with one head.
        channels: of the new network.
        source: frames like those the new network is for; 200 of them are looked at.
        seed: for the choice of frames and the projections.

    Raises:
        ConfigError: not two layers of which the second is residual only, or fewer channels than
            the second readout has hidden units.
    """
    old = potential.network
    config = old.config
    if config.n_layers != 2 or config.residual_first or channels < config.readout_mlp:
        raise ConfigError(
            "fine_tune.channels narrows networks of two layers with a first block that is not "
            f"residual, to {config.readout_mlp} channels (the readout's) or more: got "
            f"{channels} for {config.n_layers} layers"
            + (" with a residual first block" if config.residual_first else "")
        )
    scores = _scores(potential, source, seed)
    kept = {
        site: score.argsort(descending=True)[:channels].sort()[0] for site, score in scores.items()
    }
    network = MACE(replace(config, channels=channels))
    _fill(network, old, kept)
    return Potential(network, potential.atomic_energies.values)


def _scores(potential: Potential, source: FrameSource, seed: int) -> dict[Site, torch.Tensor]:
    """(channels,) of each site."""
    config = potential.network.config
    potential = copy.deepcopy(potential).train().requires_grad_(True)
    weights = dict(potential.network.named_parameters())
    generator = torch.Generator().manual_seed(seed)
    scores: dict[Site, torch.Tensor] = {}
    for index in np.random.default_rng([seed, 31]).permutation(len(source))[:_MAX_FRAMES]:
        graph = build_graph(source[int(index)].molecule, config.atomic_numbers, config.r_max)
        forces = potential(graph).forces
        direction = torch.randn(forces.shape, generator=generator, dtype=forces.dtype)
        projection = (direction * forces).sum() / forces.size(0) ** 0.5
        gradients = torch.autograd.grad(projection, list(weights.values()), allow_unused=True)
        slopes = {
            name: (weight * gradient).detach().sum(-1)
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
            if gradient is not None
        }
        for site, slope in _by_site(slopes, potential.network).items():
            scores[site] = scores.get(site, torch.zeros_like(slope)) + slope.square()
    return scores


def _by_site(slopes: dict[str, torch.Tensor], network: MACE) -> dict[Site, torch.Tensor]:
    """Sum slopes over the rows that read a channel: their maps follow convolution and product."""
    config = network.config
    found: dict[Site, torch.Tensor] = {}
    for layer in range(2):
        for site, l_out, rows in _path_rows(network, layer):
            part = slopes[f"layers.{layer}.interaction.linear.weights.{l_out}"][rows]
            found[site] = found.get(site, torch.zeros_like(part)) + part
        site = ("product", layer, 0)
        found[site] = sum(
            (
                slopes[f"layers.{layer}.product.linear.weights.{degree}"]
                for degree in range(config.hidden_l(layer + 1) + 1)
            ),
            torch.zeros(config.channels, dtype=torch.float64),
        )
    return found


def _path_rows(network: MACE, layer: int) -> list[tuple[Site, int, slice]]:
    """Each path of a layer's convolution: its site, l_out, and its rows of the map of l_out."""
    config = network.config
    seen = [0] * (config.l_max + 1)
    found = []
    for path in convolution_paths(config.hidden_l(layer), config.l_max):
        start = seen[path.l_out] * config.channels
        seen[path.l_out] += 1
        rows = slice(start, start + config.channels)
        found.append((("convolution", layer, path.l_in), path.l_out, rows))
    return found


class _Maps:
    """The linear maps of a network by name, without the factors that normalize them."""

    def __init__(self, network: MACE) -> None:
        self.weights = network.state_dict()

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.weights[name] * self._factor(name)

    def __setitem__(self, name: str, value: torch.Tensor) -> None:
        self.weights[name].copy_(value / self._factor(name))

    def _factor(self, name: str) -> float:
        weight = self.weights[name]
        rows = weight.numel() // weight.size(-1)
        return float(rows**-0.5)


def _fill(network: MACE, old: MACE, kept: dict[Site, torch.Tensor]) -> None:
    """Write the narrow network's weights.

    After the first convolution and the first product, its features are the channels themselves, so
    that the maps there are unit matrices.
    """
    new, known = _Maps(network), _Maps(old)
    for name, weight in new.weights.items():
        if weight.shape == known.weights[name].shape:
            weight.copy_(known.weights[name])
        elif ".contractions." in name:
            layer = int(name.split(".")[1])
            weight.copy_(known.weights[name][..., kept["product", layer, 0]])
    for layer in range(2):
        _fill_convolution(network, old, layer, kept)
    chosen = kept["product", 0, 0]
    unit = torch.eye(network.config.channels, dtype=torch.float64)
    up, linear, skip, product = (
        f"layers.0.{name}.weights."
        for name in ("interaction.linear_up", "interaction.linear", "interaction.skip")
        + ("product.linear",)
    )
    sent = known["embedding.weight"] @ known[f"{up}0"]
    new["embedding.weight"] = sent[:, kept["convolution", 0, 0]]
    new[f"{up}0"] = unit
    for degree in range(old.config.l_max + 1):
        mixed = known[f"{linear}{degree}"][kept["convolution", 0, 0]] @ known[f"{skip}{degree}"]
        new[f"{skip}{degree}"] = mixed[..., chosen]
        new[f"{linear}{degree}"] = unit
    features = []
    for degree in range(old.config.hidden_l_max + 1):
        features.append(known[f"{product}{degree}"][chosen])
        new[f"{product}{degree}"] = unit
    _fill_second(new, known, features, kept)


def _fill_second(
    new: _Maps, known: _Maps, features: list[torch.Tensor], kept: dict[Site, torch.Tensor]
) -> None:
    """Both readouts and the second layer, which see `features` of the first product's channels."""
    new["readouts.0.weight"] = features[0] @ known["readouts.0.weight"]
    up, skip, product = (
        f"layers.1.{name}.weights."
        for name in ("interaction.linear_up", "interaction.skip", "product.linear")
    )
    for degree, feature in enumerate(features):
        sent = feature @ known[f"{up}{degree}"]
        new[f"{up}{degree}"] = sent[:, kept["convolution", 1, degree]]
    # The readout reads a few combinations of the last features: they come first, and the others
    # start from zero, with the random weights that the new readout has for them.
    readout = known["readouts.1.linear_1"]
    rows = new["readouts.1.linear_1"]
    channels, width = rows.shape
    new[f"{skip}0"] = _padded(features[0] @ known[f"{skip}0"] @ readout, channels)
    last = known[f"{product}0"][kept["product", 1, 0]] @ readout
    new[f"{product}0"] = _padded(last, channels)
    rows[:width] = torch.eye(width, dtype=torch.float64)
    new["readouts.1.linear_1"] = rows


def _padded(matrix: torch.Tensor, columns: int) -> torch.Tensor:
    """Append columns of zeros."""
    return torch.nn.functional.pad(matrix, (0, columns - matrix.size(-1)))


def _fill_convolution(network: MACE, old: MACE, layer: int, kept: dict[Site, torch.Tensor]) -> None:
    """The radial functions of the channels kept, and what the map behind them reads."""
    new, known = _Maps(network), _Maps(old)
    config = old.config
    last = f"layers.{layer}.interaction.radial.weights.{len(config.radial_mlp)}"
    columns: list[torch.Tensor] = []
    rows: list[list[torch.Tensor]] = [[] for _ in range(config.l_max + 1)]
    for index, (site, l_out, slots) in enumerate(_path_rows(old, layer)):
        columns.append(known.weights[last][:, index * config.channels + kept[site]])
        read = known[f"layers.{layer}.interaction.linear.weights.{l_out}"][slots]
        rows[l_out].append(read[kept[site]][:, kept["product", layer, 0]])
    new.weights[last].copy_(torch.cat(columns, dim=1))
    for l_out, blocks in enumerate(rows):
        new[f"layers.{layer}.interaction.linear.weights.{l_out}"] = torch.cat(blocks)
