"""Whether labelled frames are in their lowest state: stability, and SCF from another guess.

    python recipes/labels/check_states.py --records RECORDS --every 20

takes every 20th labelled frame of the queue, goes on from `benchmarks/results/labels_states.json`.
With PySCF alone, on grid 1: the stability of the restricted solution against restricted and against
unrestricted changes, and the energy from the core Hamiltonian's guess minus that from the atoms'
(hartree; negative where the label's start missed a lower state).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from label_queue import key_of, settings_of_level
from queue_file import SET, Candidate, read_queue, rounds

from mace_mm.generation.labels.pyscf.program import PySCFProgram
from mace_mm.generation.work.store import RecordStore
from mace_mm.units import BOHR_TO_ANGSTROM

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "labels_states.json"
GRID_LEVEL = 1


def labelled(folder: Path, records: Path | None) -> Iterator[tuple[str, Candidate, float]]:
    """Frames of the queue with their label's energy, hartree, from the parts or the records."""
    energies: dict[str, float] = {}
    for path in sorted((folder / "parts").glob("*.h5")):
        with h5py.File(path) as file:
            for name, group in file.items():
                for number, energy in zip(
                    group["frame"][()], group["dft_total_energy"][()], strict=True
                ):
                    energies[f"{name}/{number}"] = float(energy)
    store = None if records is None else RecordStore(records)
    for path in rounds(folder):
        for frame_id, candidate in read_queue(path):
            if frame_id not in energies and store is not None:
                record = store.load(key_of(frame_id))
                if record is not None and record.failure is None:
                    energies[frame_id] = float(record.arrays["energy"][0])
            if frame_id in energies:
                yield frame_id, candidate, energies[frame_id]


def checked(program: PySCFProgram, candidate: Candidate) -> dict[str, object]:
    """Energies from two guesses, and the stability of the lower one."""
    positions = candidate.positions[0].astype(np.float64) * BOHR_TO_ANGSTROM
    molecule = program.molecule(candidate.atomic_numbers, positions, candidate.charge)
    found: dict[str, float] = {}
    fields = {}
    for guess in ("minao", "1e"):
        field = program.field(molecule).density_fit("def2-universal-jkfit")
        field.grids.level, field.conv_tol, field.max_cycle = GRID_LEVEL, 1e-8, 100
        field.init_guess = guess
        field.kernel()
        if field.converged:
            found[guess], fields[guess] = float(field.e_tot), field
    lowest = min(found, key=lambda guess: found[guess])
    _, _, internal, external = fields[lowest].stability(external=True, return_status=True)
    return {
        "lowest": round(found[lowest], 6),
        "other guess": round(found["1e"] - found["minao"], 6) if len(found) == 2 else None,
        "stable": bool(internal),
        "stable against unrestricted": bool(external),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=Path, default=SET)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    result: dict[str, dict] = {}
    if arguments.out.exists():
        result = json.loads(arguments.out.read_text())
    program = PySCFProgram(settings_of_level(arguments.set))
    for number, (frame_id, candidate, energy) in enumerate(
        labelled(arguments.set, arguments.records)
    ):
        if number % arguments.every or frame_id in result:
            continue
        result[frame_id] = {"smiles": candidate.smiles, **checked(program, candidate)}
        # On grid 1 a label of the same state is within a millihartree.
        result[frame_id]["label minus lowest"] = round(energy - result[frame_id]["lowest"], 6)
        print(frame_id, result[frame_id], flush=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
