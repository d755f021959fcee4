"""Conformers: where they are looked for, what the user gives, and where replicas start."""

from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import openmm
import pytest
from ase import Atoms
from openmm import app, unit
from rdkit import Chem

from mace_mm.errors import ConfigError, DataError, GeometryError, InputError
from mace_mm.free_energy.config import Solvent
from mace_mm.free_energy.conformers.candidates import (
    embedded,
    rotate_branch,
    same_conformer,
    turned,
)
from mace_mm.free_energy.conformers.files import read_conformers, with_positions
from mace_mm.free_energy.conformers.handedness import handedness, renumbered
from mace_mm.free_energy.conformers.isolated import add_implicit_water, isolate, uncharged
from mace_mm.free_energy.conformers.leg import conformers_of
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule, read_molecule
from mace_mm.free_energy.conformers.placement import closest_overlap, make_room, radii_of
from mace_mm.free_energy.conformers.search import Conformers, End, load_conformers, search
from mace_mm.free_energy.conformers.site import fits_in_site, is_in_site
from mace_mm.free_energy.conformers.start_choice import choose_starts
from mace_mm.free_energy.coordinates.conformation import measure
from mace_mm.free_energy.coordinates.soft_coordinates import find_coordinates
from mace_mm.free_energy.settings import Starts
from mace_mm.free_energy.systems.inputs import MMSystem
from mace_mm.free_energy.systems.solvate import solvate
from tests.support.free_energy_molecules import crude_molecule
from tests.support.ligands import ligand_of
from tests.support.mixed_systems import alanine_dipeptide

KT = 2.494
WATER = Solvent(edge_nm=1.9, cutoff_nm=0.8)


def _mm(smiles: str) -> MMSystem:
    topology, system, positions = crude_molecule(smiles)
    return MMSystem(
        topology=topology,
        system=system,
        positions_nm=positions,
        box_nm=None,
        ligand=tuple(range(len(positions))),
    )


def _ligand(mm: MMSystem) -> LigandMolecule:
    return read_molecule(mm.topology, mm.ligand, mm.positions_nm, mm.system, box_nm=mm.box_nm)


def _energy(system: openmm.System, positions: np.ndarray) -> float:
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(positions)
    context.computeVirtualSites()
    energy = context.getState(getEnergy=True).getPotentialEnergy()
    return float(energy.value_in_unit(unit.kilojoule_per_mole))


def test_an_isolated_ligand_has_its_own_energy_and_nothing_else() -> None:
    alone = _mm("CC(=O)NCCO")
    wet = solvate(alone, WATER)
    found = isolate(wet)
    assert found.is_alone and found.box_nm is None
    assert not found.system.usesPeriodicBoundaryConditions()
    assert sum(1 for _ in found.topology.bonds()) == sum(1 for _ in alone.topology.bonds())
    generator = np.random.default_rng(0)
    for _ in range(3):
        positions = alone.positions_nm + generator.normal(0.0, 0.005, alone.positions_nm.shape)
        wanted = _energy(alone.system, positions)
        assert abs(_energy(found.system, positions) - wanted) < 1e-6 * abs(wanted)
    bare = uncharged(found.system)
    assert abs(_energy(bare, positions) - wanted) > 1.0
    charged = _energy(found.system, positions)
    add_implicit_water(found, found.system)
    assert _energy(found.system, positions) < charged - 5.0


