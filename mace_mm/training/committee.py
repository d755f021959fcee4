"""Several models that differ by their seed: initial weights, order of frames, held-out frames."""

from pathlib import Path

from mace_mm.training.config import TrainingConfig


def member_configs(config: TrainingConfig, n_members: int) -> list[TrainingConfig]:
    """Return one configuration a member; a committee of one is the run itself.

    Member i has seed + i, the folder `output/member-i` and the name `name-i`.
    """
    if n_members == 1:
        return [config]
    return [
        config.model_copy(
            update={
                "seed": config.seed + i,
                "output": str(Path(config.output) / f"member-{i}"),
                "name": f"{config.name}-{i}",
            }
        )
        for i in range(n_members)
    ]
