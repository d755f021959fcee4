"""Settings of active learning: one YAML file."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mace_mm.bundled_models import BUNDLED_MODELS, place_model
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.settings import SafeName, read_yaml, validated
from mace_mm.training.config import DataConfig, OptimizerConfig, RunConfig, StageConfig


class ExploreConfig(BaseModel):
    """Attributes:
    temperature_k, timestep_fs: of Langevin dynamics.
    n_steps: the longest walk.
    check_every: steps between looks at the uncertainty.
    threshold: stop where an atom's expected force error passes this, eV/Å.
    walkers: walks from every start in a round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature_k: float = Field(default=500.0, gt=0)
    timestep_fs: float = Field(default=0.5, gt=0)
    n_steps: int = Field(default=5000, gt=0)
    check_every: int = Field(default=20, gt=0)
    threshold: float = Field(gt=0)
    walkers: int = Field(default=4, gt=0)


class ActiveConfig(BaseModel):
    """Attributes:
    name, output: of the models and the folder; paths are relative to the YAML file.
    seed: of walks and training.
    model: what to start from, as in `fine_tune.model`.
    starts: extended XYZ file with one structure for every molecule to explore.
    data: labelled frames known before, of the level of theory of `label`.
    label: how frames are labelled.
    explore: how they are found.
    rounds: at most this many; it ends earlier when no walk meets an uncertain frame.
    optimizer, stages, run: of the training in every round, as for `mace-mm train`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: SafeName = "active"
    output: str
    seed: int = Field(default=0, ge=0)
    model: str = BUNDLED_MODELS[0]
    starts: str
    data: DataConfig
    label: LabelSettings
    explore: ExploreConfig
    rounds: int = Field(default=3, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig()
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    run: RunConfig = RunConfig()


def read_active_config(path: Path) -> ActiveConfig:
    """Read the YAML file; paths become absolute.

    Raises:
        ConfigError: a file that is missing or no YAML, unknown or wrong settings.
    """
    config = validated(read_yaml(path), ActiveConfig, str(path))
    folder = path.parent

    def place(name: str) -> str:
        return str((folder / name).resolve())

    def files(section: Any) -> tuple[Any, ...]:
        return tuple(f.model_copy(update={"path": place(f.path)}) for f in section)

    data = config.data.model_copy(
        update={"train": files(config.data.train), "validation": files(config.data.validation)}
    )
    model = place_model(config.model, folder)
    changes = {"output": place(config.output), "starts": place(config.starts)}
    return config.model_copy(update={**changes, "data": data, "model": model})
