"""Which atoms of a system are the ligand: by name, by index, or the one molecule that is left."""

from collections.abc import Iterable, Sequence

import openmm
from openmm import app

from mace_mm.errors import InputError
from mace_mm.ml_mm.virtual_sites import virtual_sites
from mace_mm.openmm.molecules import force_field_bonds, label_molecules, topology_bonds

_WATER = [1, 1, 8]
_SHOWN = 5


def select_ligand(
    topology: app.Topology, system: openmm.System, chosen: str | tuple[int, ...] | None
) -> tuple[int, ...]:
    """Indices of the ligand's particles.

    Args:
        topology: of the whole system.
        system: of the force field; its bonds count where the topology has none.
        chosen: the name of exactly one residue, atom indices, or None for the one molecule that is
            neither water nor a monatomic ion.

    Raises:
        InputError: no such residue, several of that name, indices out of range or twice, several
            molecules or none to choose from, or a ligand that is bonded to other atoms.
    """
    n_atoms = topology.getNumAtoms()
    if isinstance(chosen, tuple):
        if len(set(chosen)) != len(chosen) or any(not 0 <= i < n_atoms for i in chosen):
            raise InputError(
                f"ligand atoms must be different indices from 0 to {n_atoms - 1}, got {chosen}"
            )
        atoms = tuple(sorted(chosen))
    elif chosen is not None:
        residues = [r for r in topology.residues() if r.name == chosen]
        if len(residues) != 1:
            names = sorted({r.name for r in topology.residues()})
            raise InputError(
                f"one residue named {chosen!r} was expected, got {len(residues)}; there are "
                f"{', '.join(names[:30])}"
            )
        atoms = tuple(sorted(atom.index for atom in residues[0].atoms()))
    else:
        atoms = _only_molecule(topology, system)
    if not atoms:
        raise InputError("the ligand has no atoms: name its residue or its atom indices")
    inside = set(atoms)
    for bond in topology.bonds():
        if (bond[0].index in inside) != (bond[1].index in inside):
            raise InputError(
                f"the ligand is bonded to the rest ({bond[0]} - {bond[1]}); free energies of "
                "ligands that are bonded covalently are not supported"
            )
    return atoms


def is_solvent(atoms: Iterable[app.topology.Atom]) -> bool:
    """Whether these are water or a monatomic ion, whatever their names and virtual sites are."""
    numbers = sorted(atom.element.atomic_number for atom in atoms if atom.element is not None)
    return len(numbers) == 1 or numbers == _WATER


def molecules(topology: app.Topology, system: openmm.System) -> list[list[app.topology.Atom]]:
    """The molecules of a system with their virtual sites, in the order of their first atoms.

    Bonds are those of the topology, for atoms without any those of the force field, and where
    there are none either, atoms of one residue belong together.
    """
    every = list(topology.atoms())
    indices = range(len(every))
    pairs = topology_bonds(topology, indices)
    bonded = {i for pair in pairs for i in pair}
    pairs += [p for p in force_field_bonds(system, indices) if not bonded.issuperset(p)]
    bonded.update(i for pair in pairs for i in pair)
    for site, parents in virtual_sites(system).items():
        pairs += [(site, parent) for parent in parents]
        bonded.add(site)
    for residue in topology.residues():
        members = [atom.index for atom in residue.atoms()]
        pairs += [(members[0], i) for i in members[1:] if i not in bonded]
    neighbors: list[list[int]] = [[] for _ in every]
    for first, second in pairs:
        neighbors[first].append(second)
        neighbors[second].append(first)
    found: dict[int, list[app.topology.Atom]] = {}
    for index, label in label_molecules(indices, neighbors).items():
        found.setdefault(label, []).append(every[index])
    return list(found.values())


def _only_molecule(topology: app.Topology, system: openmm.System) -> tuple[int, ...]:
    every = molecules(topology, system)
    solutes = [molecule for molecule in every if not is_solvent(molecule)]
    if not solutes and len(every) == 1:
        solutes = every
    if len(solutes) != 1:
        what = f"{len(solutes)} molecules are" if solutes else "no molecule is"
        raise InputError(
            f"one molecule beside water and ions was expected to be the ligand, and {what} there"
            f"{_named(solutes)}: name its residue, such as ligand: LIG, or list its atoms"
        )
    return tuple(atom.index for atom in solutes[0])


def _named(found: Sequence[Sequence[app.topology.Atom]]) -> str:
    names = [f"{m[0].residue.name} {m[0].residue.id} ({len(m)} atoms)" for m in found[:_SHOWN]]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f" ({', '.join(names)}{more})" if names else ""
