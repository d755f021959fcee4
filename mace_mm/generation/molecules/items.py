"""The units of work: a molecule, a dimer or a cluster, each with its own seed and key."""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import BaseModel
from rdkit import Chem

from mace_mm.generation.frames.seeding import derive_seed
from mace_mm.generation.labels.named_files import contents_of
from mace_mm.generation.molecules.molecules import (
    Candidate,
    from_mapped_smiles,
    mapped_smiles,
    parse_smiles,
)
from mace_mm.generation.protocol import ClusterSettings, DimerSettings, Protocol, fingerprint

WATER = "O"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One group of the dataset to be.

    Attributes:
        name: the group's name.
        subset: its subset.
        kind: molecule, given (frames come from a file), dimer or cluster.
        parts: mapped SMILES of the parts, in order; one for a molecule.
        settings: index into the protocol's ``dimers`` or ``clusters``, else 0.
        conformers: (file, group) of given conformers.
        n_frames: how many given conformers to use.
        resample: given conformers start the sampling.
    """

    name: str
    subset: str
    kind: str
    parts: tuple[str, ...]
    settings: int = 0
    conformers: tuple[str, str] | None = None
    n_frames: int = 0
    resample: bool = False

    def molecule(self) -> Chem.Mol:
        """All parts as one RDKit molecule with hydrogens; parts follow one another."""
        mol = from_mapped_smiles(self.parts[0])
        for part in self.parts[1:]:
            mol = Chem.CombineMols(mol, from_mapped_smiles(part))
        if len(self.parts) > 1:
            Chem.SanitizeMol(mol)
        return mol

    def smiles(self) -> str:
        """Mapped SMILES in the order of the atoms."""
        return self.parts[0] if len(self.parts) == 1 else mapped_smiles(self.molecule())


def make_items(molecules: Iterable[Candidate], protocol: Protocol) -> list[Item]:
    """Molecules in their order, then dimers, then clusters; every choice is seeded."""
    molecules = list(molecules)
    items = [
        Item(
            name=m.name,
            subset=m.subset,
            kind="molecule" if m.conformers is None or m.resample else "given",
            parts=(m.smiles,),
            conformers=m.conformers,
            n_frames=m.n_frames,
            resample=m.resample,
        )
        for m in molecules
    ]
    single = [m for m in molecules if "." not in m.smiles]
    for index, dimers in enumerate(protocol.dimers):
        items.extend(_dimers(single, dimers, index, protocol.seed))
    for index, clusters in enumerate(protocol.clusters):
        items.extend(_clusters(single, clusters, index, protocol.seed))
    return items


def _mapped(smiles: str) -> str:
    return mapped_smiles(Chem.AddHs(parse_smiles(smiles)))


def _n_atoms(smiles: str) -> int:
    return smiles.count(":")


def _dimers(
    molecules: list[Candidate], settings: DimerSettings, index: int, seed: int
) -> list[Item]:
    water = Candidate(name="water", subset="", smiles=_mapped(WATER), origin="")
    chooser = random.Random(derive_seed(seed, "dimers", index))
    items: dict[str, Item] = {}
    for _ in range(20 * settings.count):
        if len(items) == settings.count or not molecules:
            break
        first = chooser.choice(molecules)
        second = water if chooser.random() < settings.with_water else chooser.choice(molecules)
        name = f"{settings.subset}:{first.name}+{second.name}"
        if _n_atoms(first.smiles) + _n_atoms(second.smiles) > settings.max_atoms:
            continue
        items[name] = Item(
            name=name,
            subset=settings.subset,
            kind="dimer",
            parts=(first.smiles, second.smiles),
            settings=index,
        )
    return list(items.values())


def _clusters(
    molecules: list[Candidate], settings: ClusterSettings, index: int, seed: int
) -> list[Item]:
    solvent = _mapped(settings.solvent)
    small = [m for m in molecules if _n_atoms(m.smiles) <= settings.max_solute_atoms]
    chooser = random.Random(derive_seed(seed, "clusters", index))
    items = []
    for number in range(settings.count):
        n_solvent = chooser.randint(*settings.n_solvent)
        if settings.pure_solvent:
            parts, title = (solvent,) * n_solvent, settings.solvent
        elif small:
            solute = chooser.choice(small)
            parts, title = (solute.smiles, *(solvent,) * n_solvent), solute.name
        else:
            break
        name = f"{settings.subset}:{number + 1}:{title}+{n_solvent}"
        items.append(
            Item(name=name, subset=settings.subset, kind="cluster", parts=parts, settings=index)
        )
    return items


def sampling_key(item: Item, protocol: Protocol, content: str) -> str:
    """Names the frames of an item: changes with anything that decides them.

    Args:
        content: fingerprint of given conformers, "" without them.
    """
    decisive: list[BaseModel | str | int] = [protocol.seed, item.kind, item.name, *item.parts]
    decisive += [content, item.n_frames]
    match item.kind:
        case "given":
            pass
        case "dimer":
            decisive += [protocol.dimers[item.settings], protocol.conformers]
        case _:
            decisive += [protocol.conformers, protocol.sampling, protocol.selection, protocol.cold]
            decisive += contents_of(protocol.sampling.force.options)
    if item.kind == "cluster":
        decisive.append(protocol.clusters[item.settings])
    return fingerprint(*decisive)
