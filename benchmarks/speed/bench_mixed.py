"""What the ML part of a mixed system costs per step of molecular dynamics.

    python benchmarks/speed/bench_mixed.py make FOLDER [--protein protein.pdb] [--atoms 25000]
    python benchmarks/speed/bench_mixed.py run FOLDER [--model FILE] [--platform CPU] [--embedding]

`make` writes a capped leucine (31 atoms, the ML region) beside a protein in water, described by
Amber. `run` times the force field alone, the model alone in a Context of its own, and the mixed
system. It calls OpenMM-ML only, so that the same folder and weights run in an environment with
mace_mm and in one with mace-torch; the table says whose potential it was. Where it is that of
mace_mm, the evaluator itself is timed too. Times are medians over blocks of steps; on the
platforms CPU and Reference time of the processor (one thread), so that other work on the machine
counts little.
"""

import argparse
import io
import statistics
import time
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit
from openmmml import MLPotential

SMILES = "CC(=O)N[C@@H](CC(C)C)C(=O)NC"
# Atom names of Amber for the heavy atoms of the SMILES, and the hydrogens of each.
NAMES = (
    ("ACE", "CH3 C O"),
    ("LEU", "N CA CB CG CD1 CD2 C O"),
    ("NME", "N C"),
)
GAP = 0.6
BLOCKS = 7


