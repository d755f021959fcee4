"""The validated protocol: one YAML file that drives every step and is stored with the data.

The defaults are those of SPICE (P. Eastman et al., Sci. Data 10, 11, 2023): 10 conformers, Langevin
dynamics at 500 K, 25 hot frames kept by farthest-point selection, 25 cold frames from five
minimization steps and 1 ps at 100 K. Unknown keys are errors.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from mace_mm.elements import atomic_number
from mace_mm.generation.labels.settings import LabelSettings, Option
from mace_mm.generation.work.execution_settings import ExecutionSettings
from mace_mm.settings import SafeName, read_yaml, validated

Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of every section: immutable, and a misspelled key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SmilesSource(Section):
    """SMILES written in the protocol itself; ``name: SMILES`` or a plain list."""

    kind: Literal["smiles"]
    subset: str = "molecules"
    smiles: dict[str, str] | list[str]


class FileSource(Section):
    """A .smi, .csv or .sdf file; columns are used by CSV only."""

    kind: Literal["file"]
    subset: str = "molecules"
    path: Path
    smiles_column: str = "smiles"
    name_column: str | None = None


class FreeSolvSource(Section):
    """The ``database.json`` of FreeSolv: SMILES by compound id."""

    kind: Literal["freesolv"]
    subset: str = "freesolv"
    path: Path


class SpiceSource(Section):
    """Conformers that a SPICE-like HDF5 file gives (``conformations`` with their unit).

    ``max_frames`` frames, evenly spaced through each group, go to the labels as they are, or, with
    ``resample``, start the sampling in place of RDKit conformers. ``max_groups`` takes a seeded
    random part of the groups.
    """

    kind: Literal["spice"]
    path: Path
    subset: str | None = None
    max_frames: Count = 50
    max_groups: Count | None = None
    resample: bool = False


class EnumerateSource(Section):
    """Molecules that RDKit enumerates: fragment combinations or capped peptides."""

    kind: Literal["enumerate"]
    what: Literal["fragments", "peptides"]
    subset: str | None = None
    count: Count
    residues: Annotated[int, Field(ge=1, le=4)] = 2


Source = Annotated[
    SmilesSource | FileSource | FreeSolvSource | SpiceSource | EnumerateSource,
    Field(discriminator="kind"),
]


class MoleculeSettings(Section):
    """Where molecules come from and which are kept.

    ``similarity`` below 1 drops near-duplicates (Tanimoto, Morgan fingerprints) of kept molecules.
    ``exclude_formulas_of`` names extxyz files, such as test sets: nothing with a formula that
    occurs in them is made.
    """

    sources: Annotated[list[Source], Field(min_length=1)]
    elements: list[str] = ["H", "C", "N", "O", "F", "S", "Cl"]
    min_atoms: Count = 2
    max_atoms: Count = 50
    charges: list[int] = [0]
    radicals: bool = False
    isotopes: Literal["reject", "strip"] = "reject"
    salts: Literal["reject", "largest"] = "reject"
    similarity: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_count: Count | None = None
    exclude_formulas_of: list[Path] = []

    @model_validator(mode="after")
    def _known_elements(self) -> "MoleculeSettings":
        for symbol in self.elements:
            atomic_number(symbol)
        return self


class ConformerSettings(Section):
    """RDKit ETKDGv3 conformers, relaxed with MMFF94 when ``relax`` is set."""

    count: Count = 10
    attempts: Count = 20
    relax: bool = True


class ForceSettings(Section):
    """What drives the dynamics.

    ``mmff94``: RDKit. ``tblite``: an xTB ``method``. ``openmm``: ``force_field`` XML files that
    must hold parameters for the molecule. ``ase``: any ``calculator`` by name (``mace`` takes an
    archive) with ``options``.
    """

    kind: Literal["mmff94", "tblite", "openmm", "ase"] = "mmff94"
    method: str = "GFN2-xTB"
    force_field: list[str] = []
    calculator: str | None = None
    options: dict[str, Option] = {}

    @model_validator(mode="after")
    def _complete(self) -> "ForceSettings":
        if self.kind == "openmm" and not self.force_field:
            raise ValueError("sampler 'openmm' wants 'force_field', a list of OpenMM XML files")
        if self.kind == "ase" and self.calculator is None:
            raise ValueError("sampler 'ase' wants 'calculator', a name or module:Class")
        return self


class SamplingSettings(Section):
    """Hot Langevin dynamics from every conformer."""

    force: ForceSettings = ForceSettings()
    temperature_k: Positive = 500.0
    timestep_fs: Positive = 1.0
    friction_per_ps: Positive = 1.0
    duration_ps: Positive = 100.0
    frames_per_conformer: Count = 10


class SelectionSettings(Section):
    """How many hot frames the farthest-point selection keeps (0: none)."""

    count: Annotated[int, Field(ge=0)] = 25


class ColdSettings(Section):
    """Cold frames: one from each selected hot frame, up to ``count`` (0: none)."""

    count: Annotated[int, Field(ge=0)] = 25
    minimization_steps: Annotated[int, Field(ge=0)] = 5
    temperature_k: Positive = 100.0
    duration_ps: Positive = 1.0


class DimerSettings(Section):
    """Rigid distance scans of random pairs of the kept molecules.

    ``distances`` are the closest contacts between the two molecules in Å; each of ``orientations``
    random mutual orientations is scanned once. ``with_water`` is the fraction of pairs whose second
    partner is water.
    """

    count: Count
    orientations: Count = 2
    distances: Annotated[list[Positive], Field(min_length=1)] = [
        1.7, 2.0, 2.3, 2.6, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0,
    ]  # fmt: skip
    with_water: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    max_atoms: Count = 25
    subset: str = "dimers"


class ClusterSettings(Section):
    """Molecules in a drop of solvent, sampled by dynamics inside a soft sphere."""

    count: Count
    solvent: str = "O"
    n_solvent: tuple[Count, Count] = (3, 12)
    max_solute_atoms: Count = 25
    pure_solvent: bool = False
    packings: Count = 2
    temperature_k: Positive = 300.0
    subset: str = "clusters"

    @model_validator(mode="after")
    def _ordered(self) -> "ClusterSettings":
        if self.n_solvent[0] > self.n_solvent[1]:
            raise ValueError(f"n_solvent wants (least, most), got {self.n_solvent}")
        return self


class DatasetSettings(Section):
    """What becomes data: limits beyond which a label is set aside, in SPICE's units."""

    max_gradient: Positive | None = 1.0
    max_energy_std: Positive | None = None
    max_gradient_std: Positive | None = None


