"""Throughput of data generation: frames per second and stage, for 1, 2, ... worker processes.

    python benchmarks/speed/bench_generation.py [PROTOCOL.yaml] [--workers 1 2 4]

Each run starts from an empty folder. "per core-second" counts the processor time of the workers
and does not suffer from other programs; the speed-up does.
"""

import argparse
import os
import tempfile
from pathlib import Path

from mace_mm.generation.generate import generate
from mace_mm.generation.protocol import read_protocol
from mace_mm.generation.work.execution_settings import ExecutionSettings

TINY = Path(__file__).resolve().parents[2] / "examples" / "generate" / "tiny.yaml"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("protocol", nargs="?", type=Path, default=TINY)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", nargs="+", type=int, default=list(range(1, cores + 1)))
    arguments = parser.parse_args()
    protocol = read_protocol(arguments.protocol)
    first: dict[str, float] = {}
    print(f"{'stage':>16} workers frames frames/s per core-second speed-up")
    for workers in arguments.workers:
        execution = ExecutionSettings(kind="local", workers=workers)
        with tempfile.TemporaryDirectory() as folder:
            report = generate(
                protocol.model_copy(update={"execution": execution}), Path(folder) / "run"
            )
        for stage, speed in report.speeds.items():
            rate = speed["frames"] / speed["seconds"]
            per_core = speed["frames"] / max(speed["core_seconds"], 1e-9)
            ratio = rate / first.setdefault(stage, rate)
            print(
                f"{stage:>16} {workers:7d} {speed['frames']:6.0f} {rate:8.1f} {per_core:15.1f} "
                f"{ratio:8.2f}"
            )


if __name__ == "__main__":
    main()