def ligand() -> app.PDBFile:
    """The capped leucine without hydrogens."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    xyz = molecule.GetConformer().GetPositions()
    lines, index = [], 0
    for number, (residue, names) in enumerate(NAMES, start=1):
        for name in names.split():
            place = "".join(f"{x:8.3f}" for x in xyz[index])
            lines.append(
                f"ATOM  {index + 1:5d}  {name:<3s} {residue} L{number:4d}    {place}"
                f"  1.00  0.00          {name[0]:>2s}"
            )
            index += 1
    return app.PDBFile(io.StringIO("\n".join([*lines, "END"])))


def make(folder: Path, protein: Path | None, n_atoms: int) -> None:
    """Write topology.pdb, system.xml and positions.npy."""
    field = app.ForceField("amber14-all.xml", "amber14/tip3pfb.xml")
    small = ligand()
    modeller = app.Modeller(small.topology, small.positions)
    modeller.addHydrogens(field)
    region = modeller.topology.getNumAtoms()
    if protein is not None:
        large = app.PDBFile(str(protein))
        ours = np.array(modeller.positions.value_in_unit(unit.nanometer))
        theirs = np.array(large.positions.value_in_unit(unit.nanometer))
        shift = np.array([theirs[:, 0].max() + GAP - ours[:, 0].min(), 0.0, 0.0])
        modeller.positions = (ours + shift + theirs.mean(0) * [0, 1, 1]) * unit.nanometer
        modeller.add(large.topology, large.positions)
    # Waters have three atoms, and a cubic nanometer holds about a hundred atoms.
    edge = (n_atoms / 100.0) ** (1.0 / 3.0)
    modeller.addSolvent(field, boxSize=openmm.Vec3(edge, edge, edge))
    system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.9 * unit.nanometer,
        constraints=app.HBonds,
        flexibleConstraints=True,  # bond terms that interpolation needs
    )
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.001)
    simulation = app.Simulation(modeller.topology, system, integrator)
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=100)
    state = simulation.context.getState(positions=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
    np.save(folder / "positions.npy", state.getPositions(asNumpy=True)._value)
    with (folder / "topology.pdb").open("w") as file:
        app.PDBFile.writeFile(modeller.topology, state.getPositions(), file)
    print(f"{system.getNumParticles()} atoms, {region} of them in the ML region")


def ms_per_step(
    system: openmm.System,
    positions: np.ndarray,
    platform: str,
    steps: int,
    parameters: dict[str, float] | None = None,
) -> float:
    """Median over blocks of steps, after a block that is not counted."""
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    integrator.setRandomNumberSeed(1)
    options = {"Threads": "1"} if platform == "CPU" else {}
    context = openmm.Context(system, integrator, openmm.Platform.getPlatform(platform), options)
    context.setPositions(positions)
    for name, value in (parameters or {}).items():
        context.setParameter(name, value)
    context.setVelocitiesToTemperature(300, 1)
    clock = time.process_time if platform in ("CPU", "Reference") else time.perf_counter
    blocks = []
    for _ in range(BLOCKS):
        start = clock()
        integrator.step(steps)
        context.getState(energy=True).getPotentialEnergy()
        blocks.append((clock() - start) / steps * 1e3)
    return statistics.median(blocks[1:])


def ms_of_evaluator(model: str | None, topology: app.Topology, positions: np.ndarray) -> float:
    """The evaluator of mace_mm without OpenMM, on a walk of small steps."""
    import torch

    from mace_mm.archive.open_model import open_model
    from mace_mm.evaluate.build import build_evaluator

    numbers = [atom.element.atomic_number for atom in topology.atoms()]
    evaluator = build_evaluator(open_model(model), numbers)
    rng = np.random.default_rng(1)
    cell, pbc = torch.zeros((3, 3), dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
    times = []
    for _ in range(60):
        moved = torch.from_numpy(positions * 10 + rng.normal(0.0, 0.02, positions.shape))
        start = time.process_time()
        evaluator(moved, cell, pbc)
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times[10:])


def run(folder: Path, model: str | None, platform: str, embedding: str, steps: int) -> None:
    """Time everything and print the shares."""
    system = openmm.XmlSerializer.deserialize((folder / "system.xml").read_text())
    topology = app.PDBFile(str(folder / "topology.pdb")).topology
    positions = np.load(folder / "positions.npy")
    atoms = [a.index for a in topology.atoms() if a.residue.chain.index == 0]
    chosen = MLPotential("mace", modelPath=model) if model else MLPotential("mace")
    owner = type(chosen._impl).__module__
    print(f"{system.getNumParticles()} atoms, {len(atoms)} by {owner}, platform {platform}")
    modeller = app.Modeller(topology, positions * unit.nanometer)
    modeller.delete([a for a in topology.atoms() if a.index not in set(atoms)])
    modeller.topology.setPeriodicBoxVectors(None)
    mix = {"mlLongRange": False, "embedding": embedding, "precision": "single"}
    alone = chosen.createSystem(modeller.topology, precision="single")
    rows = {
        "force field": ms_per_step(system, positions, platform, steps),
        "model in a context of its own": ms_per_step(alone, positions[atoms], platform, steps),
        f"mixed, {embedding}": ms_per_step(
            chosen.createMixedSystem(topology, system, atoms, **mix), positions, platform, steps
        ),
    }
    faded = chosen.createMixedSystem(topology, system, atoms, interpolate=True, **mix)
    for value in (0.5, 0.0):
        rows[f"mixed, lambda {value}"] = ms_per_step(
            faded, positions, platform, steps, {"lambda_interpolate": value}
        )
    if owner.startswith("mace_mm"):
        rows["evaluator without OpenMM"] = ms_of_evaluator(
            model, modeller.topology, positions[atoms]
        )
    for name, value in rows.items():
        extra = value - rows["force field"]
        added = f"  adds {extra:8.2f}" if name.startswith("mixed") else ""
        print(f"{name:32s} {value:8.2f} ms{added}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=["make", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--protein", type=Path)
    parser.add_argument("--atoms", type=int, default=25000)
    parser.add_argument("--model")
    parser.add_argument("--platform", default="CPU")
    parser.add_argument("--embedding", default="mechanical")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    if options.action == "make":
        make(options.folder, options.protein, options.atoms)
    else:
        run(options.folder, options.model, options.platform, options.embedding, options.steps)


if __name__ == "__main__":
    main()
