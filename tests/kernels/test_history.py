"""Whatever an evaluator was asked before, its answer is that of a fresh one."""

import numpy as np
import pytest
import torch

from mace_mm.evaluate.fold import fold
from mace_mm.kernels.ops import energy_forces
from tests.support.engine_systems import LAYOUTS, make_potential

pytestmark = pytest.mark.plain

N_STEPS = 150


class Walk:
    """Random steps through what simulations do to atoms, boxes and lists."""

    def __init__(self, seed: int, n_species: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.n_species = n_species
        self.past: list[tuple] = []
        self.other_atoms()
        self.other_box()
        self.skin = 0.5

    def other_atoms(self) -> None:
        n_atoms = int(self.rng.integers(2, 30))
        self.species = torch.tensor(self.rng.integers(0, self.n_species, n_atoms))
        self.positions = self.rng.uniform(0, 9, (n_atoms, 3))

    def other_box(self) -> None:
        cell = np.diag(self.rng.uniform(3, 12, 3)) + np.tril(self.rng.uniform(-2, 2, (3, 3)), -1)
        self.cell = cell * self.rng.integers(0, 2, (3, 1))

    def move(self) -> None:
        self.positions = self.positions + self.rng.normal(
            scale=self.rng.choice([0.005, 0.03, 0.3]), size=self.positions.shape
        )

    def deform(self) -> None:
        shape = np.eye(3) + self.rng.normal(scale=0.01, size=(3, 3))
        self.positions, self.cell = self.positions @ shape, self.cell @ shape

    def jump_to_images(self) -> None:
        jumps = self.rng.integers(-2, 3, self.positions.shape)
        self.positions = self.positions + jumps @ self.cell

    def remember(self) -> None:
        self.past = [*self.past[-3:], (self.species, self.positions, self.cell, self.skin)]

    def go_back(self) -> None:
        if self.past:
            chosen = self.past[self.rng.integers(len(self.past))]
            self.species, self.positions, self.cell, self.skin = chosen

    def other_skin(self) -> None:
        self.skin = float(self.rng.choice([0.0, 0.2, 1.5]))

    def step(self) -> None:
        often = [self.move, self.deform, self.jump_to_images, self.remember, self.go_back]
        seldom = [self.other_atoms, self.other_box, self.other_skin]
        choices = often if self.rng.random() < 0.93 else seldom
        choices[self.rng.integers(len(choices))]()


@pytest.mark.parametrize("seed, layout", [(1, "scalars"), (2, "vectors"), (3, "repulsion")])
def test_history_does_not_matter(seed: int, layout: str) -> None:
    folded = fold(make_potential(LAYOUTS[layout]))
    walk = Walk(seed, len(folded.atomic_numbers))
    state = torch.zeros(1, dtype=torch.int64)
    for _ in range(N_STEPS):
        walk.step()
        system = torch.tensor(walk.positions), walk.species, torch.tensor(walk.cell), folded.form
        got = energy_forces(*system, state, walk.skin)
        want = energy_forces(*system, torch.zeros(1, dtype=torch.int64), walk.skin)
        assert torch.allclose(got.energies, want.energies, rtol=0, atol=1e-4)
        size = float(want.forces.abs().max()) + 1e-3
        assert torch.allclose(got.forces, want.forces, rtol=0, atol=1e-5 * size)
        assert torch.allclose(got.virial, want.virial, rtol=1e-4, atol=1e-4 * size)
