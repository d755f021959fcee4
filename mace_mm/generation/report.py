"""What happened, for a person (text) and for a program (JSON)."""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from mace_mm.generation.molecules.items import Item
from mace_mm.generation.molecules.molecules import Rejection


@dataclass(kw_only=True)
class Report:
    """Collected while the steps run.

    Attributes:
        name: of the protocol.
        n_candidates: molecules read from the sources.
        items: kind -> number of items.
        rejections: what was left out as a whole, and why.
        notes: what was left out of an item, and why.
        frames: origin -> number of sampled frames.
        speeds: stage -> what was made in this run: items, frames, seconds, core_seconds.
        datasets: label -> what was written.
    """

    name: str
    n_candidates: int = 0
    items: dict[str, int] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)
    notes: list[Rejection] = field(default_factory=list)
    frames: dict[str, int] = field(default_factory=dict)
    speeds: dict[str, dict[str, float]] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def plan(self, n_candidates: int, items: list[Item], rejected: list[Rejection]) -> None:
        """Take over the result of the first step."""
        self.n_candidates = n_candidates
        self.items = dict(Counter(item.kind for item in items))
        self.rejections.extend(rejected)

    def reject(self, rejection: Rejection) -> None:
        """Something is left out as a whole."""
        self.rejections.append(rejection)

    def note(self, name: str, stage: str, reason: str) -> None:
        """A part of something is left out."""
        self.notes.append(Rejection(name=name, stage=stage, reason=reason))

    def count_frames(self, origins: list[str]) -> None:
        """Frames of one item, each with where it comes from."""
        self.frames = dict(Counter(self.frames) + Counter(origins))

    def speed(
        self, stage: str, n_items: int, n_frames: int, seconds: float, core_seconds: float
    ) -> None:
        """What a stage made in this run; seconds on the clock and spent by the workers."""
        self.speeds[stage] = {
            "items": n_items,
            "frames": n_frames,
            "seconds": round(seconds, 3),
            "core_seconds": round(core_seconds, 3),
        }

    def as_json(self) -> str:
        """Everything, for programs."""
        return json.dumps(asdict(self), indent=2)

    def as_text(self) -> str:
        """Everything, a line for each thing left out."""
        lines = [f"Dataset {self.name}", ""]
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.items.items()))
        lines.append(f"molecules read: {self.n_candidates}; items: {kinds or 'none'}")
        origins = ", ".join(f"{count} {origin}" for origin, count in sorted(self.frames.items()))
        lines.append(f"frames sampled: {sum(self.frames.values())} ({origins or 'none'})")
        for stage, speed in self.speeds.items():
            rate = speed["frames"] / max(speed["seconds"], 1e-9)
            a_core = speed["frames"] / max(speed["core_seconds"], 1e-9)
            lines.append(
                f"{stage}, in this run: {speed['items']:.0f} items, {speed['frames']:.0f} frames"
                f" in {speed['seconds']:.1f} s ({rate:.1f}/s, {a_core:.1f} per core-second)"
            )
        for label, content in self.datasets.items():
            lines += ["", f"label {label}:"]
            lines += [f"  {key}: {value}" for key, value in content.items()]
        for title, entries in (
            ("Left out", self.rejections),
            ("Left out of what was kept", self.notes),
        ):
            lines += ["", f"{title}: {len(entries)}"]
            lines += [f"  [{e.stage}] {e.name}: {e.reason}" for e in entries]
        return "\n".join(lines) + "\n"
