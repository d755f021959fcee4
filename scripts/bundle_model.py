"""Put a trained archive into the package, with its description and the range of its data.

    python scripts/bundle_model.py ARCHIVE FRAMES...

FRAMES are what it was trained on, without the diatomics that teach it short distances: extended
XYZ or HDF5, with labels or without. `write_model_card.py` completes the card.
"""

import sys
from dataclasses import replace
from pathlib import Path

from mace_mm.data.extxyz import ExtxyzFile
from mace_mm.data.spice import SpiceFile, SpiceKeys
from mace_mm.deploy.archive import ArchiveMetadata, load_archive, make_archive, save_archive
from mace_mm.training.domain import Domain

ROOT = Path(__file__).resolve().parents[1]
METADATA = ArchiveMetadata(
    name="small",
    level_of_theory="approximates wB97M-D3(BJ)/def2-TZVPPD (distilled from AIMNet2, AIMNet, SO3LR)",
    training_data="77,100 conformers labelled with SO3LR, most of them with AIMNet and 32,000 with "
    "AIMNet2; 814 SPICE frames (wB97M-D3(BJ)/def2-TZVPPD)",
    training_data_licence="AIMNet2, AIMNet and SO3LR: MIT; molecules of SPICE and "
    "qca-dataset-submission: CC0, MIT and CC BY 4.0; SPICE labels: CC0",
    weights_licence="MIT",
    total_charges=(0,),
)


def main() -> None:
    """Measure the range of the frames, and write the archive."""
    archive = load_archive(sys.argv[1])
    known = set(archive.config.atomic_numbers)
    domain = Domain()
    for path in sys.argv[2:]:
        keys = SpiceKeys(energy=None, gradient=None)
        frames = SpiceFile(path, keys=keys) if path.endswith((".h5", ".hdf5")) else ExtxyzFile(path)
        for index in range(len(frames)):
            frame = frames[index]
            if set(frame.molecule.atomic_numbers.tolist()) <= known:
                domain.add(frame)
    description = (ROOT / "scripts" / "bundled_model" / "description.md").read_text()
    metadata = replace(
        METADATA,
        description=description,
        created=archive.metadata.created,
        shortest_distances=domain.shortest_distances(),
    )
    out = ROOT / "mace_mm" / "models" / "small.pt"
    save_archive(out, make_archive(archive.potential, metadata))
    print(out, archive.sha256, domain.shortest_distances())


if __name__ == "__main__":
    main()
