"""Lightning Fabric, from either of the packages it is published in."""

# mypy: disable-error-code="no-redef"

try:
    from lightning_fabric import Fabric
    from lightning_fabric.loggers import Logger, TensorBoardLogger
    from lightning_fabric.plugins.environments import (
        ClusterEnvironment,
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )
except ModuleNotFoundError:  # conda-forge has it inside the package lightning only
    from lightning.fabric import Fabric
    from lightning.fabric.loggers import Logger, TensorBoardLogger
    from lightning.fabric.plugins.environments import (
        ClusterEnvironment,
        LightningEnvironment,
        SLURMEnvironment,
        TorchElasticEnvironment,
    )

__all__ = [
    "ClusterEnvironment",
    "Fabric",
    "LightningEnvironment",
    "Logger",
    "SLURMEnvironment",
    "TensorBoardLogger",
    "TorchElasticEnvironment",
]
