"""Systems described by a force field, for the tests of mixed systems."""

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from rdkit import Chem
from rdkit.Chem import AllChem

LAMBDA = "lambda_interpolate"
KJ_NM = unit.kilojoule_per_mole / unit.nanometer
# Generic Lennard-Jones parameters, nm and kJ/mol.
LENNARD_JONES = {
    1: (0.25, 0.07), 6: (0.34, 0.40), 7: (0.325, 0.71), 8: (0.30, 0.80), 9: (0.31, 0.25),
    16: (0.356, 1.05), 17: (0.347, 1.11),
}  # fmt: skip
# Particles of a term, and the methods that add, read and count terms.
TERMS = {
    "HarmonicBondForce": (2, "addBond", "getBondParameters", "getNumBonds"),
    "HarmonicAngleForce": (3, "addAngle", "getAngleParameters", "getNumAngles"),
    "PeriodicTorsionForce": (4, "addTorsion", "getTorsionParameters", "getNumTorsions"),
    "CMAPTorsionForce": (8, "addTorsion", "getTorsionParameters", "getNumTorsions"),
}
RDKIT_KINDS = {
    Chem.BondType.SINGLE: app.Single,
    Chem.BondType.DOUBLE: app.Double,
    Chem.BondType.TRIPLE: app.Triple,
    Chem.BondType.AROMATIC: app.Aromatic,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """Energy in kJ/mol, forces (n_particles, 3) in kJ/mol/nm, parameter derivatives."""

    energy: float
    forces: np.ndarray
    derivatives: dict[str, float]


def context_of(
    system: openmm.System,
    positions: Any,
    platform: str = "Reference",
    parameters: dict[str, float] | None = None,
    integrator: openmm.Integrator | None = None,
) -> openmm.Context:
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform(platform))
    context.setPositions(positions)
    for name, value in (parameters or {}).items():
        context.setParameter(name, value)
    return context


def read(context: openmm.Context, groups: int = -1) -> Evaluated:
    state = context.getState(energy=True, forces=True, parameterDerivatives=True, groups=groups)
    return Evaluated(
        energy=state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole),
        forces=np.array(state.getForces(asNumpy=True).value_in_unit(KJ_NM)),
        derivatives=dict(state.getEnergyParameterDerivatives()),
    )


def evaluate(
    system: openmm.System,
    positions: Any,
    platform: str = "Reference",
    parameters: dict[str, float] | None = None,
    groups: int = -1,
) -> Evaluated:
    return read(context_of(system, positions, platform, parameters), groups)


def add_molecule(
    molecule: Chem.Mol, topology: app.Topology, system: openmm.System, name: str = "LIG"
) -> np.ndarray:
    """Append a molecule with hydrogens and a conformer, described by a crude force field.

    The system must hold harmonic bonds, harmonic angles, periodic torsions and a NonbondedForce.

    Returns:
        its positions, nm.
    """
    forces = {type(force).__name__: force for force in system.getForces()}
    nonbonded = forces["NonbondedForce"]
    positions = molecule.GetConformer().GetPositions() * 0.1
    AllChem.ComputeGasteigerCharges(molecule)
    first = system.getNumParticles()
    residue = topology.addResidue(name, topology.addChain())
    atoms = []
    for atom in molecule.GetAtoms():
        element = app.Element.getByAtomicNumber(atom.GetAtomicNum())
        system.addParticle(element.mass)
        nonbonded.addParticle(
            atom.GetDoubleProp("_GasteigerCharge"), *LENNARD_JONES[atom.GetAtomicNum()]
        )
        label = f"{element.symbol}{atom.GetIdx() + 1}"
        atoms.append(topology.addAtom(label, element, residue))
    pairs = []
    for bond in molecule.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        topology.addBond(atoms[i], atoms[j], RDKIT_KINDS[bond.GetBondType()])
        length = np.linalg.norm(positions[i] - positions[j])
        forces["HarmonicBondForce"].addBond(first + i, first + j, length * 1.01, 2.5e5)
        pairs.append((first + i, first + j))
    _add_angles(molecule, positions, forces, first)
    nonbonded.createExceptionsFromBonds(pairs, 0.8333, 0.5)
    return positions


def _add_angles(molecule, positions, forces, first) -> None:
    for atom in molecule.GetAtoms():
        center = atom.GetIdx()
        around = [other.GetIdx() for other in atom.GetNeighbors()]
        for a in range(len(around)):
            for b in range(a):
                one, two = (
                    positions[around[a]] - positions[center],
                    positions[around[b]] - positions[center],
                )
                cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
                forces["HarmonicAngleForce"].addAngle(
                    first + around[a], first + center, first + around[b], np.arccos(cosine), 400.0
                )
    for bond in molecule.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        for a in bond.GetBeginAtom().GetNeighbors():
            for b in bond.GetEndAtom().GetNeighbors():
                ends = a.GetIdx(), b.GetIdx()
                if j != ends[0] and i != ends[1] and ends[0] != ends[1]:
                    forces["PeriodicTorsionForce"].addTorsion(
                        first + ends[0], first + i, first + j, first + ends[1], 2, np.pi, 4.0
                    )


