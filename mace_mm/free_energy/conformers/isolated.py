"""The ligand of a system taken out of its surroundings, with its own force-field terms."""

import logging
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import openmm
from openmm import app

from mace_mm.errors import InputError
from mace_mm.free_energy.systems.inputs import MMSystem

logger = logging.getLogger(__name__)

_PARTICLE = re.compile(r"(p|a|b)\d+|particle\d+")
# Lists in which one entry belongs to one particle.
_PER_PARTICLE = "Particles"
# Lists whose entries name their particles.
_TERMS = ("Bonds", "Angles", "Torsions", "Exceptions", "Exclusions", "Constraints")
# Lists that mean nothing for one molecule in vacuum.
_DROPPED = ("ParticleOffsets", "ExceptionOffsets", "InteractionGroups")
# Thermostats, barostats, and forces between groups or with the walls of a box: not the molecule's.
_NOT_OF_MOLECULE = (
    "CMMotionRemover", "MonteCarlo", "AndersenThermostat", "CustomExternalForce", "CustomCentroid",
    "CustomCVForce",
)  # fmt: skip
# Born radii (nm) and screening of Onufriev, Bashford and Case (Proteins 55, 383, 2004).
_BORN_NM = {
    1: 0.12, 6: 0.17, 7: 0.155, 8: 0.15, 9: 0.15, 14: 0.21, 15: 0.185, 16: 0.18, 17: 0.17,
    35: 0.185, 53: 0.198,
}  # fmt: skip
_SCREENING = {1: 0.85, 6: 0.72, 7: 0.79, 8: 0.85, 9: 0.88, 15: 0.86, 16: 0.96}


def isolate(mm: MMSystem) -> MMSystem:
    """The ligand alone in vacuum: the same bonded terms, charges and Lennard-Jones parameters.

    Raises:
        InputError: its System cannot be read back, which a force of an unknown kind causes.
    """
    place = {atom: index for index, atom in enumerate(mm.ligand)}
    root = ET.fromstring(openmm.XmlSerializer.serialize(mm.system))
    forces = root.find("Forces")
    if forces is None:
        forces = ET.SubElement(root, "Forces")
    for force in list(forces):
        if force.get("type", "").startswith(_NOT_OF_MOLECULE) or not _reduce(force, place):
            forces.remove(force)
    _reduce(root, place)
    try:
        system = openmm.XmlSerializer.deserialize(ET.tostring(root, encoding="unicode"))
    except openmm.OpenMMException as error:
        raise InputError(f"the ligand cannot be taken out of its system: {error}") from error
    topology = _part(mm.topology, place)
    return replace(
        mm,
        topology=topology,
        system=system,
        positions_nm=mm.positions_nm[list(mm.ligand)],
        box_nm=None,
        ligand=tuple(range(len(mm.ligand))),
    )


def uncharged(system: openmm.System) -> openmm.System:
    """A copy without charges: the end of a decoupling, inside the molecule."""
    bare = openmm.XmlSerializer.clone(system)
    for force in bare.getForces():
        if isinstance(force, openmm.NonbondedForce):
            for index in range(force.getNumParticles()):
                _, sigma, epsilon = force.getParticleParameters(index)
                force.setParticleParameters(index, 0.0, sigma, epsilon)
            for index in range(force.getNumExceptions()):
                first, second, _, sigma, epsilon = force.getExceptionParameters(index)
                force.setExceptionParameters(index, first, second, 0.0, sigma, epsilon)
    return bare


def add_implicit_water(isolated: MMSystem, system: openmm.System) -> None:
    """Let a continuum around a ligand screen its force field's charges (generalized Born).

    Args:
        isolated: the ligand with its force field, for charges and elements.
        system: of the same atoms, whatever describes them; changed in place.
    """
    charges = next(
        (
            [force.getParticleParameters(i)[0] for i in range(force.getNumParticles())]
            for force in isolated.system.getForces()
            if isinstance(force, openmm.NonbondedForce)
        ),
        None,
    )
    if charges is None:
        logger.warning("the force field's charges are not known: conformers are searched in vacuum")
        return
    born = openmm.GBSAOBCForce()
    born.setNonbondedMethod(openmm.GBSAOBCForce.NoCutoff)
    for atom, charge in zip(isolated.topology.atoms(), charges, strict=True):
        # A virtual site has a charge and no volume.
        number = 0 if atom.element is None else atom.element.atomic_number
        born.addParticle(charge, _BORN_NM.get(number, 0.15), _SCREENING.get(number, 0.8))
    system.addForce(born)


def _reduce(element: ET.Element, place: dict[int, int]) -> bool:
    """Keep the entries of the ligand's particles and renumber them; whether any are left.

    A force without lists of particles acts on something else than a molecule.
    """
    lists = 0
    for section in list(element):
        if section.tag in _DROPPED:
            section.clear()
        elif section.tag == _PER_PARTICLE:
            lists += 1
            for index, entry in enumerate(list(section)):
                if index not in place:
                    section.remove(entry)
                for site in entry:
                    _renumber(site, place)
        elif section.tag in _TERMS:
            for entry in list(section):
                if not _renumber(entry, place):
                    section.remove(entry)
            lists += bool(len(section))
    if "method" in element.attrib:
        element.set("method", "0")
    for name in ("usesPeriodic", "exceptionsUsePeriodic"):
        if name in element.attrib:
            element.set(name, "0")
    return lists > 0


def _renumber(entry: ET.Element, place: dict[int, int]) -> bool:
    names = [name for name in entry.attrib if _PARTICLE.fullmatch(name)]
    if not names or any(int(entry.attrib[name]) not in place for name in names):
        return False
    for name in names:
        entry.set(name, str(place[int(entry.attrib[name])]))
    return True


def _part(topology: app.Topology, place: dict[int, int]) -> app.Topology:
    part = app.Topology()
    chain = part.addChain()
    made = {}
    residues = {}
    for atom in topology.atoms():
        if atom.index in place:
            if atom.residue.index not in residues:
                residues[atom.residue.index] = part.addResidue(atom.residue.name, chain)
            made[atom] = part.addAtom(atom.name, atom.element, residues[atom.residue.index])
    for bond in topology.bonds():
        if bond.atom1 in made and bond.atom2 in made:
            part.addBond(made[bond.atom1], made[bond.atom2], bond.type, bond.order)
    return part
