"""Symmetries, derivatives and limits of the network, for every kind of layout it supports."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from e3nn import o3

from mace_mm.errors import ConfigError
from mace_mm.graph.cell_list import full_neighbor_list
from mace_mm.graph.graph import Graph
from mace_mm.kernels.spherical_harmonics import spherical_harmonics
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.couplings import symmetric_coupling
from mace_mm.model.mace.network import MACE
from mace_mm.model.mace.wigner import wigner_3j
from mace_mm.model.potential import Potential, Prediction

BASE = MACEConfig(atomic_numbers=(1, 6, 8), r_max=3.5, channels=6, avg_num_neighbors=5.0)
LAYOUTS = {
    "scalars": BASE,
    "vectors": dataclasses.replace(BASE, hidden_l_max=1),
    "tensors": dataclasses.replace(BASE, hidden_l_max=2),
    "residual": dataclasses.replace(BASE, hidden_l_max=1, residual_first=True),
    "orders 1, 2, 3": dataclasses.replace(BASE, hidden_l_max=1, correlation=(1, 2, 3)),
    "one layer": dataclasses.replace(BASE, hidden_l_max=1, correlation=(3,)),
    "l_max 1": dataclasses.replace(BASE, hidden_l_max=1, l_max=1, correlation=(2, 3)),
    "l_max 2": dataclasses.replace(BASE, hidden_l_max=2, l_max=2),
    "l_max 0": dataclasses.replace(BASE, l_max=0),
    "repulsion": dataclasses.replace(BASE, pair_repulsion=True, distance_transform="agnesi"),
}
CELL = torch.tensor([[5.0, 0.0, 0.0], [1.5, 4.5, 0.0], [-0.7, 0.9, 3.1]], dtype=torch.float64)


def make_potential(config: MACEConfig) -> Potential:
    torch.manual_seed(11)
    e0 = torch.tensor([[-13.6, -1030.6, -2043.9]], dtype=torch.float64)
    return Potential(MACE(config), e0).eval()


def evaluate(
    potential: Potential,
    positions: torch.Tensor,
    species: torch.Tensor,
    cell: torch.Tensor | None = None,
) -> Prediction:
    box = torch.zeros(3, 3, dtype=positions.dtype) if cell is None else cell
    pbc = torch.full((3,), cell is not None)
    senders, receivers, shifts = full_neighbor_list(
        positions, box, pbc, potential.network.config.r_max
    )
    graph = Graph(
        species=species,
        positions=positions,
        senders=senders,
        receivers=receivers,
        cell_shifts=shifts,
        cell=box.unsqueeze(0),
        graph_index=torch.zeros_like(species),
    )
    return potential(graph)


def cluster(n_atoms: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Atoms on a jittered lattice, no closer than 0.8 Å."""
    rng = np.random.default_rng(3)
    sites = np.array([[i, j, k] for i in range(3) for j in range(3) for k in range(3)]) * 1.4
    chosen = sites[rng.permutation(27)[:n_atoms]] + rng.uniform(-0.3, 0.3, (n_atoms, 3))
    species = torch.from_numpy(rng.integers(0, 3, n_atoms))
    return torch.from_numpy(chosen), species


@pytest.fixture(params=LAYOUTS, scope="module")
def potential(request: pytest.FixtureRequest) -> Potential:
    return make_potential(LAYOUTS[request.param])


def test_harmonics_are_those_of_e3nn() -> None:
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64), dim=1)
    want = o3.spherical_harmonics([0, 1, 2, 3], vectors, True, normalization="component")
    for l_max in range(4):
        got = spherical_harmonics(vectors, l_max)
        torch.testing.assert_close(got, want[:, : (l_max + 1) ** 2], rtol=0, atol=1e-13)


def test_wigner_symbols_are_those_of_e3nn() -> None:
    for l1, l2 in itertools.product(range(7), range(4)):
        for l3 in range(abs(l1 - l2), min(l1 + l2, 6) + 1):
            want = o3.wigner_3j(l1, l2, l3, dtype=torch.float64).numpy()
            np.testing.assert_allclose(wigner_3j(l1, l2, l3), want, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("l_out", "n_paths"), [(0, 8), (1, 12), (2, 14)])
