"""Molecular dynamics that stops where the model no longer knows what it does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from mace_mm.errors import GeometryError
from mace_mm.evaluate.ase_calculator import MACECalculator
from mace_mm.identity.reference import make_identity
from mace_mm.identity.watch import MoleculeWatch
from mace_mm.simulation.watch.findings import in_words
from mace_mm.simulation.watch.settings import DESTROYED


@dataclass(frozen=True, kw_only=True, eq=False)
class Walk:
    """Where a walk ended.

    Attributes:
        positions: (n_atoms, 3) Å, the last frame looked at that is still the molecule.
        uncertainty: largest expected force error of an atom there, eV/Å.
        n_steps: steps taken.
        uncertain: the walk stopped because the threshold was passed or the molecule destroyed.
        destroyed: how, None if it was not.
    """

    positions: np.ndarray
    uncertainty: float
    n_steps: int
    uncertain: bool
    destroyed: str | None = None


def walk_until_uncertain(
    atoms: Atoms,
    *,
    temperature_k: float,
    timestep_fs: float,
    n_steps: int,
    check_every: int,
    threshold: float,
    seed: Sequence[int],
) -> Walk:
    """Langevin dynamics until the largest expected force error passes a threshold.

    A walk in which bonds break or form ends as well, with the frame before: what comes after is
    another molecule, and the model led there.

    Args:
        atoms: start; its calculator is a `MACECalculator` with an uncertainty. Not changed.
        temperature_k: of the thermostat, whose friction is 1/ps.
        timestep_fs: of the integrator.
        n_steps: the longest walk.
        check_every: steps between looks.
        threshold: eV/Å.
        seed: numbers that make velocities and thermostat.

    Raises:
        GeometryError: the start itself cannot be evaluated.
    """
    walker = atoms.copy()
    walker.calc = atoms.calc
    rng = np.random.default_rng(list(seed))
    MaxwellBoltzmannDistribution(walker, temperature_K=temperature_k, rng=rng)
    dynamics = Langevin(
        walker,
        timestep_fs * units.fs,
        temperature_K=temperature_k,
        friction=0.001 / units.fs,
        # Holding the center of mass, ASE's default, heats the inner motions of small molecules.
        fixcm=False,
        rng=rng,
    )
    cell = np.asarray(walker.cell) if walker.pbc.all() else None
    watch = MoleculeWatch(make_identity(walker.numbers, [], walker.positions, cell))
    largest = _largest(walker)
    done, positions = 0, walker.positions.copy()
    while largest <= threshold and done < n_steps:
        take = min(check_every, n_steps - done)
        try:
            dynamics.run(take)
            now = _largest(walker)
        except GeometryError as error:
            # Atoms met or flew apart between two looks: the frame before is worth a label.
            return _ended(positions, largest, done, str(error))
        changes = [c for c in watch.look(walker.positions, cell) if c.kind in DESTROYED]
        if changes:
            return _ended(positions, largest, done, in_words(changes))
        done += take
        largest, positions = now, walker.positions.copy()
    return Walk(
        positions=positions, uncertainty=largest, n_steps=done, uncertain=largest > threshold
    )


def _ended(positions: np.ndarray, largest: float, done: int, why: str) -> Walk:
    return Walk(
        positions=positions, uncertainty=largest, n_steps=done, uncertain=True, destroyed=why
    )


def _largest(atoms: Atoms) -> float:
    atoms.get_forces()
    calculator = atoms.calc
    if not isinstance(calculator, MACECalculator):
        raise TypeError(f"expected a MACECalculator, got {type(calculator).__name__}")
    return float(calculator.results["forces_uncertainty"].max())
