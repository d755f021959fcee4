"""One leg of a thermodynamic cycle: a system with coupling parameters, and its states."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import unit
from openmmtools import states as tools

from mace_mm.errors import ConfigError, DataError, GeometryError, InputError
from mace_mm.files.atomic_write import write_atomically
from mace_mm.free_energy.conformers.leg import LegConformers
from mace_mm.free_energy.legs.schedule import Schedule
from mace_mm.free_energy.sampling.observers import Observer
from mace_mm.simulation.watch.timestep import TimestepLimit

GAS_CONSTANT_KJ_MOL_K = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(
    unit.kilojoule_per_mole / unit.kelvin
)
_SYSTEM_NAME = "system.xml"
_LEG_NAME = "leg.json"
_STARTS_NAME = "starts.npy"


@dataclass(frozen=True, kw_only=True, eq=False)
class Leg:
    """What is sampled: a system whose global parameters take it between two end states.

    Attributes:
        name: a name for people and for the folder.
        system: the OpenMM System; it defines every parameter of the schedule.
        positions_nm: (n_atoms, 3) start positions.
        box_nm: (3, 3) rows, None for a system without periodic boundaries.
        schedule: the states.
        temperature_k: kelvin.
        pressure_bar: None for constant volume.
        origin: fingerprint of the energies, so that no run is continued with others.
        observers: what looks at the molecule at every iteration; not saved with the leg.
        warnings: what the model was not trained for, sentences; not saved with the leg.
        timestep_limit: what its fastest hydrogen allows, None where nobody looked; not saved.
        conformers: how its starts are found, not saved with the leg; None where that is not known.
        starts_nm: (n_starts, n_atoms, 3) where replicas start, one after the other and from the
            first again; None for ``positions_nm`` alone.
    """

    name: str
    system: openmm.System
    positions_nm: np.ndarray
    box_nm: np.ndarray | None
    schedule: Schedule
    temperature_k: float
    pressure_bar: float | None = None
    origin: str = ""
    observers: tuple[Observer, ...] = ()
    warnings: tuple[str, ...] = ()
    timestep_limit: TimestepLimit | None = None
    conformers: LegConformers | None = None
    starts_nm: np.ndarray | None = None

    def __post_init__(self) -> None:
        n_atoms = self.system.getNumParticles()
        if self.positions_nm.shape != (n_atoms, 3):
            raise InputError(
                f"leg {self.name}: positions of {n_atoms} particles were expected, "
                f"got shape {self.positions_nm.shape}"
            )
        if self.starts_nm is not None and self.starts_nm.shape[1:] != (n_atoms, 3):
            raise InputError(
                f"leg {self.name}: starts of {n_atoms} particles were expected, "
                f"got shape {self.starts_nm.shape}"
            )
        if not np.isfinite(self.positions_nm).all():
            raise GeometryError(f"leg {self.name}: start positions are not finite")
        if self.temperature_k <= 0.0:
            raise ConfigError(f"a temperature above 0 K was expected, got {self.temperature_k}")
        if self.system.usesPeriodicBoundaryConditions() != (self.box_nm is not None):
            raise InputError(
                f"leg {self.name}: a box goes with a periodic system and only with one, "
                f"got box {self.box_nm}"
            )
        if self.pressure_bar is not None and self.box_nm is None:
            raise ConfigError(f"leg {self.name}: a pressure needs a periodic system")
        missing = set(self.schedule.names) - defined_parameters(self.system)
        if missing:
            raise ConfigError(
                f"leg {self.name}: its system does not define the parameters {sorted(missing)}"
            )

    @property
    def kt_kj_mol(self) -> float:
        return GAS_CONSTANT_KJ_MOL_K * self.temperature_k

    def start_nm(self, replica: int) -> np.ndarray:
        """(n_atoms, 3) where a replica starts; of switching, its direction."""
        if self.starts_nm is None:
            return self.positions_nm
        return np.asarray(self.starts_nm[replica % len(self.starts_nm)])

    def identity(self) -> dict[str, Any]:
        """What two runs of one leg must share, ready for JSON."""
        return {
            "name": self.name,
            "n_atoms": self.system.getNumParticles(),
            "coordinates": list(self.schedule.coordinates),
            "parameters": [dict(sorted(values.items())) for values in self.schedule.parameters],
            "temperature_k": self.temperature_k,
            "pressure_bar": self.pressure_bar,
            "origin": self.origin,
        }

    def thermodynamic_states(self) -> list[tools.CompoundThermodynamicState]:
        """The states as openmmtools objects that share one system."""
        pressure = None if self.pressure_bar is None else self.pressure_bar * unit.bar
        base = tools.ThermodynamicState(
            system=self.system, temperature=self.temperature_k * unit.kelvin, pressure=pressure
        )
        # openmmtools wants a class whose attributes are the parameters.
        parameters = {
            name: tools.GlobalParameterState.GlobalParameter(name, standard_value=1.0)
            for name in self.schedule.names
        }
        kind: Any = type("CouplingState", (tools.GlobalParameterState,), parameters)
        protocol: dict[str, list[float]] = {
            name: [values[name] for values in self.schedule.parameters]
            for name in self.schedule.names
        }
        return tools.create_thermodynamic_state_protocol(
            base, protocol, composable_states=[kind.from_system(base.system)]
        )

    @property
    def box_vectors(self) -> unit.Quantity | None:
        """The box with its unit, as openmmtools wants it."""
        return None if self.box_nm is None else self.box_nm * unit.nanometer

    def save(self, folder: Path) -> None:
        """Write the leg, so that another process can run parts of it."""
        write_atomically(
            folder / _SYSTEM_NAME, openmm.XmlSerializer.serialize(self.system).encode()
        )
        if self.starts_nm is not None:
            buffer = io.BytesIO()
            np.save(buffer, self.starts_nm)
            write_atomically(folder / _STARTS_NAME, buffer.getvalue())
        content = self.identity() | {
            "linear": self.schedule.linear,
            "positions_nm": self.positions_nm.tolist(),
            "box_nm": None if self.box_nm is None else self.box_nm.tolist(),
        }
        write_atomically(folder / _LEG_NAME, json.dumps(content).encode())


def fingerprint(*parts: openmm.System | openmm.Force | str | Path) -> str:
    """A short hash of systems, forces, words and the content of files. Forces with networks in
    them do not repeat."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            digest.update(part.read_bytes())
            continue
        text = part if isinstance(part, str) else openmm.XmlSerializer.serialize(part)
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def load_leg(folder: Path) -> Leg:
    """Read a leg that :meth:`Leg.save` wrote.

    Raises:
        DataError: the files are missing or damaged.
    """
    try:
        content = json.loads((folder / _LEG_NAME).read_text(encoding="utf-8"))
        system = openmm.XmlSerializer.deserialize(
            (folder / _SYSTEM_NAME).read_text(encoding="utf-8")
        )
        box = content["box_nm"]
        starts = folder / _STARTS_NAME
        return Leg(
            name=content["name"],
            system=system,
            positions_nm=np.array(content["positions_nm"], dtype=np.float64),
            box_nm=None if box is None else np.array(box, dtype=np.float64),
            schedule=Schedule(
                coordinates=tuple(content["coordinates"]),
                parameters=tuple(content["parameters"]),
                linear=content["linear"],
            ),
            temperature_k=content["temperature_k"],
            pressure_bar=content["pressure_bar"],
            origin=content["origin"],
            starts_nm=np.load(starts, allow_pickle=False) if starts.exists() else None,
        )
    except (OSError, KeyError, TypeError, EOFError, ValueError) as error:
        raise DataError(f"{folder} holds no leg that can be read: {error}") from error


def defined_parameters(system: openmm.System) -> set[str]:
    """Names of the global parameters that the forces of a system define."""
    names: set[str] = set()
    for force in system.getForces():
        if not hasattr(force, "getNumGlobalParameters"):
            continue
        names.update(
            force.getGlobalParameterName(index) for index in range(force.getNumGlobalParameters())
        )
    return names
