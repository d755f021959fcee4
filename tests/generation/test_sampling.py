"""Dynamics, selection, dimers and clusters against what physics and RDKit say."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolAlign

from mace_mm.errors import GeometryError, InputError
from mace_mm.generation.frames.dynamics import langevin, minimize
from mace_mm.generation.frames.forces import make_forces
from mace_mm.generation.frames.frames import another_molecule
from mace_mm.generation.frames.selection import aligned_rmsd, farthest_points
from mace_mm.generation.molecules.clusters import closest_contact, dimer_frames, packed_cluster
from mace_mm.generation.molecules.molecules import mapped_smiles
from mace_mm.generation.protocol import ConformerSettings, DimerSettings, ForceSettings
from mace_mm.units import BOLTZMANN_EV_PER_K, KCAL_MOL_TO_EV

CONFORMERS = ConformerSettings(count=2)


def _embedded(smiles: str) -> tuple[Chem.Mol, np.ndarray]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    return mol, mol.GetConformer().GetPositions()


def test_langevin_reaches_the_temperature_of_harmonic_springs() -> None:
    stiffness, temperature = 3.0, 500.0
    masses = np.array([1.008] * 20 + [15.999] * 20)
    frames = langevin(
        lambda x: -stiffness * x,
        np.zeros((40, 3)),
        masses,
        temperature_k=temperature,
        timestep_fs=1.0,
        friction_per_ps=20.0,
        n_frames=400,
        steps_per_frame=100,
        seed=1,
    )
    # <x²> = kT/k for each coordinate; 400 frames of 120 coordinates: about 1 % statistics.
    ratio = (frames[20:] ** 2).mean() * stiffness / (BOLTZMANN_EV_PER_K * temperature)
    assert ratio == pytest.approx(1.0, abs=0.04)


def test_a_trajectory_depends_on_its_seed_and_nothing_else() -> None:
    mol, positions = _embedded("CCO")
    forces = make_forces(ForceSettings(), mol, positions)
    masses = np.array([a.GetMass() for a in mol.GetAtoms()])

    def run(seed: int) -> np.ndarray:
        return langevin(
            forces,
            positions,
            masses,
            temperature_k=500.0,
            timestep_fs=1.0,
            friction_per_ps=1.0,
            n_frames=2,
            steps_per_frame=50,
            seed=seed,
        )

    first = run(1)
    np.testing.assert_array_equal(first, run(1))
    assert np.abs(first - run(2)).max() > 0.01


def test_dynamics_that_blow_up_are_an_error_and_not_a_frame() -> None:
    with pytest.raises(GeometryError, match="blew up at step"):
        langevin(
            lambda x: 50.0 * x,
            np.ones((2, 3)),
            np.ones(2),
            temperature_k=300.0,
            timestep_fs=1.0,
            friction_per_ps=1.0,
            n_frames=2,
            steps_per_frame=500,
            seed=1,
        )


@pytest.mark.parametrize("kind", ["mmff94", "tblite"])
def test_sampler_forces_are_the_gradient_of_the_energy(kind: str) -> None:
    mol, positions = _embedded("CC(=O)N")
    forces = make_forces(ForceSettings(kind=kind), mol, positions)
    if kind == "mmff94":
        field = AllChem.MMFFGetMoleculeForceField(mol, AllChem.MMFFGetMoleculeProperties(mol))
        field.Initialize()

        def energy(x: np.ndarray) -> float:
            return float(field.CalcEnergy(x.ravel().tolist())) * KCAL_MOL_TO_EV
    else:
        ase = pytest.importorskip("ase")
        tblite = pytest.importorskip("tblite.ase")
        numbers = [a.GetAtomicNum() for a in mol.GetAtoms()]

        def energy(x: np.ndarray) -> float:
            atoms = ase.Atoms(numbers=numbers, positions=x)
            atoms.calc = tblite.TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
            return float(atoms.get_potential_energy())

    step = 1e-4
    calculated = forces(positions)
    for atom, axis in ((0, 0), (2, 1), (5, 2)):
        shifted = [positions.copy(), positions.copy()]
        shifted[0][atom, axis] += step
        shifted[1][atom, axis] -= step
        slope = (energy(shifted[0]) - energy(shifted[1])) / (2 * step)
        assert calculated[atom, axis] == pytest.approx(-slope, abs=2e-3)


def test_an_openmm_force_field_drives_what_it_has_parameters_for() -> None:
    peptide, positions = _embedded("CC(=O)N[C@@H](C)C(=O)N[C@@H](CO)C(=O)NC")
    forces = make_forces(
        ForceSettings(kind="openmm", force_field=["amber14-all.xml"]), peptide, positions
    )
    relaxed = minimize(forces, positions, n_steps=50)
    assert np.abs(forces(relaxed)).max() < 0.2 * np.abs(forces(positions)).max()
    water = ForceSettings(kind="openmm", force_field=["amber14/tip3pfb.xml"])
    pair = Chem.AddHs(Chem.MolFromSmiles("O.O"))
    pair = Chem.RenumberAtoms(pair, [0, 2, 3, 1, 4, 5])
    there = packed_cluster((_mapped("O"), _mapped("O")), 1, CONFORMERS, seed=1)[0]
    assert np.abs(make_forces(water, pair, there)(there)).max() > 0.01
    with pytest.raises(InputError, match="tip3pfb.xml does not fit"):
        make_forces(water, peptide, positions)


def test_an_archive_drives_the_dynamics() -> None:
    settings = ForceSettings(kind="ase", calculator="mace", options={"precision": "double"})
    mol, positions = _embedded("CO")
    forces = make_forces(settings, mol, positions)
    relaxed = minimize(forces, positions, n_steps=40)
    assert np.abs(forces(relaxed)).max() < 0.2 * np.abs(forces(positions)).max()


def test_minimization_goes_down_to_a_minimum() -> None:
    mol, positions = _embedded("CC(=O)N")
    forces = make_forces(ForceSettings(), mol, positions)
    few = minimize(forces, positions, n_steps=5)
    many = minimize(forces, positions, n_steps=300)
    assert np.abs(forces(few)).max() < np.abs(forces(positions)).max()
    assert np.abs(forces(many)).max() < 1e-3


def test_rmsd_agrees_with_rdkit_and_ignores_rotation() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(N)C(=O)OCC"))
    ids = list(AllChem.EmbedMultipleConfs(mol, 6, randomSeed=3))
    frames = np.stack([mol.GetConformer(i).GetPositions() for i in ids])
    ours = aligned_rmsd(frames[0], frames)
    identity = [(i, i) for i in range(mol.GetNumAtoms())]
    for i in ids[1:]:
        theirs = rdMolAlign.AlignMol(Chem.Mol(mol), mol, prbCid=int(i), atomMap=identity)
        assert ours[i] == pytest.approx(theirs, abs=1e-6)
    mirrored = frames[:1] * np.array([1.0, 1.0, -1.0])
    assert aligned_rmsd(frames[0], mirrored)[0] > 0.3


def test_farthest_points_skip_duplicates_and_take_outliers() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(size=(6, 3))
    frames = np.stack([base, base + 1e-3, base + generator.normal(size=(6, 3)), base * 1.5, base])
    chosen = farthest_points(frames, np.full(6, 6), 3)
    assert chosen[0] == 0
    assert set(chosen) == {0, 2, 3}
    assert len(farthest_points(frames, np.full(6, 6), 50)) == 5
    assert len(farthest_points(frames, np.full(6, 6), 0)) == 0


def _mapped(smiles: str) -> str:
    return mapped_smiles(Chem.AddHs(Chem.MolFromSmiles(smiles)))


def test_dimers_are_rigid_and_at_the_closest_contacts_asked_for() -> None:
    distances = [1.7, 2.5, 4.0]
    settings = DimerSettings(count=1, orientations=3, distances=distances)
    parts = (_mapped("CC(N)=O"), _mapped("O"))
    frames = dimer_frames(parts, settings, CONFORMERS, seed=5)
    assert frames.shape == (9, 12, 3)
    for k, frame in enumerate(frames):
        assert closest_contact(frame[:9], frame[9:]) == pytest.approx(distances[k % 3], abs=1e-9)
    np.testing.assert_allclose(aligned_rmsd(frames[0, 9:], frames[:, 9:])[:3], 0.0, atol=1e-6)


def test_clusters_are_packed_without_overlap() -> None:
    parts = (_mapped("CCO"), *[_mapped("O")] * 8)
    packings = packed_cluster(parts, 3, CONFORMERS, seed=2)
    assert packings.shape == (3, 9 + 24, 3)
    starts = [0, 9, *range(12, 33, 3), 33]
    for frame in packings:
        bodies = [frame[a:b] for a, b in zip(starts[:-1], starts[1:], strict=True)]
        for i, body in enumerate(bodies):
            for other in bodies[:i]:
                assert closest_contact(body, other) > 1.99
        assert np.linalg.norm(frame - frame.mean(axis=0), axis=1).max() < 9.0
    assert np.abs(packings[0] - packings[1]).max() > 0.5


def test_frames_that_are_another_molecule_are_named() -> None:
    mol, start = _embedded("C[C@H](O)C(=O)O")
    broken, inverted, moved = start.copy(), start * [1, 1, -1], start.copy()
    broken[6] += [5.0, 0.0, 0.0]
    outward = start[4] - start[3]
    moved[11] = start[4] + 0.97 * outward / np.linalg.norm(outward)
    assert mol.GetAtomWithIdx(11).GetNeighbors()[0].GetIdx() == 5
    problems = another_molecule(mol, np.stack([start, broken, inverted, moved]), start)
    assert problems[0] is None
    assert problems[1] is not None and problems[1].startswith("bond C1–H7 (atoms 0 and 6) broke")
    assert problems[2] == "stereocenter C2 (atom 1) is inverted"
    assert problems[3] is not None and problems[3].startswith("proton H12 (atom 11) moved from O6")
    # Where the SMILES leaves a center open, both hands are the molecule.
    either, _ = _embedded("CC(O)C(=O)O")
    assert another_molecule(either, np.stack([start, inverted]), start) == [None, None]
    assert another_molecule(mol, start[None][:0]) == []