def test_a_ligand_out_of_the_middle_with_a_virtual_site_is_isolated() -> None:
    first, second = _mm("CCO"), _mm("CCCl")
    system = openmm.XmlSerializer.clone(first.system)
    n = system.getNumParticles()
    topology = app.Modeller(first.topology, first.positions_nm * unit.nanometer)
    topology.add(second.topology, (second.positions_nm + 1.0) * unit.nanometer)
    forces = {type(force): force for force in second.system.getForces()}
    for index in range(second.system.getNumParticles()):
        system.addParticle(second.system.getParticleMass(index))
    for force in system.getForces():
        other = forces[type(force)]
        if isinstance(force, openmm.NonbondedForce):
            for index in range(other.getNumParticles()):
                force.addParticle(*other.getParticleParameters(index))
            for index in range(other.getNumExceptions()):
                i, j, *rest = other.getExceptionParameters(index)
                force.addException(i + n, j + n, *rest)
            nonbonded = force
        elif isinstance(force, openmm.HarmonicBondForce):
            for index in range(other.getNumBonds()):
                i, j, *rest = other.getBondParameters(index)
                force.addBond(i + n, j + n, *rest)
        elif isinstance(force, openmm.HarmonicAngleForce):
            for index in range(other.getNumAngles()):
                i, j, k, *rest = other.getAngleParameters(index)
                force.addAngle(i + n, j + n, k + n, *rest)
        elif isinstance(force, openmm.PeriodicTorsionForce):
            for index in range(other.getNumTorsions()):
                i, j, k, m, *rest = other.getTorsionParameters(index)
                force.addTorsion(i + n, j + n, k + n, m + n, *rest)
    ligand = list(range(n, system.getNumParticles()))
    # A charge on the line C-Cl.
    site = system.addParticle(0.0)
    system.setVirtualSite(site, openmm.TwoParticleAverageSite(n + 1, n + 2, -0.4, 1.4))
    nonbonded.addParticle(0.1, 0.3, 0.0)
    for atom in ligand:
        nonbonded.addException(atom, site, 0.0, 0.1, 0.0)
    restraint = openmm.CustomExternalForce("1e6*x")
    restraint.addParticle(n, [])
    system.addForce(restraint)
    residues = list(topology.topology.residues())
    topology.topology.addAtom("EP", None, residues[-1])
    positions = np.vstack([first.positions_nm, second.positions_nm + 1.0, [[0.0, 0.0, 0.0]]])
    mm = MMSystem(
        topology=topology.topology,
        system=system,
        positions_nm=positions,
        box_nm=None,
        ligand=(*ligand, site),
    )
    found = isolate(mm)
    assert found.system.getNumParticles() == len(ligand) + 1
    assert found.system.isVirtualSite(len(ligand))
    np.testing.assert_allclose(
        _energy(found.system, found.positions_nm),
        _energy(second.system, second.positions_nm),
        rtol=1e-6,
    )


def test_cmaps_of_an_amber_peptide_are_isolated(shared_dir: Path) -> None:
    topology, system, positions, atoms = alanine_dipeptide(shared_dir)
    vectors = unit.Quantity(system.getDefaultPeriodicBoxVectors())
    box = np.array(vectors.value_in_unit(unit.nanometer))
    mm = MMSystem(
        topology=topology,
        system=system,
        positions_nm=np.asarray(positions),
        box_nm=box,
        ligand=tuple(atoms),
    )
    found = isolate(mm)
    field = app.ForceField("amber19-all.xml")
    modeller = app.Modeller(topology, positions)
    modeller.delete([a for a in topology.atoms() if a.index not in set(atoms)])
    alone = field.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff)
    assert any(isinstance(force, openmm.CMAPTorsionForce) for force in found.system.getForces())
    np.testing.assert_allclose(
        _energy(found.system, found.positions_nm), _energy(alone, found.positions_nm), atol=1e-3
    )


