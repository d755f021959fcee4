"""Random-weight models of three published layouts, written by mace-torch in its own environment.

    PEER_PYTHON benchmarks/speed/peer_models.py FOLDER

Writes small.model, medium.model and large.model: ten elements, r_max 5 Å, the layouts of the
MACE-OFF23 family.
"""

import sys
from pathlib import Path

import numpy as np
import torch

torch.serialization.add_safe_globals([slice])  # e3nn 0.4 reads its constants with pickle

from e3nn import o3  # noqa: E402
from mace import modules  # noqa: E402

ELEMENTS = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)
LAYOUTS = {
    "small": "96x0e",
    "medium": "128x0e + 128x1o",
    "large": "192x0e + 192x1o + 192x2e",
}


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_default_dtype(torch.float64)
    for name, hidden in LAYOUTS.items():
        torch.manual_seed(0)
        model = modules.ScaleShiftMACE(
            r_max=5.0,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=len(ELEMENTS),
            hidden_irreps=o3.Irreps(hidden),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=-10.0 * np.array(ELEMENTS, dtype=float),
            avg_num_neighbors=16.0,
            atomic_numbers=list(ELEMENTS),
            correlation=3,
            gate=torch.nn.functional.silu,
            radial_MLP=[64, 64, 64],
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
        torch.save(model, folder / f"{name}.model")
        print(f"{folder / name}.model")


if __name__ == "__main__":
    main()