def molecule_of(smiles: str) -> Chem.Mol:
    """A molecule with hydrogens and one conformer."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(molecule, randomSeed=7)
    return molecule


def alanine_dipeptide(
    shared_dir: Path, method: Any = app.PME, **options: Any
) -> tuple[app.Topology, openmm.System, np.ndarray, list[int]]:
    """Topology, System, positions in nm, atoms of the dipeptide."""
    pdb = app.PDBFile(
        str(shared_dir / "data/openmm-ml/alanine-dipeptide/alanine-dipeptide-explicit.pdb")
    )
    field = app.ForceField("amber19-all.xml", "amber19/tip3pfb.xml")
    system = field.createSystem(pdb.topology, nonbondedMethod=method, **options)
    atoms = [a.index for a in pdb.topology.atoms() if a.residue.chain.index == 0]
    return pdb.topology, system, pdb.getPositions(asNumpy=True)._value, atoms


def toluene(
    shared_dir: Path, method: Any = app.PME, **options: Any
) -> tuple[app.Topology, openmm.System, np.ndarray, list[int]]:
    folder = shared_dir / "data/openmm-ml/toluene"
    prmtop = app.AmberPrmtopFile(str(folder / "toluene-explicit.prm7"))
    coordinates = app.AmberInpcrdFile(str(folder / "toluene-explicit.rst7"))
    prmtop.topology.setPeriodicBoxVectors(coordinates.boxVectors)
    system = prmtop.createSystem(nonbondedMethod=method, **options)
    system.setDefaultPeriodicBoxVectors(*coordinates.boxVectors)
    positions = coordinates.getPositions(asNumpy=True)._value
    return prmtop.topology, system, positions, list(range(15))


def tyk2(
    shared_dir: Path, ligand: int = 0
) -> tuple[app.Topology, openmm.System, np.ndarray, list[int]]:
    """The protein and a ligand, with a cutoff shorter than the ligand is long."""
    pdb = app.PDBFile(str(shared_dir / "data/tyk2/protein.pdb"))
    field = app.ForceField("amber14-all.xml", "amber14/tip3pfb.xml")
    system = field.createSystem(pdb.topology, nonbondedMethod=app.PME, constraints=app.HBonds)
    supplier = Chem.SDMolSupplier(str(shared_dir / "data/tyk2/ligands.sdf"), removeHs=False)
    n_protein = system.getNumParticles()
    added = add_molecule(supplier[ligand], pdb.topology, system)
    positions = np.vstack([pdb.getPositions(asNumpy=True)._value, added])
    span = positions.max(axis=0) - positions.min(axis=0) + 0.2
    system.setDefaultPeriodicBoxVectors(*(np.diag(span) * unit.nanometer))
    pdb.topology.setPeriodicBoxVectors(np.diag(span) * unit.nanometer)
    return pdb.topology, system, positions, list(range(n_protein, system.getNumParticles()))


def side_of(topology, atoms, bond):
    """The atoms of a molecule on the first atom's side of a bond."""
    neighbors = {i: set() for i in atoms}
    for b in topology.bonds():
        if b.atom1.index in neighbors:
            neighbors[b.atom1.index].add(b.atom2.index)
            neighbors[b.atom2.index].add(b.atom1.index)
    found, front = {bond[0]}, {bond[0]}
    while front:
        front = {j for i in front for j in neighbors[i] if (i, j) != bond} - found
        found |= front
    return sorted(found)


def topology_of_part(topology: app.Topology, atoms: list[int]) -> app.Topology:
    """The topology of some atoms, which must be in ascending order."""
    chosen = set(atoms)
    modeller = app.Modeller(topology, np.zeros((topology.getNumAtoms(), 3)) * unit.nanometer)
    modeller.delete([atom for atom in topology.atoms() if atom.index not in chosen])
    return modeller.topology


def _nonbonded_part(
    force: openmm.NonbondedForce, number: dict[int, int]
) -> tuple[openmm.NonbondedForce, openmm.CustomCVForce]:
    """The energy of the region as the force computes it, less that with its periodic images."""
    part = copy.deepcopy(force)
    images = copy.deepcopy(force)
    for whole in (part, images):
        whole.setUseDispersionCorrection(False)
        for i in range(force.getNumParticles()):
            if i not in number:
                whole.setParticleParameters(i, 0.0, 1.0, 0.0)
    for first, second in itertools.combinations(number, 2):
        images.addException(first, second, 0.0, 1.0, 0.0, True)
    for whole in (part, images):
        whole.setExceptionsUsePeriodicBoundaryConditions(force.usesPeriodicBoundaryConditions())
    negative = openmm.CustomCVForce("-images")
    negative.addCollectiveVariable("images", images)
    return part, negative