@pytest.mark.parametrize("orders", [True, False])
def test_both_forms_of_an_acid_are_found_at_both_ends(orders: bool) -> None:
    mm = _mm("CC(=O)O")
    ligand = _ligand(mm)
    if not orders:
        ligand = replace(ligand, orders_from=None)
    coordinates = find_coordinates(ligand)
    # The second end makes one of them impossible: a steep wall.
    second = openmm.XmlSerializer.clone(mm.system)
    wall = openmm.CustomTorsionForce("100*(1-cos(theta))")
    wall.addTorsion(2, 1, 3, 7, [])
    second.addForce(wall)
    found = search(
        ligand,
        coordinates,
        [End(name="soft", system=mm.system), End(name="wall", system=second)],
        KT,
        given_nm=ligand.positions_nm[None],
        places=range(8),
        n_embedded=10,
        n_expensive=10,
    )
    assert found.end_names == ("soft", "wall")
    for end, wanted in ((0, [0.0, 180.0]), (1, [0.0])):
        angles = found.values[found.ends == end][:, 0]
        near = np.sort(np.round(angles / 15.0) * 15.0 % 360.0)
        assert near.tolist() == wanted
        assert found.energies_kt[found.ends == end].min() == 0.0


def test_no_conformer_is_another_molecule() -> None:
    """Candidates that embed or turn keep every stereocenter and double bond."""
    ligand = ligand_of("C[C@H](O)/C=C/[C@@H](N)C")
    structures = [*embedded(ligand, 20), *turned(ligand, find_coordinates(ligand), _start(ligand))]
    assert len(structures) > 20
    wanted = Chem.MolToSmiles(with_positions(ligand.mol, _start(ligand)))
    for positions in structures:
        assert Chem.MolToSmiles(with_positions(ligand.mol, positions)) == wanted


def _start(ligand: LigandMolecule) -> np.ndarray:
    return ligand.positions_nm


def _write(path: Path, ligand: LigandMolecule, structures: list[np.ndarray], shuffle: bool) -> None:
    order = list(range(ligand.n_atoms))
    if shuffle:
        order = np.random.default_rng(3).permutation(order).tolist()
    if path.suffix == ".sdf":
        with Chem.SDWriter(str(path)) as writer:
            for positions in structures:
                mol = with_positions(ligand.mol, positions)
                writer.write(Chem.RenumberAtoms(mol, order))
    elif path.suffix == ".xyz":
        symbols = [atom.GetSymbol() for atom in ligand.mol.GetAtoms()]
        ase.io.write(path, [Atoms(symbols, positions * 10.0) for positions in structures])
    else:
        topology = app.Topology()
        residue = topology.addResidue("LIG", topology.addChain())
        for index in order:
            element = app.Element.getByAtomicNumber(ligand.mol.GetAtomWithIdx(index).GetAtomicNum())
            topology.addAtom(ligand.names[index], element, residue)
        with open(path, "w") as file:
            app.PDBFile.writeHeader(topology, file)
            for number, positions in enumerate(structures, start=1):
                places = positions[order] * unit.nanometer
                app.PDBFile.writeModel(topology, places, file, number)
            app.PDBFile.writeFooter(topology, file)


@pytest.mark.parametrize("smiles", ["OC1CCCCC1", "CCC(O)CC", "CC(C)(O)CC(F)F"])
def test_equal_atoms_keep_their_numbers(smiles: str, tmp_path: Path) -> None:
    """With C2 and C6 of cyclohexanol exchanged an equatorial chair would pass for the axial."""
    ligand = ligand_of(smiles)
    coordinates = find_coordinates(ligand)
    wanted = handedness(ligand.mol, _start(ligand))
    structures = list(embedded(ligand, 30))
    assert len(structures) == 30
    assert all(handedness(ligand.mol, positions) == wanted for positions in structures)
    # However a file numbers them, equal atoms are found again.
    _write(tmp_path / "given.sdf", ligand, structures, shuffle=True)
    found = read_conformers(tmp_path / "given.sdf", ligand)
    for one, two in zip(structures, found, strict=True):
        rows = measure(coordinates, one), measure(coordinates, two)
        assert same_conformer(coordinates, *rows)
    exchanged = _start(ligand).copy()
    groups = (
        [n.GetIdx() for n in atom.GetNeighbors() if n.GetAtomicNum() == 1]
        for atom in ligand.mol.GetAtoms()
    )
    hydrogens = next(group for group in groups if len(group) == 2)
    exchanged[hydrogens] = exchanged[hydrogens[::-1]]
    again = renumbered(ligand.mol, _start(ligand), exchanged)
    np.testing.assert_array_equal(again, _start(ligand))


