"""The uncertainty of one model's forces, from how far an atom's features are from the training set.

Mahalanobis distance to the features of the same element in training (K. Lee et al., NeurIPS 2018,
arXiv:1807.03888, Eq. 2), mapped to a force error by what was seen on held-out frames.
"""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from mace_mm.errors import ArchiveError, InputError
from mace_mm.graph.graph import Graph
from mace_mm.model.mace.features import scalar_features
from mace_mm.model.potential import Potential

FORMAT = "mace_mm uncertainty"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Uncertainty:
    """A calibrated estimate of force errors, for one set of weights.

    Attributes:
        sha256: of the weights it was made for.
        means: (n_species, n_features) mean features of every element.
        whitening: (n_species, n_features, n_features); distances are norms of (f - mean) @ W.
        seen: (n_species,) bool, elements that occur in the training frames.
        knots: (n_knots,) distances, ascending.
        errors: (n_knots,) root-mean-square error of a force component there, eV/Å, not falling.
    """

    sha256: str
    means: torch.Tensor
    whitening: torch.Tensor
    seen: torch.Tensor
    knots: torch.Tensor
    errors: torch.Tensor

    def distances(self, potential: Potential, graph: Graph) -> torch.Tensor:
        """(n_atoms,) float64 distance of every atom from the training set; infinite for an
        element that was not in it."""
        if self.means.size(0) != potential.network.config.n_species:
            raise InputError("the uncertainty was made for a model with other elements")
        with torch.no_grad():
            features = scalar_features(potential.network, graph).double()
        centered = features - self.means.index_select(0, graph.species)
        size = torch.empty(features.size(0), dtype=torch.float64)
        for z in graph.species.unique():
            atoms = torch.nonzero(graph.species == z).squeeze(1)
            size[atoms] = torch.linalg.vector_norm(centered[atoms] @ self.whitening[z], dim=1)
        return torch.where(self.seen.index_select(0, graph.species), size, torch.inf)

    def __call__(self, potential: Potential, graph: Graph) -> torch.Tensor:
        """Expected root-mean-square error of every atom's force components, (n_atoms,) eV/Å."""
        return self.calibrated(self.distances(potential, graph))

    def calibrated(self, distances: torch.Tensor) -> torch.Tensor:
        """Interpolate between the knots; beyond the last one errors grow with the distance."""
        place = torch.bucketize(distances, self.knots).clamp(1, self.knots.numel() - 1)
        x0, x1 = self.knots[place - 1], self.knots[place]
        y0, y1 = self.errors[place - 1], self.errors[place]
        share = ((distances - x0) / (x1 - x0)).clamp(0.0, 1.0)
        inside = y0 + share * (y1 - y0)
        return inside * (distances / self.knots[-1]).clamp(min=1.0)

    def save(self, path: str | Path) -> None:
        """Write tensors and a JSON header into one file that `torch.load` opens as data."""
        content = {
            "header": json.dumps(
                {"format": FORMAT, "version": FORMAT_VERSION, "sha256": self.sha256}
            ),
            "means": self.means,
            "whitening": self.whitening,
            "seen": self.seen,
            "knots": self.knots,
            "errors": self.errors,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        Path(path).write_bytes(buffer.getvalue())


def load_uncertainty(path: str | Path, sha256: str | None = None) -> Uncertainty:
    """Read an uncertainty.

    Args:
        path: the file.
        sha256: of the model it is to be used with; compared if given.

    Raises:
        ArchiveError: missing, damaged or foreign file, of a newer version, or made for other
            weights.
    """
    path = Path(path)
    if not zipfile.is_zipfile(path):
        raise ArchiveError(f"expected an uncertainty file, got {str(path)!r}: missing or damaged")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        header = json.loads(content.pop("header"))
        if header["format"] != FORMAT or header["version"] > FORMAT_VERSION:
            raise ArchiveError(
                f"{path} is {header['format']!r} version {header['version']}, expected "
                f"{FORMAT!r} up to version {FORMAT_VERSION}"
            )
        made = Uncertainty(sha256=header["sha256"], **content)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArchiveError(f"{path} is not an uncertainty file: {error}") from error
    if sha256 is not None and made.sha256 != sha256:
        raise ArchiveError(
            f"{path} was made for the weights {made.sha256[:12]}, the model has {sha256[:12]}"
        )
    return made
