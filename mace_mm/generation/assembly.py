"""The last step: stored frames and labels become SPICE files, byte for byte reproducible."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mace_mm.data.formats.spice_writer import write_spice
from mace_mm.data.labels import ConformerSet
from mace_mm.errors import DataError
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.generation.pipeline import label_key
from mace_mm.generation.protocol import DatasetSettings
from mace_mm.generation.work.store import Record
from mace_mm.generation.work.workplace import Keyed, Workplace
from mace_mm.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV


@dataclass(kw_only=True)
class _Tally:
    """What goes where, counted while it is written."""

    n_frames: int = 0
    n_failed: int = 0
    set_aside: dict[str, int] = field(default_factory=dict)
    evaluated: set[str] = field(default_factory=set)


def assemble(workplace: Workplace, labelled: list[Keyed], settings: LabelSettings) -> Path:
    """Write ``<name>-<label>.h5``, and ``...-set-aside.h5`` where limits were exceeded.

    A file appears when it is complete, and replaces an older one only then.

    Returns:
        the dataset's path.

    Raises:
        DataError: nothing to write, or the disk is full.
    """
    protocol = workplace.protocol
    path = workplace.folder / f"{protocol.name}-{settings.name}.h5"
    tally = _Tally()
    attributes = {
        "protocol": protocol.as_yaml(),
        "level_of_theory": settings.level_of_theory(),
    }
    n_molecules = write_spice(
        path, _groups(workplace, labelled, settings, tally), attributes=attributes
    )
    if n_molecules == 0:
        path.unlink()
        raise DataError(
            f"no frame of {protocol.name} has a label {settings.name}: nothing to write"
        )
    beside = path.with_name(f"{path.stem}-set-aside.h5")
    if tally.set_aside:
        write_spice(
            beside,
            _groups(workplace, labelled, settings, _Tally(), set_aside=True),
            attributes=attributes,
        )
    else:
        beside.unlink(missing_ok=True)
    workplace.report.datasets[settings.name] = {
        "file": path.name,
        **({"functional": ", ".join(sorted(tally.evaluated))} if tally.evaluated else {}),
        "molecules": n_molecules,
        "frames": tally.n_frames,
        "frames whose label failed": tally.n_failed,
        "frames set aside": sum(tally.set_aside.values()),
        **{f"  {reason}": count for reason, count in tally.set_aside.items()},
    }
    return path


def _groups(
    workplace: Workplace,
    labelled: list[Keyed],
    settings: LabelSettings,
    tally: _Tally,
    set_aside: bool = False,
) -> Iterator[ConformerSet]:
    for entry in labelled:
        frames = workplace.frames.load(entry.key)
        labels = workplace.labels.load(label_key(entry, settings))
        if frames is None or labels is None:
            workplace.report.note(
                entry.item.name, "assembly", "its record was lost since; run again to make it"
            )
            continue
        good = np.isfinite(labels.arrays["energies"])
        beyond = _beyond_limits(labels, workplace.protocol.dataset)
        above = np.zeros(len(good), dtype=bool)
        for reason, mask in beyond.items():
            n_new = int((mask & good & ~above).sum())
            if n_new:
                tally.set_aside[reason] = tally.set_aside.get(reason, 0) + n_new
            above |= mask
        chosen = np.flatnonzero(good & (above if set_aside else ~above))
        tally.n_frames += len(chosen)
        if "functional" in labels.facts["provenance"]:
            tally.evaluated.add(labels.facts["provenance"]["functional"])
        tally.n_failed += int((~good).sum())
        if len(chosen):
            yield _conformer_set(entry, frames, labels, chosen)


def _beyond_limits(labels: Record, limits: DatasetSettings) -> dict[str, np.ndarray]:
    """Reason -> (n_frames,) whether a limit is exceeded; limits are in hartree and bohr."""
    force_unit = HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
    largest = np.abs(labels.arrays["forces"]).max(axis=(1, 2)) / force_unit
    found = {}
    if limits.max_gradient is not None:
        found[f"gradient above {limits.max_gradient} hartree/bohr"] = largest > limits.max_gradient
    if limits.max_energy_std is not None and "energy_std" in labels.arrays:
        std = labels.arrays["energy_std"] / HARTREE_TO_EV
        found[f"energy std above {limits.max_energy_std} hartree"] = std > limits.max_energy_std
    if limits.max_gradient_std is not None and "force_std" in labels.arrays:
        std = labels.arrays["force_std"].max(axis=(1, 2)) / force_unit
        found[f"gradient std above {limits.max_gradient_std} hartree/bohr"] = (
            std > limits.max_gradient_std
        )
    return found


def _conformer_set(
    entry: Keyed, frames: Record, labels: Record, chosen: np.ndarray
) -> ConformerSet:
    numbers = frames.arrays["atomic_numbers"]
    energies = labels.arrays["energies"][chosen]
    atoms = labels.facts["atom_energies"]
    provenance = labels.facts["provenance"]
    origins = np.array([o.encode() for o in frames.facts["origins"]], dtype="S5")[chosen]
    extra: dict[str, tuple[np.ndarray, str]] = {"frame_origin": (origins, "")}
    if "energy_std" in labels.arrays:
        extra["energy_std"] = (labels.arrays["energy_std"][chosen] / HARTREE_TO_EV, "hartree")
        std = labels.arrays["force_std"][chosen] / HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
        extra["gradient_std"] = (std.astype(np.float32), "hartree/bohr")
    if "dipoles" in labels.arrays:
        dipoles = labels.arrays["dipoles"][chosen] / BOHR_TO_ANGSTROM
        extra["scf_dipole"] = (dipoles.astype(np.float32), "elementary_charge*bohr")
    if "seconds" in labels.arrays:
        extra["label_seconds"] = (labels.arrays["seconds"][chosen].astype(np.float32), "s")
    return ConformerSet(
        name=entry.item.name,
        atomic_numbers=numbers,
        positions=frames.arrays["frames"][chosen],
        energies=energies,
        forces=labels.arrays["forces"][chosen],
        formation_energies=energies - sum(atoms[str(int(z))] for z in numbers),
        total_charge=float(frames.facts["charge"]),
        smiles=entry.item.smiles(),
        subset=entry.item.subset,
        level_of_theory=provenance["level_of_theory"],
        attributes={k: v for k, v in provenance.items() if k != "level_of_theory"},
        extra=extra,
    )
