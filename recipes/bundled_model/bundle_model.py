"""Put a trained archive into the package, with its description and the range of its data.

    python recipes/bundled_model/bundle_model.py RUNS NAME

RUNS is the folder of `train_bundled.py`. The range is that of the frames without the diatomics that
teach short distances. `write_model_card.py` completes the card.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

from mace_mm.archive.archive import ArchiveMetadata, load_archive, make_archive, save_archive
from mace_mm.bundled_models import BUNDLED_MODELS, bundled_path
from mace_mm.data.formats.extxyz import ExtxyzFile
from mace_mm.data.formats.spice import SpiceFile
from mace_mm.data.frames import ConcatFrames
from mace_mm.training.start.domain import Domain
from mace_mm.training.uncertainty.fit import fit_uncertainty

ROOT = Path(__file__).resolve().parents[2]
UNCERTAINTY_FRAMES = 2000
FRAMES = {"small": ("labels", "newer"), "medium": ("labels", "molecules")}
FACTS: dict[str, Any] = dict(
    level_of_theory="approximates wB97M-D3(BJ)/def2-TZVPPD (distilled from AIMNet2, AIMNet, SO3LR)",
    training_data_licence="AIMNet2, AIMNet and SO3LR: MIT; molecules of SPICE and "
    "qca-dataset-submission: CC0, MIT and CC BY 4.0; SPICE labels: CC0",
    weights_licence="MIT",
    total_charges=(0,),
)
TEACHERS_FRAMES = "77,100 conformers labelled with SO3LR and AIMNet2, most of them with AIMNet; "
MORE_FRAMES = "43,985 of 10,999 more molecules labelled with AIMNet2; "
SPICE_FRAMES = "SPICE's training frames (wB97M-D3(BJ)/def2-TZVPPD)"
TRAINING_DATA = {
    "small": f"{TEACHERS_FRAMES}{MORE_FRAMES}5,238 of 2,619 molecules more and 4,714 with short "
    f"contacts or distorted, labelled with AIMNet2 and medium; {SPICE_FRAMES}",
    "medium": f"{TEACHERS_FRAMES}{MORE_FRAMES}{SPICE_FRAMES}",
}
COURSE = (
    "trained on that, on four frames each of 11,000 more drug-like molecules with AIMNet2's labels "
    "alone, and on 781 real SPICE frames."
)
COURSES = {
    "small": f"and the bundled model `medium` was {COURSE} This network has those 32 of its 64 "
    "channels that move the forces most. It learned on from the means of the labels and those of "
    "`medium` (from the labels alone for water and what is solved in it), from two frames each of "
    "2,600 molecules that were new to both and from 4,700 distorted molecules and frames with "
    "short contacts, labelled so as well, and from the SPICE frames.",
    "medium": f"and the network was {COURSE}",
}
PURPOSES = {
    "small": "A small model for molecular dynamics of neutral organic molecules, ready at once and "
    "fast on a CPU.",
    "medium": "The more exact of the two bundled models for molecular dynamics of neutral organic "
    "molecules: it has twice as many channels, which takes more time.",
}
LIQUIDS = {
    "small": "Of liquids only water was tried, in one box of 64 molecules: its density came out "
    "7 % too high, its first shells too pronounced",
    "medium": "Of liquids only water was tried, in one box of 64 molecules for 25 ps: its density "
    "came out 7 % too low, its shells much too pronounced",
}


def main() -> None:
    """Measure the range of the frames, and write the archive and its uncertainty."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("name", choices=BUNDLED_MODELS)
    arguments = parser.parse_args()
    runs, name = arguments.runs, arguments.name
    archive = load_archive(runs / f"{name}_tuned" / f"{name}.pt")
    labels = ConcatFrames([SpiceFile(runs / f"{stem}.h5") for stem in FRAMES[name]])
    domain = Domain()
    for frames in (labels, ExtxyzFile(runs / "spice_train.xyz")):
        for index in range(len(frames)):
            domain.add(frames[index])
    text = (ROOT / "recipes" / "bundled_model" / "description.md").read_text()
    metadata = ArchiveMetadata(
        name=name,
        description=text.format(
            purpose=PURPOSES[name], course=COURSES[name], liquids=LIQUIDS[name]
        ),
        training_data=TRAINING_DATA[name],
        created=archive.metadata.created,
        shortest_distances=domain.shortest_distances(),
        **FACTS,
    )
    out = bundled_path(name)
    save_archive(out, make_archive(archive.potential, metadata))
    held_out = ExtxyzFile(runs / "spice_validation.xyz")
    potential = copy.deepcopy(archive.potential).double()
    uncertainty = fit_uncertainty(
        potential, archive.sha256, labels, held_out, max_frames=UNCERTAINTY_FRAMES
    )
    uncertainty.save(out.with_suffix(".uncertainty"))
    print(out, archive.sha256, domain.shortest_distances())
    print("expected force errors on held-out frames, eV/Å:", uncertainty.errors.numpy().round(3))


if __name__ == "__main__":
    main()
