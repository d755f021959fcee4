"""The molecules and parts of molecules in an ML region, with the charges of the force field."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import openmm
from openmm import app, unit

from mace_mm.evaluate.domain.charge import TOLERANCE
from mace_mm.evaluate.domain.charged_groups import ChargedGroup, connected
from mace_mm.ml_mm.virtual_sites import sites_inside, virtual_sites
from mace_mm.openmm.input import ml_bonds

# Names of charges among the parameters of a CustomNonbondedForce.
_CHARGE_NAMES = ("charge", "q")
# The charges of a force field on one side of a cut bond, less those of a closed-shell molecule.
_CUT_TOLERANCE = 0.6


@dataclass(frozen=True, kw_only=True, eq=False)
class MLAtoms:
    """What a model computes.

    Attributes:
        topology: of all particles.
        particles: indices of the atoms, link atoms included, in the model's order.
        atomic_numbers: of them.
        force_field: System that describes the molecules, None if nothing does.
        link_atoms: particle -> the atom of the model that the link atom is bonded to.
    """

    topology: app.Topology
    particles: Sequence[int]
    atomic_numbers: Sequence[int]
    force_field: openmm.System | None = None
    link_atoms: Mapping[int, int] = field(default_factory=dict)

    def bonds(self) -> list[tuple[int, int]]:
        """Between the atoms, by their places, those of the link atoms included."""
        place = {particle: k for k, particle in enumerate(self.particles)}
        caps = [(place[i], place[cap]) for cap, i in self.link_atoms.items()]
        return ml_bonds(self.topology, self.particles) + caps


@dataclass(frozen=True, kw_only=True)
class Part:
    """Atoms of a region that bonds or a residue hold together.

    Attributes:
        name: residue name and number; of several the first and the last.
        places: of the atoms in the model's order, link atoms included.
        n_cut: link atoms among them.
        raw: sum of the force field's charges, e; None if it has none.
        charge: what it stands for: a whole number where rounding allows it, e; None if unknown.
        residues: places and charge of charged residues that lie in the region as a whole, the
            charge at the atom that has most of it.
    """

    name: str
    places: tuple[int, ...]
    n_cut: int
    raw: float | None
    charge: float | None
    residues: tuple[tuple[frozenset[int], ChargedGroup], ...]


def find_link_atoms(system: openmm.System, particles: Sequence[int]) -> dict[int, int]:
    """Virtual sites among the atoms of a model: the hydrogens on cut bonds.

    Returns:
        particle -> the atom of the model that it is bonded to.
    """
    chosen = set(particles)
    found = {}
    for site, defining in virtual_sites(system).items():
        bonded = [i for i in defining if i in chosen]
        if site in chosen and bonded:
            found[site] = bonded[0]
    return found


def region_parts(atoms: MLAtoms) -> list[Part]:
    """Divide a region into molecules, and add up the charges of the force field over each.

    Atoms of one residue belong together also where the topology lacks their bonds.
    """
    every = list(atoms.topology.atoms())
    place = {particle: k for k, particle in enumerate(atoms.particles)}
    own = [i for i in atoms.particles if i not in atoms.link_atoms]
    described = atoms.force_field
    charges = None if described is None else force_field_charges(described, own)
    first_of: dict[int, int] = {}
    same = [(first_of.setdefault(every[i].residue.index, place[i]), place[i]) for i in own]
    parts = []
    for places in connected(len(place), [*atoms.bonds(), *same]):
        particles = [atoms.particles[k] for k in places]
        members = [i for i in particles if i not in atoms.link_atoms]
        residues = list(dict.fromkeys(every[i].residue for i in members))
        names = [f"{residue.name} {residue.id}" for residue in residues]
        n_cut = len(particles) - len(members)
        raw = None if charges is None else sum(charges[i] for i in members)
        n_protons = sum(int(atoms.atomic_numbers[k]) for k in places)
        parts.append(
            Part(
                name=" to ".join(dict.fromkeys([names[0], names[-1]])),
                places=tuple(places),
                n_cut=n_cut,
                raw=raw,
                charge=None if raw is None else whole_charge(raw, n_cut, n_protons),
                residues=() if charges is None else _charged(residues, place, charges),
            )
        )
    return parts


def whole_charge(raw: float, n_cut: int, n_protons: int) -> float | None:
    """The charge that a sum of a force field's charges stands for.

    On one side of a cut bond a part of a charge is missing or left over. There the closed shell
    tells whether the charge is even or odd, and the nearest of these is meant.

    Args:
        raw: the sum, e.
        n_cut: cut bonds.
        n_protons: of all atoms, link atoms included.

    Returns:
        e; None if no closed-shell charge is near.
    """
    if n_cut:
        parity = n_protons % 2
        nearest = parity + 2 * round((raw - parity) / 2)
        return nearest if abs(raw - nearest) <= _CUT_TOLERANCE else None
    return round(raw) if abs(raw - round(raw)) <= TOLERANCE else raw


def force_field_charges(system: openmm.System, atoms: Sequence[int]) -> dict[int, float] | None:
    """Charges of atoms in a force field, e, those of virtual sites added to an atom of theirs.

    A site counts if all atoms that define it are among these.

    Returns:
        by particle; None if no force has charges on them.
    """
    if system.getNumParticles() <= max(atoms):
        return None
    owner = {i: i for i in atoms}
    parents = virtual_sites(system)
    for site in sites_inside(parents, owner.copy()):
        owner[site] = owner[parents[site][0]]
    for force in system.getForces():
        found = _charges_of(force, list(owner))
        if found is not None:
            total = dict.fromkeys(atoms, 0.0)
            for particle, charge in found.items():
                total[owner[particle]] += charge
            return total
    return None


def _charges_of(force: openmm.Force, particles: Sequence[int]) -> dict[int, float] | None:
    """Charges in one force; None if it has none, or zeros only."""
    if isinstance(force, openmm.NonbondedForce):
        charges = {
            i: force.getParticleParameters(i)[0].value_in_unit(unit.elementary_charge)
            for i in particles
        }
        _add_offsets(force, charges)
    elif isinstance(force, openmm.CustomNonbondedForce):
        names = [
            force.getPerParticleParameterName(k).lower()
            for k in range(force.getNumPerParticleParameters())
        ]
        column = next((names.index(name) for name in _CHARGE_NAMES if name in names), None)
        if column is None:
            return None
        charges = {i: force.getParticleParameters(i)[column] for i in particles}
    else:
        return None
    return charges if any(charges.values()) else None


def _add_offsets(force: openmm.NonbondedForce, charges: dict[int, float]) -> None:
    """Add what global parameters at their default values do to charges."""
    default = {
        force.getGlobalParameterName(k): force.getGlobalParameterDefaultValue(k)
        for k in range(force.getNumGlobalParameters())
    }
    for k in range(force.getNumParticleParameterOffsets()):
        name, particle, scale, _, _ = force.getParticleParameterOffset(k)
        if particle in charges:
            charges[particle] += default[name] * scale


def _charged(
    residues: Sequence[app.topology.Residue],
    place: Mapping[int, int],
    charges: Mapping[int, float],
) -> tuple[tuple[frozenset[int], ChargedGroup], ...]:
    found = []
    for residue in residues:
        members = [atom.index for atom in residue.atoms() if atom.element is not None]
        if not all(i in charges for i in members):
            continue
        raw = sum(charges[i] for i in members)
        charge = round(raw)
        if charge and abs(raw - charge) <= TOLERANCE:
            most = max(members, key=lambda i: charges[i] * charge)
            group = ChargedGroup(atoms=(place[most],), charge=charge)
            found.append((frozenset(place[i] for i in members), group))
    return tuple(found)
