"""What ran and how it ended: the file ``run.json``."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mace_mm.errors import ConfigError, DataError
from mace_mm.simulation.run.dynamics import RunResult
from mace_mm.simulation.run.settings import RunSettings
from mace_mm.simulation.watch.findings import Finding, Findings
from mace_mm.simulation.watch.settings import WatchSettings
from mace_mm.simulation.watch.verdict import RunVerdict, judge_run

SUMMARY_NAME = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What ran and how it ended, kept as ``run.json`` beside the trajectory.

    Attributes:
        ligand: name of the ligand.
        smiles: its SMILES, None where unknown.
        n_atoms: number of atoms.
        model: name of the model.
        level_of_theory: of the model's training labels.
        model_sha256: hash of the model.
        precision: of the model.
        force: kind of the OpenMM Force that evaluates it.
        settings: the RunSettings.
        result: the RunResult.
        watch: what the watch was asked to do.
        warnings: said before the dynamics.
        earlier_stops: what ended former attempts, from whose checkpoints the run went on.
        seen: what the watch knows at the end (`RunWatch.to_json`), None if nobody watched.
        watched: what it looked at, in words.
        smiles_atoms: of every atom the place in ``smiles``, so that a drawing can mark it.
    """

    ligand: str
    smiles: str | None
    n_atoms: int
    model: str
    level_of_theory: str
    model_sha256: str
    precision: str
    force: str
    settings: RunSettings
    result: RunResult
    watch: WatchSettings = WatchSettings(watch="off")
    warnings: tuple[str, ...] = ()
    earlier_stops: tuple[str, ...] = ()
    seen: dict[str, Any] | None = None
    watched: str = ""
    smiles_atoms: tuple[int, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the watch found."""
        return () if self.seen is None else Findings.from_json(self.seen).every

    @property
    def verdict(self) -> RunVerdict:
        """May the run be believed?"""
        return judge_run(
            stopped_by=self.result.stopped_by,
            findings=self.findings,
            n_more=0 if self.seen is None else int(self.seen["n_more"]),
            warnings=self.warnings,
            earlier_stops=self.earlier_stops,
            looks=0 if self.seen is None else int(self.seen["looks"]),
            watched=self.watched,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict first: people read the file, too."""
        return {"verdict": asdict(self.verdict)} | asdict(self)


def read_summary(folder: Path) -> RunSummary:
    """Read the ``run.json`` of a run.

    Raises:
        DataError: missing or damaged.
    """
    path = folder / SUMMARY_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # It follows from the rest.
        content.pop("verdict", None)
        content["settings"] = RunSettings(**content["settings"])
        content["result"] = RunResult(**content["result"])
        # Runs of former versions had no watch.
        if "watch" in content:
            content["watch"] = WatchSettings(**content["watch"])
        for name in ("warnings", "earlier_stops", "smiles_atoms"):
            content[name] = tuple(content.get(name, ()))
        summary = RunSummary(**content)
        if summary.seen is not None:
            # Damage shows here, not when the findings are asked for.
            Findings.from_json(summary.seen)
        return summary
    except FileNotFoundError as error:
        raise DataError(f"{folder} holds no finished or stopped run: no {SUMMARY_NAME}") from error
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
