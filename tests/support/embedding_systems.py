"""Molecules beside point charges, for the tests of electrostatic embedding."""

import json
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit

from mace_mm.electrostatics.charge_model import polarizabilities
from mace_mm.electrostatics.ewald import ewald_splitting, make_mesh
from mace_mm.elements import symbol
from mace_mm.ml_mm.electrostatic_force import (
    EmbeddedRegion,
    Polarization,
    make_electrostatic_force,
    polarization,
)
from mace_mm.ml_mm.embedding import embedded_region
from mace_mm.ml_mm.region import make_region
from mace_mm.units import EV_TO_KJ_MOL

REFERENCE = Path(__file__).parents[2] / "benchmarks/results/embedding_reference.json"


def reference_molecules() -> dict[str, dict]:
    """Molecules with geometries (Å), AM1-BCC charges and energies with probes, by name."""
    return {entry["name"]: entry for entry in json.loads(REFERENCE.read_text())}


def region_of(numbers, charges, cutoff=None) -> EmbeddedRegion:
    """A region beside some charges."""
    n_atoms = len(numbers)
    return EmbeddedRegion(
        atoms=tuple(range(n_atoms)),
        polarizability=polarizabilities(numbers),
        sources=tuple(range(n_atoms, n_atoms + len(charges))),
        source_charges=torch.tensor(charges, dtype=torch.float64),
        cutoff=cutoff,
    )


def answer(region: EmbeddedRegion, atoms, sources, cell=None) -> Polarization:
    """Of arrays in Å."""
    mesh = None
    if cell is not None:
        mesh = make_mesh(torch.tensor(cell, dtype=torch.float64), ewald_splitting(region.cutoff))
    atoms, sources = (torch.tensor(np.asarray(x, dtype=np.float64)) for x in (atoms, sources))
    return polarization(region, atoms, sources, mesh)


def beside_charges(molecules, ions, method=app.NoCutoff, edge=None, cutoff=0.9):
    """Molecules of the reference file and single ions as an OpenMM System with charges only.

    Args:
        molecules: entries of :func:`reference_molecules`, or (numbers, charges) pairs.
        ions: their charges.
        method: of the NonbondedForce.
        edge: of a cubic box, nm.
        cutoff: nm.

    Returns:
        topology and System.
    """
    topology, system, force = app.Topology(), openmm.System(), openmm.NonbondedForce()
    system.addForce(force)
    methods = {
        app.NoCutoff: force.NoCutoff,
        app.CutoffNonPeriodic: force.CutoffNonPeriodic,
        app.CutoffPeriodic: force.CutoffPeriodic,
        app.PME: force.PME,
    }
    force.setNonbondedMethod(methods[method])
    force.setCutoffDistance(cutoff)
    if edge is not None:
        system.setDefaultPeriodicBoxVectors(*(np.eye(3) * edge))
        topology.setPeriodicBoxVectors(np.eye(3) * edge * unit.nanometer)
    for entry in molecules:
        residue = topology.addResidue("LIG", topology.addChain())
        for number, charge in zip(entry["numbers"], entry["am1bcc"], strict=True):
            topology.addAtom(symbol(number), app.Element.getByAtomicNumber(number), residue)
            system.addParticle(1.0)
            force.addParticle(charge, 0.1, 0.0)
    for charge in ions:
        residue = topology.addResidue("ION", topology.addChain())
        topology.addAtom("NA", app.element.sodium, residue)
        system.addParticle(1.0)
        force.addParticle(charge, 0.1, 0.0)
    return topology, system


def embedding_energy(topology, system, atoms, positions) -> float:
    """What electrostatic embedding adds, kJ/mol, through OpenMM; positions (n, 3) in Å."""
    embedded = embedded_region(topology, system, make_region(topology, system, atoms), [])
    alone = openmm.System()
    alone.setDefaultPeriodicBoxVectors(*system.getDefaultPeriodicBoxVectors())
    for i in range(system.getNumParticles()):
        alone.addParticle(system.getParticleMass(i))
    alone.addForce(make_electrostatic_force(embedded, 0, interpolated=False))
    return openmm_energy(alone, positions)


def openmm_energy(system, positions) -> float:
    """kJ/mol; positions (n, 3) in Å."""
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(np.asarray(positions) * 0.1)
    return context.getState(energy=True).getPotentialEnergy()._value


def energies_with_probes(entry) -> np.ndarray:
    """Rows of distance (Å), charge, and energies in kJ/mol: PySCF, fixed charges, induced."""
    positions = np.array(entry["positions"])
    n_atoms = len(positions)
    rows = []
    for probe in entry["probes"]:
        everything = np.vstack([positions, probe["position"]])
        for charge in (1, -1):
            topology, system = beside_charges([entry], [charge])
            force = system.getForce(0)
            for i in range(n_atoms):
                for j in range(i):
                    force.addException(i, j, 0.0, 0.1, 0.0)
            fixed = openmm_energy(system, everything)
            induced = embedding_energy(topology, system, range(n_atoms), everything)
            want = probe[str(charge)] * EV_TO_KJ_MOL
            rows.append([probe["distance"], charge, want, fixed, induced])
    return np.array(rows)
