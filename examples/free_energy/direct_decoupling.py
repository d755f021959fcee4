"""Hydration free energy by decoupling a molecule in a box of water that is MACE as a whole.

    python examples/free_energy/direct_decoupling.py runs/direct --iterations 200

A research option: see docs/free-energy.md. The bundled model was not trained to describe liquids.
"""

import argparse
from pathlib import Path

from mace_mm.free_energy.analysis.report import write_report
from mace_mm.free_energy.config import Conditions, InputFiles, Solvent
from mace_mm.free_energy.dependencies import check_dependencies
from mace_mm.free_energy.jobs.correct import place_in_environment
from mace_mm.free_energy.jobs.run_leg import Protocol, run_leg
from mace_mm.free_energy.legs.direct import direct_leg
from mace_mm.free_energy.settings import Dynamics, Execution, Limits, Windows

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("folder", type=Path)
arguments.add_argument("--freesolv", type=Path, default=Path("../shared/data/freesolv"))
arguments.add_argument("--molecule", default="methanol")
arguments.add_argument("--iterations", type=int, default=200)
arguments.add_argument("--steps", type=int, default=100)
arguments.add_argument("--edge", type=float, default=1.4, help="of the box, nm")
given = arguments.parse_args()

check_dependencies()
files = InputFiles(freesolv=given.freesolv, molecule=given.molecule)
mm = place_in_environment(files, "water", Solvent(edge_nm=given.edge, cutoff_nm=0.45 * given.edge))
leg = direct_leg(
    given.molecule,
    mm.topology,
    mm.positions_nm,
    mm.box_nm,
    mm.ligand,
    Conditions(),
    force_field=mm.system,
)
protocol = Protocol(
    windows=Windows(iterations=given.iterations, equilibration=20, steps=given.steps),
    switching=None,
    dynamics=Dynamics(timestep_fs=0.5, friction_per_ps=5.0),
    execution=Execution(),
    limits=Limits(),
)
result = run_leg(leg, given.folder, protocol, lambda *stage: print(*stage))
if result is not None:
    title = f"{given.molecule}: hydration free energy in a MACE system"
    write_report(given.folder, title, {"ΔG": -result.estimate}, [result], result.verdict)
    print(-result.estimate, result.verdict, sep="\n")
