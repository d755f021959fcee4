"""Results and report of a calculation with legs that ended before their end."""

import json
from pathlib import Path

from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.analysis.convergence import Verdict, join_verdicts
from mace_mm.free_energy.analysis.estimator import Estimate
from mace_mm.free_energy.analysis.report import write_report
from mace_mm.free_energy.leg_result import RESULT_NAME, LegResult, LegStoppedError


def write_stopped(folder: Path, name: str, title: str, error: LegStoppedError) -> None:
    """Write what there is: no number that was asked for, but all that was sampled.

    Args:
        folder: of the calculation; its legs have their own results in theirs.
        name: of the calculation.
        title: of the report.
        error: with the results of all legs.
    """
    results = error.results
    verdict = _verdict(results)
    content = {
        "name": name,
        "stopped_by": {key: leg.stopped_by for key, leg in results.items() if leg.stopped_by},
        **verdict.to_json(),
        "legs": {key: leg.to_json() for key, leg in results.items()},
    }
    write_atomically(folder / RESULT_NAME, json.dumps(content, indent=1).encode())
    known = {key: leg.estimate for key, leg in results.items() if leg.has_estimate}
    numbers: dict[str, Estimate] = {f"leg {key}": value for key, value in known.items()}
    write_report(
        folder,
        title,
        numbers,
        list(results.values()),
        verdict,
        ["What was asked for cannot be given; numbers are of single legs, as far as they came."],
    )


def _verdict(results: dict[str, LegResult]) -> Verdict:
    return join_verdicts({key: leg.verdict for key, leg in results.items()})
