"""Small molecules, topologies and contexts for the tests of the simulators."""

from collections.abc import Sequence

import numpy as np
import openmm
from openmm import app, unit

from mace_mm.units import ANGSTROM_TO_NM, EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL

# Methanol and water, Å.
METHANOL = (
    [6, 8, 1, 1, 1, 1],
    np.array(
        [
            [-0.047, 0.664, 0.0],
            [-0.047, -0.758, 0.0],
            [-1.093, 0.969, 0.0],
            [0.438, 1.071, 0.889],
            [0.438, 1.071, -0.889],
            [0.867, -1.057, 0.0],
        ]
    ),
)
WATER = ([8, 1, 1], np.array([[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]))
# OpenMM wants box vectors in reduced form.
TRICLINIC = np.array([[7.0, 0.0, 0.0], [2.1, 6.5, 0.0], [-1.4, 2.2, 8.0]])
TINY = np.diag([3.2, 3.4, 3.6])


def bent(positions: np.ndarray, seed: int = 3) -> np.ndarray:
    """The positions off their symmetry, so that no force component vanishes by chance."""
    return positions + np.random.default_rng(seed).normal(scale=0.05, size=positions.shape)


def topology_of(
    numbers: Sequence[int | None], cell: np.ndarray | None = None, per_residue: int | None = None
) -> app.Topology:
    """A topology of single-atom names; None makes an atom without an element."""
    topology = app.Topology()
    chain = topology.addChain()
    residue = None
    for i, z in enumerate(numbers):
        if residue is None or (per_residue and i % per_residue == 0):
            residue = topology.addResidue("MOL", chain)
        element = None if z is None else app.Element.getByAtomicNumber(z)
        topology.addAtom(f"A{i}", element, residue)
    if cell is not None:
        topology.setPeriodicBoxVectors(cell * unit.angstrom)
    return topology


def context_of(
    system: openmm.System,
    positions: np.ndarray,
    platform: str = "Reference",
    integrator: openmm.Integrator | None = None,
) -> openmm.Context:
    """A context with positions in Å."""
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    chosen = openmm.Platform.getPlatform(platform)
    context = openmm.Context(system, integrator, chosen)
    context.setPositions(positions * ANGSTROM_TO_NM)
    return context


def evaluate(context: openmm.Context, groups: int = -1) -> tuple[float, np.ndarray]:
    """Energy in eV and forces in eV/Å."""
    state = context.getState(energy=True, forces=True, groups=groups)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    return energy / EV_TO_KJ_MOL, np.array(forces) / EV_PER_ANGSTROM_TO_KJ_MOL_NM


def assert_same(
    got: tuple[float, np.ndarray], want: tuple[float, np.ndarray], relative: float
) -> None:
    """Energies and forces agree relative to the energy and to the largest force."""
    assert abs(got[0] - want[0]) <= relative * max(1.0, abs(want[0]))
    np.testing.assert_allclose(got[1], want[1], rtol=0, atol=relative * np.abs(want[1]).max())
