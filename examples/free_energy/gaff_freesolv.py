"""Does the decoupling reproduce FreeSolv's own GAFF hydration free energies? 1.5 hours, 2 cores.

    python examples/free_energy/gaff_freesolv.py ../shared/data/freesolv runs/gaff

Writes gaff_freesolv.json and ends with 1 if a molecule deviates by more than two standard errors.
"""

import argparse
import json
import math
import sys
from pathlib import Path

from mace_mm.free_energy.config import InputFiles, Solvent
from mace_mm.free_energy.dependencies import check_dependencies
from mace_mm.free_energy.jobs.hydration import Decoupling, HydrationConfig, run_hydration
from mace_mm.free_energy.settings import Dynamics

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("freesolv", type=Path)
arguments.add_argument("folder", type=Path)
arguments.add_argument("--molecules", nargs="+", default=["methanol", "toluene", "acetamide"])
arguments.add_argument("--iterations", type=int, default=400)
arguments.add_argument("--threads", default="2")
given = arguments.parse_args()

check_dependencies()
results = {}
for molecule in given.molecules:
    config = HydrationConfig(
        name=molecule,
        output=given.folder / molecule,
        input=InputFiles(freesolv=given.freesolv, molecule=molecule),
        solvent=Solvent(edge_nm=1.9, cutoff_nm=0.88),
        correction=False,
        decoupling=Decoupling(
            electrostatics=(1.0, 0.5, 0.0),
            sterics=(1.0, 0.7, 0.5, 0.35, 0.2, 0.0),
            iterations=given.iterations,
            equilibration=20,
            steps=250,
            dynamics=Dynamics(
                timestep_fs=2.0,
                friction_per_ps=2.0,
                hydrogen_mass_amu=3.0,
                platform="CPU",
                platform_properties={"Threads": given.threads},
                seed=20,
            ),
        ),
    )
    result = run_hydration(config)
    if result is None or result.reference is None:
        continue
    expected = result.reference.calculated
    apart = result.mm.value_kcal_mol - expected.value_kcal_mol
    error = math.hypot(result.mm.error_kcal_mol, expected.error_kcal_mol)
    results[molecule] = {
        "kcal_mol": round(result.mm.value_kcal_mol, 3),
        "error": round(result.mm.error_kcal_mol, 3),
        "freesolv": expected.value_kcal_mol,
        "freesolv_error": expected.error_kcal_mol,
        "deviation_in_errors": round(apart / error, 2),
        "verdict": str(result.verdict),
    }
    print(molecule, json.dumps(results[molecule], indent=1), flush=True)
    text = json.dumps(results, indent=1)
    (given.folder / "gaff_freesolv.json").write_text(text + "\n", encoding="utf-8")
far = [name for name, values in results.items() if abs(values["deviation_in_errors"]) > 2.0]
sys.exit(f"more than two standard errors away: {far}" if far else 0)
