"""Time energy and forces on this machine: the engines here, and peers in their own environments."""

import json
import os
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from mace_mm.archive.archive import Archive
from mace_mm.errors import BackendError, InputError
from mace_mm.evaluate.build import build_evaluator
from mace_mm.evaluate.machine import processor_name
from mace_mm.kernels import ops
from mace_mm.simulation.ligand import ligand_from_smiles
from mace_mm.units import NM_TO_ANGSTROM

LIGAND = "Nc1ncccc1OCc1ccccc1"  # 3-(benzyloxy)pyridin-2-amine, 27 atoms
_WATER_SPACING = 3.1075  # Å, of a cubic lattice at 0.997 g/mL
_WATER = np.array([[0.0, 0.0, 0.0], [0.7570, 0.5859, 0.0], [-0.7570, 0.5859, 0.0]])
_N_FRAMES = 40
_STEP = 0.01  # Å a frame along each axis, about what atoms move in a femtosecond
_PATIENCE = 600  # s; longest wait for a peer's answer, times the number of systems


@dataclass(frozen=True, kw_only=True)
class BenchmarkSystem:
    """Atoms with a short made-up trajectory.

    Attributes:
        name: of the system.
        numbers: (n_atoms,) atomic numbers.
        frames: (n_frames, n_atoms, 3) Å; neighbors in time differ by about a time step.
        cell: (3, 3) Å, zeros for a molecule in vacuum.
    """

    name: str
    numbers: np.ndarray
    frames: np.ndarray
    cell: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one engine takes for energy and forces of one system.

    Attributes:
        engine: its name.
        n_atoms: of the system.
        median_ms, fastest_ms: of the calls, milliseconds.
        n_calls: that were timed.
        threads: the engine was given.
        force_difference: largest difference to the float64 network, over the largest force; None
            where that was not computed.
    """

    engine: str
    n_atoms: int
    median_ms: float
    fastest_ms: float
    n_calls: int
    threads: int
    force_difference: float | None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Everything one run measured.

    Attributes:
        model: its name.
        machine: processor, cores and threads.
        timings: by system and engine.
        notes: what could not be measured, and why.
    """

    model: str
    machine: str
    timings: list[Timing]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        """Plain numbers and strings, for JSON."""
        return asdict(self)


def make_system(n_atoms: int, seed: int = 0) -> BenchmarkSystem:
    """27 atoms: a ligand in vacuum. More: a periodic box of about so many atoms of water.

    Raises:
        InputError: a box of fewer than 24 atoms.
    """
    random = np.random.default_rng(seed)
    if n_atoms == 27:
        ligand = ligand_from_smiles(LIGAND)
        numbers = np.array([atom.element.atomic_number for atom in ligand.topology.atoms()])
        start = ligand.positions_nm * NM_TO_ANGSTROM
        cell = np.zeros((3, 3))
    else:
        side = round((n_atoms / 3) ** (1 / 3))
        if side < 2:
            raise InputError(f"sizes are 27 (a ligand) or 24 and more (water), got {n_atoms}")
        sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        turns = np.linalg.qr(random.normal(size=(len(sites), 3, 3)))[0]
        start = (sites[:, None] * _WATER_SPACING + _WATER @ turns).reshape(-1, 3)
        numbers = np.tile([8, 1, 1], len(sites))
        cell = np.eye(3) * side * _WATER_SPACING
    directions = random.normal(size=start.shape)
    phases = np.sin(np.arange(_N_FRAMES) * 2 * np.pi / _N_FRAMES) * _N_FRAMES / (2 * np.pi)
    frames = start + _STEP * phases[:, None, None] * directions
    return BenchmarkSystem(name=str(len(numbers)), numbers=numbers, frames=frames, cell=cell)


