"""Settings of sampling, validated; YAML files hold them."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mace_mm.free_energy.legs.schedule import check_lambdas, even_lambdas


class Settings(BaseModel):
    """Base: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Dynamics(Settings):
    """How molecular dynamics is integrated (Langevin, the middle scheme of OpenMM)."""

    timestep_fs: float = Field(default=1.0, gt=0.0, le=10.0)
    friction_per_ps: float = Field(default=1.0, gt=0.0)
    hydrogen_mass_amu: float | None = Field(
        default=None, gt=1.0, lt=4.5, description="of the ligand's hydrogens, for longer steps"
    )
    constraint_tolerance: float = Field(default=1e-6, gt=0.0)
    platform: str | None = Field(default=None, description="OpenMM platform, the fastest if null")
    platform_properties: dict[str, str] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0, lt=2**31, description="0 draws one")


class Windows(Settings):
    """Equilibrium sampling at fixed λ."""

    lambdas: tuple[float, ...] = Field(default=even_lambdas(5))
    iterations: int = Field(default=200, ge=1, description="kept iterations of each window")
    equilibration: int = Field(default=20, ge=0, description="iterations left out, at least")
    steps: int = Field(default=500, ge=1, description="steps of one iteration")
    exchange: bool = Field(default=True, description="Hamiltonian replica exchange")
    minimization: int = Field(default=500, ge=1, description="most steps of minimization")

    @model_validator(mode="after")
    def _check(self) -> "Windows":
        check_lambdas(self.lambdas)
        return self


class Switching(Settings):
    """Bidirectional nonequilibrium switching between the end states."""

    switches: int = Field(default=100, ge=2, description="switches in each direction")
    steps: int = Field(default=2000, ge=1, description="integration steps of one switch")
    updates: int = Field(default=200, ge=1, description="changes of λ during one switch")
    equilibration: int = Field(
        default=20, ge=0, description="stretches left out at each end, at least"
    )
    stretch: int = Field(default=500, ge=1, description="equilibrium steps between two switches")

    @model_validator(mode="after")
    def _check(self) -> "Switching":
        if self.steps % self.updates:
            raise ValueError(
                f"the steps of a switch must be a multiple of its λ updates, "
                f"got {self.steps} and {self.updates}"
            )
        return self


class Starts(Settings):
    """In which conformers of the ligand the replicas of a leg start."""

    search: bool = Field(default=True, description="look for conformers; false keeps the pose")
    most: int | None = Field(default=None, ge=1, description="starts; null for one a replica")
    window_kt: float = Field(
        default=3.0,
        gt=0.0,
        description="a conformer counts up to this energy above the lowest, at either end: "
        "at 3 kT it holds 5 % and is worth 0.1 kJ/mol",
    )
    embedded: int = Field(default=60, ge=0, description="structures that RDKit makes")
    relaxed: int = Field(
        default=30, ge=1, description="most structures that the model relaxes, lowest first"
    )


class Watch(Settings):
    """What is done about a molecule that changes during a run; see docs/watch.md."""

    action: Literal["stop", "strict", "flag", "off"] = Field(
        default="stop",
        description="stop: end the run when bonds break or form or it explodes; strict: at "
        "anything that stands out; flag: never; off: do not look",
    )
    force_errors: int = Field(
        default=10,
        ge=0,
        description="iterations between two looks at the expected force error, 0 for none",
    )
    uncertainty: Path | None = Field(
        default=None,
        description="file of `mace-mm uncertainty` for the model; bundled models have theirs",
    )

    @field_validator("action", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        # YAML reads a bare off as false.
        return "off" if value is False else value


class Execution(Settings):
    """Where windows and switches run."""

    workers: int = Field(default=1, ge=1, description="local Dask workers; 1 runs in this process")
    scheduler: str | None = Field(default=None, description="address of a running Dask scheduler")
    threads: int = Field(default=1, ge=1, description="threads of each worker")


class Limits(Settings):
    """What a result must reach to be called converged."""

    overlap: float = Field(default=0.03, gt=0.0, lt=1.0, description="of neighboring states")
    independent_samples: int = Field(default=50, ge=2, description="of every window or direction")
    error_kj_mol: float = Field(default=1.0, gt=0.0, description="largest standard error")
    deviations: float = Field(default=2.0, gt=0.0, description="standard errors that agree")
    negligible_kj_mol: float = Field(
        default=0.1, ge=0.0, description="differences below this are not judged"
    )
    transitions: int = Field(
        default=10,
        ge=1,
        description="of every slow coordinate between states of even weight: over all replicas of "
        "an exchange run, in every window without exchange",
    )