class Protocol(Section):
    """Everything that decides the dataset.

    Paths stay as they are written, so that what is stored with the data names no machine; `located`
    finds them.
    """

    _folder: Path = PrivateAttr(default=Path())

    name: SafeName
    seed: Annotated[int, Field(ge=0)] = 0
    molecules: MoleculeSettings
    conformers: ConformerSettings = ConformerSettings()
    sampling: SamplingSettings = SamplingSettings()
    selection: SelectionSettings = SelectionSettings()
    cold: ColdSettings = ColdSettings()
    dimers: list[DimerSettings] = []
    clusters: list[ClusterSettings] = []
    labels: Annotated[list[LabelSettings], Field(min_length=1)]
    dataset: DatasetSettings = DatasetSettings()
    execution: ExecutionSettings = ExecutionSettings()

    @model_validator(mode="after")
    def _distinct_names(self) -> "Protocol":
        names = [label.name for label in self.labels]
        if len(set(names)) != len(names):
            raise ValueError(f"labels want distinct names, got {', '.join(names)}")
        subsets = [dimers.subset for dimers in self.dimers]
        subsets += [clusters.subset for clusters in self.clusters]
        if len(set(subsets)) != len(subsets):
            raise ValueError(f"dimers and clusters want distinct subsets, got {', '.join(subsets)}")
        return self

    def located(self, path: Path) -> Path:
        """A path of the protocol, taken from the folder of its file."""
        return self._folder / path

    def as_yaml(self) -> str:
        """The protocol as YAML without ``execution``: where it ran does not decide the data."""
        content = self.model_dump(mode="json", exclude={"execution"})
        return yaml.safe_dump(content, sort_keys=False)


def fingerprint(*sections: BaseModel | str | int | float | None) -> str:
    """A hash (64 hexadecimal digits) of settings; equal settings give equal hashes."""
    content = [s.model_dump(mode="json") if isinstance(s, BaseModel) else s for s in sections]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_protocol(path: str | Path) -> Protocol:
    """Read and validate a protocol; relative paths will be taken from the file's folder.

    Raises:
        ConfigError: no such file, not YAML, or a key or value that does not fit (all are listed).
    """
    path = Path(path)
    protocol = validated(read_yaml(path), Protocol, str(path))
    protocol._folder = path.resolve().parent
    return protocol
