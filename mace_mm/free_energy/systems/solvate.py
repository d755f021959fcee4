"""Put a parametrized molecule into a box of water, without a force field file of its own."""

import numpy as np
import openmm
from openmm import app, unit

from mace_mm.errors import ConfigError, InputError
from mace_mm.free_energy.config import Solvent
from mace_mm.free_energy.systems.inputs import MMSystem

_NM = unit.nanometer
_E = unit.elementary_charge
# Water oxygens closer than this to a solute atom are left out, nm.
_CLEARANCE_NM = 0.24


def solvate(mm: MMSystem, solvent: Solvent) -> MMSystem:
    """The solute first, then water, in a cubic box with PME.

    Raises:
        InputError: a solute that is not alone, charged, larger than the box, or has forces that
            cannot be carried over.
    """
    if mm.box_nm is not None or not mm.is_alone:
        raise InputError("only a molecule without surroundings can be put into water")
    charge = _net_charge(mm.system)
    if abs(charge) > 1e-3:
        raise InputError(
            f"a neutral molecule was expected, got charge {charge:.2f} e: solvate it yourself "
            "with counter ions and use environment: as_given"
        )
    extent = np.ptp(mm.positions_nm, axis=0).max()
    if extent + 2.0 * _CLEARANCE_NM > solvent.edge_nm:
        raise ConfigError(
            f"the molecule is {extent:.2f} nm long and needs a box of at least "
            f"{extent + 2.0 * _CLEARANCE_NM:.2f} nm, got {solvent.edge_nm} nm"
        )
    positions = mm.positions_nm - mm.positions_nm.mean(axis=0) + 0.5 * solvent.edge_nm
    water = _water_around(positions, solvent)
    field = app.ForceField("tip3p.xml")
    water_system = field.createSystem(
        water.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=solvent.cutoff_nm * _NM,
        rigidWater=True,
        removeCMMotion=False,
    )
    topology = app.Modeller(mm.topology, positions * _NM)
    topology.add(water.topology, water.positions)
    box = np.eye(3) * solvent.edge_nm
    topology.topology.setPeriodicBoxVectors(box * _NM)
    system = _joined(mm.system, water_system, box)
    water_positions = np.array(unit.Quantity(water.positions).value_in_unit(_NM))
    return MMSystem(
        topology=topology.topology,
        system=system,
        positions_nm=np.concatenate([positions, water_positions.reshape(-1, 3)]),
        box_nm=box,
        ligand=mm.ligand,
        smiles=mm.smiles,
        conformers=mm.conformers,
    )


def _net_charge(system: openmm.System) -> float:
    force = _nonbonded(system)
    return sum(
        force.getParticleParameters(i)[0].value_in_unit(_E) for i in range(force.getNumParticles())
    )


def _nonbonded(system: openmm.System) -> openmm.NonbondedForce:
    found = [force for force in system.getForces() if isinstance(force, openmm.NonbondedForce)]
    if len(found) != 1:
        raise InputError(f"one NonbondedForce was expected, got {len(found)}")
    return found[0]


def _water_around(positions_nm: np.ndarray, solvent: Solvent) -> app.Modeller:
    modeller = app.Modeller(app.Topology(), [] * _NM)
    edge = openmm.Vec3(1, 1, 1) * solvent.edge_nm * _NM
    modeller.addSolvent(app.ForceField("tip3p.xml"), model=solvent.model, boxSize=edge)
    places = np.array(unit.Quantity(modeller.positions).value_in_unit(_NM))
    overlapping = []
    for residue in modeller.topology.residues():
        oxygen = next(atom for atom in residue.atoms() if atom.element == app.element.oxygen)
        apart = positions_nm - places[oxygen.index]
        apart -= solvent.edge_nm * np.round(apart / solvent.edge_nm)
        if (apart**2).sum(axis=1).min() < _CLEARANCE_NM**2:
            overlapping.append(residue)
    modeller.delete(overlapping)
    return modeller


def _joined(solute: openmm.System, water: openmm.System, box: np.ndarray) -> openmm.System:
    """One System of both: bonded forces of the solute, one NonbondedForce with PME."""
    system = openmm.System()
    for part in (solute, water):
        for index in range(part.getNumParticles()):
            system.addParticle(part.getParticleMass(index))
    shift = solute.getNumParticles()
    for part, offset in ((solute, 0), (water, shift)):
        for index in range(part.getNumConstraints()):
            first, second, length = part.getConstraintParameters(index)
            system.addConstraint(first + offset, second + offset, length)
    for force in solute.getForces():
        if isinstance(force, openmm.NonbondedForce | openmm.CMMotionRemover):
            continue
        if not isinstance(
            force,
            openmm.HarmonicBondForce | openmm.HarmonicAngleForce | openmm.PeriodicTorsionForce,
        ):
            raise InputError(
                f"a solute's {type(force).__name__} cannot be put into water here: give a "
                "solvated system and use environment: as_given"
            )
        # The solute's atoms come first, so that its bonded forces stay as they are.
        system.addForce(openmm.XmlSerializer.clone(force))
    system.addForce(_joined_nonbonded(_nonbonded(solute), _nonbonded(water), shift))
    system.setDefaultPeriodicBoxVectors(*(box * _NM))
    return system


def _joined_nonbonded(
    solute: openmm.NonbondedForce, water: openmm.NonbondedForce, shift: int
) -> openmm.NonbondedForce:
    joined = openmm.NonbondedForce()
    joined.setNonbondedMethod(openmm.NonbondedForce.PME)
    joined.setCutoffDistance(water.getCutoffDistance())
    joined.setEwaldErrorTolerance(water.getEwaldErrorTolerance())
    joined.setUseDispersionCorrection(True)
    for force, offset in ((solute, 0), (water, shift)):
        for index in range(force.getNumParticles()):
            joined.addParticle(*force.getParticleParameters(index))
        for index in range(force.getNumExceptions()):
            first, second, *values = force.getExceptionParameters(index)
            joined.addException(first + offset, second + offset, *values)
    return joined
