"""The entry points of OpenMM-ML: who answers to ``MLPotential('mace')``.

OpenMM-ML loads this file while it is being imported itself. So nothing but the standard library is
imported at the top, the classes only look like OpenMM-ML's factories (whose module may not be
complete yet), and nothing here may raise at import.
"""

import functools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mace_mm.errors import ArchiveError, ConfigError

if TYPE_CHECKING:
    from openmmml.mlpotential import Embedding, MLPotentialImpl

NAME = "mace"
ALIAS = "mace-mm"
# Names of OpenMM-ML for published models, and the files that mace-torch and OpenMM-ML keep them in.
PUBLISHED_FILES = {
    "mace-off23-small": "MACE-OFF23_small.model",
    "mace-off23-medium": "MACE-OFF23_medium.model",
    "mace-off23-large": "MACE-OFF23_large.model",
    "mace-off24-medium": "MACE-OFF24_medium.model",
}
CACHES = ("mace", "openmm-ml")

_log = logging.getLogger(__name__)


class MacePotentialImplFactory:
    """Makes :class:`mace_mm.ml_mm.potential.MacePotentialImpl` for OpenMM-ML."""

    def createImpl(  # noqa: N802 (OpenMM-ML's name)
        self, name: str, modelPath: str | Path | None = None, **unknown: Any
    ) -> "MLPotentialImpl":
        """Make the potential that ``MLPotential(name, modelPath=...)`` stands for.

        Raises:
            ConfigError: unknown arguments, or a path beside the name of a published model.
            ArchiveError: the file is not there.
        """
        if unknown:
            raise ConfigError(f"MLPotential({name!r}) takes modelPath, got also {sorted(unknown)}")
        if name in PUBLISHED_FILES:
            if modelPath is not None:
                raise ConfigError(f"{name!r} names its model; use {NAME!r} with modelPath")
            modelPath = published_file(name)
        from mace_mm.ml_mm.potential import MacePotentialImpl

        return MacePotentialImpl(modelPath)


class MaceEmbeddingFactory:
    """Registers the potentials for good; as an embedding, OpenMM-ML's mechanical one.

    OpenMM-ML itself registers an implementation of 'mace', and whichever package is discovered last
    wins. Embeddings are constructed after all potentials are registered, so that here the names are
    taken whatever the order was.
    """

    def __init__(self) -> None:
        from openmmml.mlpotential import MLPotential

        for name in (NAME, ALIAS, *PUBLISHED_FILES):
            MLPotential.registerImplFactory(name, MacePotentialImplFactory())
        _read_atoms_once(MLPotential)

    def createEmbedding(self, name: str) -> "Embedding":  # noqa: N802 (OpenMM-ML's name)
        """The mechanical embedding."""
        from openmmml.embeddings.mechanicalembedding import MechanicalEmbedding

        return MechanicalEmbedding()


class ElectrostaticEmbeddingFactory:
    """Electrostatic embedding for any potential of OpenMM-ML."""

    def createEmbedding(self, name: str) -> "ElectrostaticEmbedding":  # noqa: N802
        """The embedding; it has no settings."""
        return ElectrostaticEmbedding()


class ElectrostaticEmbedding:
    """Charges of the force field polarize the ML region."""

    def createMixedSystem(  # noqa: N802 (OpenMM-ML's names)
        self,
        potential: "MLPotentialImpl",
        topology: Any,
        system: Any,
        atoms: list[int],
        forceGroup: int,  # noqa: N803
        interpolate: bool,
        returnInfo: bool = False,  # noqa: N803
        *,
        mlLongRange: bool | None = None,  # noqa: N803
        linkAtomDistances: Any = (),  # noqa: N803
        longRangeWithinRegion: Any = None,  # noqa: N803
        **arguments: Any,
    ) -> Any:
        """Build a mixed system; see :func:`mace_mm.ml_mm.system.create_mixed_system`."""
        from mace_mm.ml_mm.system import create_mixed_system

        info = create_mixed_system(
            potential,
            topology,
            system,
            atoms,
            embedding="electrostatic",
            force_group=forceGroup,
            interpolate=interpolate,
            ml_long_range=mlLongRange,
            link_atom_distances=linkAtomDistances,
            long_range_within_region=longRangeWithinRegion,
            **arguments,
        )
        return info if returnInfo else info["system"]


def _read_atoms_once(potential_class: Any) -> None:
    """Let ``createMixedSystem`` take generators, and tell our potential about constraints.

    OpenMM-ML 1.8 reads ``atoms`` twice: from a generator it takes the ML region, and then finds no
    atoms whose constraints to remove.
    """
    original = potential_class.createMixedSystem
    if hasattr(original, "reads_atoms_once"):
        return

    @functools.wraps(original)
    def create_mixed_system(
        self: Any,
        topology: Any,
        system: Any,
        atoms: Any,
        removeConstraints: bool = True,  # noqa: N803
        *positional: Any,
        **arguments: Any,
    ) -> Any:
        if getattr(self._impl, "wants_constraints", False):
            arguments["constraintsGo"] = removeConstraints
        return original(
            self, topology, system, list(atoms), removeConstraints, *positional, **arguments
        )

    create_mixed_system.reads_atoms_once = True  # type: ignore[attr-defined]
    potential_class.createMixedSystem = create_mixed_system


def published_file(name: str) -> Path:
    """The file of a published model where mace-torch or OpenMM-ML keep it.

    Raises:
        ArchiveError: it is in none of the places; the message lists them.
    """
    roots = dict.fromkeys([os.environ.get("XDG_CACHE_HOME") or "~/.cache", "~/.cache"])
    places = [
        Path(root).expanduser() / cache / PUBLISHED_FILES[name]
        for root in roots
        for cache in CACHES
    ]
    for place in places:
        if place.is_file():
            _log.warning(
                "%s: using %s; its publisher's licence (ASL, no commercial use) applies",
                name,
                place,
            )
            return place
    listed = " or ".join(str(place) for place in places)
    raise ArchiveError(
        f"{name!r} needs the published file at {listed}, which does not exist: download it from "
        f"its publisher to there, or use MLPotential({NAME!r}, modelPath=FILE)"
    )
