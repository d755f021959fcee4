"""Write the cards of the bundled models, and the tables of the README, from files of results.

    python recipes/bundled_model/write_model_card.py

Reads `mace_mm/models/NAME.{pt,json}` (`benchmark_model.py`) and `benchmarks/results/*.json`
(`benchmark_model.py` for the other methods, `stability.py`). What has no file is left out.
"""

import json
from pathlib import Path

from mace_mm.archive.archive import load_archive, read_header
from mace_mm.bundled_models import BUNDLED_MODELS, bundled_path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- tables: recipes/bundled_model/write_model_card.py -->", "<!-- end of tables -->"
TITLES = {
    "des370k_monomers": "DES370K monomers",
    "des370k_dimers": "DES370K dimers",
    "dipeptides": "dipeptides",
    "pubchem": "PubChem molecules",
    "qmugs": "QMugs (larger drug-like molecules)",
    "solvated_amino_acids": "solvated amino acids",
    "water": "water clusters",
    "3bpa_300K": "3BPA at 300 K",
}
METHODS = {"ani-2x": "ANI-2x", "gfn2-xtb": "GFN2-xTB", "aimnet2": "AIMNet2 (teacher)"}


def read(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def table(head: list[str], rows: list[list]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def force_table(methods: dict[str, dict]) -> list[str]:
    """Force errors of every method on every set; the first is one of ours."""
    first = next(iter(methods.values()))
    rows = []
    for name, title in TITLES.items():
        cells = []
        for method in methods.values():
            r = method[name]
            less = first[name]["n_frames"] != r["n_frames"]
            cells.append(
                f"{r['force_mae_mev_per_A']} ({r['force_rmse_mev_per_A']})"
                + (f", {r['n_frames']} frames" if less else "")
            )
        rows.append([title, first[name]["n_frames"], *cells])
    return table(["force MAE, meV/Å (RMSE)", "frames", *methods], rows)


def curve_table(methods: dict[str, dict]) -> list[str]:
    """S66x8 and torsions."""
    s66, scans = ([m[k] for m in methods.values()] for k in ("s66x8", "torsions"))
    right = "n_right_order_within_kcal_mol"
    rows = [
        ["S66x8, MAE to the largest distance, kcal/mol", *(r["mae_kcal_mol"] for r in s66)],
        *(
            [
                "S66x8, dimers whose 8 distances stand in the right order"
                + (f", pairs closer than {t} kcal/mol aside" if float(t) else ""),
                *(f"{r[right][t]} of {r['n_dimers']}" for r in s66),
            ]
            for t in s66[0][right]
        ),
        ["S66x8, dimers with a spurious minimum", *(len(r["spurious_minima"]) for r in s66)],
        ["torsions, scans", *(r["n_scans"] for r in scans)],
        ["torsions, barrier MAE, kcal/mol", *(r["barrier_mae_kcal_mol"] for r in scans)],
        ["torsions, profile RMSE, kcal/mol", *(r["profile_rmse_kcal_mol"] for r in scans)],
        ["torsions, mean correlation", *(r["mean_correlation"] for r in scans)],
    ]
    return table(["", *methods], rows)


def energy_table(ours: dict) -> list[str]:
    key = "energy_mae_shifted_mev_per_atom"
    rows = [[title, ours[name][key]] for name, title in TITLES.items()]
    return table(["energy MAE per atom, the median of the set removed", "meV"], rows)


def stability(model: str, sha256: str) -> list[str]:
    """What long runs showed; runs of other weights are named as such."""
    prefix = "stability" if model == BUNDLED_MODELS[0] else f"stability-{model}"
    lines = []
    for name, text in (("langevin", "300 K, 1 fs, Langevin"), ("nve", "NVE, 0.5 fs")):
        result = read(RESULTS / f"{prefix}-{name}.json")
        if not result:
            continue
        runs = result["molecules"]
        failed = {k: v["failure"] for k, v in runs.items() if v["failure"]}
        ps = sorted({v["ps"] for v in runs.values() if not v["failure"]})
        line = f"- {text}: {len(runs) - len(failed)} of {len(runs)} molecules of FreeSolv ran "
        line += f"{ps[-1]:g} ps" if ps else ""
        if name == "nve":
            drift = [abs(v["drift_kj_mol_atom_ps"]) for v in runs.values()]
            line += f"; drift at most {max(drift):.1e}, in the median "
            line += f"{sorted(drift)[len(drift) // 2]:.1e} kJ/mol/atom/ps"
        lines.append(line + _weights(result, sha256) + ".")
        lines += [f"  - failed: {k} ({runs[k]['smiles']}): {v}" for k, v in failed.items()]
    water = read(RESULTS / f"{prefix}-water.json")
    if water:
        r, g = water["rdf_first_peak"]
        wanted = water["experiment_rdf"]["first peak"]
        lines.append(
            f"- {water['n_molecules']} waters, NPT at 300 K and 1 bar, {water['ps']:g} ps: density "
            f"{water['density_g_ml']} g/mL (experiment {water['experiment_density_g_ml']}), first "
            f"peak of the O-O distribution {g} at {r} Å (experiment {wanted[1]} at {wanted[0]} Å); "
            f"{_outcome(water)}{_weights(water, sha256)}."
        )
    return lines


def _outcome(water: dict) -> str:
    return f"FAILED: {water['failure']}" if water["failure"] else "every molecule stayed whole"


def _weights(result: dict, sha256: str) -> str:
    return "" if result["model"] == sha256 else " (with earlier weights)"


NOTES = """\
SPICE frames: whole molecular formulas are kept apart from training. AIMNet2 (ωB97M-D3/def2-TZVPP)
is one of the teachers and may have seen them. 3BPA is labelled with ωB97X/6-31G(d) and S66x8 with
ωB97X/6-31G*, the level of ANI-2x and another than ours and than GFN2-xTB's: without dispersion, and
with a large basis set superposition error. Errors to it compare levels first: AIMNet2, whose level
is nearly SPICE's, is about as far from 3BPA as our model and farther from S66x8. The torsions are
labelled with B3LYP-D3(BJ)."""


def card(name: str, others: dict[str, dict]) -> list[str]:
    """The model card."""
    model = bundled_path(name)
    archive, header = load_archive(model), read_header(model)
    meta, config = archive.metadata, archive.config
    ours = read(model.with_suffix(".json"))
    methods = {name: ours} | others
    facts = [
        ["elements", " ".join(header["elements"])],
        ["level of theory", meta.level_of_theory],
        [
            "network",
            f"{config.n_layers} layers, {config.channels} channels, hidden l = "
            f"{config.hidden_l_max}, l_max {config.l_max}, correlation "
            f"{', '.join(map(str, config.correlation))}, r_max {config.r_max} Å, ZBL repulsion",
        ],
        ["training data", meta.training_data],
        ["licence of the training data", meta.training_data_licence],
        ["licence of the weights", meta.weights_licence],
        ["SHA-256 of the weights", f"`{archive.sha256}`"],
        ["file size", f"{model.stat().st_size / 1e6:.2f} MB"],
    ]
    lines = [f"# Model card: {meta.name}", "", meta.description.strip(), ""]
    lines += [*table(["", ""], facts), "", "## Measured errors", ""]
    lines += [*force_table(methods), "", *curve_table(methods), "", NOTES, ""]
    lines += energy_table(ours)
    runs = stability(name, archive.sha256)
    if runs:
        lines += ["", "## Long runs", "", *runs]
    return lines


def main() -> None:
    """Write the cards and the tables."""
    files = {title: RESULTS / f"{method}.json" for method, title in METHODS.items()}
    others = {title: read(path) for title, path in files.items() if path.exists()}
    names = [name for name in BUNDLED_MODELS if bundled_path(name).exists()]
    for name in names:
        bundled_path(name).with_suffix(".md").write_text("\n".join(card(name, others)) + "\n")
    methods = {name: read(bundled_path(name).with_suffix(".json")) for name in names} | others
    body = [BEGIN, "", *force_table(methods), "", *curve_table(methods), "", NOTES, ""]
    for name in names:
        runs = stability(name, load_archive(bundled_path(name)).sha256)
        body += [f"Long runs of `{name}`:", "", *runs, ""] if runs else []
    readme = ROOT / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + "\n".join([*body, END]) + after)


if __name__ == "__main__":
    main()
