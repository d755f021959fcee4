"""Write SPICE's HDF5 layout so that no crash leaves a half-written file behind.

A file is written beside its place, flushed to the disk and renamed: readers see the old file or
the new one.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from mace_mm import units
from mace_mm.data.formats.disk_file import DiskFile
from mace_mm.data.formats.spice import SpiceKeys, open_hdf5
from mace_mm.data.labels import ConformerSet
from mace_mm.data.smiles import charge_from_smiles
from mace_mm.elements import symbol
from mace_mm.errors import DataError

_FORCE = units.HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM


def write_spice(
    path: str | Path,
    entries: Iterable[ConformerSet],
    *,
    keys: SpiceKeys | None = None,
    atomic_energies: Mapping[int, float] | None = None,
    attributes: Mapping[str, str | int | float] | None = None,
) -> int:
    """Write molecules to a new file, replacing an old one only when the new one is complete.

    Args:
        path: the HDF5 file.
        entries: one molecule at a time; any number.
        keys: names of the label datasets.
        atomic_energies: atomic number -> eV, for `formation_energy` of entries without it.
        attributes: stored with the file (for example the protocol that made it).

    Returns:
        the number of molecules written.

    Raises:
        DataError: an entry that cannot be stored, a name twice, or a disk that is full.
    """
    n = 0
    with _replacing(Path(path)) as file:
        file.attrs.update(attributes or {})
        for entry in entries:
            write_group(file, entry, keys or SpiceKeys(), atomic_energies)
            n += 1
    return n


def append_spice(
    path: str | Path,
    entries: Iterable[ConformerSet],
    *,
    keys: SpiceKeys | None = None,
    atomic_energies: Mapping[int, float] | None = None,
) -> int:
    """Add molecules to a file; if anything fails, the file stays as it was.

    The file is copied first, so add many molecules at once.

    Raises:
        DataError: as `write_spice`; also a molecule that the file already holds.
    """
    path = Path(path)
    open_hdf5(path).close()
    n = 0
    with _replacing(path, copy=True) as file:
        for entry in entries:
            write_group(file, entry, keys or SpiceKeys(), atomic_energies)
            n += 1
    return n


def write_group(
    file: h5py.File,
    entry: ConformerSet,
    keys: SpiceKeys,
    atomic_energies: Mapping[int, float] | None,
) -> None:
    """Write one molecule as a group, with SPICE's names, types and units."""
    if "/" in entry.name or entry.name in ("", "."):
        raise DataError(f"a group's name must not be empty or hold '/', got {entry.name!r}")
    if entry.name in file:
        raise DataError(f"{file.filename}: molecule {entry.name!r} occurs twice")
    arrays: dict[str, tuple[np.ndarray, str]] = {
        "conformations": ((entry.positions / units.BOHR_TO_ANGSTROM).astype(np.float32), "bohr")
    }
    if entry.energies is not None:
        if keys.energy is None:
            raise DataError(f"{entry.name}: it has energies, and keys.energy is None")
        arrays[keys.energy] = (entry.energies / units.HARTREE_TO_EV, "hartree")
        formation = _formation(entry, entry.energies, atomic_energies)
        arrays["formation_energy"] = (formation / units.HARTREE_TO_EV, "hartree")
    if entry.forces is not None:
        if keys.gradient is None:
            raise DataError(f"{entry.name}: it has forces, and keys.gradient is None")
        arrays[keys.gradient] = ((-entry.forces / _FORCE).astype(np.float32), "hartree/bohr")
    clash = sorted(set(arrays) & set(entry.extra))
    if clash:
        raise DataError(f"{entry.name}: extra arrays named as the layout's own: {clash}")
    for key, (array, _) in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(f"{entry.name}: {key} must be finite; a failed label is not data")
    group = file.create_group(entry.name)
    text = h5py.string_dtype()
    group.create_dataset("smiles", data=[entry.smiles], dtype=text)
    group.create_dataset("subset", data=[entry.subset], dtype=text)
    group.create_dataset("atomic_numbers", data=entry.atomic_numbers.astype(np.int16))
    for key, (array, unit) in {**arrays, **entry.extra}.items():
        dataset = group.create_dataset(key, data=array)
        if unit:
            dataset.attrs["units"] = unit
    if entry.level_of_theory:
        group.attrs["level_of_theory"] = entry.level_of_theory
    if entry.total_charge != charge_from_smiles(entry.smiles):
        group.attrs["total_charge"] = entry.total_charge
    group.attrs.update(entry.attributes)


def _formation(
    entry: ConformerSet, energies: np.ndarray, atomic_energies: Mapping[int, float] | None
) -> np.ndarray:
    if entry.formation_energies is not None:
        return entry.formation_energies
    if atomic_energies is None:
        raise DataError(
            f"{entry.name}: formation_energy needs formation_energies or atomic_energies, "
            "got neither"
        )
    missing = sorted({int(z) for z in entry.atomic_numbers} - set(atomic_energies))
    if missing:
        raise DataError(
            f"{entry.name}: atomic_energies lack {' '.join(symbol(z) for z in missing)}"
        )
    return energies - sum(atomic_energies[int(z)] for z in entry.atomic_numbers)


@contextlib.contextmanager
def _replacing(path: Path, copy: bool = False) -> Iterator[h5py.File]:
    """Yield a file that takes `path`'s place when the block ends without an error."""
    partial = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        if copy:
            shutil.copyfile(path, partial)
        with DiskFile(partial, "r+b" if copy else "w+b") as disk:
            try:
                with h5py.File(disk, "r+" if copy else "w") as file:
                    yield file
            finally:
                # Whatever HDF5 made of it, this is the cause.
                if disk.error is not None:
                    raise disk.error
            os.fsync(disk.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
