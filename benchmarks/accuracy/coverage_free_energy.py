"""How often the error bars of free energies hold the right answer, and what is called converged.

    python benchmarks/accuracy/coverage_free_energy.py emulated --output FILE.json [--repeats 40]
    python benchmarks/accuracy/coverage_free_energy.py windows  --output FILE.json [--steps 50]

A particle in a double well stands for a molecule with two conformers; its free energy is known by
quadrature. `windows` samples it as any leg is sampled, by OpenMM and openmmtools on the Reference
platform; `emulated` integrates the same equations for all repeats at once in numpy, a hundred times
faster. Both are analyzed and judged by the package. Written is one entry a cell: barrier, starts,
exchange, iterations; the output is replaced after every cell, and cells in it are not run again.
"""

import argparse
import json
import logging
import math
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import openmm

from mace_mm.errors import DataError
from mace_mm.free_energy.analysis.convergence import judge_windows
from mace_mm.free_energy.analysis.estimator import Estimate, analyze_windows, kt_kj_mol
from mace_mm.free_energy.coordinates.slow_states import follow_states, judge_slow_states
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.schedule import even_lambdas, linear_schedule
from mace_mm.free_energy.sampling.restart import Restart
from mace_mm.free_energy.sampling.samples import Samples, collect
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.settings import Dynamics, Limits, Windows

TEMPERATURE_K = 300.0
KT = kt_kj_mol(TEMPERATURE_K)
LAMBDAS = even_lambdas(5)
SCHEDULE = linear_schedule(LAMBDAS, "lambda_interpolate")
EQUILIBRATION = 20
MASS, WIDTH_NM, SOFT, STIFF, SHIFT_KT = 12.0, 0.1, 1000.0, 3000.0, -3.0
# Further from the top of the barrier than this a particle is in a conformer.
EDGE_NM = 0.05
TIMESTEP_FS, FRICTION_PER_PS = 4.0, 10.0
CHANCE = 1.96


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of run.

    Attributes:
        barrier_kt: between the two conformers.
        starts: "one" conformer for all replicas, or "both" in turn.
        exchange: whether replicas exchange windows.
        iterations: kept at most, after the least equilibration.
        steps: of dynamics in one iteration.
    """

    barrier_kt: float
    starts: str
    exchange: bool
    iterations: int
    steps: int

    def start_nm(self) -> np.ndarray:
        """(n_replicas, 3) starts."""
        x = np.full(len(LAMBDAS), -WIDTH_NM)
        if self.starts == "both":
            x[1::2] = WIDTH_NM
        return np.stack([x, *np.zeros((2, len(x)))], axis=1)

    def seed(self) -> int:
        """Of the first repeat; no two cells share their noise."""
        return zlib.crc32(json.dumps(asdict(self)).encode()) % 2**30


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a run leaves: windows and conformers (n_iterations, n_replicas), and its samples."""

    samples: Samples
    windows: np.ndarray
    labels: np.ndarray


def exact_kj_mol(barrier_kt: float) -> float:
    """F(1) - F(0): the double well by quadrature, two harmonic directions analytically."""
    x = np.linspace(-3.5, 3.5, 200001)
    well = barrier_kt * (x**2 - 1.0) ** 2
    step = SHIFT_KT * 0.5 * (1.0 + np.tanh(20.0 * x))
    return KT * (
        math.log(STIFF / SOFT) - math.log(np.exp(-well - step).sum() / np.exp(-well).sum())
    )


