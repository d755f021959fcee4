"""SPICE's HDF5 layout: one group per molecule (P. Eastman et al., Sci. Data 10, 11, 2023).

Each group holds `smiles` (mapped), `subset`, `atomic_numbers`, `conformations`,
`formation_energy`, `dft_total_energy`, `dft_total_gradient`; every array with a unit carries it in
the attribute `units`. Releases 1.x and 2.x differ only in further properties (charges,
multipoles), which are not read here. Files with the same layout and other names for the labels
(several teachers in one file, unlabelled conformers in nm) are read by naming them in `SpiceKeys`.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mace_mm import units
from mace_mm.data.labels import ConformerSet, LabeledMolecule, MoleculeEntry
from mace_mm.data.smiles import atomic_numbers_from_smiles, charge_from_smiles
from mace_mm.errors import DataError

_LOG = logging.getLogger(__name__)

_LENGTH = {
    "bohr": units.BOHR_TO_ANGSTROM,
    "angstrom": 1.0,
    "nanometers": units.NM_TO_ANGSTROM,
    "nanometer": units.NM_TO_ANGSTROM,
}
_ENERGY = {
    "hartree": units.HARTREE_TO_EV,
    "ev": 1.0,
    "kj/mol": units.KJ_MOL_TO_EV,
    "kcal/mol": units.KCAL_MOL_TO_EV,
}
_FORCE = {f"{e}/{d}": x / y for e, x in _ENERGY.items() for d, y in _LENGTH.items()}

LEVEL_OF_THEORY = "wB97M-D3(BJ)/def2-TZVPPD"


@dataclass(frozen=True, kw_only=True)
class SpiceKeys:
    """Names of the datasets that hold the labels; None reads no such label.

    Attributes:
        energy: total energy of each frame.
        gradient: gradient of the energy, the negative of the force.
        level_of_theory: what the file's labels were computed with; a group's own attribute
            `level_of_theory` goes before it.
        head: the readout of the model that learns these labels.
        skip_unlabelled: leave out groups without these labels (counted in
            `SpiceFile.unlabelled`) instead of raising.
    """

    energy: str | None = "dft_total_energy"
    gradient: str | None = "dft_total_gradient"
    level_of_theory: str = LEVEL_OF_THEORY
    head: str = "default"
    skip_unlabelled: bool = False


class SpiceFile:
    """Frames of one file in SPICE's layout, read on demand.

    Only an index of the groups is kept in memory, and the arrays of the groups read last, up to
    `cache_bytes`. An object travels to worker processes; each opens the file for itself.

    Args:
        path: the HDF5 file.
        keys: names of the label datasets.
        strict: raise on a damaged group; otherwise leave the group out and list it in `problems`.
        cache_bytes: memory for arrays of whole groups, bytes.

    Attributes:
        entries: the molecules, in the file's order.
        entry_of_frame: (n_frames,) int64, position in `entries` of each frame.
        problems: one line for each group left out as damaged.
        unlabelled: names of the groups left out because they lack the labels named in `keys`.
        empty: names of the groups without a conformation (the releases hold a few).

    Raises:
        DataError: the file is missing, truncated or damaged, or (strict) a group is incomplete,
            of the wrong shape or without a known unit.
    """

    def __init__(
        self,
        path: str | Path,
        keys: SpiceKeys | None = None,
        *,
        strict: bool = True,
        cache_bytes: int = 256 * 2**20,
    ) -> None:
        self.path = Path(path)
        self.keys = keys or SpiceKeys()
        self.entries: list[MoleculeEntry] = []
        self._counts: list[int] = []
        self.problems: list[str] = []
        self.unlabelled: list[str] = []
        self.empty: list[str] = []
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[int, ConformerSet] = OrderedDict()
        self._held = 0
        self._file: h5py.File | None = None
        self._scan(strict)
        self._ends = np.cumsum(np.array(self._counts, dtype=np.int64))
        self.entry_of_frame = np.repeat(np.arange(len(self.entries)), self._counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.entries else 0

    def __getitem__(self, index: int) -> LabeledMolecule:
        """Return frame `index`, counted over all groups in order."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)} in {self.path}")
        group = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[group]) - self._counts[group]
        return self.conformers(group).frame(index - first)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.update(_file=None, _cache=OrderedDict(), _held=0)
        return state

    def conformers(self, group: int) -> ConformerSet:
        """Return all frames of `entries[group]`, from memory if it was read lately."""
        if group in self._cache:
            self._cache.move_to_end(group)
            return self._cache[group]
        entry = self._read(group)
        self._cache[group] = entry
        self._held += _size(entry)
        while self._held > self._cache_bytes and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._held -= _size(old)
        return entry

    def close(self) -> None:
        """Close the file; it opens again when a frame is asked for."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> h5py.File:
        if self._file is None:
            self._file = open_hdf5(self.path)
        return self._file

    def _scan(self, strict: bool) -> None:
        with open_hdf5(self.path) as file:
            try:
                names = list(file)
            except (OSError, RuntimeError) as error:
                raise DataError(f"{self.path}: its list of molecules is damaged: {error}") from None
            for name in names:
                try:
                    entry, n_frames = _scan_group(file[name], name, self.keys)
                except (DataError, OSError, RuntimeError, KeyError) as error:
                    line = f"{self.path}: group {name!r}: {error}"
                    if strict:
                        raise DataError(line) from None
                    self.problems.append(line)
                    continue
                if n_frames == 0:
                    (self.unlabelled if entry is None else self.empty).append(name)
                elif entry is not None:
                    self.entries.append(entry)
                    self._counts.append(n_frames)

        if self.problems:
            _LOG.warning("left out %d damaged groups: %s ...", len(self.problems), self.problems[0])

    def _read(self, group: int) -> ConformerSet:
        entry = self.entries[group]
        try:
            return _read_group(self._open()[entry.name], entry, self.keys)
        except (DataError, OSError, RuntimeError, KeyError) as error:
            raise DataError(f"{self.path}: group {entry.name!r}: {error}") from None


def open_hdf5(path: str | Path) -> h5py.File:
    """Open an HDF5 file for reading; DataError if it is missing, truncated or not HDF5."""
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"{path}: not a readable HDF5 file (truncated or damaged): {error}"
        ) from None


def _members(group: h5py.Group, keys: SpiceKeys) -> dict[str, h5py.Dataset]:
    """The datasets that are read, each opened once: opening is what takes the time."""
    if not isinstance(group, h5py.Group):
        raise DataError("expected a group for each molecule, got a dataset")
    wanted = {"conformations", "smiles", "subset", "atomic_numbers", "formation_energy"}
    wanted |= {key for key in (keys.energy, keys.gradient) if key is not None}
    return {key: group[key] for key in group if key in wanted}


def _scan_group(group: h5py.Group, name: str, keys: SpiceKeys) -> tuple[MoleculeEntry | None, int]:
    data = _members(group, keys)
    labels = [k for k in (keys.energy, keys.gradient) if k is not None]
    missing = [k for k in labels if k not in data]
    if missing and keys.skip_unlabelled:
        return None, 0
    absent = missing + [k for k in ("conformations", "smiles") if k not in data]
    if absent:
        raise DataError(f"no dataset {', '.join(absent)}; it holds {', '.join(group)}")
    smiles = _text(data, "smiles")
    shape = data["conformations"].shape
    if "atomic_numbers" in data:
        numbers = data["atomic_numbers"][()].astype(np.int64)
    else:
        numbers = atomic_numbers_from_smiles(smiles)
    if shape[0] == 0:
        return MoleculeEntry(name=name, atomic_numbers=numbers), 0
    if len(shape) != 3 or shape[1:] != (numbers.size, 3):
        raise DataError(f"conformations must be (n, {numbers.size}, 3), got {shape}")
    expected: dict[str | None, tuple[int, ...]] = {keys.energy: shape[:1], keys.gradient: shape}
    for key in labels:
        if data[key].shape != expected[key]:
            raise DataError(f"{key} must have shape {expected[key]}, got {data[key].shape}")
    _factor(data, "conformations", _LENGTH)
    if keys.energy is not None:
        _factor(data, keys.energy, _ENERGY)
    if keys.gradient is not None:
        _factor(data, keys.gradient, _FORCE)
    subset = _text(data, "subset") if "subset" in data else ""
    entry = MoleculeEntry(name=name, atomic_numbers=numbers, smiles=smiles, subset=subset)
    return entry, shape[0]


def _read_group(group: h5py.Group, entry: MoleculeEntry, keys: SpiceKeys) -> ConformerSet:
    data = _members(group, keys)
    energies = forces = formation = None
    if keys.energy is not None:
        energies = _array(data, keys.energy, _ENERGY)
    if keys.gradient is not None:
        forces = -_array(data, keys.gradient, _FORCE)
    if keys.energy == SpiceKeys.energy and "formation_energy" in data:
        formation = _array(data, "formation_energy", _ENERGY)
    attributes = dict(group.attrs)
    charge = attributes.get("total_charge", charge_from_smiles(entry.smiles))
    return ConformerSet(
        name=entry.name,
        atomic_numbers=entry.atomic_numbers,
        positions=_array(data, "conformations", _LENGTH),
        energies=energies,
        forces=forces,
        formation_energies=formation,
        total_charge=float(charge),
        smiles=entry.smiles,
        subset=entry.subset,
        level_of_theory=str(attributes.get("level_of_theory", keys.level_of_theory)),
        head=keys.head,
    )


def _array(data: dict[str, h5py.Dataset], key: str, factors: dict[str, float]) -> np.ndarray:
    return data[key][()].astype(np.float64) * _factor(data, key, factors)


def _factor(data: dict[str, h5py.Dataset], key: str, factors: dict[str, float]) -> float:
    unit = data[key].attrs.get("units")
    if isinstance(unit, bytes):
        unit = unit.decode()
    factor = factors.get(str(unit).strip().lower())
    if factor is None:
        got = "no attribute units" if unit is None else f"units {unit!r}"
        raise DataError(f"{key}: the unit must be one of {', '.join(factors)}; got {got}")
    return factor


def _text(data: dict[str, h5py.Dataset], key: str) -> str:
    value = data[key][()]
    while isinstance(value, np.ndarray):
        if value.size != 1:
            raise DataError(f"{key} must hold one text, got shape {value.shape}")
        value = value.reshape(-1)[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def _size(entry: ConformerSet) -> int:
    arrays = (entry.positions, entry.energies, entry.forces)
    return sum(a.nbytes for a in arrays if a is not None)
