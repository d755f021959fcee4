"""Schedules of coupling parameters: where windows stand between two end states."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mace_mm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """States along a path, from the first end state to the second.

    Attributes:
        coordinates: (n_states,) place of each state on the path, 0 to 1, strictly increasing.
        parameters: (n_states,) values of OpenMM global parameters in each state; all states set
            the same parameters.
        linear: True where the energy is linear in the coordinate, so that its derivative is the
            difference of the end states and thermodynamic integration is exact.
    """

    coordinates: tuple[float, ...]
    parameters: tuple[dict[str, float], ...]
    linear: bool

    def __post_init__(self) -> None:
        check_lambdas(self.coordinates)
        if len(self.parameters) != len(self.coordinates):
            raise ConfigError(
                f"{len(self.coordinates)} coordinates need as many parameter sets, "
                f"got {len(self.parameters)}"
            )
        names = set(self.parameters[0])
        if not names:
            raise ConfigError("a schedule needs at least one global parameter, got none")
        for index, values in enumerate(self.parameters):
            if set(values) != names:
                raise ConfigError(
                    f"every state must set the parameters {sorted(names)}, "
                    f"state {index} sets {sorted(values)}"
                )

    @property
    def n_states(self) -> int:
        return len(self.coordinates)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the global parameters, sorted."""
        return tuple(sorted(self.parameters[0]))


def check_lambdas(lambdas: Sequence[float]) -> None:
    """Check that windows run from one end state to the other.

    Raises:
        ConfigError: fewer than two windows, a value that is not finite, windows that do not
            increase, or a missing end point.
    """
    if len(lambdas) < 2:
        raise ConfigError(f"a λ schedule needs at least its two end points, got {list(lambdas)}")
    if not all(math.isfinite(value) for value in lambdas):
        raise ConfigError(f"λ values must be finite, got {list(lambdas)}")
    if any(after <= before for before, after in zip(lambdas, lambdas[1:], strict=False)):
        raise ConfigError(f"λ values must increase strictly, got {list(lambdas)}")
    if lambdas[0] != 0.0 or lambdas[-1] != 1.0:
        raise ConfigError(
            f"a λ schedule must hold both end points 0 and 1, got {lambdas[0]} to {lambdas[-1]}"
        )


def even_lambdas(n_windows: int) -> tuple[float, ...]:
    """``n_windows`` values from 0 to 1 at equal distances."""
    if n_windows < 2:
        raise ConfigError(f"a λ schedule needs at least two windows, got {n_windows}")
    return tuple(index / (n_windows - 1) for index in range(n_windows))


def linear_schedule(lambdas: Sequence[float], name: str) -> Schedule:
    """Windows of one global parameter in which the energy is linear."""
    values = tuple(float(value) for value in lambdas)
    return Schedule(
        coordinates=values,
        parameters=tuple({name: value} for value in values),
        linear=True,
    )


def decoupling_schedule(electrostatics: Sequence[float], sterics: Sequence[float]) -> Schedule:
    """Charges off first, then the soft-core Lennard-Jones interactions.

    Args:
        electrostatics: values of ``lambda_electrostatics``, from 1 down to 0, at full sterics.
        sterics: values of ``lambda_sterics``, from 1 down to 0, without charges; the first value
            is the last state of the first part and is not repeated. ``(1.0,)`` for a molecule
            in vacuum, where decoupled sterics cost nothing.

    Raises:
        ConfigError: a part that does not start at 1, does not decrease, or does not end at 0.
    """
    _check_decreasing("electrostatics", electrostatics)
    if tuple(sterics) != (1.0,):
        _check_decreasing("sterics", sterics)
    states = [{"lambda_electrostatics": float(v), "lambda_sterics": 1.0} for v in electrostatics]
    states += [{"lambda_electrostatics": 0.0, "lambda_sterics": float(v)} for v in sterics[1:]]
    return Schedule(
        coordinates=even_lambdas(len(states)),
        parameters=tuple(states),
        linear=False,
    )


def restrained_schedule(
    lambdas: Sequence[float], name: str, restraint: Sequence[float], restraint_name: str
) -> Schedule:
    """Turn a restraint on, go from one end state to the other, turn the restraint off.

    Both end states are free of the restraint, whose own free energy is part of the path.

    Args:
        lambdas: of the parameter ``name``, from 0 to 1.
        name: the coupling parameter.
        restraint: strengths of the restraint, from 0 to 1.
        restraint_name: its parameter.

    Raises:
        ConfigError: one of the two does not run from 0 to 1.
    """
    check_lambdas(lambdas)
    check_lambdas(restraint)
    off, on = float(lambdas[0]), float(lambdas[-1])
    states = [{name: off, restraint_name: float(value)} for value in restraint[:-1]]
    states += [{name: float(value), restraint_name: 1.0} for value in lambdas]
    states += [{name: on, restraint_name: float(value)} for value in restraint[-2::-1]]
    return Schedule(coordinates=even_lambdas(len(states)), parameters=tuple(states), linear=False)


def coupling_schedule(couplings: Sequence[float], name: str) -> Schedule:
    """One parameter from 1 (coupled) down to 0, in which the energy is not linear.

    Raises:
        ConfigError: couplings that do not start at 1, do not decrease, or do not end at 0.
    """
    _check_decreasing("coupling", couplings)
    return Schedule(
        coordinates=tuple(1.0 - float(value) for value in couplings),
        parameters=tuple({name: float(value)} for value in couplings),
        linear=False,
    )


def _check_decreasing(name: str, values: Sequence[float]) -> None:
    if not values or values[0] != 1.0:
        raise ConfigError(f"the {name} schedule must start at 1, got {list(values)}")
    if any(after >= before for before, after in zip(values, values[1:], strict=False)):
        raise ConfigError(f"the {name} schedule must decrease, got {list(values)}")
    if values[-1] != 0.0:
        raise ConfigError(f"the {name} schedule must end at 0, got {list(values)}")
