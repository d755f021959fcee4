"""Files that earlier versions wrote still open and give the same numbers."""

import gzip
import json

import numpy as np
import openmm
import pytest
from openmm import unit

from mace_mm.archive.archive import load_archive
from mace_mm.evaluate.form_source import FormSource
from mace_mm.free_energy.legs.direct import COUPLING_PARAMETER, CoupledComputation
from mace_mm.openmm.force import PythonComputation
from mace_mm.units import EV_PER_ANGSTROM_TO_KJ_MOL_NM, EV_TO_KJ_MOL

STORED = "tests/reference/stored"


@pytest.fixture(scope="module")
def values(project_root):
    return json.loads((project_root / STORED / "values.json").read_text())


def context_of(project_root, name, positions):
    text = gzip.decompress((project_root / STORED / f"{name}.xml.gz").read_bytes()).decode()
    system = openmm.XmlSerializer.deserialize(text)
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(np.array(positions) * 0.1)
    return context


def energy_of(context):
    energy = context.getState(energy=True).getPotentialEnergy()
    return energy.value_in_unit(unit.kilojoule_per_mole)


def test_a_saved_system_gives_its_energy_and_forces(project_root, values):
    context = context_of(project_root, "system", values["positions_angstrom"])
    assert energy_of(context) == pytest.approx(values["energy_ev"] * EV_TO_KJ_MOL, abs=1e-4)
    forces = context.getState(forces=True).getForces(asNumpy=True)._value
    wanted = np.array(values["forces_ev_angstrom"]) * EV_PER_ANGSTROM_TO_KJ_MOL_NM
    assert np.abs(forces - wanted).max() < 1e-2


def test_a_saved_decoupled_system_gives_its_energies(project_root, values):
    context = context_of(project_root, "decoupled", values["positions_angstrom"])
    for coupling, energy in values["decoupled_kj_mol"].items():
        context.setParameter(COUPLING_PARAMETER, float(coupling))
        assert energy_of(context) == pytest.approx(energy, abs=1e-6)


def test_a_saved_archive_opens(project_root):
    archive = load_archive(project_root / STORED / "model.pt")
    assert archive.metadata.name == "random"


def test_the_names_that_pickles_hold_lead_to_the_classes():
    from mace_mm.deploy import form_source
    from mace_mm.free_energy import direct
    from mace_mm.simulation import openmm_force

    assert form_source.FormSource is FormSource
    assert openmm_force.PythonComputation is PythonComputation
    assert direct.CoupledComputation is CoupledComputation
