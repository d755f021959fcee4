"""Fixtures that every test may use."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The checkout that the tests run in."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with reference results and data sets that are not part of the project.

    The environment variable MACE_MM_SHARED names it; without it ``../shared`` beside the checkout.
    """
    named = os.environ.get("MACE_MM_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared"
    if not folder.is_dir():
        if named:
            pytest.fail(f"MACE_MM_SHARED={named} is not a folder")
        pytest.skip("no folder ../shared beside the checkout, and MACE_MM_SHARED is not set")
    return folder


@pytest.fixture(scope="session")
def openmmtorch_installed() -> None:
    """Skip where the openmm-torch plugin is not installed."""
    if importlib.util.find_spec("openmmtorch") is None:
        pytest.skip("openmmtorch is not installed in this environment")


@pytest.fixture(scope="session", params=["pythonforce", "torchforce", "pythontorchforce"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every way of calling torch from OpenMM that works here, one after another."""
    from mace_mm.openmm.force import backend_problem

    name = str(request.param)
    problem = None if name == "pythonforce" else backend_problem(name)
    if problem is not None:
        pytest.skip(problem)
    return name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked gpu where no CUDA device is present."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if torch.cuda.is_available():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