@pytest.mark.parametrize("suffix", [".sdf", ".pdb", ".xyz"])
def test_the_users_conformers_are_read_in_the_ligands_order(tmp_path: Path, suffix: str) -> None:
    ligand = ligand_of("C[C@H](O)CC(=O)O")
    coordinates = find_coordinates(ligand)
    structures = [_start(ligand), *turned(ligand, coordinates, _start(ligand))][:4]
    path = tmp_path / f"given{suffix}"
    _write(path, ligand, structures, shuffle=suffix != ".xyz")
    found = read_conformers(path, ligand)
    assert found.shape == (4, ligand.n_atoms, 3)
    for one, two in zip(structures, found, strict=True):
        np.testing.assert_allclose(measure(coordinates, one), measure(coordinates, two), atol=1.0)
        heavy = [a.GetIdx() for a in ligand.mol.GetAtoms() if a.GetAtomicNum() > 1]
        np.testing.assert_allclose(one[heavy], two[heavy], atol=2e-4)


def test_conformers_of_something_else_are_refused(tmp_path: Path) -> None:
    ligand = ligand_of("C[C@H](O)CC(=O)O")
    mirror = tmp_path / "mirror.sdf"
    _write(mirror, ligand, [_start(ligand), _start(ligand) * [1.0, 1.0, -1.0]], shuffle=False)
    with pytest.raises(InputError, match="conformer 2 of .* is not the ligand: C1 is [RS], was"):
        read_conformers(mirror, ligand)
    other = tmp_path / "other.sdf"
    relative = ligand_of("C[C@H](O)CC(=O)N")
    _write(other, relative, [_start(relative)], shuffle=False)
    with pytest.raises(InputError, match="record 1 of .* has other atoms or bonds"):
        read_conformers(other, ligand)
    swapped = tmp_path / "swapped.xyz"
    ase.io.write(swapped, Atoms("OC", [[0, 0, 0], [0, 0, 1.4]]))
    with pytest.raises(InputError, match="must hold the ligand's atoms in its order, C C O C"):
        read_conformers(swapped, ligand)
    broken = tmp_path / "broken.xyz"
    torn = _start(ligand).copy()
    torn[0] += 0.3
    _write(broken, ligand, [torn], shuffle=False)
    with pytest.raises(InputError, match="conformer 1 .* the bond C0-C1 is 0"):
        read_conformers(broken, ligand)
    (tmp_path / "empty.sdf").write_text("")
    with pytest.raises(InputError, match="holds no conformer|cannot be read"):
        read_conformers(tmp_path / "empty.sdf", ligand)
    with pytest.raises(InputError, match="ends in .sdf .pdb .xyz"):
        read_conformers(tmp_path / "given.mol2", ligand)
    with pytest.raises(InputError, match="no such file"):
        read_conformers(tmp_path / "nowhere.sdf", ligand)


def test_starts_show_every_well_before_a_second_of_one() -> None:
    ligand = ligand_of("OCCCl")
    coordinates = find_coordinates(ligand)
    rows = [
        ((60.0, 60.0), 0.0),
        ((60.0, 180.0), 0.3),
        ((60.0, 300.0), 0.5),
        ((180.0, 180.0), 1.2),
        ((300.0, 60.0), 2.0),
        ((180.0, 60.0), 5.0),
    ]
    found = Conformers(
        end_names=("one",),
        columns=("a", "b"),
        positions_nm=np.zeros((len(rows), ligand.n_atoms, 3)),
        ends=np.zeros(len(rows), int),
        energies_kt=np.array([energy for _, energy in rows]),
        values=np.array([value for value, _ in rows]),
        starts=(),
        ground="",
    )
    # Two at a time show four wells; with more replicas all within the window start.
    assert choose_starts(found, coordinates, 2, 3.0) == (0, 3)
    assert sorted(choose_starts(found, coordinates, 9, 3.0)) == [0, 1, 2, 3, 4]
    assert choose_starts(found, coordinates, 9, 0.1) == (0,)


