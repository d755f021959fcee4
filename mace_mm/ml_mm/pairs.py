"""Sums over pairs of particles with the parameters of a NonbondedForce, as bond forces."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import openmm
from openmm import unit

from mace_mm.units import ANGSTROM_TO_NM, COULOMB_EV_ANGSTROM, EV_TO_KJ_MOL

COULOMB_KJ_MOL_NM = COULOMB_EV_ANGSTROM * EV_TO_KJ_MOL * ANGSTROM_TO_NM
# Kinds of parameters: charge, sigma, epsilon of a particle; charge product first for an exception.
_KINDS = ("q", "sigma", "eps")

# Change of one of three parameters per unit of a global parameter.
Offsets = dict[str, tuple[float, float, float]]


class PairTerms:
    """Parameters of a NonbondedForce with their dependence on its global parameters."""

    def __init__(self, force: openmm.NonbondedForce) -> None:
        self._force = force
        self._particle_offsets: dict[int, Offsets] = defaultdict(dict)
        self._exception_offsets: dict[int, Offsets] = defaultdict(dict)
        for i in range(force.getNumParticleParameterOffsets()):
            name, index, *scales = force.getParticleParameterOffset(i)
            _add(self._particle_offsets[index], name, scales)
        for i in range(force.getNumExceptionParameterOffsets()):
            name, index, *scales = force.getExceptionParameterOffset(i)
            _add(self._exception_offsets[index], name, scales)
        self._globals = [
            force.getGlobalParameterName(i) for i in range(force.getNumGlobalParameters())
        ]

    def particle(self, index: int) -> list[float]:
        """Parameters of a particle: q, sigma, eps, then their changes per global parameter."""
        values = plain(self._force.getParticleParameters(index))
        return values + self._scales(self._particle_offsets.get(index, {}))

    def exception(self, index: int) -> list[float]:
        """The same of an exception, with the charge product for q."""
        values = plain(self._force.getExceptionParameters(index)[2:])
        return values + self._scales(self._exception_offsets.get(index, {}))

    def _scales(self, offsets: Offsets) -> list[float]:
        return [x for name in self._globals for x in offsets.get(name, (0.0, 0.0, 0.0))]

    def sum(self, energy: str, ends: Sequence[str]) -> "PairSum":
        """An empty sum whose parameters come from :meth:`particle` or :meth:`exception`.

        Args:
            energy: of a pair in kJ/mol, by its distance r in nm and q, sigma and eps, which end in
                1 and 2 if they are those of particles.
            ends: ("1", "2") for particles, ("",) for exceptions.
        """
        definitions = []
        names = []
        for end in ends:
            names += [f"base_{kind}{end}" for kind in _KINDS]
            for g in range(len(self._globals)):
                names += [f"offset{g}_{kind}{end}" for kind in _KINDS]
            for kind in _KINDS:
                terms = [f"base_{kind}{end}"]
                terms += [f"{p}*offset{g}_{kind}{end}" for g, p in enumerate(self._globals)]
                definitions.append(f"{kind}{end}={'+'.join(terms)}")
        return PairSum(self._force, "; ".join([energy, *definitions]), names)


class PairSum:
    """A sum over pairs, in the group of a NonbondedForce and with its global parameters.

    OpenMM takes the ends of a CustomBondForce for atoms of one molecule. So pairs of different
    molecules have a CustomCompoundBondForce, which takes several times as long.
    """

    def __init__(self, force: openmm.NonbondedForce, energy: str, names: Sequence[str]) -> None:
        """
        Args:
            force: gives group, name, global parameters and periodicity.
            energy: of a pair, by its distance r and the parameters.
            names: of the parameters of a pair.
        """
        self._near = openmm.CustomBondForce(energy)
        self._apart = openmm.CustomCompoundBondForce(2, f"{energy}; r=distance(p1,p2)")
        for made in (self._near, self._apart):
            for name in names:
                made.addPerBondParameter(name)
            for i in range(force.getNumGlobalParameters()):
                made.addGlobalParameter(
                    force.getGlobalParameterName(i), force.getGlobalParameterDefaultValue(i)
                )
            made.setUsesPeriodicBoundaryConditions(force.usesPeriodicBoundaryConditions())
            made.setForceGroup(force.getForceGroup())
            made.setName(f"{force.getName()} inside the ML region")

    def add(self, first: int, second: int, parameters: Sequence[float], *, apart: bool) -> None:
        """Add a pair.

        Args:
            first, second: particles.
            parameters: in the order of the names.
            apart: whether they belong to different molecules.
        """
        if apart:
            self._apart.addBond([first, second], parameters)
        else:
            self._near.addBond(first, second, parameters)

    def forces(self) -> list[openmm.Force]:
        """The forces that compute it; none if there are no pairs."""
        return [made for made in (self._near, self._apart) if made.getNumBonds()]


def plain(quantities: Sequence[Any]) -> list[float]:
    """Numbers in OpenMM's units of nm, kJ/mol and e."""
    return [
        q.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(q) else float(q)
        for q in quantities
    ]


def _add(offsets: Offsets, name: str, scales: Sequence[float]) -> None:
    old = offsets.get(name, (0.0, 0.0, 0.0))
    offsets[name] = (old[0] + scales[0], old[1] + scales[1], old[2] + scales[2])
