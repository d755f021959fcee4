"""The watch of a run: is the molecule still what it was, and may its energies be believed?"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mace_mm.evaluate.domain.force_uncertainty import ForceUncertainty
from mace_mm.identity.change import Change, Kind
from mace_mm.identity.reference import MolecularIdentity
from mace_mm.identity.watch import MoleculeWatch
from mace_mm.simulation.watch.findings import Finding, Findings, in_words
from mace_mm.simulation.watch.settings import WatchSettings
from mace_mm.simulation.watch.thermal import ThermalState, ThermalWatch
from mace_mm.units import NM_TO_ANGSTROM

_log = logging.getLogger(__name__)


class ForceErrorWatch:
    """Looks at the expected force errors of a model.

    Args:
        estimate: of the model.
        identity: names of the atoms; those beyond the model's own do not count.
        atoms: indices of the model's atoms in the whole system.
        atomic_numbers: of these.
    """

    def __init__(
        self, estimate: ForceUncertainty, atoms: Sequence[int], atomic_numbers: Sequence[int]
    ) -> None:
        self._estimate = estimate
        self._atoms = np.asarray(atoms, dtype=np.int64)
        self._numbers = np.asarray(atomic_numbers, dtype=np.int64)
        self.largest = 0.0
        self.looks = 0
        self.seconds = 0.0

    def look(
        self, positions: np.ndarray, cell: np.ndarray | None, names: dict[int, str]
    ) -> list[Change]:
        """The worst atom, if its surroundings are unlike any that were trained on.

        Args:
            positions: (n_particles, 3) Å.
            cell: (3, 3) rows, Å; None in vacuum.
            names: of the atoms by index, for people.
        """
        started = time.perf_counter()
        expected = self._estimate(self._numbers, positions[self._atoms], cell)
        self.seconds += time.perf_counter() - started
        self.looks += 1
        worst = int(expected.argmax())
        self.largest = max(self.largest, float(expected[worst]))
        limit = self._estimate.strange_above
        if expected[worst] <= limit:
            return []
        atom = int(self._atoms[worst])
        return [
            Change(
                kind=Kind.FORCE_ERROR,
                key=f"{Kind.FORCE_ERROR} {atom}",
                text=f"the model does not know the surroundings of {names.get(atom, atom)}: its "
                f"forces may be wrong by {expected[worst]:.1f} eV/Å (limit {limit:.1f} eV/Å)",
                atoms=(atom,),
            )
        ]


@dataclass(kw_only=True)
class RunWatch:
    """Looks at a run from time to time; what it finds is logged once and kept.

    Attributes:
        identity: of the atoms, at the start.
        settings: what to do about findings.
        thermal: temperatures and energies, None to leave them out.
        force_error: expected force errors, None where the model has no estimate.
        findings: of this run, those of its former parts included.
        stopped_by: why the run must end, None while it may go on.
        looks: how often it looked, over all parts of the run.
        seconds: what that took, without the force errors.
    """

    identity: MolecularIdentity
    settings: WatchSettings
    thermal: ThermalWatch | None = None
    force_error: ForceErrorWatch | None = None
    findings: Findings = field(default_factory=Findings)
    stopped_by: str | None = None
    looks: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._molecule = MoleculeWatch(self.identity)
        self._force_errors_seen: int | None = None

    def look(
        self,
        step: int,
        positions_nm: np.ndarray,
        box_nm: np.ndarray | None,
        state: ThermalState,
        *,
        last: bool = False,
    ) -> list[Finding]:
        """Look at one frame; returns what is new.

        Args:
            step: integration steps done.
            positions_nm: (n_particles, 3).
            box_nm: (3, 3) rows; None in vacuum.
            state: energies and velocities of the frame.
            last: the run ends here, whatever is found: the expected force error is looked at.
        """
        started = time.perf_counter()
        positions = positions_nm[self.identity.indices] * NM_TO_ANGSTROM
        cell = None if box_nm is None else np.asarray(box_nm) * NM_TO_ANGSTROM
        changes = self._molecule.look(positions, cell)
        if self.thermal is not None:
            changes = [*changes, *self.thermal.look(state)]
        self.looks += 1
        self.seconds += time.perf_counter() - started
        fatal = [change for change in changes if change.kind in self.settings.stop_on]
        if not fatal and self._force_error_is_due(step, last):
            changes += self._force_errors(positions_nm, cell)
            fatal = [change for change in changes if change.kind in self.settings.stop_on]
        new = self.findings.add(changes, step, state.time_ps)
        if new:
            _log.warning("step %d (%.3f ps): %s", step, state.time_ps, in_words(new))
        if fatal:
            self.stopped_by = in_words(fatal)
        return new

    def _force_error_is_due(self, step: int, last: bool) -> bool:
        interval = self.settings.force_error_interval
        if self.force_error is None or interval == 0:
            return False
        before, self._force_errors_seen = self._force_errors_seen, step // interval
        return last or before is None or before != step // interval

    def _force_errors(self, positions_nm: np.ndarray, cell: np.ndarray | None) -> list[Change]:
        if self.force_error is None:
            return []
        named = {int(atom): self.identity.named(k) for k, atom in enumerate(self.identity.indices)}
        return self.force_error.look(positions_nm * NM_TO_ANGSTROM, cell, named)

    def to_json(self) -> dict[str, Any]:
        """What a later part of the run must know, and what its summary tells."""
        errors = self.force_error
        return self.findings.to_json() | {
            "looks": self.looks,
            "seconds": round(self.seconds, 4),
            "force_error_looks": 0 if errors is None else errors.looks,
            "force_error_seconds": 0.0 if errors is None else round(errors.seconds, 4),
            "largest_force_error_ev_per_angstrom": None if errors is None else errors.largest,
        }

    def restore(self, content: dict[str, Any]) -> None:
        """Go on where a former part of the run was.

        Raises:
            DataError: something else than `to_json` made.
        """
        self.findings = Findings.from_json(content)
        self.looks += int(content["looks"])
        self.seconds += float(content["seconds"])
        if self.force_error is not None:
            self.force_error.looks += int(content["force_error_looks"])
            self.force_error.seconds += float(content["force_error_seconds"])
            largest = content["largest_force_error_ev_per_angstrom"] or 0.0
            self.force_error.largest = max(self.force_error.largest, float(largest))
