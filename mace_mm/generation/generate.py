"""A whole dataset from one protocol, or any of its steps."""

from enum import StrEnum
from pathlib import Path

from mace_mm.errors import DataError
from mace_mm.generation.assembly import assemble
from mace_mm.generation.molecules.molecules import Rejection
from mace_mm.generation.molecules.planning import plan
from mace_mm.generation.pipeline import label, sample
from mace_mm.generation.protocol import Protocol
from mace_mm.generation.report import Report
from mace_mm.generation.work.execution import open_runner
from mace_mm.generation.work.workplace import Progress, Workplace, no_progress, open_workplace


class Step(StrEnum):
    """The steps in their order; a step needs the ones before it."""

    MOLECULES = "molecules"
    SAMPLE = "sample"
    LABEL = "label"
    ASSEMBLE = "assemble"


def generate(
    protocol: Protocol,
    folder: Path,
    *,
    until: Step = Step.ASSEMBLE,
    progress: Progress = no_progress,
    report: Report | None = None,
) -> Report:
    """Make the dataset of a protocol in a folder, going on from whatever is already there.

    Args:
        protocol: what to make.
        folder: gets ``<name>-<label>.h5``, ``protocol.yaml``, ``report.txt``, ``report.json`` and
            the records of finished work in ``work/``.
        until: the last step to do.
        progress: called with (step, done, total).
        report: filled while the steps run, so that it says what happened also when one raises.

    Returns:
        the report: what was made and what was left out, and why.

    Raises:
        ConfigError, DependencyError, BackendError: the run cannot start or go on.
        DataError: the dataset itself cannot be written.
    """
    report = Report(name=protocol.name) if report is None else report
    with open_workplace(folder, protocol, report) as workplace:
        try:
            _steps(workplace, until, progress)
        finally:
            _write_reports(workplace)
    return report


def _steps(workplace: Workplace, until: Step, progress: Progress) -> None:
    protocol = workplace.protocol
    progress("molecules", 0, 1)
    items = plan(protocol, workplace.report)
    progress("molecules", 1, 1)
    if until == Step.MOLECULES:
        return
    with open_runner(protocol.execution) as runner:
        sampled = sample(workplace, items, runner, progress)
        if until == Step.SAMPLE:
            return
        labelled = {
            settings.name: label(workplace, sampled, settings, runner, progress)
            for settings in protocol.labels
        }
    if until == Step.LABEL:
        return
    for number, settings in enumerate(protocol.labels):
        progress("assembly", number, len(protocol.labels))
        assemble(workplace, labelled[settings.name], settings)
    progress("assembly", len(protocol.labels), len(protocol.labels))


def _write_reports(workplace: Workplace) -> None:
    """A full disk must not hide what happened: it is then only in the returned report."""
    report, folder = workplace.report, workplace.folder
    try:
        (folder / "protocol.yaml").write_text(workplace.protocol.as_yaml())
        (folder / "report.txt").write_text(report.as_text())
        (folder / "report.json").write_text(report.as_json())
    except OSError as error:
        report.reject(
            Rejection(
                name="report.txt",
                stage="report",
                reason=str(DataError(f"cannot be written: {error.strerror}")),
            )
        )
