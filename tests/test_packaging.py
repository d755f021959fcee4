"""The package installs what it says, imports lightly and keeps its floors."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.plain

# conda-forge's name of a package, where it differs from the one in pyproject.toml.
CONDA_NAMES = {
    "lightning-fabric": "lightning",
    "matplotlib": "matplotlib-base",
    "openmmml": "openmm-ml",
    "torch": "pytorch",
}
# Packages that only environment.yml brings, and why.
CONDA_ONLY = {
    "openmm-torch",  # the extra `torchforce` of pyproject.toml
    "openmmforcefields",  # classical parameters, not on PyPI
    "openff-toolkit",  # not on PyPI
    "openmmtools",  # the extra `free-energy`
    "alchemlyb",  # the extra `free-energy`
    "pip",
    "python",
}


def _requirement_name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return match.group().lower()


@pytest.fixture(scope="module")
def project(project_root: Path) -> dict:
    return tomllib.loads((project_root / "pyproject.toml").read_text())["project"]


def test_environment_yml_and_pyproject_name_the_same_packages(
    project_root: Path, project: dict
) -> None:
    environment = yaml.safe_load((project_root / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    conda = {_requirement_name(entry): entry for entry in environment["dependencies"]}
    required = {}
    for entry in project["dependencies"]:
        name = _requirement_name(entry)
        required[CONDA_NAMES.get(name, name)] = entry.removeprefix(name)
    assert set(required) - set(conda) == set(), "in pyproject.toml, missing in environment.yml"
    assert set(conda) - set(required) == CONDA_ONLY, "in environment.yml, missing in pyproject.toml"
    for name, bound in required.items():
        got = conda[name].removeprefix(name).strip()
        assert got == bound, f"{name}: environment.yml has {got!r}, pyproject.toml {bound!r}"


def test_every_entry_point_resolves() -> None:
    try:
        entry_points = importlib.metadata.distribution("mace_mm").entry_points
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("mace_mm runs from its source folder here and is not installed")
    assert "mace-mm" in {entry.name for entry in entry_points}
    for entry in entry_points:
        assert callable(entry.load()), entry


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ["torch", "e3nn", "ase", "openmm", "openmmml", "rdkit", "h5py", "matplotlib", "typer"]
    code = f"import mace_mm, sys; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.strip() == "[]"


def test_help_of_the_command_line_does_not_load_torch() -> None:
    code = (
        "import sys; from mace_mm.cli.app import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: print('exit', end.code, 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Usage: mace-mm" in run.stdout
    assert run.stdout.strip().endswith("exit 0 False")
