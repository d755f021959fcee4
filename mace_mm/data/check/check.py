"""Pre-flight: is this data fit for training? Findings a person can read, and an exit code."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mace_mm.data.check.frame_scan import FrameScan, Progress, scan_frames
from mace_mm.data.check.units import check_units
from mace_mm.data.check.values import (
    LEVELS,
    CheckSettings,
    Finding,
    check_duplicates,
    check_energies,
    check_forces,
    check_geometry,
    energy_residuals,
)
from mace_mm.data.check.work import close_pairs
from mace_mm.data.labels import FrameSource
from mace_mm.errors import DataError, MaceMMError


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """Everything that was found.

    Attributes:
        findings: in the order of the tests.
        scan: numbers of each frame.
        energy_residuals: (n,) eV per atom beside the atomic energies, NaN without an energy.
        atomic_energies: head -> atomic number -> eV used for it.
        n_molecules: molecules in the source.
    """

    findings: tuple[Finding, ...]
    scan: FrameScan
    energy_residuals: np.ndarray
    atomic_energies: dict[str, dict[int, float]]
    n_molecules: int

    @property
    def worst(self) -> str:
        """The highest level among the findings."""
        return max((f.level for f in self.findings), key=LEVELS.index, default="ok")


def check_data(
    source: FrameSource, settings: CheckSettings | None = None, progress: Progress | None = None
) -> CheckReport:
    """Run every test.

    Args:
        source: opened with strict=False, so that damaged items are listed and not raised.
        settings: what to look for.
        progress: wraps the loop over the frames.

    Raises:
        DataError: there is no frame at all to look at.
    """
    settings = settings or CheckSettings()
    if len(source) == 0:
        damaged = getattr(source, "problems", [])
        why = f": {damaged[0]} ({len(damaged)} such items)" if damaged else ""
        raise DataError(f"there is no frame to check{why}")
    frames = np.arange(len(source))
    rng = np.random.default_rng(settings.seed)
    if settings.max_frames is not None and settings.max_frames < frames.size:
        frames = np.sort(rng.choice(frames, settings.max_frames, replace=False))
    scan = scan_frames(source, frames.tolist(), progress)
    residuals, energies = energy_residuals(scan, settings)
    findings = [
        *_readable(source, scan),
        *_labels(scan),
        *_units(source, scan, settings, rng),
        *check_forces(scan, settings),
        *check_geometry(scan, settings),
        *check_energies(scan, residuals, settings),
        *check_duplicates(scan),
    ]
    if settings.consistency:
        findings += _consistency(source, scan)
    return CheckReport(
        findings=tuple(findings),
        scan=scan,
        energy_residuals=residuals,
        atomic_energies=energies,
        n_molecules=len(source.entries),
    )


def _readable(source: FrameSource, scan: FrameScan) -> list[Finding]:
    damaged = list(getattr(source, "problems", []))
    found = [Finding(level="error", check="readable", text=line) for line in damaged[:5]]
    if len(damaged) > 5:
        text = f"and {len(damaged) - 5} more items that cannot be read"
        found.append(Finding(level="error", check="readable", text=text))
    if scan.problems:
        lines = "; ".join(f"frame {i}: {text}" for i, text in scan.problems[:5])
        found.append(
            Finding(
                level="error",
                check="readable",
                text=f"{len(scan.problems)} frames cannot be used: {lines}",
                frames=tuple(i for i, _ in scan.problems),
            )
        )
    for what in ("unlabelled", "empty"):
        names = getattr(source, what, [])
        if names:
            text = f"{len(names)} {what} groups, for example {', '.join(names[:3])}"
            found.append(Finding(level="note", check="readable", text=text))
    if not found:
        text = f"all {scan.index.size} frames are complete and finite"
        found.append(Finding(level="ok", check="readable", text=text))
    return found


def _labels(scan: FrameScan) -> list[Finding]:
    found = []
    for name, values in (("energy", scan.energy), ("forces", scan.max_force)):
        missing = scan.index[np.isnan(values)]
        if missing.size:
            level = "warning" if missing.size < scan.index.size else "note"
            text = f"{missing.size} of {scan.index.size} frames have no {name}"
            found.append(
                Finding(level=level, check="labels", text=text, frames=tuple(missing.tolist()))
            )
    for head in sorted(set(scan.head)):
        levels = Counter(scan.level_of_theory[scan.head == head])
        if len(levels) > 1:
            table = ", ".join(f"{level or 'unknown'} ({n})" for level, n in levels.most_common(5))
            text = f"head {head!r} mixes levels of theory: {table}; give each a head of its own"
            found.append(Finding(level="warning", check="labels", text=text))
    return found or [Finding(level="ok", check="labels", text="energies and forces everywhere")]


def _units(
    source: FrameSource, scan: FrameScan, settings: CheckSettings, rng: np.random.Generator
) -> list[Finding]:
    groups = _by_molecule(source, scan)
    chosen: list[list[int]] = []
    n = 0
    for g in rng.permutation(len(groups)):
        if n >= settings.unit_frames:
            break
        chosen.append(groups[g][:200])
        n += len(chosen[-1])
    verdicts = check_units(source, chosen)
    found = []
    for verdict in verdicts:
        level = {True: "ok", False: "error", None: "note"}[verdict.ok]
        text = verdict.how
        if verdict.ok is not None:
            text = f"{verdict.ratio:.3g} times what is right, by {verdict.how}"
        if verdict.guess:
            text += f": {verdict.guess}"
        found.append(Finding(level=level, check=f"unit of {verdict.quantity}", text=text))
    for quantity, values in (("forces", scan.max_force), ("energy", scan.energy)):
        told = [v for v in verdicts if v.quantity == quantity and v.ok is not None]
        if not told and not np.isnan(values).all():
            text = f"the data do not tell the unit of the {quantity}: look for yourself"
            found.append(Finding(level="warning", check=f"unit of {quantity}", text=text))
    return found


def _by_molecule(source: FrameSource, scan: FrameScan) -> list[list[int]]:
    molecule = source.entry_of_frame[scan.index]
    order = np.argsort(molecule, kind="stable")
    cuts = np.flatnonzero(np.diff(molecule[order])) + 1
    return [scan.index[part].tolist() for part in np.split(order, cuts) if part.size]


def _consistency(source: FrameSource, scan: FrameScan) -> list[Finding]:
    """Pairs of close frames whose energy difference is not the work of the forces."""
    bad: list[int] = []
    lines: list[str] = []
    n, level = 0, "warning"
    for group in _by_molecule(source, scan):
        try:
            pairs = close_pairs([source[i] for i in group[:200]])
        except MaceMMError as error:
            return [Finding(level="error", check="consistency", text=str(error))]
        pairs = pairs[pairs[:, 2] < 0.15]
        n += len(pairs)
        gap = np.abs(pairs[:, 4] - pairs[:, 3])
        wrong = gap > 0.1 + 0.5 * np.maximum(np.abs(pairs[:, 3]), np.abs(pairs[:, 4]))
        # A pair may have crossed a barrier; many in one molecule mean wrong labels.
        if wrong.sum() >= 3 and wrong.mean() > 0.2:
            level = "error"
        for a, b, rmsd, work, change in pairs[wrong]:
            bad += [group[int(a)], group[int(b)]]
            lines.append(
                f"frames {group[int(a)]} and {group[int(b)]} ({rmsd:.2f} Å apart): the energy "
                f"changes by {change:.3f} eV, the forces do {work:.3f} eV"
            )
    if lines:
        text = f"{len(lines)} of {n} pairs of close frames: {'; '.join(lines[:5])}"
        return [
            Finding(level=level, check="consistency", text=text, frames=tuple(sorted(set(bad))))
        ]
    if not n:
        return [Finding(level="note", check="consistency", text="no two frames are close enough")]
    return [Finding(level="ok", check="consistency", text=f"{n} pairs of close frames agree")]
