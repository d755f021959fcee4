"""The archive: one file that holds a trained potential and what a user must know about it.

It is a TorchScript file, so `torch.jit.load` opens it without this package, with JSON metadata
as an extra file. `load_archive` does not run the TorchScript: it reads the weights as inert data
(`safe_pickle`), rebuilds the network from the stored configuration, and compares with energies
that were stored when the archive was made.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mace_mm import __version__
from mace_mm.archive.portable import PortableModel
from mace_mm.archive.safe_pickle import ZIP_ERRORS, Inert, read_torch_file
from mace_mm.elements import symbol
from mace_mm.errors import ArchiveError, ConfigError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.model.mace.config import MACEConfig
from mace_mm.model.mace.network import MACE
from mace_mm.model.potential import Potential

FORMAT_VERSION = 2
METADATA_NAME = "mace_mm.json"
UNITS = {"length": "angstrom", "energy": "eV", "forces": "eV/angstrom", "stress": "eV/angstrom^3"}
# The rebuilt network differs from the stored one by rounding only.
_PROBE_TOLERANCE_EV = 1e-6


@dataclass(frozen=True, kw_only=True)
class ArchiveMetadata:
    """What an archive says about itself.

    Attributes:
        name: short name of the model.
        level_of_theory: of the labels, e.g. "wB97M-D3(BJ)/def2-TZVPPD"; "LEVEL minus METHOD" of a
            model that learned a difference.
        training_data: what it was trained on.
        training_data_licence: the licence of those data.
        weights_licence: the licence of the weights.
        description: free text, Markdown.
        total_charges: the molecular charges the model was trained for; empty if unknown.
        created: ISO date.
        package_version: version of this package that wrote the file.
        results: measured errors, free form, JSON values only.
        shortest_distances: the shortest distance in the training set, Å, by pair of elements in
            the order of their atomic numbers, such as "C-O"; pairs that are missing are unknown.
            Since format 2.
    """

    name: str
    level_of_theory: str = "unknown"
    training_data: str = "unknown"
    training_data_licence: str = "unknown"
    weights_licence: str = "unknown"
    description: str = ""
    total_charges: tuple[int, ...] = ()
    created: str = ""
    package_version: str = __version__
    results: dict[str, Any] = field(default_factory=dict)
    shortest_distances: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Archive:
    """A potential with its metadata.

    Attributes:
        potential: float64, evaluation mode, one head.
        metadata: see `ArchiveMetadata`.
        sha256: of the weights and the configuration, hexadecimal.
    """

    potential: Potential
    metadata: ArchiveMetadata
    sha256: str

    @property
    def config(self) -> MACEConfig:
        return self.potential.network.config


def make_archive(potential: Potential, metadata: ArchiveMetadata) -> Archive:
    """Bundle a potential of one head with its metadata.

    Raises:
        ConfigError: the potential has several heads; select one first.
    """
    heads = potential.network.config.heads
    if len(heads) != 1:
        raise ConfigError(f"an archive holds one head, the network has {list(heads)}: select one")
    potential = potential.double().eval().requires_grad_(False)
    return Archive(potential=potential, metadata=metadata, sha256=weights_hash(potential))


def weights_hash(potential: Potential) -> str:
    """SHA-256 over the configuration and every weight's name, shape and float64 bytes."""
    digest = hashlib.sha256()
    digest.update(json.dumps(potential.network.config.to_dict(), sort_keys=True).encode())
    for name, value in sorted(potential.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.to(torch.float64).contiguous().numpy().astype("<f8").tobytes())
    return digest.hexdigest()


def save_archive(path: str | Path, archive: Archive) -> None:
    """Write the file whole or not at all.

    Weights that float32 holds exactly are stored in float32, half the size.
    """
    config = archive.config
    header = {
        "format": "mace_mm archive",
        "format_version": FORMAT_VERSION,
        "config": config.to_dict(),
        "elements": [symbol(z) for z in config.atomic_numbers],
        "r_max": config.r_max,
        "units": UNITS,
        "atomic_energies": archive.potential.atomic_energies.values[0].tolist(),
        "sha256": archive.sha256,
        "metadata": asdict(archive.metadata),
        "probe": _probe(archive.potential),
    }
    module = PortableModel(smallest_dtype(archive.potential), config.atomic_numbers).eval()
    scripted = torch.jit.script(module)
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer, _extra_files={METADATA_NAME: json.dumps(header, indent=1)})
    write_atomically(Path(path), buffer.getvalue())


