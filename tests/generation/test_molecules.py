"""Reading, filtering and ordering molecules: each bad one costs itself and has a clear reason."""

from pathlib import Path

import pytest
import yaml
from rdkit import Chem

from mace_mm.errors import ConfigError, InputError
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.molecules.conformers import embed_conformers
from mace_mm.generation.molecules.enumeration import enumerate_fragments, enumerate_peptides
from mace_mm.generation.molecules.molecules import (
    Candidate,
    from_mapped_smiles,
    mapped_smiles,
    select_molecules,
    standardize,
)
from mace_mm.generation.molecules.sources import read_sources
from mace_mm.generation.protocol import (
    ConformerSettings,
    EnumerateSource,
    FileSource,
    MoleculeSettings,
    Protocol,
    SmilesSource,
    Source,
    read_protocol,
)


def _settings(**changes: object) -> MoleculeSettings:
    source = SmilesSource(kind="smiles", smiles=["C"])
    return MoleculeSettings(sources=[source], **changes)


def _protocol(*sources: Source, seed: int = 0) -> Protocol:
    label = LabelSettings(name="gfn2", kind="tblite", method="GFN2-xTB")
    molecules = MoleculeSettings(sources=list(sources))
    return Protocol(name="test", seed=seed, molecules=molecules, labels=[label])


def _candidates(*smiles: str) -> list[Candidate]:
    return [
        Candidate(name=f"m{i}", subset="s", smiles=s, origin=f"entry {i}")
        for i, s in enumerate(smiles)
    ]


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "not a SMILES"),
        ("this is no molecule", "not a SMILES"),
        ("CN(C)(C)(C)C", "valence"),
        ("c1cccc1", "kekulize"),
        ("[Na+].[Cl-]", "mixture of 2 parts"),
        ("CC[CH2]", "radical"),
        ("[2H]C", "isotope"),
        ("C[N+](C)(C)C", "total charge 1"),
        ("CBr", "elements Br"),
        ("C*", "elements \\*"),
        ("[Ar]", "elements Ar"),
        ("C" * 40, "122 atoms"),
        ("", "empty"),
    ],
)
def test_a_molecule_that_cannot_be_used_has_a_reason(smiles: str, reason: str) -> None:
    with pytest.raises(InputError, match=f"(?i){reason}"):
        standardize(smiles, _settings(), seed=1)


def test_one_bad_molecule_costs_only_itself() -> None:
    kept, rejected = select_molecules(
        _candidates("CCO", "C1CC", "OCC", "CCN", "[Na+].[Cl-]"), _settings(), seed=3
    )
    assert sorted(candidate.name for candidate in kept) == ["m0", "m3"]
    reasons = {entry.name: entry.reason for entry in rejected}
    assert set(reasons) == {"m1", "m2", "m4"}
    assert reasons["m2"] == "the same molecule as m0"


def test_salts_and_isotopes_can_be_cleaned_instead() -> None:
    settings = _settings(salts="largest", isotopes="strip")
    assert standardize("CC[NH3+].[Cl-]", _settings(salts="largest", charges=[0, 1]), 1)
    mol = standardize("[2H]C(C)=O", settings, 1)
    assert Chem.MolToSmiles(Chem.RemoveHs(mol)) == "CC=O"


def test_a_mapped_smiles_keeps_order_and_stereo() -> None:
    mol = standardize("C[C@H](F)Cl", _settings(), 1)
    again = from_mapped_smiles(mapped_smiles(mol))
    assert [a.GetSymbol() for a in again.GetAtoms()] == [a.GetSymbol() for a in mol.GetAtoms()]
    assert mapped_smiles(again) == mapped_smiles(mol)
    assert Chem.MolToSmiles(Chem.RemoveHs(again)) == Chem.CanonSmiles("C[C@H](F)Cl")


@pytest.mark.parametrize("smiles", ["[CH3:1][OH:2]", "[C:1]([H:2])([H:3])([H:4])[H:6]", "CO"])
def test_an_incomplete_map_is_refused(smiles: str) -> None:
    with pytest.raises(InputError, match="mapped SMILES"):
        from_mapped_smiles(smiles)


def test_unspecified_stereo_is_fixed_to_one_isomer_by_the_seed() -> None:
    found = {mapped_smiles(standardize("CC(F)Cl", _settings(), seed)) for seed in range(8)}
    assert len(found) == 2
    assert mapped_smiles(standardize("CC(F)Cl", _settings(), 5)) in found
    assert all("@" in smiles for smiles in found)


def test_impossible_stereo_fails_to_embed_with_the_failed_checks() -> None:
    # A trans bridge over a bicycle of five atoms cannot exist.
    mol = standardize("[H][C@]12CC[C@@](F)(C1)C2", _settings(), 1)
    with pytest.raises(InputError, match="no conformer could be embedded.*failed checks: [A-Z]"):
        embed_conformers(mol, ConformerSettings(count=2, attempts=5), seed=1)


