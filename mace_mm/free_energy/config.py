"""The YAML files of the free-energy commands: settings with units in their names, validated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from mace_mm.bundled_models import is_bundled
from mace_mm.free_energy.settings import (
    Dynamics,
    Execution,
    Limits,
    Settings,
    Starts,
    Switching,
    Watch,
    Windows,
)
from mace_mm.settings import SafeName, read_yaml, validated


class InputFiles(Settings):
    """A force-field system: Amber files, OpenMM XML with PDB, an SD file, or FreeSolv's molecule.

    ``ligand`` names the residue (or lists atom indices) that the correction is about; without it
    the one molecule that is neither water nor a monatomic ion is the ligand.
    """

    prmtop: Path | None = None
    inpcrd: Path | None = None
    system_xml: Path | None = None
    pdb: Path | None = None
    sdf: Path | None = None
    forcefield: str = Field(default="openff-2.2.1", description="of the ligand, with sdf")
    freesolv: Path | None = Field(default=None, description="folder of the FreeSolv database")
    molecule: str | None = Field(default=None, description="in it: mobley_N or the IUPAC name")
    ligand: str | tuple[int, ...] | None = None
    smiles: str | None = Field(
        default=None, description="of the ligand, where the files leave its bond orders open"
    )
    conformers: Path | None = Field(
        default=None, description="SD, PDB or XYZ file: the ligand's replicas start in its records"
    )

    @model_validator(mode="after")
    def _check(self) -> "InputFiles":
        given = {
            name
            for name in ("prmtop", "inpcrd", "system_xml", "pdb", "sdf", "freesolv", "molecule")
            if getattr(self, name) is not None
        }
        allowed = (
            {"prmtop", "inpcrd"},
            {"system_xml", "pdb"},
            {"sdf"},
            {"sdf", "pdb"},
            {"freesolv", "molecule"},
        )
        if given not in allowed:
            raise ValueError(
                "a system needs prmtop and inpcrd, or system_xml and pdb, sdf (with pdb for a "
                f"protein), or freesolv and molecule, got {sorted(given) or 'nothing'}"
            )
        return self


class Solvent(Settings):
    """Water around a solute that comes without."""

    edge_nm: float = Field(default=2.4, gt=0.0, description="edge of the cubic box")
    cutoff_nm: float = Field(default=1.0, gt=0.0)
    model: Literal["tip3p"] = "tip3p"

    @model_validator(mode="after")
    def _check(self) -> "Solvent":
        if 2.0 * self.cutoff_nm > 0.97 * self.edge_nm:
            raise ValueError(
                f"the box must stay wider than twice the cutoff when the pressure shrinks it, got "
                f"edge {self.edge_nm} nm and cutoff {self.cutoff_nm} nm"
            )
        return self


class Potential(Settings):
    """The potential of the end state λ = 1, through OpenMM-ML."""

    name: str = "mace"
    model: Path | None = Field(
        default=None, description="archive, .model or name of a bundled one, the default if null"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="as for createMixedSystem")
    allow_unknown_charge: bool = Field(
        default=False, description="for research: a total charge that the model was not trained for"
    )


class Conditions(Settings):
    """The ensemble."""

    temperature_k: float = Field(default=298.15, gt=0.0)
    pressure_bar: float | None = Field(default=1.01325, description="null for constant volume")


class CorrectionConfig(Settings):
    """``mace-mm correct``: the free energy of going from the force field to ML/MM."""

    name: SafeName
    output: Path
    input: InputFiles
    environment: Literal["vacuum", "water", "as_given"] = "vacuum"
    solvent: Solvent = Solvent()
    potential: Potential = Potential()
    conditions: Conditions = Conditions()
    dynamics: Dynamics = Dynamics()
    windows: Windows | None = Windows()
    switching: Switching | None = Switching()
    starts: Starts = Starts()
    watch: Watch = Watch()
    limits: Limits = Limits()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _check(self) -> "CorrectionConfig":
        if self.windows is None and self.switching is None:
            raise ValueError("one of windows and switching is needed, got neither")
        return self


AnyConfig = TypeVar("AnyConfig", bound=Settings)


def read_config(path: Path, kind: type[AnyConfig], overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a YAML file; paths in it are relative to the file.

    Args:
        path: the file.
        kind: the settings it must hold.
        overrides: ``key=value`` pairs with dots for nested keys, such as ``windows.steps=100``.

    Raises:
        ConfigError: every setting that is wrong, by name.
    """
    settings = validated(read_yaml(path, overrides), kind, str(path))
    return _resolve(settings, path.parent.resolve())


def _resolve(settings: AnyConfig, folder: Path) -> AnyConfig:
    """Make relative paths relative to the file that names them, at every depth."""

    def place(value: Any) -> Any:
        if isinstance(value, Path):
            return folder / value.expanduser()
        if isinstance(value, Potential) and value.model and is_bundled(value.model, folder):
            return value
        if isinstance(value, Settings):
            return _resolve(value, folder)
        if isinstance(value, tuple):
            return tuple(place(item) for item in value)
        if isinstance(value, dict):
            return {name: place(item) for name, item in value.items()}
        return value

    return settings.model_copy(
        update={name: place(getattr(settings, name)) for name in type(settings).model_fields}
    )
