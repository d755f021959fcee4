"""The molecules of the fragment set: the grammar's and FreeSolv's, without test sets' formulas."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import ase.io
import h5py
import yaml
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

MOST_HEAVY_ATOMS = 9
# One in so many molecules is kept for validation and never trained on.
VALIDATION_SHARE = 10
# What others are put beside, which is in training and in validation.
COMMON = ("O", "[F-]", "[Cl-]", "[Br-]", "[I-]")


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """One molecule: canonical SMILES, functional group, and whether it is kept for validation."""

    smiles: str
    group: str

    @property
    def validation(self) -> bool:
        if self.smiles in COMMON:
            return False
        digest = hashlib.sha256(self.smiles.encode()).digest()
        return int.from_bytes(digest[:4], "big") % VALIDATION_SHARE == 0


def formula_of(mol: Chem.Mol) -> str:
    """The sum formula without the charge."""
    return CalcMolFormula(mol).split("+")[0].split("-")[0]


def test_formulas(shared: Path) -> set[str]:
    """Formulas of all structures that models are tested on."""
    data = shared / "data"
    files = [*sorted((data / "spice-labelled").glob("*_test.xyz"))]
    files += sorted((data / "torsions").glob("*.extxyz"))
    files += [*sorted((data / "aimnet-ions").glob("*.xyz"))]
    found = {
        atoms.get_chemical_formula(mode="hill") for f in files for atoms in ase.io.read(f, ":")
    }
    for file in (data / "s66x8").rglob("*.h*5"):
        with h5py.File(file) as h5:
            h5.visititems(lambda _, node: found.update(_formula_of_group(node)))
    with h5py.File(data / "spice" / "amino-acid-ligand-test.hdf5") as h5:
        for group in h5.values():
            smiles = group["smiles"].asstr()[0]
            mol = Chem.MolFromSmiles(smiles)
            if mol is not None:
                found.add(formula_of(mol))
    # Ethanol, acetylacetone, aspirin, paracetamol, 3BPA.
    return found | {"C2H6O", "C5H8O2", "C9H8O4", "C8H9NO2", "C12H12N2O"}


def _formula_of_group(node: object) -> list[str]:
    if not isinstance(node, h5py.Group) or "species" not in node:
        return []
    from ase import Atoms

    species = node["species"][()]
    symbols = [s.decode() if isinstance(s, bytes) else s for s in species.ravel()]
    return [Atoms(symbols).get_chemical_formula(mode="hill")]


def fragments(grammar: Path, shared: Path) -> list[Fragment]:
    """All molecules, the grammar's first, in its order."""
    forbidden = test_formulas(shared)
    found: dict[str, str] = {}
    for group, smiles in [*_of_grammar(grammar), *_of_freesolv(shared)]:
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise ValueError(f"{group}: {smiles} is no SMILES")
        if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
            raise ValueError(f"{group}: {smiles} is a radical")
        if mol.GetNumHeavyAtoms() > MOST_HEAVY_ATOMS or formula_of(mol) in forbidden:
            continue
        found.setdefault(Chem.MolToSmiles(mol), group)
    return [Fragment(smiles=smiles, group=group) for smiles, group in found.items()]


def _of_grammar(path: Path) -> list[tuple[str, str]]:
    grammar = yaml.safe_load(path.read_text())
    named = grammar.pop("substituents")
    found = []
    for group, rule in grammar.items():
        choices = {}
        for letter in ("R", "S"):
            values = rule.get(letter, [""])
            choices[letter] = named[values] if isinstance(values, str) else values
        for template in rule["templates"]:
            for r in choices["R"] if "{R}" in template else [""]:
                for s in choices["S"] if "{S}" in template else [""]:
                    found.append((group, template.replace("{R}", r).replace("{S}", s)))
    return found


def _of_freesolv(shared: Path) -> list[tuple[str, str]]:
    database = json.loads((shared / "data" / "freesolv" / "database.json").read_text())
    return [("freesolv", entry["smiles"]) for entry in database.values()]
