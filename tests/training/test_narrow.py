"""A network with fewer channels that starts from a larger one."""

import pytest
import torch

from mace_mm.errors import ConfigError
from mace_mm.graph.batching import build_graph, collate
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential
from mace_mm.training.start.grow import widen_channels
from mace_mm.training.start.narrow import narrow_channels
from tests.support.training_frames import make_frames


class Frames(list):
    """All that `narrow_channels` needs of a source."""


def network(**changes: object) -> Potential:
    torch.manual_seed(0)
    config = {
        "atomic_numbers": (1, 6, 7, 8),
        "r_max": 4.0,
        "channels": 8,
        "hidden_l_max": 1,
        "l_max": 3,
        "correlation": (3, 3),
        "readout_mlp": 4,
        "avg_num_neighbors": 5.0,
    }
    return Potential(MACE(MACEConfig(**(config | changes)))).eval()


def forces_of(potential: Potential) -> tuple[torch.Tensor, torch.Tensor]:
    config = potential.network.config
    frames = make_frames(6)
    graph = collate([build_graph(f.molecule, config.atomic_numbers, config.r_max) for f in frames])
    found = potential(graph)
    return found.energy, found.forces


@pytest.mark.parametrize("hidden", [0, 1, 2])
@pytest.mark.parametrize("correlation", [(3, 3), (2, 1)])
def test_channels_that_do_nothing_go_first(hidden: int, correlation: tuple[int, ...]) -> None:
    before = network(hidden_l_max=hidden, correlation=correlation)
    # The new channels of a widened network lead nowhere.
    narrowed = narrow_channels(widen_channels(before, 12), 8, Frames(make_frames(6)), 0).eval()
    assert narrowed.network.config == before.network.config
    for found, wanted in zip(forces_of(narrowed), forces_of(before), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_the_narrow_network_is_nearer_than_one_with_random_channels() -> None:
    before = network(channels=16)
    with torch.no_grad():
        # Half of the channels of every map count a tenth of the others.
        for name, weight in before.network.named_parameters():
            if "product.linear" in name or "interaction.linear.weights" in name:
                weight.view(-1, 16, weight.size(-1))[:, 5:13] *= 0.1
    wanted = forces_of(before)[1]
    found = forces_of(narrow_channels(before, 8, Frames(make_frames(6)), 0).eval())[1]
    assert (found - wanted).norm() < 0.3 * wanted.norm()
    assert not before.training


def test_every_weight_can_learn() -> None:
    narrowed = narrow_channels(network(channels=16), 8, Frames(make_frames(6)), 0)
    narrowed.train().requires_grad_(True)
    energy, forces = forces_of(narrowed)
    (energy.sum() + forces.square().sum()).backward()
    for name, weight in narrowed.network.named_parameters():
        if not name.startswith(("repulsion", "radial_basis")):
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("changes", "channels", "message"),
    [
        ({"correlation": (3, 3, 3)}, 4, "got 4 for 3 layers"),
        ({"residual_first": True}, 4, "with a residual first block"),
        ({}, 2, r"to 4 channels \(the readout's\) or more: got 2"),
    ],
)
def test_what_cannot_be_narrowed_is_refused(changes, channels: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        narrow_channels(network(**changes), channels, Frames(make_frames(2)), 0)