def load_archive(path: str | Path) -> Archive:
    """Open an archive without running its code.

    Raises:
        ArchiveError: missing, truncated, damaged, foreign or of a newer format.
    """
    path = Path(path)
    header = read_header(path)
    tensors: dict[str, torch.Tensor] = {}
    _collect(read_torch_file(path).root, "", tensors)
    try:
        config = MACEConfig.from_dict(header["config"])
        metadata = _metadata(header["metadata"])
    except (ConfigError, KeyError, TypeError) as error:
        raise ArchiveError(f"{path} has metadata that cannot be read: {error}") from error
    potential = Potential(MACE(config))
    state = {}
    for name, target in potential.state_dict().items():
        value = tensors.get(f"potential.{name}")
        if value is None or value.shape != target.shape:
            got = "nothing" if value is None else f"shape {tuple(value.shape)}"
            raise ArchiveError(f"{path}: wanted {name} of shape {tuple(target.shape)}, got {got}")
        state[name] = value
    potential.load_state_dict(state)
    archive = make_archive(potential, metadata)
    if archive.sha256 != header.get("sha256"):
        raise ArchiveError(f"{path} is damaged or was changed: its weights do not match its hash")
    _check_probe(path, potential, header.get("probe"))
    return archive


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the JSON metadata of an archive.

    Raises:
        ArchiveError: missing, not a zip file, foreign, unreadable or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise ArchiveError(f"expected a model file, got {str(path)!r}, which does not exist")
    try:
        with zipfile.ZipFile(path) as file:
            names = [n for n in file.namelist() if n.endswith(f"/extra/{METADATA_NAME}")]
            if not names:
                raise ArchiveError(f"{path} is not a mace_mm archive: it has no {METADATA_NAME}")
            header = json.loads(file.read(names[0]))
    except ZIP_ERRORS as error:
        raise ArchiveError(f"{path} is not a mace_mm archive or is damaged: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("format_version"), int):
        raise ArchiveError(f"{path} has no format version: damaged or foreign")
    if header["format_version"] > FORMAT_VERSION:
        raise ArchiveError(
            f"{path} has archive format {header['format_version']}, this mace_mm {__version__} "
            f"reads up to {FORMAT_VERSION}: update mace_mm"
        )
    return header


def is_archive(path: str | Path) -> bool:
    """Whether the file is a zip file with our metadata in it."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.endswith(f"/extra/{METADATA_NAME}") for name in file.namelist())
    except ZIP_ERRORS as error:
        raise ArchiveError(f"{path} is damaged: {error}") from error


def _metadata(values: dict[str, Any]) -> ArchiveMetadata:
    known = {f.name for f in fields(ArchiveMetadata)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"unknown metadata {unknown}")
    charges = tuple(int(q) for q in values.get("total_charges", ()))
    return ArchiveMetadata(**{**values, "total_charges": charges})


def _collect(node: Any, prefix: str, out: dict[str, torch.Tensor]) -> None:
    """Gather the tensors of a TorchScript object tree under dotted names."""
    if isinstance(node, torch.Tensor):
        out[prefix] = node
    elif isinstance(node, Inert) and isinstance(node.state, dict):
        for name, value in node.state.items():
            _collect(value, f"{prefix}.{name}" if prefix else str(name), out)


def smallest_dtype(potential: Potential) -> Potential:
    """A copy in float32 if that holds every weight of the network exactly, else in float64."""
    exact = all(torch.equal(v.float().double(), v) for v in potential.network.state_dict().values())
    copy = Potential(MACE(potential.network.config))
    copy.load_state_dict(potential.state_dict())
    return (copy.float() if exact else copy).eval().requires_grad_(False)


def _probe(potential: Potential) -> dict[str, Any]:
    """Energies and forces of a small cluster with every element, to compare with on opening."""
    config = potential.network.config
    numbers = (config.atomic_numbers * 8)[: max(8, config.n_species)]
    # Points on a spiral: no symmetry, neighbors from 1 Å to beyond the cutoff.
    k = np.arange(len(numbers), dtype=np.float64)
    positions = np.stack([1.1 * np.sqrt(k + 1) * np.cos(2.4 * k), 0.9 * k, k % 3 - 0.31 * k], 1)
    energy, forces = _evaluate(potential, np.array(numbers), positions)
    return {
        "atomic_numbers": list(numbers),
        "positions": positions.tolist(),
        "interaction_energy": energy,
        "forces": forces.tolist(),
    }


def _evaluate(
    potential: Potential, numbers: np.ndarray, positions: np.ndarray
) -> tuple[float, np.ndarray]:
    portable = PortableModel(potential, potential.network.config.atomic_numbers).eval()
    result = portable(torch.from_numpy(positions), torch.from_numpy(numbers))
    return float(result["interaction_energy"]), result["forces"].numpy()


def _check_probe(path: Path, potential: Potential, probe: Any) -> None:
    try:
        numbers = np.array(probe["atomic_numbers"], dtype=np.int64)
        positions = np.array(probe["positions"], dtype=np.float64)
        wanted_energy, wanted_forces = float(probe["interaction_energy"]), probe["forces"]
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{path} has no readable check values: {error}") from error
    energy, forces = _evaluate(potential, numbers, positions)
    scale = max(1.0, float(np.abs(wanted_forces).max()))
    off = max(abs(energy - wanted_energy), float(np.abs(forces - wanted_forces).max())) / scale
    if not off < _PROBE_TOLERANCE_EV:
        raise ArchiveError(
            f"{path} does not reproduce the energies stored in it (off by {off:.1e} eV): the "
            "file is damaged, or this e3nn or torch computes something else"
        )
