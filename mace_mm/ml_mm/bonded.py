"""Split the bonded terms of a force field into those inside an ML region and the rest."""

import re
import xml.etree.ElementTree as ET

import openmm

from mace_mm.ml_mm.region import Region

_SECTIONS = {"Bonds": "bond", "Angles": "angle", "Torsions": "torsion"}
_PARTICLE = re.compile(r"p\d+")
_CMAP = tuple(f"{letter}{i}" for letter in "ab" for i in range(1, 5))
# Terms between groups of particles or with variables of their own: restraints, never force field.
_NOT_SPLIT = (openmm.CustomCentroidBondForce, openmm.CustomCVForce)


def split_bonded(force: openmm.Force, region: Region) -> tuple[openmm.Force, openmm.Force | None]:
    """Split a force with bonds, angles or torsions.

    Everything else of the force (group, name, parameters, tables, derivatives) goes to both parts.

    Returns:
        what stays with the force field, and the terms inside the region or None if there are none;
        a force without such terms is returned as it is.

    Raises:
        InputError: a torsion that the bonds of the topology do not explain.
    """
    is_bonded = any(hasattr(force, name) for name in ("addBond", "addAngle", "addTorsion"))
    if not is_bonded or isinstance(force, _NOT_SPLIT):
        return force, None
    text = openmm.XmlSerializer.serialize(force)
    inside, n_inside = _keep_terms(text, region, inside=True)
    if not n_inside:
        return force, None
    outside, _ = _keep_terms(text, region, inside=False)
    return openmm.XmlSerializer.deserialize(outside), openmm.XmlSerializer.deserialize(inside)


def _keep_terms(text: str, region: Region, *, inside: bool) -> tuple[str, int]:
    """The serialized force with only the terms inside or outside, and the number of terms."""
    root = ET.fromstring(text)
    n_kept = 0
    for section, kind in _SECTIONS.items():
        for parent in root.findall(section):
            for term in list(parent):
                if _is_inside(term, kind, region) == inside:
                    n_kept += 1
                else:
                    parent.remove(term)
    return ET.tostring(root, encoding="unicode"), n_kept


def _is_inside(term: ET.Element, kind: str, region: Region) -> bool:
    if "a1" in term.attrib:
        return region.holds_term("cmap", [int(term.attrib[name]) for name in _CMAP])
    names = sorted((n for n in term.attrib if _PARTICLE.fullmatch(n)), key=lambda n: int(n[1:]))
    return region.holds_term(kind, [int(term.attrib[name]) for name in names])
