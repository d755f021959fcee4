"""Time mace-torch on the systems of `mace-mm benchmark`; run by its own environment's Python.

    PEER_PYTHON benchmarks/speed/peer_mace_torch.py MODEL FOLDER SECONDS

Only the network's energy and forces are timed, in float32; the neighbor list is made beforehand.
"""

import json
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import ase
import numpy as np
import torch

torch.serialization.add_safe_globals([slice])  # e3nn 0.4 reads its constants with pickle
warnings.filterwarnings("ignore")

from mace.data import AtomicData, config_from_atoms  # noqa: E402
from mace.tools import AtomicNumberTable, torch_geometric  # noqa: E402


def main() -> None:
    model_file, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    torch.set_default_dtype(torch.float32)
    model = torch.load(model_file, map_location="cpu", weights_only=False).float().eval()
    table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
    systems = {}
    for path in sorted(folder.glob("*.npz")):
        data = np.load(path)
        frame = data["frames"][0]
        atoms = ase.Atoms(data["numbers"], frame, cell=data["cell"], pbc=bool(data["cell"].any()))
        graph = AtomicData.from_config(
            config_from_atoms(atoms), z_table=table, cutoff=float(model.r_max)
        )
        loader = torch_geometric.dataloader.DataLoader([graph], batch_size=1)
        batch = next(iter(loader)).to_dict()
        times, start = [], time.perf_counter()
        while len(times) < 5 or (time.perf_counter() - start < seconds and len(times) < 200):
            before = time.perf_counter()
            out = model(batch, compute_force=True)
            times.append(time.perf_counter() - before)
        systems[path.stem] = {"times": times[2:], "forces": out["forces"].tolist()}
    name = f"mace-torch {version('mace-torch')}"
    print(json.dumps({"name": name, "threads": torch.get_num_threads(), "systems": systems}))


if __name__ == "__main__":
    main()
