"""Networks of relative free energies: cycle closure, and one number for every ligand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mace_mm.errors import DataError
from mace_mm.free_energy.analysis.estimator import Estimate


@dataclass(frozen=True, kw_only=True)
class Edge:
    """ΔΔG between two ligands: that of the second less that of the first."""

    first: str
    second: str
    estimate: Estimate


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """Edges around a loop; their sum is zero but for errors.

    Attributes:
        ligands: in the order of the walk; the last is bonded to the first.
        closure: the sum along the walk.
    """

    ligands: tuple[str, ...]
    closure: Estimate


def find_cycles(edges: Sequence[Edge]) -> list[Cycle]:
    """A basis of the network's cycles: one for every edge that a spanning forest leaves out."""
    parents: dict[str, tuple[str, Estimate] | None] = {}
    cycles = []
    for edge in _tree_first(edges, parents):
        up, down = _path(parents, edge.second), _path(parents, edge.first)
        # Up from the second ligand to the common ancestor, down to the first, over the edge.
        above = {name for name, _ in down}
        meeting = next(name for name, _ in up if name in above)
        up = up[: [name for name, _ in up].index(meeting) + 1]
        down = down[: [name for name, _ in down].index(meeting) + 1]
        total = edge.estimate
        for _, step in up[:-1]:
            total = total + step
        for _, step in down[:-1]:
            total = total - step
        names = [name for name, _ in up] + [name for name, _ in reversed(down[:-1])]
        cycles.append(Cycle(ligands=tuple(names), closure=total))
    return cycles


def _tree_first(
    edges: Sequence[Edge], parents: dict[str, tuple[str, Estimate] | None]
) -> list[Edge]:
    """Grow a spanning forest into ``parents`` (ligand to parent and the step to it)."""
    left = list(edges)
    outside: list[Edge] = []
    while left:
        for edge in list(left):
            known = edge.first in parents, edge.second in parents
            if all(known):
                outside.append(edge)
            elif known[0]:
                parents[edge.second] = edge.first, -edge.estimate
            elif known[1]:
                parents[edge.first] = edge.second, edge.estimate
            else:
                continue
            left.remove(edge)
            break
        else:
            parents[left[0].first] = None
    return outside


def _path(parents: dict[str, tuple[str, Estimate] | None], name: str) -> list[tuple[str, Estimate]]:
    """Ligands from one to its root, each with the step to the next (nothing at the root)."""
    path: list[tuple[str, Estimate]] = []
    while True:
        parent = parents[name]
        if parent is None:
            return [*path, (name, Estimate(value_kj_mol=0.0, error_kj_mol=0.0))]
        path.append((name, parent[1]))
        name = parent[0]


def fit_ligands(edges: Sequence[Edge]) -> dict[str, Estimate]:
    """ΔG of every ligand relative to the mean of all, by weighted least squares over the edges.

    The maximum-likelihood estimate of Xu, J. Chem. Inf. Model. 59, 4720, 2019.

    Raises:
        DataError: a network in several pieces, or an edge without an error.
    """
    names = list(dict.fromkeys(name for edge in edges for name in (edge.first, edge.second)))
    errors = np.array([edge.estimate.error_kj_mol for edge in edges])
    if not (np.isfinite(errors).all() and (errors > 0.0).all()):
        raise DataError("every edge of a network needs a standard error above zero")
    design = np.zeros((len(edges), len(names)))
    for row, edge in enumerate(edges):
        design[row, names.index(edge.first)] = -1.0
        design[row, names.index(edge.second)] = 1.0
    if np.linalg.matrix_rank(design) < len(names) - 1:
        raise DataError(
            f"the edges must connect all ligands {names}; they leave the network in pieces"
        )
    values = np.array([edge.estimate.value_kj_mol for edge in edges])
    weighted = design / errors[:, None]
    covariance = np.linalg.pinv(weighted.T @ weighted)
    solution = covariance @ weighted.T @ (values / errors)
    return {
        name: Estimate(value_kj_mol=float(value), error_kj_mol=float(np.sqrt(variance)))
        for name, value, variance in zip(names, solution, np.diag(covariance), strict=True)
    }
