"""What came of a leg, and the words for it in a results file."""

from dataclasses import dataclass
from typing import Any

from mace_mm.errors import ConfigError, RunStoppedError
from mace_mm.free_energy.analysis.convergence import Verdict
from mace_mm.free_energy.analysis.estimator import Estimate, WindowAnalysis
from mace_mm.free_energy.analysis.work import SwitchAnalysis
from mace_mm.free_energy.coordinates.result import ConformerResult
from mace_mm.free_energy.legs.watch import LegWatch

RESULT_NAME = "result.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class LegResult:
    """The free energy of a leg's last state relative to its first.

    Attributes:
        name: of the leg.
        windows, switches: analyses of what was run.
        verdict: of both, of their agreement, and of what was seen of the molecule.
        conformers: starts and followed coordinates, None for legs without a ligand that is known.
        watch: what was seen of the molecule, None for legs that nobody watches.
        stopped_by: what ended the leg before its end; then it holds what was sampled before.
        elapsed_s: wall time of this process; a continued run counts its last part only.
    """

    name: str
    windows: WindowAnalysis | None
    switches: SwitchAnalysis | None
    verdict: Verdict
    elapsed_s: float
    conformers: ConformerResult | None = None
    watch: LegWatch | None = None
    stopped_by: str | None = None

    @property
    def has_estimate(self) -> bool:
        """Whether enough was sampled for a number."""
        return self.windows is not None or self.switches is not None

    @property
    def estimate(self) -> Estimate:
        """MBAR where there are windows, else BAR of the switches."""
        if self.windows is not None:
            return self.windows.mbar
        if self.switches is not None:
            return self.switches.bar
        raise ConfigError(f"leg {self.name} has no result")

    @property
    def methods(self) -> dict[str, Estimate]:
        """Every estimate by the name of its method."""
        found: dict[str, Estimate] = {}
        if self.windows is not None:
            found |= {"MBAR": self.windows.mbar, "BAR": self.windows.bar}
            if self.windows.ti is not None:
                found["TI"] = self.windows.ti
        if self.switches is not None:
            found["switching, BAR"] = self.switches.bar
            found["switching, Crooks"] = self.switches.crooks
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values for a results file."""
        content: dict[str, Any] = {
            "name": self.name,
            "estimate": estimate_json(self.estimate) if self.has_estimate else None,
            **self.verdict.to_json(),
            "stopped_by": self.stopped_by,
            "methods": {name: estimate_json(value) for name, value in self.methods.items()},
            "elapsed_s": round(self.elapsed_s, 1),
        }
        if self.watch is not None:
            content["watch"] = self.watch.to_json()
        if self.conformers is not None:
            content["conformers"] = self.conformers.to_json()
        if self.windows is not None:
            content["windows"] = {
                "lambdas": list(self.windows.samples.schedule.coordinates),
                "samples": list(self.windows.samples.counts),
                "independent_samples": list(self.windows.independent),
                "left_out": self.windows.left_out,
                "overlap": self.windows.overlap.round(4).tolist(),
                "profile_kj_mol": self.windows.profile_kj_mol.round(4).tolist(),
            }
        if self.switches is not None:
            content["switching"] = {
                "forward_kt": self.switches.forward_kt.round(4).tolist(),
                "reverse_kt": self.switches.reverse_kt.round(4).tolist(),
                "left_out": self.switches.left_out,
                "independent_switches": [
                    self.switches.effective_forward,
                    self.switches.effective_reverse,
                ],
                "overlap": round(self.switches.overlap, 4),
                "dissipation_kj_mol": round(self.switches.dissipation_kj_mol, 4),
            }
        return content


def estimate_json(estimate: Estimate) -> dict[str, float]:
    """An estimate in both units."""
    return {
        "value_kj_mol": round(estimate.value_kj_mol, 4),
        "error_kj_mol": round(estimate.error_kj_mol, 4),
        "value_kcal_mol": round(estimate.value_kcal_mol, 4),
        "error_kcal_mol": round(estimate.error_kcal_mol, 4),
    }


class LegStoppedError(RunStoppedError):
    """Legs that ended before their end; what they have is written.

    Attributes:
        results: of all legs that ran, by name.
    """

    def __init__(self, message: str, results: dict[str, LegResult]) -> None:
        super().__init__(message)
        self.results = results
