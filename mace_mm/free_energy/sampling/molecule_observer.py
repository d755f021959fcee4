"""The watch of free-energy runs: an observer of the molecule's bonds, configuration and heat."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from mace_mm.archive.open_model import model_path, open_model
from mace_mm.errors import RunStoppedError
from mace_mm.evaluate.domain.force_uncertainty import ForceUncertainty, bundled_uncertainty
from mace_mm.free_energy.sampling.restart import Restart
from mace_mm.identity.change import Change, Kind
from mace_mm.identity.reference import MolecularIdentity
from mace_mm.identity.watch import MoleculeWatch
from mace_mm.model.uncertainty import load_uncertainty
from mace_mm.openmm.topology_identity import topology_identity
from mace_mm.simulation.watch.findings import in_words
from mace_mm.simulation.watch.settings import WatchSettings
from mace_mm.simulation.watch.thermal import temperature_kind
from mace_mm.units import NM_TO_ANGSTROM

OBSERVER_NAME = "molecule"
FORCE_ERROR = "force_error_ev_per_angstrom"
# Of these the number and the first one are kept, with its atoms.
_COUNTED = {
    Kind.NOT_FINITE: "the positions of {} are not numbers",
    Kind.BOND_BROKEN: "bond {} broke",
    Kind.BOND_MADE: "a bond formed between {}",
    Kind.PROTON_MOVED: "proton {} moved from {} to {}",
    Kind.STEREO_INVERTED: "the configuration of {} is inverted",
    Kind.SHORT_CONTACT: "{} are too close",
}
_N_ATOMS = 3
_NO_ATOM = -1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ForceErrors:
    """Where the expected force errors of a run come from.

    Attributes:
        model: path of the archive, or name of a bundled model.
        uncertainty: file of `mace-mm uncertainty` made for it; None for that of a bundled model.
        every: iterations between two looks, each at the next replica.
    """

    model: Path | None
    uncertainty: Path | None
    every: int


@dataclass(frozen=True, kw_only=True, eq=False)
class MoleculeObserver:
    """Looks at one molecule in every replica.

    Attributes:
        identity: of the molecule at the start of its leg.
        settings: what ends a run.
        masses: (n_atoms,) u.
        n_constraints: among its atoms.
        temperature_k: of the leg.
        force_errors: None where the model has no estimate, or nobody asked.
    """

    identity: MolecularIdentity
    settings: WatchSettings
    masses: np.ndarray
    n_constraints: int
    temperature_k: float
    force_errors: ForceErrors | None = None

    @property
    def name(self) -> str:
        """Of its files in the journal's folder."""
        return OBSERVER_NAME

    @property
    def columns(self) -> tuple[str, ...]:
        """For every kind of change its count and the first one's atoms; then the heat."""
        counted = [
            f"{kind}{suffix}"
            for kind in _COUNTED
            for suffix in ("", *(f"_atom_{k}" for k in range(_N_ATOMS)))
        ]
        return (*counted, "temperature_k", FORCE_ERROR, "force_error_atom")

    def measure(self, restart: Restart, reduced: np.ndarray) -> np.ndarray:
        """Look at every replica, at the expected force error of one of them."""
        rows = []
        for replica, positions_nm in enumerate(restart.positions_nm):
            positions = positions_nm[self.identity.indices] * NM_TO_ANGSTROM
            box = None if restart.boxes_nm is None else restart.boxes_nm[replica] * NM_TO_ANGSTROM
            # Without a memory of the iteration before: half a picosecond is long for a bond.
            changes = MoleculeWatch(self.identity).look(positions, box)
            row = [value for kind in _COUNTED for value in _counted(kind, changes)]
            row.append(self._temperature(restart.velocities_nm_ps[replica]))
            if self._is_turn_of(replica, restart.iteration, len(restart.states)):
                row += self._force_error(positions, box)
            else:
                row += [np.nan, np.nan]
            rows.append(row)
        return np.array(rows, dtype=np.float64)

    def check(self, iteration: int, values: np.ndarray) -> None:
        """End the run where the settings say so.

        Raises:
            RunStoppedError: what happened, in which replica.
        """
        for replica, row in enumerate(values):
            fatal = self.fatal(row)
            if fatal:
                where = f"in iteration {iteration}"
                where += f", replica {replica + 1}" if len(values) > 1 else ""
                raise RunStoppedError(f"{where}: {in_words(fatal)}")

    def fatal(self, row: np.ndarray) -> list[Change]:
        """The changes of a row that end a run."""
        return [c for c in self.changes(row) if c.kind in self.settings.stop_on]

    def changes(self, row: np.ndarray) -> list[Change]:
        """What a row of measured numbers says, the worst first."""
        found = []
        width = 1 + _N_ATOMS
        for k, (kind, text) in enumerate(_COUNTED.items()):
            count, *atoms = row[k * width : (k + 1) * width]
            if count > 0:
                found.append(self._change(kind, text, int(count), atoms))
        temperature, error, atom = row[len(_COUNTED) * width :]
        kind_of_heat = temperature_kind(temperature, self.temperature_k, self._n_dof)
        if kind_of_heat is not None:
            words = f"the temperature of the molecule is {temperature:.0f} K"
            found.append(
                Change(
                    kind=kind_of_heat,
                    key=str(kind_of_heat),
                    text=f"{words} (thermostat {self.temperature_k:g} K)",
                    atoms=(),
                )
            )
        if np.isfinite(error) and error > self.force_error_limit:
            found.append(self._strange(float(error), int(atom)))
        return found

    @property
    def force_error_limit(self) -> float:
        """Expected error above which the model does not know an atom, eV/Å."""
        if self.force_errors is None:
            return float("inf")
        return _estimate(self.force_errors.model, self.force_errors.uncertainty).strange_above

    @property
    def _n_dof(self) -> int:
        return max(3 * len(self.masses) - self.n_constraints, 1)

    def _change(self, kind: Kind, text: str, count: int, atoms: Sequence[float]) -> Change:
        indices = [int(k) for k in atoms if k != _NO_ATOM]
        if kind == Kind.PROTON_MOVED:
            words = text.format(*(self._named(k) for k in indices))
        else:
            words = text.format(self._named(*indices))
        return Change(
            kind=kind,
            key=f"{kind} {' '.join(map(str, indices))}",
            text=words + (f" and {count - 1} more of this kind" if count > 1 else ""),
            atoms=tuple(indices),
        )

    def _named(self, *indices: int) -> str:
        place = {int(atom): k for k, atom in enumerate(self.identity.indices)}
        return self.identity.named(*(place[k] for k in indices))

    def _strange(self, error: float, atom: int) -> Change:
        return Change(
            kind=Kind.FORCE_ERROR,
            key=f"{Kind.FORCE_ERROR} {atom}",
            text=f"the model does not know the surroundings of {self._named(atom)}: its forces may "
            f"be wrong by {error:.1f} eV/Å (limit {self.force_error_limit:.1f} eV/Å)",
            atoms=(atom,),
        )

    def _temperature(self, velocities_nm_ps: np.ndarray) -> float:
        own = velocities_nm_ps[self.identity.indices]
        kinetic = 0.5 * float((self.masses[:, None] * own**2).sum())
        return 2.0 * kinetic / (self._n_dof * _GAS_CONSTANT)

    def _is_turn_of(self, replica: int, iteration: int, n_replicas: int) -> bool:
        """Whether this iteration looks at the expected force errors of this replica."""
        every = 0 if self.force_errors is None else self.force_errors.every
        if every < 1 or iteration % every:
            return False
        return (iteration // every) % n_replicas == replica

    def _force_error(self, positions: np.ndarray, box: np.ndarray | None) -> list[float]:
        """The largest expected error and its atom."""
        if self.force_errors is None:
            return [np.nan, np.nan]
        estimate = _estimate(self.force_errors.model, self.force_errors.uncertainty)
        expected = estimate(self.identity.atomic_numbers, positions, box)
        worst = int(expected.argmax())
        return [float(expected[worst]), float(self.identity.indices[worst])]


_GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)