def double_well_leg(cell: Cell) -> Leg:
    """The particle as a leg; its second conformer is shifted by λ times SHIFT_KT."""
    system = openmm.System()
    system.addParticle(MASS)
    force = openmm.CustomExternalForce(
        "barrier*((x/width)^2-1)^2+0.5*(soft+lambda_interpolate*(stiff-soft))*(y^2+z^2)"
        "+lambda_interpolate*shift*0.5*(1+tanh(20*x/width))"
    )
    values = {
        "lambda_interpolate": 0.0,
        "barrier": cell.barrier_kt * KT,
        "width": WIDTH_NM,
        "soft": SOFT,
        "stiff": STIFF,
        "shift": SHIFT_KT * KT,
    }
    for name, value in values.items():
        force.addGlobalParameter(name, value)
    force.addParticle(0, [])
    system.addForce(force)
    return Leg(
        name="double_well",
        system=system,
        positions_nm=np.array([[-WIDTH_NM, 0.0, 0.0]]),
        box_nm=None,
        schedule=SCHEDULE,
        temperature_k=TEMPERATURE_K,
        observers=(Side(),),
    )


@dataclass(frozen=True)
class Side:
    """Observer of the conformer: 0 and 1, -1 between them."""

    name: str = "side"
    columns: tuple[str, ...] = ("side",)

    def measure(self, restart: Restart, reduced: np.ndarray) -> np.ndarray:
        return conformers(restart.positions_nm[:, 0, 0])[:, None].astype(float)

    def check(self, iteration: int, values: np.ndarray) -> None:
        pass


def conformers(x_nm: np.ndarray) -> np.ndarray:
    """0 left, 1 right, -1 on the barrier."""
    return np.where(np.abs(x_nm) < EDGE_NM, -1, (x_nm > 0.0).astype(int))


