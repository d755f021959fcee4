"""Where the work runs: one section of the protocol, which does not decide the data."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ExecutionSettings(BaseModel):
    """Where the work runs.

    ``local``: ``workers`` processes of a Dask cluster on this machine (0: inside this process).
    ``address``: an existing Dask scheduler. ``cluster``: a class such as
    ``dask_jobqueue:SLURMCluster`` with its ``options``, scaled to ``workers``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["local", "address", "cluster"] = "local"
    workers: Annotated[int, Field(ge=0)] = 0
    address: str | None = None
    cluster: str | None = None
    options: dict[str, str | float | int | bool | list[str]] = {}

    @model_validator(mode="after")
    def _complete(self) -> "ExecutionSettings":
        if self.kind == "address" and self.address is None:
            raise ValueError("execution 'address' wants 'address', such as tcp://host:8786")
        if self.kind == "cluster" and (self.cluster is None or self.workers < 1):
            raise ValueError(
                "execution 'cluster' wants 'cluster' (module:Class) and 'workers' >= 1"
            )
        return self