def run_benchmark(
    archive: Archive,
    systems: Sequence[BenchmarkSystem],
    *,
    model_path: Path | None = None,
    engines: Sequence[str] = ("native", "reference"),
    precision: str = "single",
    peers: dict[str, str] | None = None,
    seconds: float = 3.0,
    max_reference_atoms: int = 3000,
    say: Callable[[str], None] = lambda text: None,
) -> Benchmark:
    """Time every engine on every system, one after the other.

    Args:
        archive: the model.
        systems: from :func:`make_system`.
        model_path: its mace-torch file, for the peers.
        engines: of :func:`mace_mm.evaluate.build.build_evaluator`.
        precision: of the engines here.
        peers: commands by name; each is run as ``COMMAND MODEL FOLDER SECONDS`` and prints JSON,
            see the scripts in ``benchmarks/``.
        seconds: spent on each pair of engine and system.
        max_reference_atoms: the reference and the comparison of forces stop at this size.
        say: told what is measured now.

    Raises:
        InputError: peers without a file they can read.
    """
    peers = peers or {}
    if peers and model_path is None:
        raise InputError("peers read a mace-torch .model file, got none")
    timings: list[Timing] = []
    notes: list[str] = []
    exact: dict[str, np.ndarray] = {}
    for system in systems:
        for engine in engines:
            if engine == "reference" and len(system.numbers) > max_reference_atoms:
                notes.append(f"reference: not run on {system.name} atoms, too slow")
                continue
            say(f"{engine}, {system.name} atoms")
            try:
                run = _Run(archive, system, engine, precision)
            except BackendError as problem:
                notes.append(f"{engine}: {problem}")
                continue
            if len(system.numbers) <= max_reference_atoms and system.name not in exact:
                exact[system.name] = _Run(archive, system, "reference", "double").forces(0)
            times = run.time(seconds)
            timings.append(_timing(run.name, system, times, run.forces(0), exact))
    for name, command in peers.items():
        say(f"{name} in its own environment")
        try:
            answer = _ask_peer(command, Path(str(model_path)), systems, seconds)
        except BackendError as problem:
            notes.append(f"{name}: {problem}")
            continue
        for system in systems:
            found = answer["systems"][system.name]
            forces = np.array(found["forces"])
            one = _timing(answer["name"], system, found["times"], forces, exact)
            timings.append(Timing(**{**asdict(one), "threads": int(answer["threads"])}))
    return Benchmark(
        model=archive.metadata.name, machine=describe_machine(), timings=timings, notes=notes
    )


class _Run:
    """One engine on one system."""

    def __init__(
        self, archive: Archive, system: BenchmarkSystem, engine: str, precision: str
    ) -> None:
        self._evaluator = build_evaluator(
            archive, system.numbers.tolist(), precision=precision, engine=engine
        )
        self._frames = torch.tensor(system.frames)
        self._box = torch.tensor(system.cell) if system.cell.any() else torch.zeros(0).double()
        kind = ops.ENGINE.instruction_set if engine == "native" and ops.ENGINE else "torch"
        self.name = f"mace_mm {engine} ({kind}, {precision})"

    def forces(self, frame: int) -> np.ndarray:
        with torch.no_grad():
            found = self._evaluator.in_units(self._frames[frame], self._box, 1.0, 1.0)[1]
        return found.double().numpy()

    def time(self, seconds: float) -> list[float]:
        """Seconds of each call, in the order of the trajectory; at least 3 calls."""
        for warm_up in range(3):
            self.forces(warm_up)
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < 3 or (time.perf_counter() - start < seconds and len(times) < 5000):
            frame = self._frames[len(times) % _N_FRAMES]
            before = time.perf_counter()
            with torch.no_grad():
                self._evaluator.in_units(frame, self._box, 1.0, 1.0)
            times.append(time.perf_counter() - before)
        return times


def _timing(
    engine: str,
    system: BenchmarkSystem,
    times: Sequence[float],
    forces: np.ndarray,
    exact: dict[str, np.ndarray],
) -> Timing:
    difference = None
    if system.name in exact:
        wanted = exact[system.name]
        difference = float(np.abs(forces - wanted).max() / np.abs(wanted).max())
    return Timing(
        engine=engine,
        n_atoms=len(system.numbers),
        median_ms=1e3 * statistics.median(times),
        fastest_ms=1e3 * min(times),
        n_calls=len(times),
        threads=torch.get_num_threads(),
        force_difference=difference,
    )


def _ask_peer(
    command: str, model: Path, systems: Sequence[BenchmarkSystem], seconds: float
) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        for system in systems:
            np.savez(
                Path(folder) / f"{system.name}.npz",
                numbers=system.numbers,
                frames=system.frames,
                cell=system.cell,
            )
        words = [*shlex.split(command), str(model), folder, str(seconds)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        environment.pop("PYTHONPATH", None)
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
                timeout=_PATIENCE * len(systems),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackendError(f"{command!r} did not run: {error}") from error
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise BackendError(f"{command!r} gave no result, its last words: {last}") from None


def describe_machine() -> str:
    """Processor, cores, threads and torch, in a line."""
    return (
        f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
