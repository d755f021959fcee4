"""Devices and processes of a run, through Lightning Fabric."""

import os
from pathlib import Path

import torch

from mace_mm.errors import DependencyError
from mace_mm.training.config import RunConfig
from mace_mm.training.run.fabric import (
    ClusterEnvironment,
    Fabric,
    LightningEnvironment,
    Logger,
    SLURMEnvironment,
    TensorBoardLogger,
    TorchElasticEnvironment,
)


def make_fabric(run: RunConfig, folder: Path) -> Fabric:
    """Return a launched Fabric; under torchrun or srun its processes are taken as they are.

    Sets the threads of torch in this process where the settings name them.

    Raises:
        DependencyError: TensorBoard files are wanted and no TensorBoard writer is installed.
    """
    environment = _environment()
    devices, n_nodes = run.devices, 1
    if isinstance(environment, TorchElasticEnvironment):
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        n_nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif isinstance(environment, SLURMEnvironment):
        n_nodes = int(os.environ["SLURM_NNODES"])
        devices = int(os.environ["SLURM_NTASKS"]) // n_nodes
    loggers: list[Logger] = []
    if run.tensorboard:
        try:
            loggers.append(TensorBoardLogger(root_dir=folder, name="tensorboard", version=""))
        except ModuleNotFoundError as error:
            raise DependencyError(
                "run.tensorboard needs the package tensorboard or tensorboardX"
            ) from error
    fabric = Fabric(
        accelerator=run.accelerator,
        devices=devices,
        num_nodes=n_nodes,
        strategy="ddp" if devices * n_nodes > 1 else "auto",
        plugins=[environment],
        precision="32-true" if run.precision == "float32" else "64-true",
        loggers=loggers,
    )
    fabric.launch()
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    return fabric


def _environment() -> ClusterEnvironment:
    """Who started the processes.

    Chosen here: Fabric's own search starts MPI wherever mpi4py is installed.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment()
    return LightningEnvironment()
