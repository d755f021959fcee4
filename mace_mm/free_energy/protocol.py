"""How a leg is run: the settings that its sampling and its verdict need."""

from collections.abc import Callable
from dataclasses import dataclass

from mace_mm.errors import ConfigError
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.settings import Dynamics, Execution, Limits, Switching, Windows

# The name of a stage, its complete iterations and their total.
OnStage = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a leg is sampled; the parts of a command's configuration that every leg shares."""

    windows: Windows | None
    switching: Switching | None
    dynamics: Dynamics
    execution: Execution
    limits: Limits

    def __post_init__(self) -> None:
        if self.windows is None and self.switching is None:
            raise ConfigError("one of windows and switching is needed, got neither")

    def n_replicas(self, leg: Leg) -> int:
        """Trajectories of a leg, each of which may start in another conformer."""
        return leg.schedule.n_states if self.windows is not None else 2
