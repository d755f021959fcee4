"""Time one training step; used by the two programs that make one, each in its own environment."""

import argparse
import json
import platform
import resource
import time

import ase.io
import numpy as np
import torch

R_MAX, L_MAX, CORRELATION, NEIGHBORS = 5.0, 3, 3, 15.0


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("frames")
    parser.add_argument("--channels", type=int, required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--dtype", choices=("float32", "float64"), required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--path", default="", help="which of several implementations to take")
    return parser.parse_args()


def measure(make_step):
    """Print one line of JSON: median processor seconds of a step in one thread, and memory."""
    chosen = options()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    frames = ase.io.read(chosen.frames, f":{chosen.batch}")
    for atoms in frames:
        atoms.pbc = False
    before = peak_mb()
    step, n_weights, n_edges = make_step(frames, chosen, getattr(torch, chosen.dtype))
    for _ in range(3):
        step()
    times, walls = [], []
    for _ in range(chosen.steps):
        start, wall = time.process_time(), time.perf_counter()
        step()
        times.append(time.process_time() - start)
        walls.append(time.perf_counter() - wall)
    print(
        json.dumps(
            {
                "cpu_seconds": float(np.median(times)),
                "wall_seconds": float(np.median(walls)),
                "peak_mb": round(peak_mb()),
                "peak_mb_of_training": round(peak_mb() - before),
                "n_weights": n_weights,
                "n_atoms": sum(len(a) for a in frames),
                "n_edges": n_edges,
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        )
    )