def test_symmetric_couplings_are_an_orthogonal_equivariant_basis(l_out: int, n_paths: int) -> None:
    coupling = symmetric_coupling(3, l_out, 3)
    assert coupling.n_paths == n_paths
    torch.manual_seed(1)
    x = torch.randn(16, dtype=torch.float64)
    rotation = o3.rand_matrix(dtype=torch.float64)
    points = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    # The rotation of all components from Y(R v) = D Y(v): e3nn's own D is good to 1e-7 only.
    turn = torch.linalg.lstsq(
        spherical_harmonics(points, 3), spherical_harmonics(points @ rotation.T, 3)
    ).solution.T
    out_turn = turn[l_out**2 : (l_out + 1) ** 2, l_out**2 : (l_out + 1) ** 2]
    table = torch.from_numpy(coupling.coefficients)

    def polynomial(values: torch.Tensor) -> torch.Tensor:
        monomials = values[torch.from_numpy(coupling.monomials)].prod(dim=1)
        return torch.einsum("omp,m->op", table, monomials)

    torch.testing.assert_close(polynomial(turn @ x), out_turn @ polynomial(x), rtol=0, atol=1e-10)


def test_rotation_inversion_translation_permutation(potential: Potential) -> None:
    positions, species = cluster()
    torch.manual_seed(2)
    rotation = -o3.rand_matrix(dtype=torch.float64)  # with an inversion
    order = torch.randperm(len(species))
    plain = evaluate(potential, positions, species)
    moved = evaluate(potential, (positions @ rotation.T + 7.0)[order], species[order])
    torch.testing.assert_close(moved.energy, plain.energy, rtol=0, atol=1e-9)
    torch.testing.assert_close(moved.forces, (plain.forces @ rotation.T)[order], rtol=0, atol=1e-9)
    boxed = evaluate(potential, positions, species, CELL)
    turned = evaluate(potential, positions @ rotation.T, species, CELL @ rotation.T)
    want = rotation @ boxed.stress[0] @ rotation.T
    torch.testing.assert_close(turned.stress[0], want, rtol=0, atol=1e-9)


def test_forces_and_stress_are_derivatives(potential: Potential) -> None:
    positions, species = cluster(7)
    result = evaluate(potential, positions, species, CELL)
    step = 1e-4
    for atom, axis in ((0, 0), (3, 2), (6, 1)):
        shift = torch.zeros_like(positions)
        shift[atom, axis] = step
        energies = [
            evaluate(potential, positions + k * shift, species, CELL).interaction_energy
            for k in (1, -1)
        ]
        numeric = -(energies[0] - energies[1]) / (2 * step)
        assert abs(float(numeric) - float(result.forces[atom, axis])) < 1e-6
    volume = float(torch.linalg.det(CELL).abs())
    for row, column in ((0, 0), (1, 2), (2, 0)):
        energies = []
        for k in (1, -1):
            strain = torch.eye(3, dtype=torch.float64)
            strain[row, column] += 0.5 * k * step
            strain[column, row] += 0.5 * k * step
            moved = evaluate(potential, positions @ strain, species, CELL @ strain)
            energies.append(float(moved.interaction_energy))
        numeric = (energies[0] - energies[1]) / (2 * step) / volume
        assert abs(numeric - float(result.stress[0, row, column])) < 1e-6
    torch.testing.assert_close(result.virial[0], -result.stress[0] * volume)


def test_smooth_through_the_cutoff(potential: Potential) -> None:
    species = torch.tensor([1, 2])
    r_max = potential.network.config.r_max

    def pair(distance: float) -> Prediction:
        positions = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.2, 0.9]], dtype=torch.float64)
        positions[1] *= distance / positions[1].norm()
        return evaluate(potential, positions, species)

    apart = pair(r_max + 0.1)
    inside, outside = pair(r_max - 1e-4), pair(r_max + 1e-4)
    torch.testing.assert_close(outside.energy, apart.energy, rtol=0, atol=0)
    assert float((inside.energy - outside.energy).abs()) < 1e-9
    assert float(inside.forces.norm()) < 1e-5