def test_maxmin_puts_different_molecules_first_and_drops_near_duplicates() -> None:
    chain = ["C" * n + "O" for n in range(6, 12)]
    kept, rejected = select_molecules(
        _candidates(*chain, "c1ccccc1", "FC(F)F"), _settings(similarity=0.7), seed=1
    )
    smiles = [Chem.MolToSmiles(Chem.RemoveHs(from_mapped_smiles(c.smiles))) for c in kept]
    assert {"c1ccccc1", "FC(F)F"} <= set(smiles)
    assert len(smiles) < 8
    assert all("similarity" in entry.reason for entry in rejected)
    first, _ = select_molecules(
        _candidates(*chain, "c1ccccc1", "FC(F)F"), _settings(max_count=3), seed=1
    )
    assert len({c.smiles for c in first}) == 3
    chosen = {Chem.MolToSmiles(Chem.RemoveHs(from_mapped_smiles(c.smiles))) for c in first}
    assert len({"c1ccccc1", "FC(F)F"} & chosen) >= 1


def test_smiles_csv_and_sdf_files_are_read_and_bad_records_named(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("# comment\nCCO ethanol\nCC\n\n")
    (tmp_path / "b.csv").write_text("id,smiles\nx,CCN\ny,\n")
    with Chem.SDWriter(str(tmp_path / "c.sdf")) as writer:
        mol = Chem.MolFromSmiles("CCF")
        mol.SetProp("_Name", "fluoroethane")
        writer.write(mol)
    with (tmp_path / "c.sdf").open("a") as file:
        file.write("broken\n\n\n  9  9 nonsense\n$$$$\n")
    sources = [
        FileSource(kind="file", path=tmp_path / "a.smi"),
        FileSource(kind="file", path=tmp_path / "b.csv", name_column="id"),
        FileSource(kind="file", path=tmp_path / "c.sdf"),
    ]
    candidates, rejected = read_sources(_protocol(*sources))
    assert [(c.name, c.smiles) for c in candidates] == [
        ("ethanol", "CCO"),
        ("", "CC"),
        ("x", "CCN"),
        ("fluoroethane", "CCF"),
    ]
    assert [r.name for r in rejected] == ["b.csv:3", "c.sdf, record 2"]
    with pytest.raises(ConfigError, match="not a file"):
        read_sources(_protocol(FileSource(kind="file", path=tmp_path / "none.smi")))
    with pytest.raises(ConfigError, match="wants columns structure"):
        wrong = FileSource(kind="file", path=tmp_path / "b.csv", smiles_column="structure")
        read_sources(_protocol(wrong))


def test_enumerated_molecules_are_real_and_peptides_are_l() -> None:
    fragments = [smiles for _, smiles in enumerate_fragments()]
    assert len(fragments) > 10_000
    assert all(Chem.MolFromSmiles(smiles) is not None for smiles in fragments[::50])
    peptides = dict(enumerate_peptides(1))
    assert len(peptides) == 21
    centers = {
        name: dict(Chem.FindMolChiralCenters(Chem.MolFromSmiles(s), useLegacyImplementation=False))
        for name, s in peptides.items()
    }
    assert centers.pop("ACE-GLY-NME") == {}
    # L amino acids are S at the alpha carbon, but for cysteine, where sulfur outranks oxygen.
    assert {n for n, c in centers.items() if next(iter(c.values())) != "S"} == {"ACE-CYS-NME"}
    source = EnumerateSource(kind="enumerate", what="fragments", count=20)
    first, _ = read_sources(_protocol(source, seed=4))
    again, _ = read_sources(_protocol(source, seed=4))
    other, _ = read_sources(_protocol(source, seed=5))
    assert first == again != other


def test_a_protocol_names_every_wrong_key(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: x\nmolecules:\n  sources: [{kind: smiles, smiles: [C]}]\n  max_atom: 3\n"
        "labels: [{name: a, kind: tblite}]\nsampling: {temperature_k: -3}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_protocol(path)
    for part in ("max_atom", "temperature_k", "wants method"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_protocol(tmp_path / "missing.yaml")


def test_every_example_protocol_is_valid(project_root: Path) -> None:
    paths = sorted((project_root / "examples" / "generate").glob("*.yaml"))
    assert {"tiny.yaml", "dataset.yaml", "sample.yaml"} <= {path.name for path in paths}
    for path in paths:
        protocol = read_protocol(path)
        # What is stored with the data can be used again, and names no folder of this machine.
        stored = protocol.as_yaml()
        assert str(project_root) not in stored
        again = Protocol.model_validate(yaml.safe_load(stored))
        assert again.as_yaml() == stored
