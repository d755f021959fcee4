"""Devices and processes of a run, through Lightning Fabric."""

import os
from pathlib import Path

from lightning_fabric import Fabric

from mace_mm.errors import DependencyError
from mace_mm.training.config import RunConfig


def make_fabric(run: RunConfig, folder: Path) -> Fabric:
    """Return a launched Fabric; under torchrun its processes are taken as they are.

    Raises:
        DependencyError: TensorBoard files are wanted and no TensorBoard writer is installed.
    """
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    devices = int(os.environ["LOCAL_WORLD_SIZE"]) if under_torchrun else run.devices
    world = int(os.environ["WORLD_SIZE"]) if under_torchrun else devices
    loggers = []
    if run.tensorboard:
        from lightning_fabric.loggers import TensorBoardLogger

        try:
            loggers.append(TensorBoardLogger(root_dir=folder, name="tensorboard", version=""))
        except ModuleNotFoundError as error:
            raise DependencyError(
                "run.tensorboard needs the package tensorboard or tensorboardX"
            ) from error
    fabric = Fabric(
        accelerator=run.accelerator,
        devices=devices,
        num_nodes=max(world // devices, 1),
        strategy="ddp" if world > 1 else "auto",
        precision="32-true" if run.precision == "float32" else "64-true",
        loggers=loggers,
    )
    fabric.launch()
    return fabric
