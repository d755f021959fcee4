"""Labels of an ANI committee (C. Devereux et al., J. Chem. Theory Comput. 16, 4192, 2020)."""

import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from mace_mm.elements import atomic_number as number_of
from mace_mm.elements import symbol
from mace_mm.errors import ConfigError, DependencyError
from mace_mm.generation.labels.base import FrameLabels, LabelError, provenance
from mace_mm.generation.labels.settings import LabelSettings
from mace_mm.units import HARTREE_TO_EV

BATCH_ATOMS = 1500


class ANICommittee:
    """Mean and sample standard deviation of networks in NeuroChem format (float32).

    ``path`` names the info file: constants, self energies, prefix of the members' folders and
    their number, one a line.

    Raises:
        DependencyError: torchani is not installed.
        ConfigError: the files are missing or not what torchani reads.
    """

    def __init__(self, settings: LabelSettings) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torchani import neurochem
        except ImportError as error:
            raise DependencyError(
                f"labels of kind 'ani' want the package torchani: {error}"
            ) from error
        info = Path(str(settings.path))
        try:
            constants, energies, prefix, count = info.read_text().split()[:4]
            aev, symbols = neurochem.load_aev_computer_and_symbols(info.parent / constants)
            ensemble = neurochem.load_ensemble(symbols, info.parent / prefix, int(count))
            self_energies = neurochem.load_sae(info.parent / energies).self_energies
        except (OSError, ValueError, neurochem.NeurochemParseError) as error:
            raise ConfigError(f"{info} does not name networks that can be read: {error}") from error
        self._aev = aev.to(torch.float32).requires_grad_(False)
        self._members = list(ensemble.to(torch.float32).requires_grad_(False).members)
        self._species = {number_of(s): i for i, s in enumerate(symbols)}
        self._atoms = {
            number_of(s): float(e) * HARTREE_TO_EV
            for s, e in zip(symbols, self_energies, strict=True)
        }
        self._atoms.update(
            {number_of(s): e * HARTREE_TO_EV for s, e in (settings.atom_energies or {}).items()}
        )
        self.provenance = provenance(
            settings, torchani=version("torchani"), torch=version("torch")
        ) | {"committee_members": str(len(self._members))}

    def label(self, atomic_numbers: np.ndarray, frames: np.ndarray, charge: int) -> FrameLabels:
        """See `Labeler.label`.

        Raises:
            LabelError: a charge or an element that the networks were not made for.
        """
        if charge != 0:
            raise LabelError(f"ANI describes neutral molecules, got total charge {charge}")
        foreign = sorted({int(z) for z in atomic_numbers} - set(self._species))
        if foreign:
            raise LabelError(f"ANI has no networks for {' '.join(symbol(z) for z in foreign)}")
        n_batch = max(1, BATCH_ATOMS // len(atomic_numbers))
        batches = [frames[i : i + n_batch] for i in range(0, len(frames), n_batch)]
        results = [self._members_of(atomic_numbers, batch) for batch in batches]
        energies = np.concatenate([r[0] for r in results], axis=1)
        forces = np.concatenate([r[1] for r in results], axis=1)
        atom_energies = {int(z): self._atoms[int(z)] for z in atomic_numbers}
        mean = energies.mean(axis=0) + sum(self._atoms[int(z)] for z in atomic_numbers)
        mean_forces = forces.mean(axis=0)
        failed = ~(np.isfinite(mean) & np.isfinite(mean_forces).all(axis=(1, 2)))
        mean[failed] = np.nan
        mean_forces[failed] = np.nan
        return FrameLabels(
            energies=mean,
            forces=mean_forces,
            energy_std=energies.std(axis=0, ddof=1) if len(energies) > 1 else None,
            force_std=forces.std(axis=0, ddof=1) if len(forces) > 1 else None,
            failures={int(i): "ANI: values are not finite" for i in np.flatnonzero(failed)},
            atom_energies=atom_energies,
            provenance=self.provenance,
        )

    def _members_of(
        self, atomic_numbers: np.ndarray, frames: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Interaction energies (n_members, n_frames) eV and forces of every member, float64."""
        species = torch.tensor([self._species[int(z)] for z in atomic_numbers])
        species = species.repeat(len(frames), 1)
        positions = torch.tensor(frames, dtype=torch.float32, requires_grad=True)
        aevs = self._aev(species, positions)
        energies, forces = [], []
        for member in self._members:
            energy = member(species, aevs)
            (gradient,) = torch.autograd.grad(energy.sum(), positions, retain_graph=True)
            energies.append(energy.detach().double().numpy() * HARTREE_TO_EV)
            forces.append(-gradient.double().numpy() * HARTREE_TO_EV)
        return np.stack(energies), np.stack(forces)