def test_water_makes_room_and_keeps_its_shape() -> None:
    mm = solvate(_mm("CCCCCC(=O)O"), WATER)
    ligand = _ligand(mm)
    coordinates = find_coordinates(ligand)
    folded = rotate_branch(ligand, coordinates[0].atoms[1:3], 180.0, ligand.positions_nm)
    positions = mm.positions_nm.copy()
    positions[list(mm.ligand)] = folded
    atoms = list(mm.topology.atoms())
    heavy = [a.index for a in atoms if a.element.atomic_number > 1]
    inside = [i for i in heavy if i in set(mm.ligand)]
    outside = [i for i in heavy if i not in set(mm.ligand)]
    radii = radii_of(mm.topology)
    before, _, _ = closest_overlap(positions, mm.box_nm, inside, outside, radii)
    assert before > 0.2
    moved = make_room(mm.topology, positions, mm.box_nm, mm.ligand)
    after, _, _ = closest_overlap(moved, mm.box_nm, inside, outside, radii)
    assert after < 0.04
    np.testing.assert_array_equal(moved[list(mm.ligand)], positions[list(mm.ligand)])
    oxygens = np.array(outside)
    bonds = np.linalg.norm(moved[oxygens + 1] - moved[oxygens], axis=1)
    np.testing.assert_allclose(bonds, 0.0957, atol=0.004)


def _in_a_cage(smiles: str, gap_nm: float) -> MMSystem:
    """A molecule between two plates of carbon atoms, which nothing pushes away."""
    mm = _mm(smiles)
    system = openmm.XmlSerializer.clone(mm.system)
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    topology = app.Modeller(mm.topology, mm.positions_nm * unit.nanometer).topology
    residue = topology.addResidue("CAG", topology.addChain())
    places = []
    center = mm.positions_nm.mean(axis=0)
    centered = mm.positions_nm - center
    # The shortest axis of the molecule stands on the plates.
    axes = np.linalg.svd(centered)[2]
    flat = centered @ axes.T
    half = 0.5 * np.ptp(flat[:, 2]) + gap_nm
    for x in np.arange(-0.8, 0.81, 0.2):
        for y in np.arange(-0.8, 0.81, 0.2):
            for z in (-half, half):
                places.append([x, y, z])
    for _ in places:
        topology.addAtom("C", app.element.carbon, residue)
        system.addParticle(12.0)
        nonbonded.addParticle(0.0, 0.34, 0.4)
    return MMSystem(
        topology=topology,
        system=system,
        positions_nm=np.vstack([flat, places]),
        box_nm=None,
        ligand=mm.ligand,
    )


