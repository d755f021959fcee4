"""What must hold before a run starts or continues."""

from pathlib import Path

from mace_mm.errors import ConfigError
from mace_mm.training.config import TrainingConfig
from mace_mm.training.config_file import parse_config
from mace_mm.training.run.checkpoint import Checkpoint

# Settings that may change between a run and its continuation: they do not touch the numbers.
_FREE_SETTINGS = ("run", "output", "name")


def check_processes(config: TrainingConfig, world: int) -> None:
    """Raise `ConfigError` for settings that need fewer processes."""
    if config.data.batch_size < world:
        raise ConfigError(
            f"data.batch_size ({config.data.batch_size}) must be at least the number of "
            f"processes ({world})"
        )
    if world > 1 and any(s.loss.relative_energy > 0 for s in config.stages):
        raise ConfigError(
            "loss.relative_energy works in one process only: frames of a molecule "
            "must stay together"
        )


def check_same_run(checkpoint: Checkpoint, config: TrainingConfig, folder: Path) -> None:
    """Raise `ConfigError` unless the folder's run has the settings of this one."""
    now = config.model_dump(mode="json")
    # Settings that the version of the checkpoint did not have take their defaults.
    before = parse_config(checkpoint.config, origin=f"the run in {folder}").model_dump(mode="json")
    changed = sorted(key for key in now if key not in _FREE_SETTINGS and now[key] != before[key])
    precision = (before["run"]["precision"], now["run"]["precision"])
    if precision[0] != precision[1]:
        changed.append("run.precision")
    if changed:
        raise ConfigError(
            f"{folder} holds a run with other settings ({', '.join(changed)} differ): choose "
            "another output folder, or repeat the settings to continue it"
        )