def inside_of(system: openmm.System, atoms: list[int]) -> openmm.System:
    """What a force field says about the inside of a region, in a System of all particles.

    It is made without any code under test: terms that are wholly inside, and nonbonded energies by
    difference.
    """
    number = {i: i for i in atoms}
    part = openmm.System()
    part.setDefaultPeriodicBoxVectors(*system.getDefaultPeriodicBoxVectors())
    for i in range(system.getNumParticles()):
        part.addParticle(system.getParticleMass(i))
    for force in system.getForces():
        kind = type(force).__name__
        if kind == "NonbondedForce":
            for made in _nonbonded_part(force, number):
                part.addForce(made)
        elif kind in TERMS:
            n_particles, add, get, count = TERMS[kind]
            made = type(force)()
            if kind == "CMAPTorsionForce":
                for index in range(force.getNumMaps()):
                    made.addMap(*force.getMapParameters(index))
            for index in range(getattr(force, count)()):
                values = getattr(force, get)(index)
                first = 1 if kind == "CMAPTorsionForce" else 0
                if all(i in number for i in values[first : first + n_particles]):
                    getattr(made, add)(*values)
            part.addForce(made)
        elif kind != "CMMotionRemover":
            raise NotImplementedError(kind)
    return part


def solvated(
    molecules: list[str],
    water: str = "amber14/tip3pfb.xml",
    edge: float = 1.9,
    shape: np.ndarray | None = None,
    method: Any = app.PME,
    **options: Any,
) -> tuple[app.Topology, openmm.System, np.ndarray, list[list[int]]]:
    """Molecules in a box of water on a lattice; made without files.

    Returns:
        topology, System, positions in nm, the atoms of each molecule (they come last).
    """
    box = np.diag([edge] * 3) if shape is None else shape
    made = [molecule_of(smiles) for smiles in molecules]
    solute = []
    for number, molecule in enumerate(made):
        conformer = molecule.GetConformer()
        xyz = conformer.GetPositions()
        shift = 10 * (
            box.sum(axis=0) / 2 + np.array([0.5, 0.5, 0.5]) * (number - (len(made) - 1) / 2)
        )
        xyz = xyz - xyz.mean(axis=0) + shift
        for i in range(len(xyz)):
            conformer.SetAtomPosition(i, xyz[i])
        solute.append(xyz * 0.1)
    topology, positions = _water_lattice(box, np.vstack(solute) if solute else np.zeros((0, 3)))
    field = app.ForceField("amber14/protein.ff14SB.xml", water)
    modeller = app.Modeller(topology, positions * unit.nanometer)
    modeller.addExtraParticles(field)
    topology = modeller.topology
    options.setdefault("nonbondedCutoff", 0.8)
    system = field.createSystem(topology, nonbondedMethod=method, **options)
    for kind in (openmm.HarmonicBondForce, openmm.HarmonicAngleForce, openmm.PeriodicTorsionForce):
        if not any(isinstance(force, kind) for force in system.getForces()):
            system.addForce(kind())
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    atoms = []
    for molecule in made:
        first = system.getNumParticles()
        positions = np.vstack([positions, add_molecule(molecule, topology, system)])
        atoms.append(list(range(first, system.getNumParticles())))
    return topology, system, positions, atoms


def _water_lattice(box: np.ndarray, solute: np.ndarray) -> tuple[app.Topology, np.ndarray]:
    n_cells = np.floor(np.linalg.norm(box, axis=1) / 0.32).astype(int)
    topology = app.Topology()
    topology.setPeriodicBoxVectors(box * unit.nanometer)
    chain = topology.addChain()
    rng = np.random.default_rng(1)
    positions = []
    for cell in itertools.product(*(range(n) for n in n_cells)):
        oxygen = (np.array(cell) + 0.5) / n_cells @ box
        if len(solute) and np.linalg.norm(solute - oxygen, axis=1).min() < 0.28:
            continue
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        residue = topology.addResidue("HOH", chain)
        atoms = [
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
            for name in ("O", "H1", "H2")
        ]
        topology.addBond(atoms[0], atoms[1])
        topology.addBond(atoms[0], atoms[2])
        hydrogens = 0.1 * np.array([[0.0, 0.757, 0.586], [0.0, -0.757, 0.586]])
        positions += [oxygen, *(oxygen + hydrogens @ turn)]
    return topology, np.array(positions)
