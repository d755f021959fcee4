"""The longest time step that the fastest vibration of a System allows."""

import math
from dataclasses import dataclass

import openmm
from openmm import app, unit

# A bond to hydrogen vibrates in 9 to 11 fs. 1 fs resolves it; hydrogens of 3 u, which make it
# slower, are used with 2 fs (Hopkins et al., J. Chem. Theory Comput. 11, 1864, 2015). In between
# and beyond the limit is a power of the mass.
_LIGHT_MASS, _LIGHT_LIMIT_FS = 1.008, 1.0
_HEAVY_MASS, _HEAVY_LIMIT_FS = 3.0, 2.0
_EXPONENT = math.log(_HEAVY_LIMIT_FS / _LIGHT_LIMIT_FS) / math.log(_HEAVY_MASS / _LIGHT_MASS)
# Where no hydrogen vibrates against its bond: angles with hydrogens, C=O and C=C bonds.
_WITHOUT_BONDS_TO_HYDROGEN = 2.0
# Limits are conventions: 2.0 fs with hydrogens of 2.99 u is not worth a word.
_TOLERANCE = 1.02


@dataclass(frozen=True, kw_only=True)
class TimestepLimit:
    """The longest step a System allows, and the hydrogen that sets it.

    Attributes:
        timestep_fs: fs.
        reason: what does not allow more.
    """

    timestep_fs: float
    reason: str

    def problem(self, timestep_fs: float) -> str | None:
        """One sentence if a step is longer, else None."""
        if timestep_fs <= _TOLERANCE * self.timestep_fs:
            return None
        return (
            f"the time step of {timestep_fs:g} fs is longer than the {self.timestep_fs:.2g} fs "
            f"that {self.reason}: expect a wrong temperature and broken bonds"
        )


def timestep_limit(system: openmm.System, topology: app.Topology) -> TimestepLimit:
    """Find the hydrogen whose motion is fastest, and what it allows.

    Args:
        system: with masses and constraints.
        topology: of the same particles.
    """
    fixed = set()
    for k in range(system.getNumConstraints()):
        first, second, _ = system.getConstraintParameters(k)
        fixed |= {first, second}
    limit = TimestepLimit(
        timestep_fs=_WITHOUT_BONDS_TO_HYDROGEN, reason="bonds between heavy atoms allow"
    )
    found = False
    for atom in topology.atoms():
        mass = system.getParticleMass(atom.index).value_in_unit(unit.dalton)
        if atom.element is None or atom.element.atomic_number != 1 or mass <= 0.0:
            continue
        allowed = _LIGHT_LIMIT_FS * (mass / _LIGHT_MASS) ** _EXPONENT
        if atom.index in fixed:
            allowed *= _WITHOUT_BONDS_TO_HYDROGEN
        if not found or allowed < limit.timestep_fs:
            bond = "of fixed bond length" if atom.index in fixed else "on a free bond"
            limit = TimestepLimit(
                timestep_fs=allowed,
                reason=f"hydrogen {atom.name} (atom {atom.index}, {mass:.3g} u, {bond}) allows",
            )
        found = True
    return limit
