"""May a run be believed? The first thing its report says."""

from collections.abc import Sequence
from dataclasses import dataclass

from mace_mm.identity.change import Kind
from mace_mm.simulation.watch.findings import Finding
from mace_mm.simulation.watch.settings import DESTROYED

GOOD, ATTENTION, BAD = "good", "attention", "bad"


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """A judgment of a run.

    Attributes:
        level: "good", "attention" or "bad".
        headline: one sentence.
        reasons: one sentence each, what the headline rests on.
    """

    level: str
    headline: str
    reasons: tuple[str, ...] = ()


def judge_run(
    *,
    stopped_by: str | None,
    findings: Sequence[Finding],
    n_more: int,
    warnings: Sequence[str],
    earlier_stops: Sequence[str],
    looks: int,
    watched: str,
) -> RunVerdict:
    """Judge from what the watch and the warnings said.

    Args:
        stopped_by: what ended the run by itself.
        findings: of the watch.
        n_more: further findings that were only counted.
        warnings: said before the dynamics.
        earlier_stops: what ended former attempts, from whose checkpoints this one went on.
        looks: of the watch; 0 if it did not look.
        watched: what was looked at, "33 bonds and 1 stereocenter".
    """
    reasons = [*warnings, *(f"an earlier attempt ended {stop}" for stop in earlier_stops)]
    reasons += [_seen(finding) for finding in findings]
    if n_more:
        reasons.append(f"{n_more} further findings are not listed")
    destroyed = [finding for finding in findings if Kind(finding.kind) in DESTROYED]
    if stopped_by is not None:
        headline = f"The run ended {stopped_by}."
        return RunVerdict(level=BAD, headline=headline, reasons=tuple(reasons))
    if destroyed:
        first = destroyed[0]
        headline = f"The molecule is not what it was since step {first.step}: {first.text}."
        return RunVerdict(level=BAD, headline=headline, reasons=tuple(reasons))
    if not looks:
        headline = "Nobody looked whether the molecule stayed what it was."
        return RunVerdict(level=ATTENTION, headline=headline, reasons=tuple(reasons))
    kept = f"The molecule kept {watched} in {looks} looks"
    if reasons:
        return RunVerdict(level=ATTENTION, headline=f"{kept}, but:", reasons=tuple(reasons))
    return RunVerdict(level=GOOD, headline=f"{kept}, and nothing else stood out.")


def _seen(finding: Finding) -> str:
    """A finding with the time over which it was seen."""
    when = f"step {finding.step}, {finding.time_ps:g} ps"
    if finding.looks > 1:
        when += f"; seen {finding.looks} times until step {finding.last_step}"
    return f"{finding.text} ({when})"
