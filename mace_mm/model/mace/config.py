"""The architecture of a MACE network: everything needed to rebuild it, without its weights."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from mace_mm.elements import symbol
from mace_mm.errors import ConfigError

SUPPORTED_L_MAX = 3
SUPPORTED_HIDDEN_L_MAX = 2
SUPPORTED_CORRELATION = 3
DISTANCE_TRANSFORMS = (None, "agnesi")


@dataclass(frozen=True, kw_only=True)
class MACEConfig:
    """Architecture of one MACE (Batatia et al., NeurIPS 2022, arXiv:2206.07697).

    Attributes:
        atomic_numbers: the elements, ascending; their order is the species index.
        r_max: cutoff radius, Å.
        channels: number of copies of each irrep in the node features.
        hidden_l_max: largest l of the node features between layers, 0 to 2.
        l_max: largest l of the spherical harmonics of the edges, hidden_l_max to 3.
        correlation: body order minus one of the messages, one number a layer, 1 to 3.
        n_radial: number of Bessel functions.
        cutoff_p: exponent p of the polynomial envelope.
        radial_mlp: hidden widths of the radial network.
        readout_mlp: hidden width of the last layer's readout; a one-layer network has none.
        avg_num_neighbors: the sum over neighbors is divided by this.
        residual_first: the first layer has a residual connection (RealAgnosticResidual...).
        pair_repulsion: add the Ziegler-Biersack-Littmark repulsion.
        distance_transform: None or "agnesi".
        heads: names of the levels of theory, one output each.
    """

    atomic_numbers: tuple[int, ...]
    r_max: float
    channels: int
    hidden_l_max: int = 0
    l_max: int = 3
    correlation: tuple[int, ...] = (3, 3)
    n_radial: int = 8
    cutoff_p: int = 5
    radial_mlp: tuple[int, ...] = (64, 64, 64)
    readout_mlp: int = 16
    avg_num_neighbors: float = 1.0
    residual_first: bool = False
    pair_repulsion: bool = False
    distance_transform: str | None = None
    heads: tuple[str, ...] = ("default",)

    def __post_init__(self) -> None:
        for name in ("atomic_numbers", "correlation", "radial_mlp", "heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        numbers = self.atomic_numbers
        if not numbers or list(numbers) != sorted(set(numbers)):
            raise ConfigError(
                f"atomic_numbers must be ascending and without repeats, got {numbers}"
            )
        for z in numbers:
            symbol(z)
        if not (math.isfinite(self.r_max) and self.r_max > 0):
            raise ConfigError(f"r_max must be a positive length in Å, got {self.r_max}")
        if not (math.isfinite(self.avg_num_neighbors) and self.avg_num_neighbors > 0):
            raise ConfigError(f"avg_num_neighbors must be positive, got {self.avg_num_neighbors}")
        _check_range("hidden_l_max", self.hidden_l_max, 0, SUPPORTED_HIDDEN_L_MAX)
        _check_range("l_max", self.l_max, self.hidden_l_max, SUPPORTED_L_MAX)
        if not self.correlation:
            raise ConfigError("correlation needs one number a layer, got none")
        for nu in self.correlation:
            _check_range("correlation", nu, 1, SUPPORTED_CORRELATION)
        for name in ("channels", "n_radial", "cutoff_p", "readout_mlp"):
            _check_range(name, getattr(self, name), 1, None)
        for width in self.radial_mlp:
            _check_range("radial_mlp", width, 1, None)
        if self.distance_transform not in DISTANCE_TRANSFORMS:
            raise ConfigError(
                f"distance_transform must be one of {DISTANCE_TRANSFORMS}, "
                f"got {self.distance_transform!r}"
            )
        if not self.heads or len(set(self.heads)) != len(self.heads):
            raise ConfigError(f"heads need distinct names, got {self.heads}")

    @property
    def n_layers(self) -> int:
        return len(self.correlation)

    @property
    def n_species(self) -> int:
        return len(self.atomic_numbers)

    def hidden_l(self, layer: int) -> int:
        """Largest l of the node features that enter ``layer`` (0 is the embedding).

        The embedding and the last layer's output are scalars.
        """
        return 0 if layer == 0 or layer == self.n_layers else self.hidden_l_max

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MACEConfig":
        """Rebuild from `to_dict`; unknown or missing names raise `ConfigError`."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown model settings {unknown}; known are {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"incomplete or mistyped model settings: {error}") from error


def _check_range(name: str, value: int, low: int, high: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} must be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        upper = "" if high is None else f" to {high}"
        raise ConfigError(f"{name} must be {low}{upper or ' or more'}, got {value}")
