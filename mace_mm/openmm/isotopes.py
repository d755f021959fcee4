"""Masses of isotopes that a molecule names."""

from rdkit import Chem

from mace_mm.errors import ElementError


def isotope_masses(molecule: Chem.Mol) -> dict[int, float]:
    """Masses of the atoms of an RDKit molecule that name their isotope, Da by index.

    Raises:
        ElementError: an isotope of which RDKit's table knows nothing.
    """
    table = Chem.GetPeriodicTable()
    masses = {}
    for atom in molecule.GetAtoms():
        isotope = atom.GetIsotope()
        if isotope:
            masses[atom.GetIdx()] = table.GetMassForIsotope(atom.GetAtomicNum(), isotope)
            if not masses[atom.GetIdx()] > 0.0:
                raise ElementError(
                    f"no isotope of {atom.GetSymbol()} with mass number {isotope} is known "
                    f"(atom {atom.GetIdx()})"
                )
    return masses