def test_a_site_keeps_the_pose_and_refuses_what_clashes(tmp_path: Path) -> None:
    mm = _in_a_cage("CCCCCCO", 0.2)
    assert is_in_site(mm) and not is_in_site(_in_a_cage("CCCCCCO", 0.8))
    assert not is_in_site(solvate(_mm("CCCCO"), WATER))
    ligand = _ligand(mm)
    coordinates = find_coordinates(ligand)
    leg = conformers_of(mm, lambda: (End(name="ff", system=isolate(mm).system),), Starts(), KT)
    assert leg is not None and leg.in_site
    found = leg.prepare(None, 5)
    assert found.starts == (0,) and "pose in its site, which is kept" in found.ground
    np.testing.assert_allclose(leg.place(found)[0], mm.positions_nm, atol=1e-9)
    # Upright the chain runs into a plate.
    bond = next(c for c in coordinates if ligand.names[c.atoms[1]] == "C2").atoms[1:3]
    upright = rotate_branch(ligand, bond, 90.0, ligand.positions_nm)
    assert upright is not None
    _write(tmp_path / "given.sdf", ligand, [ligand.positions_nm, upright], shuffle=False)
    given = conformers_of(
        replace(mm, conformers=tmp_path / "given.sdf"), leg.make_ends, Starts(), KT
    )
    assert given is not None
    found = given.prepare(None, 5)
    assert len(found.starts) == 2 and "2 conformers of" in found.ground
    with pytest.raises(GeometryError, match="conformer 2 does not fit: .* of CAG"):
        given.place(found)
    # The same question for the verdict: room for the state, or not.
    c = next(c for c in coordinates if c.atoms[1:3] == bond)
    value = measure([c], upright)
    none = np.zeros((0, ligand.n_atoms, 3))
    assert not fits_in_site(ligand, mm, c, value, none)
    assert fits_in_site(ligand, _in_a_cage("CCCCCCO", 0.8), c, value, none)


def test_conformers_in_the_sites_frame_stay_where_they_are(tmp_path: Path) -> None:
    mm = _in_a_cage("CCCCCCO", 0.2)
    ligand = _ligand(mm)
    for shift, kept in ((0.05, True), (5.0, False)):
        moved = ligand.positions_nm + [shift, 0.0, 0.0]
        _write(tmp_path / "given.xyz", ligand, [moved], shuffle=False)
        leg = conformers_of(
            replace(mm, conformers=tmp_path / "given.xyz"), lambda: (), Starts(search=False), KT
        )
        assert leg is not None
        placed = leg.place(leg.prepare(None, 3))[0][list(mm.ligand)]
        wanted = moved if kept else ligand.positions_nm
        np.testing.assert_allclose(placed, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("smiles", "settings", "ground"),
    [
        ("CC", Starts(), "no bond of the ligand turns"),
        ("CCO", Starts(search=False), "starts.search is false"),
        ("CC(=O)O", Starts(most=1), "1 conformer within 3 kT"),
        ("CC(=O)O", Starts(window_kt=30.0), "2 conformers within 30 kT of the lowest by ff"),
    ],
)
def test_the_ground_of_the_starts_is_said(smiles: str, settings: Starts, ground: str) -> None:
    mm = _mm(smiles)
    leg = conformers_of(mm, lambda: (End(name="ff", system=mm.system),), settings, KT)
    assert leg is not None
    assert ground in leg.prepare(None, 5).ground


def test_found_conformers_are_kept_and_damage_is_named(tmp_path: Path) -> None:
    mm = _mm("CC(=O)O")
    calls = []

    def ends() -> tuple[End, ...]:
        calls.append(1)
        return (End(name="ff", system=mm.system),)

    leg = conformers_of(mm, ends, Starts(window_kt=30.0), KT)
    assert leg is not None
    first = leg.prepare(tmp_path, 5)
    again = leg.prepare(tmp_path, 5)
    assert len(calls) == 1 and again.starts == first.starts and again.ground == first.ground
    np.testing.assert_array_equal(again.values, first.values)
    records = [m for m in Chem.SDMolSupplier(str(tmp_path / "conformers.sdf"), removeHs=False) if m]
    assert len(records) == 2 and records[1].GetProp("relaxed_by") == "ff"
    with pytest.raises(ConfigError, match="other torsions and rings"):
        load_conformers(tmp_path, find_coordinates(ligand_of("CCO")))
    (tmp_path / "conformers.npz").write_bytes(b"no")
    with pytest.raises(DataError, match="holds no conformers"):
        leg.prepare(tmp_path, 5)


def test_a_ligand_of_two_molecules_is_left_alone() -> None:
    mm = _mm("CCO.CCO")
    assert conformers_of(mm, lambda: (), Starts(), KT) is None
