"""What ``MLPotential('mace')`` of OpenMM-ML does."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotentialImpl

from mace_mm.deploy.archive import Archive
from mace_mm.deploy.open_model import open_potential
from mace_mm.errors import BackendError, ConfigError
from mace_mm.simulation.domain import bonding_problems
from mace_mm.simulation.evaluator import build_evaluator, checked_device
from mace_mm.simulation.ml_mm import EMBEDDINGS, create_mixed_system
from mace_mm.simulation.ml_mm_boundary import LinkDistances
from mace_mm.simulation.molecules import keep_molecules, topology_bonds, warn_of_lone_atoms
from mace_mm.simulation.openmm_force import copy_problem, make_force
from mace_mm.simulation.openmm_input import (
    check_charge,
    formal_charges,
    is_periodic,
    ml_atoms,
    ml_bonds,
    wants_interaction_energy,
)

_log = logging.getLogger(__name__)


class MacePotentialImpl(MLPotentialImpl):
    """MACE for OpenMM-ML.

    ``MLPotential('mace')`` is the bundled model `small`; ``modelPath=`` names the other one, an
    archive or a published mace-torch `.model`. It is read when the first System is made.
    """

    # addForces takes interpolated=True.
    can_interpolate = True
    # createMixedSystem is told whether the caller removes the constraints of the region.
    wants_constraints = True

    def __init__(self, model_path: str | Path | None = None) -> None:
        self.model_path = model_path
        self._archive: Archive | None = None
        self._warned: set[str] = set()

    def addForces(  # noqa: N802 (OpenMM-ML's names)
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,  # noqa: N803
        *,
        precision: str | None = None,
        returnEnergyType: str = "interaction_energy",  # noqa: N803
        device: str | None = None,
        charge: int = 0,
        multiplicity: int = 1,
        backend: str = "auto",
        engine: str = "auto",
        mlLongRange: bool | None = None,  # noqa: N803
        linkAtomDistances: Any = None,  # noqa: N803
        interpolated: bool = False,
        **unknown: Any,
    ) -> None:
        """Add the model's Force to a System.

        Args:
            topology: of the System; its elements choose the species.
            system: may be empty, as interpolation passes it.
            atoms: indices of the atoms of the model, in any order; None for all with an element.
            forceGroup: of the new Force.
            precision: "single" (the default, for dynamics) or "double", of the network. Energies
                are summed in double either way.
            returnEnergyType: "interaction_energy", without the energies of isolated atoms, or
                "energy", with them.
            device: "cpu", "cuda" or "cuda:N"; None for the GPU where there is one.
            charge: total charge of the atoms, e.
            multiplicity: 2 S + 1.
            backend: "torchforce", "pythontorchforce", "pythonforce", or "auto" for the first of
                these that works here.
            engine: "native" (compiled), "reference" (plain torch), or "auto" for the fastest one.
            mlLongRange: of the embedding; nothing here depends on it.
            linkAtomDistances: of the embedding; the link atoms are among the atoms already.
            interpolated: scale by the parameter of :mod:`mace_mm.simulation.interpolation`.

        Raises:
            ConfigError, InputError, ElementError, BackendError, ArchiveError: what is wrong with
                the arguments, the atoms, the elements, the machine or the file.
        """
        if unknown:
            raise ConfigError(f"unknown arguments of the mace potential: {sorted(unknown)}")
        interaction_energy = wants_interaction_energy(returnEnergyType)
        indices, numbers = ml_atoms(topology, system, atoms)
        if backend == "torchforce" and not system.getNumParticles() and not interpolated:
            # OpenMM-ML's interpolation: it passes an empty System and copies what it finds in it.
            problem = copy_problem()
            if problem is not None:
                raise BackendError(f"backend 'torchforce' cannot be interpolated here: {problem}")
        archive = self._open()
        check_charge(charge, multiplicity, archive.metadata.total_charges)
        self._warn(topology, indices, numbers, charge)
        evaluator = build_evaluator(
            archive,
            numbers,
            precision="single" if precision is None else precision,
            engine=engine,
            device=checked_device(device),
        )
        force = make_force(
            evaluator,
            atoms=indices,
            periodic=is_periodic(topology, system),
            interaction_energy=interaction_energy,
            backend=backend,
            interpolated=interpolated,
        )
        force.setForceGroup(forceGroup)
        system.addForce(force)
        if atoms is None:
            _keep_molecules(topology, system)

    def getSupportedEmbeddings(self) -> list[str]:  # noqa: N802 (OpenMM-ML's name)
        """The embeddings done here in place of OpenMM-ML's own of the same name."""
        return list(EMBEDDINGS)

    def createMixedSystem(  # noqa: N802 (OpenMM-ML's names)
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int],
        forceGroup: int,  # noqa: N803
        interpolate: bool,
        embedding: str,
        returnInfo: bool = False,  # noqa: N803
        *,
        mlLongRange: bool | None = None,  # noqa: N803
        linkAtomDistances: LinkDistances = (),  # noqa: N803
        constraintsGo: bool = True,  # noqa: N803
        **arguments: Any,
    ) -> openmm.System | dict[str, Any]:
        """Build a mixed system; see :func:`mace_mm.simulation.ml_mm.create_mixed_system`."""
        info = create_mixed_system(
            self,
            topology,
            system,
            atoms,
            embedding=embedding,
            force_group=forceGroup,
            interpolate=interpolate,
            ml_long_range=mlLongRange,
            link_atom_distances=linkAtomDistances,
            constraints_go=constraintsGo,
            **arguments,
        )
        return info if returnInfo else info["system"]

    def getMLLongRange(self) -> bool:  # noqa: N802 (OpenMM-ML's name)
        """False: the model is local, periodic images beyond its cutoff do not interact."""
        return False

    def _warn(
        self, topology: app.Topology, indices: list[int] | None, numbers: list[int], charge: int
    ) -> None:
        """Log once what the model was not trained for; interpolation adds the force twice."""
        chosen = range(len(numbers)) if indices is None else indices
        problems = bonding_problems(
            numbers, ml_bonds(topology, chosen), charge, formal_charges(topology, chosen)
        )
        for problem in problems:
            if problem not in self._warned:
                _log.warning("outside what the model was trained for: %s", problem)
                self._warned.add(problem)

    def _open(self) -> Archive:
        if self._archive is None:
            self._archive = open_potential(self.model_path)
        return self._archive


def _keep_molecules(topology: app.Topology, system: openmm.System) -> None:
    every = range(system.getNumParticles())
    bonds = topology_bonds(topology, every)
    keep_molecules(system, bonds)
    if is_periodic(topology, system):
        warn_of_lone_atoms(topology, every, bonds)
