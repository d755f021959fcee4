"""What a leg's run says about its conformers, for results, reports and the verdict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.analysis.convergence import Verdict
from mace_mm.free_energy.conformers.leg import LegConformers
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule
from mace_mm.free_energy.conformers.search import Conformers
from mace_mm.free_energy.conformers.site import fits_in_site
from mace_mm.free_energy.coordinates.conformation import OBSERVER_NAME
from mace_mm.free_energy.coordinates.drawing import draw_png, draw_svg
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate
from mace_mm.free_energy.coordinates.verdict import Followed, Run, judge_conformers
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.settings import Limits

# Journals (one of all replicas, or one a replica), iterations of equilibration, λ of the states.
FollowedRun = tuple[Sequence[Journal], int, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConformerResult:
    """Starts and followed coordinates of a leg.

    Attributes:
        ligand: the molecule.
        n_starts: conformers in which replicas started.
        ground: why these.
        parts: what was followed, "windows" and "switches", one entry a coordinate.
    """

    ligand: LigandMolecule
    n_starts: int
    ground: str
    parts: dict[str, list[Followed]]

    @property
    def verdict(self) -> Verdict:
        """Every reason, with its part's name where there are several."""
        reasons = [
            reason if len(self.parts) == 1 else f"{part}: {reason}"
            for part, followed in self.parts.items()
            for one in followed
            for reason in one.reasons
        ]
        return Verdict(converged=not reasons, reasons=tuple(reasons))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a results file."""
        return {
            "started": self.n_starts,
            "ground": self.ground,
            "bonds_from": self.ligand.bonds_from,
            "bond_orders_from": self.ligand.orders_from,
            "followed": {
                part: [one.to_json() for one in followed] for part, followed in self.parts.items()
            },
        }

    def to_draw(self) -> Iterator[tuple[str, Followed]]:
        """What deserves a picture, with the name of its file: all that moved or should have."""
        seen = set()
        for followed in self.parts.values():
            for one in followed:
                several = one.slow is not None and len(one.slow.visited) > 1
                if (one.reasons or several) and one.coordinate not in seen:
                    seen.add(one.coordinate)
                    names = "-".join(self.ligand.names[i] for i in one.coordinate.atoms)
                    yield f"{one.coordinate.kind}_{_plain(names)}", one

    def write_drawings(self, folder: Path) -> None:
        """The pictures as SVG and PNG."""
        for name, one in self.to_draw():
            folder.mkdir(parents=True, exist_ok=True)
            svg = draw_svg(self.ligand, one.coordinate)
            write_atomically(folder / f"{name}.svg", svg.encode())
            write_atomically(folder / f"{name}.png", draw_png(self.ligand, one.coordinate))


def judge_run(
    leg: LegConformers,
    conformers: Conformers,
    runs: dict[str, FollowedRun],
    limits: Limits,
) -> ConformerResult:
    """Follow every coordinate through the windows and switches of a leg.

    Args:
        leg: ligand and coordinates.
        conformers: known ones, and the starts.
        runs: by name.
        limits: of the verdict.
    """

    def fits(coordinate: SoftCoordinate, value: np.ndarray) -> bool:
        relaxed = conformers.positions_nm[conformers.ends >= 0]
        return fits_in_site(leg.ligand, leg.mm, coordinate, value, relaxed)

    return ConformerResult(
        ligand=leg.ligand,
        n_starts=len(conformers.starts),
        ground=conformers.ground,
        parts={
            name: judge_conformers(
                leg.ligand,
                leg.coordinates,
                conformers,
                _gathered(journals, discard, lambdas),
                limits,
                window_kt=leg.settings.window_kt,
                in_site=leg.in_site,
                fits=fits if leg.in_site else None,
            )
            for name, (journals, discard, lambdas) in runs.items()
        },
    )


def _gathered(journals: Sequence[Journal], discard: int, lambdas: tuple[float, ...]) -> Run:
    states = [journal.read().states for journal in journals]
    n = min(len(part) for part in states)
    observed = [journal.observations(OBSERVER_NAME) for journal in journals]
    values = [o.values[:n] for o in observed if o is not None]
    return Run(
        values=np.concatenate(values, axis=1) if len(values) == len(journals) else None,
        states=np.concatenate([part[:n] for part in states], axis=1),
        discard=discard,
        lambdas=lambdas,
    )


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in name)
