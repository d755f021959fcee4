"""What ``MLPotential('mace')`` of OpenMM-ML does."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotentialImpl

from mace_mm.archive.archive import Archive
from mace_mm.archive.open_model import open_potential
from mace_mm.elements import species_index
from mace_mm.errors import BackendError, ConfigError
from mace_mm.evaluate.build import build_evaluator, checked_device
from mace_mm.evaluate.domain.charge import as_charge, check_multiplicity
from mace_mm.ml_mm.boundary import LinkDistances
from mace_mm.ml_mm.long_range import Reach
from mace_mm.ml_mm.region_charge import region_problems
from mace_mm.ml_mm.region_parts import MLAtoms, find_link_atoms
from mace_mm.ml_mm.system import EMBEDDINGS, create_mixed_system
from mace_mm.ml_mm.virtual_sites import virtual_sites
from mace_mm.openmm.force import copy_problem, make_force
from mace_mm.openmm.input import (
    is_periodic,
    ml_atoms,
    wants_interaction_energy,
)
from mace_mm.openmm.molecules import keep_molecules, topology_bonds, warn_of_lone_atoms
from mace_mm.units import ANGSTROM_TO_NM

_log = logging.getLogger(__name__)


class MacePotentialImpl(MLPotentialImpl):
    """MACE for OpenMM-ML.

    ``MLPotential('mace')`` is the bundled model `small`; ``modelPath=`` names the other one, an
    archive or a published mace-torch `.model`. It is read when the first System is made.

    Attributes:
        warnings: sentences about the System made last: what in it the model was not trained for.
    """

    # addForces takes interpolated=True.
    can_interpolate = True
    # createMixedSystem is told whether the caller removes the constraints of the region.
    wants_constraints = True

    def __init__(self, model_path: str | Path | None = None) -> None:
        self.model_path = model_path
        self._archive: Archive | None = None
        self.warnings: list[str] = []
        self._logged: set[str] = set()

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
        charge: float | None = None,
        multiplicity: float | None = None,
        allow_unknown_charge: bool = False,
        backend: str = "auto",
        engine: str = "auto",
        mlLongRange: bool | None = None,  # noqa: N803
        linkAtomDistances: Any = None,  # noqa: N803
        constraintsGo: bool = True,  # noqa: N803
        interpolated: bool = False,
        force_field: openmm.System | None = None,
        **unknown: Any,
    ) -> None:
        """Add the model's Force to a System.

        Args:
            topology: of the System; its elements choose the species.
            system: may be empty, as interpolation passes it.
            atoms: indices of the atoms of the model, in any order; None for all with an element.
            forceGroup: of the new Force.
            precision: "single" (the default) or "double", of the network; sums are in double.
            returnEnergyType: "interaction_energy", or "energy", with that of isolated atoms.
            device: "cpu", "cuda" or "cuda:N"; None for a GPU if there is one.
            charge, multiplicity, allow_unknown_charge, force_field: see :meth:`check_charge`.
            backend: "torchforce", "pythontorchforce", "pythonforce"; "auto": the first that works.
            engine: "native" (compiled), "reference" (plain torch); "auto": the fastest.
            mlLongRange, linkAtomDistances, constraintsGo: of the embedding; not used here.
            interpolated: scale by the parameter of :mod:`mace_mm.openmm.interpolation`.

        Raises:
            ConfigError, InputError, ElementError, ChargeError, BackendError, ArchiveError: what is
                wrong with the arguments, atoms, elements, charge, machine or file.
        """
        if unknown:
            raise ConfigError(f"unknown arguments of the mace potential: {sorted(unknown)}")
        interaction_energy = wants_interaction_energy(returnEnergyType)
        indices, numbers = ml_atoms(topology, system, atoms)
        if backend == "torchforce" and not system.getNumParticles() and not interpolated:
            _check_copies()
        self.warnings = self.check_charge(
            topology,
            system,
            indices,
            charge=charge,
            multiplicity=multiplicity,
            allow_unknown_charge=allow_unknown_charge,
            force_field=force_field,
        )
        self._log_warnings()
        evaluator = build_evaluator(
            self._open(),
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

    def check_charge(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        *,
        charge: float | None = None,
        multiplicity: float | None = None,
        allow_unknown_charge: bool = False,
        force_field: openmm.System | None = None,
    ) -> list[str]:
        """Compare charge and spin of atoms with what the model was trained for.

        Args:
            topology: of the System.
            system: may be empty.
            atoms: indices of the atoms of the model; None for all with an element. Virtual sites
                among them are passed over, their charges count with their atoms.
            charge: their total charge, e; it is compared with the charges of the force field, the
                formal charges of the topology, and what the model was trained for.
            multiplicity: 2 S + 1.
            allow_unknown_charge: for research: warn of a charge that the model was not trained for
                instead of refusing it.
            force_field: of a mixed system: what the region was taken from, if not ``system``; its
                charges tell that of the region.

        Returns:
            sentences to warn with, see :func:`mace_mm.ml_mm.region_charge.region_problems`.

        Raises:
            ChargeError: a charge that the model was not trained for, or contradictory ones.
            ConfigError, InputError, ElementError: another multiplicity than 1, a charge that is no
                number, atoms that the model cannot evaluate.
        """
        if atoms is not None:
            every, sites = list(topology.atoms()), virtual_sites(system)
            atoms = [i for i in atoms if i not in sites or every[i].element is not None]
        indices, numbers = ml_atoms(topology, system, atoms)
        archive = self._open()
        species_index(numbers, archive.config.atomic_numbers)
        check_multiplicity(multiplicity)
        particles = range(len(numbers)) if indices is None else indices
        return region_problems(
            archive,
            MLAtoms(
                topology=topology,
                particles=particles,
                atomic_numbers=numbers,
                force_field=system if force_field is None else force_field,
                link_atoms=find_link_atoms(system, particles),
            ),
            charge=None if charge is None else as_charge(charge, "charge"),
            allow_unknown_charge=allow_unknown_charge,
        )

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
        longRangeWithinRegion: Any = None,  # noqa: N803
        constraintsGo: bool = True,  # noqa: N803
        **arguments: Any,
    ) -> openmm.System | dict[str, Any]:
        """Build a mixed system; see :func:`mace_mm.ml_mm.system.create_mixed_system`."""
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
            long_range_within_region=longRangeWithinRegion,
            constraints_go=constraintsGo,
            force_field=system,
            **arguments,
        )
        info["warnings"] = self.warnings + info["warnings"]
        return info if returnInfo else info["system"]

    def getMLLongRange(self) -> bool:  # noqa: N802 (OpenMM-ML's name)
        """False: the model is local, periodic images beyond its cutoff do not interact."""
        return False

    def getReach(self) -> Reach:  # noqa: N802 (OpenMM-ML's style)
        """Beyond it the model knows no interaction."""
        config = self._open().config
        cutoff = config.r_max * ANGSTROM_TO_NM
        return Reach(within=cutoff * config.n_layers, between=cutoff)

    def _log_warnings(self) -> None:
        """Say once what the model was not trained for; interpolation adds the force twice."""
        for problem in self.warnings:
            if problem not in self._logged:
                _log.warning("outside what the model was trained for: %s", problem)
                self._logged.add(problem)

    def _open(self) -> Archive:
        if self._archive is None:
            self._archive = open_potential(self.model_path)
        return self._archive


def _check_copies() -> None:
    """Refuse what OpenMM-ML's interpolation copies: it passes an empty System for that."""
    problem = copy_problem()
    if problem is not None:
        raise BackendError(f"backend 'torchforce' cannot be interpolated here: {problem}")


def _keep_molecules(topology: app.Topology, system: openmm.System) -> None:
    every = range(system.getNumParticles())
    bonds = topology_bonds(topology, every)
    keep_molecules(system, bonds)
    if is_periodic(topology, system):
        warn_of_lone_atoms(topology, every, bonds)
