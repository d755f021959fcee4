"""Direct decoupling in the network: end points, smoothness, forces, restarts from XML."""

import copy
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app

from mace_mm.archive.open_model import open_model
from mace_mm.errors import ConfigError, InputError
from mace_mm.evaluate.build import build_evaluator
from mace_mm.free_energy.config import Conditions
from mace_mm.free_energy.legs.direct import COUPLING_PARAMETER, decoupled_force, direct_leg
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.settings import Dynamics, Windows
from mace_mm.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL
from tests.support.mixed_systems import context_of, molecule_of, read


def add(topology: app.Topology, smiles: str) -> np.ndarray:
    """Append a molecule; its positions in nm."""
    molecule = molecule_of(smiles)
    residue = topology.addResidue("MOL", topology.addChain())
    for atom in molecule.GetAtoms():
        element = app.Element.getByAtomicNumber(atom.GetAtomicNum())
        topology.addAtom(element.symbol, element, residue)
    return molecule.GetConformer().GetPositions() * 0.1


def methanol_and_water(apart_nm: float = 0.36) -> tuple[app.Topology, np.ndarray]:
    """Methanol (six atoms) between two waters, off any axis."""
    topology = app.Topology()
    parts = [add(topology, smiles) for smiles in ("CO", "O", "O")]
    parts[1] += np.array([apart_nm, 0.05, 0.02])
    parts[2] += np.array([-apart_nm, 0.04, -0.12])
    return topology, np.concatenate(parts)


def system_of(topology: app.Topology, force: openmm.Force) -> openmm.System:
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    system.addForce(force)
    return system


