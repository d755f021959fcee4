"""The protocol of a molecular dynamics run."""

import math
from dataclasses import dataclass, fields

from mace_mm.errors import ConfigError

MAX_SEED = 2**31 - 1
# These may change between the parts of a resumed run.
_FREE = ("steps", "checkpoint_interval", "platform")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """A run in the canonical ensemble.

    Attributes:
        steps: integration steps in all.
        timestep_fs: integration step, fs.
        temperature_k: temperature of the thermostat, K.
        friction_per_ps: friction of the Langevin thermostat, 1/ps.
        minimize_steps: iterations of the minimizer before the dynamics, at most; 0 leaves it out.
        log_interval: steps between two lines of the log.
        frame_interval: steps between two frames of the trajectory.
        checkpoint_interval: steps between two checkpoints.
        seed: of velocities and noise, 1 to 2**31 - 1.
        platform: name of the OpenMM platform; None for OpenMM's own choice, or Reference where
            there is no GPU and the system is small.

    Raises:
        ConfigError: a value out of its range; the intervals of frames and checkpoints are
            multiples of the log's.
    """

    steps: int = 2000
    timestep_fs: float = 0.5
    temperature_k: float = 300.0
    friction_per_ps: float = 1.0
    minimize_steps: int = 200
    log_interval: int = 10
    frame_interval: int = 20
    checkpoint_interval: int = 200
    seed: int = 1
    platform: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "log_interval", "frame_interval", "checkpoint_interval", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= MAX_SEED:
                raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.minimize_steps < 0:
            raise ConfigError(f"minimize_steps must not be negative, got {self.minimize_steps}")
        for name in ("timestep_fs", "temperature_k"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value}")
        if not (math.isfinite(self.friction_per_ps) and self.friction_per_ps >= 0):
            raise ConfigError(f"friction_per_ps must not be negative, got {self.friction_per_ps}")
        for name in ("frame_interval", "checkpoint_interval"):
            value = getattr(self, name)
            if value % self.log_interval:
                raise ConfigError(
                    f"{name} must be a multiple of log_interval {self.log_interval}, got {value}"
                )

    def identity(self) -> dict[str, str]:
        """The values that may not change between the parts of one run, by name."""
        return {
            field.name: str(getattr(self, field.name))
            for field in fields(self)
            if field.name not in _FREE
        }
