"""Write a bundled model's card from its archive and its measured errors.

python scripts/write_model_card.py mace_mm/models/small.pt RESULTS.json mace_mm/models/small.md
"""

import json
import sys
from pathlib import Path

from mace_mm.deploy.archive import load_archive, read_header

TITLES = {
    "des370k_monomers": "DES370K monomers",
    "des370k_dimers": "DES370K dimers",
    "dipeptides": "dipeptides",
    "pubchem": "PubChem molecules",
    "qmugs": "QMugs (larger drug-like molecules)",
    "solvated_amino_acids": "solvated amino acids",
    "water": "water clusters",
    "3bpa_300K": "3BPA at 300 K (ωB97X/6-31G(d) labels, another level of theory)",
}


def main():
    model, results_path, out = sys.argv[1:]
    archive, header = load_archive(model), read_header(model)
    meta, config = archive.metadata, archive.config
    results = json.loads(Path(results_path).read_text())
    lines = [
        f"# Model card: {meta.name}",
        "",
        meta.description.strip(),
        "",
        "| | |",
        "|---|---|",
        f"| elements | {' '.join(header['elements'])} |",
        f"| level of theory | {meta.level_of_theory} |",
        f"| network | {config.n_layers} layers, {config.channels} channels, hidden l = "
        f"{config.hidden_l_max}, l_max {config.l_max}, correlation "
        f"{', '.join(map(str, config.correlation))}, r_max {config.r_max} Å, ZBL repulsion |",
        f"| training data | {meta.training_data} |",
        f"| licence of the training data | {meta.training_data_licence} |",
        f"| licence of the weights | {meta.weights_licence} |",
        f"| SHA-256 of the weights | `{archive.sha256}` |",
        f"| file size | {Path(model).stat().st_size / 1e6:.2f} MB |",
        "",
        "## Measured errors",
        "",
        "Frames that took no part in training; whole molecular formulas are kept apart. Energy "
        "errors are per atom after the median difference of the subset is removed.",
        "",
        "| test frames | n | force MAE, meV/Å | force RMSE, meV/Å | energy MAE, meV/atom |",
        "|---|---|---|---|---|",
    ]
    for name, title in TITLES.items():
        r = results[name]
        lines.append(
            f"| {title} | {r['n_frames']} | {r['force_mae_mev_per_A']} | "
            f"{r['force_rmse_mev_per_A']} | {r['energy_mae_shifted_mev_per_atom']} |"
        )
    Path(out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