def whole_network(topology: app.Topology, positions: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy in kJ/mol and forces in kJ/mol/nm by the ordinary potential."""
    numbers = [atom.element.atomic_number for atom in topology.atoms()]
    evaluator = build_evaluator(open_model(None), numbers, precision="double", engine="reference")
    prediction = evaluator(
        torch.from_numpy(positions * 10.0),
        torch.zeros(3, 3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.bool),
    )
    forces = prediction.forces.numpy() * EV_PER_ANGSTROM_TO_KJ_MOL_NM
    return float(prediction.interaction_energy) * EV_TO_KJ_MOL, forces


def at(context: openmm.Context, coupling: float):
    context.setParameter(COUPLING_PARAMETER, coupling)
    return read(context)


@pytest.fixture(scope="module")
def coupled() -> tuple[app.Topology, np.ndarray, openmm.Context]:
    topology, positions = methanol_and_water()
    force = decoupled_force(topology, range(6), precision="double", periodic=False)
    return topology, positions, context_of(system_of(topology, force), positions)


def test_a_coupled_solute_is_the_network_itself(coupled) -> None:
    topology, positions, context = coupled
    (energy, forces), got = whole_network(topology, positions), at(context, 1.0)
    assert got.energy == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(got.forces, forces, atol=1e-5)


def test_a_decoupled_solute_is_alone_and_so_are_its_surroundings(coupled) -> None:
    topology, positions, context = coupled
    alone = app.Topology()
    add(alone, "CO")
    rest = app.Topology()
    add(rest, "O")
    add(rest, "O")
    solute = whole_network(alone, positions[:6])
    surroundings = whole_network(rest, positions[6:])
    got = at(context, 0.0)
    assert got.energy == pytest.approx(solute[0] + surroundings[0], abs=1e-6)
    np.testing.assert_allclose(got.forces[:6], solute[1], atol=1e-5)
    np.testing.assert_allclose(got.forces[6:], surroundings[1], atol=1e-5)
    # They do interact where they are.
    assert abs(at(context, 1.0).energy - got.energy) > 1.0


def test_the_energy_is_smooth_in_the_coupling(coupled) -> None:
    _, _, context = coupled
    # Slopes over half and a quarter of an interval converge to each other, at the ends too.
    for low, high in ((0.0, 0.01), (0.495, 0.505), (0.99, 1.0)):
        energies = [at(context, low + part * (high - low)).energy for part in (0, 0.25, 0.5, 1)]
        whole = (energies[3] - energies[0]) / (high - low)
        half = (energies[2] - energies[0]) / (0.5 * (high - low))
        quarter = (energies[1] - energies[0]) / (0.25 * (high - low))
        assert abs(whole) > 1.0
        assert half - whole == pytest.approx(2.0 * (quarter - half), rel=0.2, abs=0.02)
        assert abs(half - whole) < 0.2 * abs(whole)


@pytest.mark.parametrize("coupling", [0.0, 0.3, 1.0])
def test_forces_are_derivatives_of_the_energy(coupled, coupling: float) -> None:
    _, positions, context = coupled
    forces = at(context, coupling).forces
    generator = np.random.default_rng(4)
    for _ in range(3):
        way = generator.normal(size=positions.shape)
        way /= np.linalg.norm(way)
        energies = []
        for sign in (-1, 1):
            context.setPositions(positions + sign * 1e-5 * way)
            energies.append(at(context, coupling).energy)
        context.setPositions(positions)
        slope = (energies[1] - energies[0]) / 2e-5
        assert -(forces * way).sum() == pytest.approx(slope, rel=1e-4, abs=1e-2)


def test_atoms_pass_through_a_weakly_coupled_solute() -> None:
    topology, positions = methanol_and_water()
    force = decoupled_force(topology, range(6), precision="double", periodic=False)
    context = context_of(system_of(topology, force), positions)
    energies, largest = [], []
    for x in np.linspace(0.25, 5e-3, 25):
        # A water's oxygen walks onto the carbon.
        moved = positions.copy()
        moved[6:9] += positions[0] - positions[6] + np.array([x, 0.0, 0.0])
        context.setPositions(moved)
        result = at(context, 0.02)
        energies.append(result.energy)
        largest.append(np.abs(result.forces[6]).max())
    decoupled = at(context, 0.0).energy
    assert np.isfinite(largest).all()
    assert np.abs(np.array(energies) - decoupled).max() < 100.0
    assert np.abs(np.diff(energies)).max() < 15.0


def test_a_leg_survives_xml_and_samples(tmp_path: Path) -> None:
    topology, positions = methanol_and_water()
    box = np.eye(3) * 2.0
    leg = direct_leg(
        "methanol", topology, positions + 1.0, box, range(6), Conditions(temperature_k=300.0),
        couplings=(1.0, 0.5, 0.0),
    )  # fmt: skip
    context = context_of(leg.system, leg.positions_nm)
    again = context_of(copy.deepcopy(leg.system), leg.positions_nm)
    for value in (1.0, 0.4):
        assert at(again, value).energy == pytest.approx(at(context, value).energy, abs=1e-3)
    windows = Windows(iterations=3, equilibration=1, steps=2)
    fast = Dynamics(timestep_fs=0.5, friction_per_ps=20.0, platform="Reference", seed=3)
    records = run_windows(leg, tmp_path, windows, fast).read()
    assert records.reduced.shape == (4, 3, 3)
    assert np.isfinite(records.reduced).all()
    # A sample of the coupled solute has other energies where it is decoupled.
    assert np.abs(records.reduced[..., 0] - records.reduced[..., 2]).min() > 0.1
    assert torch.is_grad_enabled()


def test_arguments_that_make_no_sense_are_named() -> None:
    topology, _ = methanol_and_water()
    for solute in ([], range(12), [0, 12], [-1, 2]):
        with pytest.raises(InputError, match="the solute must be some of the 12 atoms"):
            decoupled_force(topology, solute, periodic=False)
    with pytest.raises(ConfigError, match="above 0 Å"):
        decoupled_force(topology, [0], softness=0.0, periodic=False)
    with pytest.raises(ConfigError, match="'single' or 'double'"):
        decoupled_force(topology, [0], precision="half", periodic=False)
    for couplings in ((0.9, 0.0), (1.0, 0.1), (1.0, 0.2, 0.5, 0.0), ()):
        with pytest.raises(ConfigError, match="coupling schedule must"):
            direct_leg(
                "x", topology, np.zeros((12, 3)), None, [0], Conditions(), couplings=couplings
            )