def molecule_observer(
    topology: app.Topology,
    system: openmm.System,
    ligand: Sequence[int],
    positions_nm: np.ndarray,
    temperature_k: float,
    settings: WatchSettings,
    *,
    box_nm: np.ndarray | None = None,
    force_errors: ForceErrors | None = None,
) -> MoleculeObserver:
    """What watches a molecule in all replicas of its leg."""
    atoms = list(ligand)
    inside = set(atoms)
    pairs = [system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints())]
    masses = [system.getParticleMass(k).value_in_unit(unit.dalton) for k in atoms]
    return MoleculeObserver(
        identity=topology_identity(topology, positions_nm, box_nm, atoms=atoms),
        settings=settings,
        masses=np.array(masses),
        n_constraints=sum(i in inside and j in inside for i, j in pairs),
        temperature_k=temperature_k,
        force_errors=force_errors,
    )


def known_force_errors(
    model: Path | None, uncertainty: Path | None, every: int
) -> ForceErrors | None:
    """Where expected force errors come from; None where the model has none, and for ``every`` 0.

    Raises:
        ArchiveError: a file of uncertainties that was made for another model.
    """
    if every < 1:
        return None
    archive = open_model(model)
    if uncertainty is not None:
        load_uncertainty(uncertainty, archive.sha256)
    elif bundled_uncertainty(archive) is None:
        return None
    return ForceErrors(model=model, uncertainty=uncertainty, every=every)


@lru_cache(maxsize=2)
def _estimate(model: Path | None, uncertainty: Path | None) -> ForceUncertainty:
    """Opened once a process: workers get the paths."""
    archive = open_model(model)
    given = uncertainty if uncertainty is not None else bundled_uncertainty(archive)
    if given is None:
        raise RunStoppedError(f"{model_path(model)} has no expected force errors")
    return ForceUncertainty(archive, given)


def _counted(kind: Kind, changes: Sequence[Change]) -> list[float]:
    """How many changes are of a kind, and the first one's atoms."""
    found = [change for change in changes if change.kind == kind]
    atoms = [float(k) for k in found[0].atoms[:_N_ATOMS]] if found else []
    return [float(len(found)), *atoms, *[_NO_ATOM] * (_N_ATOMS - len(atoms))]
