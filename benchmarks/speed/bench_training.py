"""Training steps of mace_mm and mace-torch side by side, each in its own environment.

    python benchmarks/speed/bench_training.py FRAMES.xyz --peer OTHER/bin/python -o results.json

Same network (two layers, l_max 3, correlation 3, r_max 5 Å, radial network 64, 64, 64), frames,
batch and precision. A step is energies, forces, loss, gradients and the optimizer; neighbor lists
are made beforehand. The programs take turns; times are processor seconds of one thread, so that
other work on the machine weighs little. The weights are random, the work does not depend on them.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CASES = [
    {"hidden": 0, "channels": 64, "batch": 5, "dtype": "float32"},
    {"hidden": 1, "channels": 64, "batch": 5, "dtype": "float32"},
    {"hidden": 1, "channels": 64, "batch": 5, "dtype": "float64"},
    {"hidden": 1, "channels": 128, "batch": 5, "dtype": "float32"},
]


def run(python, script, frames, case, steps, path=""):
    arguments = [f"--{key}={value}" for key, value in case.items()]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE.parents[1]),
    }
    done = subprocess.run(
        [python, str(HERE / script), frames, *arguments, f"--steps={steps}", f"--path={path}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs):
    """Medians over runs; everything else as in the first run."""
    medians = {
        key: statistics.median(r[key] for r in runs)
        for key in ("cpu_seconds", "wall_seconds", "peak_mb", "peak_mb_of_training")
    }
    return {**runs[0], **medians, "all_cpu_seconds": [r["cpu_seconds"] for r in runs]}


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("frames", help="extended XYZ with REF_energy and REF_forces")
    parser.add_argument("--peer", required=True, help="Python that has mace-torch")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    programs = {
        "mace_mm": (sys.executable, "bench_training_own.py", ""),
        "mace_mm, plain torch": (sys.executable, "bench_training_own.py", "plain"),
        "mace-torch": (options.peer, "bench_training_peer.py", ""),
    }
    cases = []
    print("| hidden l | channels | batch | precision | mace_mm | plain | mace-torch | ratio |")
    for case in CASES:
        runs = {name: [] for name in programs}
        for _ in range(options.repeats):
            for name, (python, script, path) in programs.items():
                runs[name].append(run(python, script, options.frames, case, options.steps, path))
        found = {name: summary(r) for name, r in runs.items()}
        own, plain, peer = (found[name] for name in programs)
        ratio = own["cpu_seconds"] / peer["cpu_seconds"]
        cases.append({**case, "programs": found, "ratio": ratio})
        cells = [case["hidden"], case["channels"], case["batch"], case["dtype"]]
        cells += [f"{p['cpu_seconds']:.3f} s, {p['peak_mb']:.0f} MB" for p in (own, plain, peer)]
        print("|", *(f"{cell} |" for cell in cells), f"{ratio:.2f} |", flush=True)
    result = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": 1,
        "load_average": os.getloadavg(),
        "frames": Path(options.frames).name,
        "cases": cases,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
