"""What a run does when the molecule is no longer what it was."""

from dataclasses import dataclass

from mace_mm.errors import ConfigError
from mace_mm.identity.change import Kind

# After these the trajectory is not one of the molecule that was asked about.
DESTROYED = frozenset({Kind.NOT_FINITE, Kind.EXPLODED, Kind.BOND_BROKEN, Kind.BOND_MADE})
# What happens to a whole molecule, or may mean nothing.
MILD = frozenset(Kind) - DESTROYED
WATCHES = ("stop", "strict", "flag", "off")


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """How a run is watched.

    Attributes:
        watch: "stop" ends the run when the molecule is destroyed (`DESTROYED`) and flags the rest;
            "strict" ends it at anything; "flag" never ends it; "off" does not look. Positions and
            energies that are no numbers end a run whatever is asked.
        force_error_interval: steps between two looks at the expected force error, which costs as
            much as some 50 steps; 0 never looks.

    Raises:
        ConfigError: another watch, or a negative interval.
    """

    watch: str = "stop"
    force_error_interval: int = 2000

    def __post_init__(self) -> None:
        if self.watch not in WATCHES:
            raise ConfigError(f"watch must be one of {', '.join(WATCHES)}, got {self.watch!r}")
        if self.force_error_interval < 0:
            raise ConfigError(
                f"force_error_interval must not be negative, got {self.force_error_interval}"
            )

    @property
    def stop_on(self) -> frozenset[Kind]:
        """The kinds of change that end a run."""
        kinds = {"stop": DESTROYED, "strict": frozenset(Kind)}
        return kinds.get(self.watch, frozenset())