def run_by_windows(cell: Cell, seed: int) -> Run:
    """One run through OpenMM and openmmtools."""
    windows = Windows(
        lambdas=LAMBDAS,
        iterations=cell.iterations,
        equilibration=EQUILIBRATION,
        steps=cell.steps,
        exchange=cell.exchange,
    )
    dynamics = Dynamics(
        timestep_fs=TIMESTEP_FS,
        friction_per_ps=FRICTION_PER_PS,
        platform="Reference",
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        journal = run_windows(double_well_leg(cell), Path(folder), windows, dynamics)
        seen = journal.observations("side")
        if seen is None:
            raise DataError("the run kept no conformers")
        return Run(
            samples=collect(SCHEDULE, TEMPERATURE_K, [journal], EQUILIBRATION),
            windows=journal.read().states[EQUILIBRATION:],
            labels=seen.values[EQUILIBRATION:, :, 0].astype(int),
        )


def emulate(cell: Cell, repeats: int, seed: int) -> Iterator[Run]:
    """All repeats of a cell at once, (repeats, n_replicas) particles."""
    generator = np.random.default_rng(seed)
    n = len(LAMBDAS)
    window = np.tile(np.arange(n), (repeats, 1))
    x = np.tile(cell.start_nm(), (repeats, 1, 1))
    v = generator.normal(scale=math.sqrt(KT / MASS), size=x.shape)
    kept = []
    for _ in range(EQUILIBRATION + cell.iterations):
        langevin(generator, x, v, np.array(LAMBDAS)[window], cell)
        reduced = energies(x, cell)
        kept.append((window.copy(), reduced, conformers(x[..., 0])))
        if cell.exchange:
            exchange(generator, window, reduced)
    windows, reduced, labels = (np.array(part)[EQUILIBRATION:] for part in zip(*kept, strict=True))
    for repeat in range(repeats):
        yield Run(
            samples=to_samples(windows[:, repeat], reduced[:, repeat]),
            windows=windows[:, repeat],
            labels=labels[:, repeat],
        )


def langevin(
    generator: np.random.Generator, x: np.ndarray, v: np.ndarray, lam: np.ndarray, cell: Cell
) -> None:
    """One iteration of the middle scheme, in place."""
    dt = TIMESTEP_FS * 1e-3
    kept = math.exp(-FRICTION_PER_PS * dt)
    noise = math.sqrt((1.0 - kept**2) * KT / MASS)
    stiffness = SOFT + lam * (STIFF - SOFT)
    for _ in range(cell.steps):
        q = x[..., 0] / WIDTH_NM
        bend = 4.0 * cell.barrier_kt * q * (q * q - 1.0)
        edge = lam * SHIFT_KT * 10.0 * (1.0 - np.tanh(20.0 * q) ** 2)
        v[..., 0] -= dt / MASS * KT * (bend + edge) / WIDTH_NM
        v[..., 1:] -= dt / MASS * stiffness[..., None] * x[..., 1:]
        x += 0.5 * dt * v
        v *= kept
        v += noise * generator.normal(size=v.shape)
        x += 0.5 * dt * v


def energies(x: np.ndarray, cell: Cell) -> np.ndarray:
    """(repeats, n_replicas, n_states) reduced potentials, kT."""
    lam = np.array(LAMBDAS)
    q = x[..., :1] / WIDTH_NM
    radial = 0.5 * (x[..., 1:] ** 2).sum(-1, keepdims=True) / KT
    step = SHIFT_KT * 0.5 * (1.0 + np.tanh(20.0 * q))
    return cell.barrier_kt * (q**2 - 1.0) ** 2 + radial * (SOFT + lam * (STIFF - SOFT)) + lam * step


def exchange(generator: np.random.Generator, window: np.ndarray, reduced: np.ndarray) -> None:
    """Swaps of random pairs, n³ of them as openmmtools does, in place and in all repeats."""
    n = window.shape[1]
    rows = np.arange(len(window))
    for _ in range(n**3):
        i, j = generator.integers(n, size=(2, len(window)))
        old_i, old_j = window[rows, i], window[rows, j]
        change = reduced[rows, i, old_j] + reduced[rows, j, old_i]
        change -= reduced[rows, i, old_i] + reduced[rows, j, old_j]
        swap = generator.random(len(window)) < np.exp(np.minimum(0.0, -change))
        window[rows, i] = np.where(swap & (i != j), old_j, old_i)
        window[rows, j] = np.where(swap & (i != j), old_i, window[rows, j])


def to_samples(windows: np.ndarray, reduced: np.ndarray) -> Samples:
    """Samples of one run from (n_iterations, n_replicas) windows and their energies."""
    times, replicas = np.indices(windows.shape)
    rows = [np.nonzero(windows == state) for state in range(len(LAMBDAS))]
    return Samples(
        schedule=SCHEDULE,
        temperature_k=TEMPERATURE_K,
        reduced=tuple(reduced[row] for row in rows),
        replicas=tuple(replicas[row] for row in rows),
        times=tuple(times[row] for row in rows),
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run, analyzed. Deviations from the right answer in standard errors."""

    value_kj_mol: float
    error_kj_mol: float
    deviations: dict[str, float]
    independent: int
    transitions: int
    converged: bool
    by_energies_alone: bool


def judge(run: Run, cell: Cell) -> Outcome:
    """What the package says about a run: from energies, and from conformers as well."""
    analysis = analyze_windows(run.samples, n_parts=2)
    found = {"MBAR": analysis.mbar, "BAR": analysis.bar, "TI": analysis.ti}
    exact = exact_kj_mol(cell.barrier_kt)

    def deviation(estimate: Estimate | None) -> float:
        if estimate is None:
            return math.nan
        return (estimate.value_kj_mol - exact) / estimate.error_kj_mol

    kept = slice(analysis.left_out, None)
    slow = follow_states("the particle", run.labels[kept], run.windows[kept], len(LAMBDAS))
    verdict = judge_windows(analysis, Limits())
    return Outcome(
        value_kj_mol=analysis.mbar.value_kj_mol,
        error_kj_mol=analysis.mbar.error_kj_mol,
        deviations={name: deviation(estimate) for name, estimate in found.items()},
        independent=min(analysis.independent),
        transitions=slow.n_transitions,
        converged=verdict.converged and not judge_slow_states([slow], Limits(), LAMBDAS),
        by_energies_alone=verdict.converged,
    )


def summarize(cell: Cell, outcomes: list[Outcome], sampler: str) -> dict[str, object]:
    """One entry of the results file."""
    values = np.array([run.value_kj_mol for run in outcomes])
    errors = np.array([run.error_kj_mol for run in outcomes])
    called = [run for run in outcomes if run.converged]
    still = [run for run in outcomes if run.transitions == 0]
    exact = exact_kj_mol(cell.barrier_kt)
    return asdict(cell) | {
        "sampler": sampler,
        "repeats": len(outcomes),
        "exact_kj_mol": round(exact, 4),
        "mean_deviation_kj_mol": round(float(values.mean() - exact), 3),
        "scatter_kj_mol": round(float(values.std(ddof=1)), 3),
        "reported_kj_mol": round(float(np.sqrt((errors**2).mean())), 3),
        "inside_95": {name: inside(outcomes, name) for name in ("MBAR", "BAR", "TI")},
        "transitions": int(np.median([run.transitions for run in outcomes])),
        "independent_samples": int(np.median([run.independent for run in outcomes])),
        "called_converged": len(called),
        "called_and_inside_95": {name: inside(called, name) for name in ("MBAR", "BAR", "TI")},
        "without_transition": len(still),
        "without_transition_called": sum(run.converged for run in still),
        "called_by_energies_alone": sum(run.by_energies_alone for run in outcomes),
        "without_transition_called_by_energies_alone": sum(run.by_energies_alone for run in still),
    }


def inside(outcomes: list[Outcome], method: str) -> int:
    """Runs whose 95 % interval holds the right answer."""
    return sum(abs(run.deviations[method]) <= CHANCE for run in outcomes)


def cells(sampler: str, steps: int) -> Iterator[Cell]:
    """Barriers that are crossed often, rarely and never; the last one from both kinds of starts."""
    for barrier_kt in (3.0, 4.0, 5.0, 6.0, 15.0):
        for starts in ("one", "both") if barrier_kt > 6.0 and sampler == "emulated" else ("one",):
            for exchanged in (True, False):
                for iterations in (200, 800):
                    yield Cell(
                        barrier_kt=barrier_kt,
                        starts=starts,
                        exchange=exchanged,
                        iterations=iterations,
                        steps=steps,
                    )


def sample(cell: Cell, sampler: str, repeats: int) -> Iterator[Run]:
    """The runs of a cell."""
    if sampler == "emulated":
        yield from emulate(cell, repeats, cell.seed())
    else:
        for repeat in range(repeats):
            yield run_by_windows(cell, cell.seed() + 7 * repeat)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sampler", choices=("emulated", "windows"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--steps", type=int, nargs="+", default=[500])
    parser.add_argument("--iterations", type=int, nargs="+", default=[200, 800])
    given = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    done = json.loads(given.output.read_text()) if given.output.exists() else []
    for cell in (cell for steps in given.steps for cell in cells(given.sampler, steps)):
        identity = {"sampler": given.sampler, "repeats": given.repeats} | asdict(cell)
        known = any(identity.items() <= entry.items() for entry in done)
        if known or cell.iterations not in given.iterations:
            continue
        begin = time.process_time()
        outcomes = [judge(run, cell) for run in sample(cell, given.sampler, given.repeats)]
        entry = summarize(cell, outcomes, given.sampler)
        done.append(entry | {"cpu_s": round(time.process_time() - begin, 1)})
        given.output.write_text(json.dumps(done, indent=1) + "\n")
        print(line(done[-1]), flush=True)


def line(entry: dict[str, object]) -> str:
    """One entry for people."""
    return (
        "{sampler} {barrier_kt:g} kT, {starts}, exchange {exchange}, {iterations} × {steps}: "
        "scatter {scatter_kj_mol}, reported {reported_kj_mol}, inside {inside_95}, "
        "{transitions} transitions, {called_converged} called, inside {called_and_inside_95}; "
        "{without_transition} without transition, {without_transition_called} called, "
        "{cpu_s} s".format(**entry)
    )


if __name__ == "__main__":
    main()
