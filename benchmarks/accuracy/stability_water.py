"""A periodic box of water at constant pressure: density and the structure of the liquid."""

import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import openmm
from openmm import app, unit
from openmmml import MLPotential

from mace_mm.bundled_models import BUNDLED_MODELS

mpl.use("Agg")
from matplotlib import pyplot as plt

TEMPERATURE_K = 300.0
TIMESTEP_FS = 1.0
FRAME_PS = 0.1
DISCARDED = 0.4
EXPERIMENT_DENSITY = 0.9965  # g/mL at 300 K
# Extrema of the O-O distribution from X-ray diffraction at 295 K: L. B. Skinner et al., J. Chem.
# Phys. 138, 074506 (2013): (r in Å, g).
EXPERIMENT_RDF = {
    "first peak": (2.80, 2.57),
    "first minimum": (3.45, 0.84),
    "second peak": (4.5, 1.12),
}
WATER_MASS_G_MOL = 18.015
ML_PER_A3_MOL = 0.602214


def run_water(model: str | None, n_molecules: int, ps: float, picture: Path) -> dict:
    """NPT dynamics; returns density, the O-O distribution and whether the molecules stayed whole.

    Args:
        model: an archive; None for the bundled model.
        n_molecules: of water.
        ps: length of the run.
        picture: PNG file to write.
    """
    began = time.process_time()
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(app.ForceField("tip3p.xml"), numAdded=n_molecules)
    system = MLPotential("mace", modelPath=model).createSystem(modeller.topology)
    barostat = openmm.MonteCarloBarostat(1.0 * unit.bar, TEMPERATURE_K * unit.kelvin, 25)
    barostat.setRandomNumberSeed(5)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(
        TEMPERATURE_K * unit.kelvin, 1.0 / unit.picosecond, TIMESTEP_FS * unit.femtosecond
    )
    integrator.setRandomNumberSeed(5)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform("Reference"))
    context.setPeriodicBoxVectors(*modeller.topology.getPeriodicBoxVectors())
    context.setPositions(modeller.positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=100)
    context.setVelocitiesToTemperature(TEMPERATURE_K * unit.kelvin, 5)
    numbers = np.array([a.element.atomic_number for a in modeller.topology.atoms()])
    oxygens = np.flatnonzero(numbers == 8)
    bonds = np.array([(b.atom1.index, b.atom2.index) for b in modeller.topology.bonds()])
    densities, frames, failure = [], [], None
    for _ in range(round(ps / FRAME_PS)):
        integrator.step(round(1000 * FRAME_PS / TIMESTEP_FS))
        state = context.getState(positions=True, energy=True)
        box = np.array(state.getPeriodicBoxVectors().value_in_unit(unit.angstrom))
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        lengths = np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1)
        densities.append(n_molecules * WATER_MASS_G_MOL / ML_PER_A3_MOL / np.linalg.det(box))
        frames.append((positions[oxygens], np.diag(box)))
        if not np.isfinite(lengths).all() or lengths.max() > 1.5:
            failure = f"an O-H bond of {lengths.max():.2f} Å after {len(frames) * FRAME_PS:.1f} ps"
            break
    kept = slice(round(DISCARDED * len(frames)), None)
    r, g = _distribution(frames[kept])
    name = f"mace_mm {Path(model or BUNDLED_MODELS[0]).stem}"
    _plot(name, np.array(densities), r, g, picture)
    peak = int(g.argmax())
    return {
        "n_molecules": n_molecules,
        "ps": round(len(frames) * FRAME_PS, 3),
        "discarded_ps": round(DISCARDED * len(frames) * FRAME_PS, 3),
        "density_g_ml": round(float(np.mean(densities[kept])), 4),
        "density_std_g_ml": round(float(np.std(densities[kept])), 4),
        "experiment_density_g_ml": EXPERIMENT_DENSITY,
        "rdf_first_peak": [round(float(r[peak]), 2), round(float(g[peak]), 2)],
        "experiment_rdf": EXPERIMENT_RDF,
        "rdf_r_A": r.round(3).tolist(),
        "rdf_g": g.round(3).tolist(),
        "density_g_ml_every_0.1_ps": np.round(densities, 4).tolist(),
        "failure": failure,
        "cpu_s": round(time.process_time() - began, 1),
    }


def _distribution(frames: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """O-O radial distribution up to half the smallest box."""
    longest = min(lengths.min() for _, lengths in frames) / 2
    edges = np.arange(2.0, longest, 0.05)
    counts = np.zeros(edges.size - 1)
    for oxygens, lengths in frames:
        difference = oxygens[:, None] - oxygens[None]
        difference -= lengths * np.round(difference / lengths)
        distance = np.linalg.norm(difference, axis=-1)[np.triu_indices(len(oxygens), 1)]
        found, _ = np.histogram(distance, edges)
        shells = 4 / 3 * np.pi * np.diff(edges**3)
        pairs = len(oxygens) * (len(oxygens) - 1) / 2
        counts += found / (pairs * shells / np.prod(lengths))
    return (edges[1:] + edges[:-1]) / 2, counts / len(frames)


def _plot(name: str, densities: np.ndarray, r: np.ndarray, g: np.ndarray, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot((np.arange(densities.size) + 1) * FRAME_PS, densities, lw=1, label=name)
    left.axhline(EXPERIMENT_DENSITY, color="k", ls="--", label="experiment, 300 K")
    left.set(xlabel="time (ps)", ylabel="density (g/mL)")
    left.legend()
    right.plot(r, g, label=name)
    points = np.array(list(EXPERIMENT_RDF.values()))
    right.plot(*points.T, "ks", label="experiment, extrema (Skinner 2013)")
    right.axhline(1.0, color="0.7", lw=0.8)
    right.set(xlabel="O-O distance (Å)", ylabel="g(r)")
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
