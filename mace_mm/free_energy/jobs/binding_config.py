"""The YAML file of ``mace-mm binding``."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from mace_mm.free_energy.analysis.estimator import Estimate
from mace_mm.free_energy.config import Conditions, InputFiles, Potential, Solvent
from mace_mm.free_energy.legs.restraints import BoreschSettings
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
from mace_mm.settings import SafeName
from mace_mm.units import KCAL_MOL_TO_KJ_MOL


class Known(Settings):
    """A number that comes from elsewhere, kcal/mol."""

    value: float
    error: float = Field(ge=0.0)

    def estimate(self) -> Estimate:
        return Estimate(
            value_kj_mol=self.value * KCAL_MOL_TO_KJ_MOL,
            error_kj_mol=self.error * KCAL_MOL_TO_KJ_MOL,
        )


class Ligand(Settings):
    """One ligand in its complex and in solvent, and what is known of its binding."""

    name: SafeName = Field(description="also of its folder")
    complex: InputFiles
    solvent: InputFiles
    force_field_kcal_mol: Known | None = Field(
        default=None, description="absolute binding free energy by the force field"
    )
    experiment_kcal_mol: Known | None = None


class EdgeInput(Settings):
    """A relative binding free energy by the force field: the second ligand less the first."""

    first: str
    second: str
    force_field_kcal_mol: Known


class BindingConfig(Settings):
    """``mace-mm binding``."""

    name: SafeName
    output: Path
    ligands: tuple[Ligand, ...] = Field(min_length=1)
    edges: tuple[EdgeInput, ...] = ()
    solvent_environment: Literal["vacuum", "water", "as_given"] = "water"
    solvent: Solvent = Solvent(edge_nm=3.2)
    restraint: BoreschSettings | None = Field(
        default=None, description="holds the ligand in its site between the end states"
    )
    potential: Potential = Potential()
    conditions: Conditions = Conditions()
    dynamics: Dynamics = Dynamics()
    windows: Windows | None = Windows()
    switching: Switching | None = None
    starts: Starts = Starts()
    watch: Watch = Watch()
    limits: Limits = Limits()
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _check(self) -> "BindingConfig":
        names = [ligand.name for ligand in self.ligands]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"ligands need different names, got {twice} more than once")
        for edge in self.edges:
            unknown = {edge.first, edge.second} - set(names)
            if unknown or edge.first == edge.second:
                raise ValueError(
                    f"an edge joins two of {names}, got {edge.first!r} and {edge.second!r}"
                )
        if self.windows is None and self.switching is None:
            raise ValueError("one of windows and switching is needed, got neither")
        if self.restraint is not None and (self.windows is None or self.switching is not None):
            raise ValueError("a restraint needs windows, and cannot be used with switching")
        return self