def test_one_atom_gives_e0_and_far_molecules_add(potential: Potential) -> None:
    for z, e0 in enumerate((-13.6, -1030.6, -2043.9)):
        lone = evaluate(potential, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([z]))
        # A residual first layer reads the element's embedding even without neighbors.
        if not potential.network.config.residual_first:
            assert float(lone.energy) == e0
        assert abs(float(lone.energy) - e0 - float(lone.interaction_energy)) < 1e-9
        assert float(lone.forces.norm()) == 0.0
    positions, species = cluster()
    both = evaluate(
        potential, torch.cat([positions, positions[:4] + 60.0]), torch.cat([species, species[:4]])
    )
    parts = evaluate(potential, positions, species), evaluate(potential, positions[:4], species[:4])
    total = parts[0].energy + parts[1].energy
    torch.testing.assert_close(both.energy, total, rtol=0, atol=1e-9)


def test_batched_graphs_equal_single_ones(potential: Potential) -> None:
    positions, species = cluster()
    single = [
        evaluate(potential, positions, species, CELL),
        evaluate(potential, positions, species),
    ]
    graphs = []
    for cell in (CELL, None):
        box = torch.zeros(3, 3, dtype=torch.float64) if cell is None else cell
        graphs.append(
            (*full_neighbor_list(positions, box, torch.full((3,), cell is not None), 3.5), box)
        )
    n = len(species)
    graph = Graph(
        species=species.repeat(2),
        positions=positions.repeat(2, 1),
        senders=torch.cat([graphs[0][0], graphs[1][0] + n]),
        receivers=torch.cat([graphs[0][1], graphs[1][1] + n]),
        cell_shifts=torch.cat([graphs[0][2], graphs[1][2]]),
        cell=torch.stack([graphs[0][3], graphs[1][3]]),
        graph_index=torch.arange(2).repeat_interleave(n),
    )
    got = potential(graph)
    for i, want in enumerate(single):
        torch.testing.assert_close(got.energy[i], want.energy[0], rtol=1e-13, atol=1e-10)
        torch.testing.assert_close(got.stress[i], want.stress[0], rtol=0, atol=1e-10)
        atoms = slice(i * n, (i + 1) * n)
        torch.testing.assert_close(got.forces[atoms], want.forces, rtol=0, atol=1e-10)


def test_every_weight_is_trained_by_forces(potential: Potential) -> None:
    config = potential.network.config
    fresh = make_potential(config).train()
    positions, _ = cluster(12)
    result = evaluate(fresh, positions, torch.arange(12) % 3)
    (result.forces.square().sum() + result.energy.sum()).backward()
    # A product of order one passes on only the degrees of its output.
    idle = {
        f"layers.{i}.interaction.{part}.weights.{degree}"
        for i, nu in enumerate(config.correlation)
        for part in ("linear", "skip")
        for degree in range(config.hidden_l(i + 1) + 1, config.l_max + 1)
        if nu == 1
    }
    for name, parameter in fresh.network.named_parameters():
        if name not in idle:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name


def test_float32_stays_close(potential: Potential) -> None:
    positions, species = cluster()
    want = evaluate(potential, positions, species)
    low = make_potential(potential.network.config).float()
    got = evaluate(low, positions.float(), species)
    assert got.energy.dtype == torch.float64
    size = max(1.0, float(want.forces.abs().max()))
    assert float((got.forces - want.forces).abs().max()) < 1e-4 * size
    assert low.atomic_energies.values.dtype == torch.float64


@pytest.mark.parametrize(
    "change",
    [
        {"atomic_numbers": (6, 1)},
        {"atomic_numbers": ()},
        {"r_max": -1.0},
        {"l_max": 4},
        {"hidden_l_max": 3},
        {"correlation": (4,)},
        {"correlation": ()},
        {"channels": 0},
        {"channels": 3.5},
        {"avg_num_neighbors": 0.0},
        {"distance_transform": "soft"},
        {"heads": ("a", "a")},
    ],
)
def test_bad_config(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change)).split("_")[0]):
        dataclasses.replace(BASE, **change)  # type: ignore[arg-type]


def test_config_round_trip_and_unknown_names() -> None:
    assert MACEConfig.from_dict(BASE.to_dict()) == BASE
    with pytest.raises(ConfigError, match="unknown model settings"):
        MACEConfig.from_dict({**BASE.to_dict(), "channel": 3})
