"""Temperatures and energies that a canonical ensemble does not have."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openmm
from openmm import unit

from mace_mm.identity.change import Change, Kind
from mace_mm.simulation.run.context import degrees_of_freedom

_GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
# One look in 10^10 and one in 10^23 lie beyond these many standard deviations of a Gaussian.
_RARE, _NEVER = 6.5, 10.0
# A start that is not relaxed heats the system for a while: rare temperatures times the first are
# flagged, impossible ones times the second are an explosion.
_STRAIN, _EXPLOSION = 1.25, 2.0
# The energy of soft, anharmonic coordinates rises more than kT/2 each: liquid water 1.3 times.
_ANHARMONIC = 1.5
# A mean over the run is judged after this many relaxation times of the thermostat, and only beyond
# these many standard errors and this share, which the discrete step alone does not reach.
_RELAXED, _DEVIATIONS, _SHARE = 20.0, 6.0, 0.1


def canonical_bound(n_dof: int, deviations: float) -> float:
    """The largest value of a canonical kinetic energy in units of its mean.

    2 K / kT is chi-squared distributed with ``n_dof`` degrees of freedom; its quantiles as in E. B.
    Wilson and M. M. Hilferty, Proc. Natl. Acad. Sci. 17, 684 (1931).

    Args:
        n_dof: degrees of freedom.
        deviations: the quantile, in standard deviations of a Gaussian.
    """
    spread = 2.0 / (9.0 * max(n_dof, 1))
    return float((1.0 - spread + deviations * math.sqrt(spread)) ** 3)


def temperature_kind(now_k: float, target_k: float, n_dof: int) -> Kind | None:
    """What one look at a temperature says: an explosion, a rare value, or nothing."""
    ratio = now_k / target_k
    if ratio > _EXPLOSION * canonical_bound(n_dof, _NEVER):
        return Kind.EXPLODED
    if ratio > _STRAIN * canonical_bound(n_dof, _RARE):
        return Kind.TEMPERATURE
    return None


@dataclass(frozen=True, kw_only=True)
class ThermalState:
    """Energies of one frame.

    Attributes:
        time_ps: since the start of the dynamics.
        potential_kj_mol, kinetic_kj_mol: of the whole system.
        velocities_nm_ps: (n_particles, 3).
    """

    time_ps: float
    potential_kj_mol: float
    kinetic_kj_mol: float
    velocities_nm_ps: np.ndarray


class _Mean:
    """Temperature of some degrees of freedom, now and on average."""

    def __init__(self, what: str, n_dof: int, temperature_k: float, friction_per_ps: float) -> None:
        self._what = what
        self._n_dof = n_dof
        self._target = temperature_k
        self._friction = friction_per_ps
        self._sum, self._looks = 0.0, 0
        self._began_ps: float | None = None

    def look(self, kinetic_kj_mol: float, time_ps: float) -> list[Change]:
        now = 2.0 * kinetic_kj_mol / (self._n_dof * _GAS_CONSTANT)
        kind = temperature_kind(now, self._target, self._n_dof)
        if kind is not None:
            words = f"{self._what} {now:.0f} K (thermostat {self._target:g} K)"
            return [_change(kind, self._what, words)]
        return self._judge_mean(now, time_ps)

    def _judge_mean(self, now: float, time_ps: float) -> list[Change]:
        """After relaxation the mean must be that of the thermostat, if there is one."""
        if self._began_ps is None:
            self._began_ps = time_ps
        relaxed = (time_ps - self._began_ps) * self._friction - _RELAXED
        if relaxed <= 0.0:
            return []
        self._sum += now
        self._looks += 1
        mean = self._sum / self._looks
        # Kinetic energy forgets within one relaxation time, so that two of them are one sample.
        error = self._target * math.sqrt(2.0 / (self._n_dof * max(relaxed / 2.0, 1.0)))
        if abs(mean - self._target) <= max(_DEVIATIONS * error, _SHARE * self._target):
            return []
        words = f"{self._what} {mean:.0f} K on average (thermostat {self._target:g} K)"
        return [_change(Kind.TEMPERATURE, f"mean {self._what}", words)]


class ThermalWatch:
    """Looks at temperature, the hydrogens' own temperature, and the potential energy.

    Args:
        system: with masses and constraints.
        atomic_numbers: (n_particles,), 0 for particles that are no atoms.
        temperature_k, friction_per_ps: of the thermostat.
    """

    def __init__(
        self,
        system: openmm.System,
        atomic_numbers: Sequence[int],
        temperature_k: float,
        friction_per_ps: float,
    ) -> None:
        n_dof = max(degrees_of_freedom(system), 1)
        masses = np.array(
            [
                system.getParticleMass(k).value_in_unit(unit.dalton)
                for k in range(system.getNumParticles())
            ]
        )
        free = (np.asarray(atomic_numbers) == 1) & (masses > 0.0)
        for k in range(system.getNumConstraints()):
            free[list(system.getConstraintParameters(k)[:2])] = False
        self._hydrogens = np.flatnonzero(free)
        self._masses = masses[self._hydrogens]
        setting = (temperature_k, friction_per_ps)
        self._all = _Mean("the temperature is", n_dof, *setting)
        self._light = None
        if 0 < self._hydrogens.size < np.count_nonzero(masses):
            words = "the temperature of the hydrogens is"
            self._light = _Mean(words, 3 * self._hydrogens.size, *setting)
        thermal = 0.5 * n_dof * _GAS_CONSTANT * temperature_k
        self._allowed = _ANHARMONIC * thermal * canonical_bound(n_dof, _RARE)
        self._lowest: float | None = None

    def look(self, state: ThermalState) -> list[Change]:
        """What is outside the canonical ensemble, the worst first."""
        changes = self._all.look(state.kinetic_kj_mol, state.time_ps)
        if self._light is not None and not changes:
            squares = (state.velocities_nm_ps[self._hydrogens] ** 2).sum(axis=1)
            changes = self._light.look(0.5 * float(self._masses @ squares), state.time_ps)
        return changes + self._energy(state.potential_kj_mol)

    def _energy(self, potential: float) -> list[Change]:
        """Far above the lowest energy so far, or far below it all at once."""
        lowest = potential if self._lowest is None else self._lowest
        self._lowest = min(lowest, potential)
        allowed = f"fluctuations at this temperature reach {self._allowed:.0f}"
        if potential - lowest > self._allowed:
            words = f"the potential energy rose {potential - lowest:.0f} kJ/mol, {allowed}"
            return [_change(Kind.ENERGY, "rose", words)]
        if lowest - potential > self._allowed:
            words = f"the potential energy fell {lowest - potential:.0f} kJ/mol at once, {allowed}"
            return [_change(Kind.ENERGY, "fell", words)]
        return []


def _change(kind: Kind, key: str, text: str) -> Change:
    return Change(kind=kind, key=f"{kind} {key}", text=text, atoms=())
