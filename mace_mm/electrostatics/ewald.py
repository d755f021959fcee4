"""The smooth part of the electric field of point charges and all their images, on a mesh.

Smooth particle mesh Ewald (U. Essmann et al., J. Chem. Phys. 103, 8577, 1995), with conducting
surroundings and a uniform background that neutralizes the charges. Units are e and Å, without the
Coulomb constant. Charges, and dipoles in their field, live on the same mesh, so that forces are the
exact derivatives of the energy on it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

# Mesh points per length 1/splitting, and the part of a field that the splitting leaves out beyond
# the cutoff. Together they give fields to 2e-4 e/Å², where a charge 5 Å away makes 4e-2.
_POINTS_PER_WIDTH = 3.0
_TOLERANCE = 1e-4
# Points along each axis that a particle is spread on: cubic splines, the lowest order whose second
# derivative, which is a force on a dipole, is continuous.
_ORDER = 4


def ewald_splitting(cutoff: float) -> float:
    """Splitting in 1/Å at which the short-ranged part of the field ends at the cutoff (Å)."""
    return math.sqrt(-math.log(2.0 * _TOLERANCE)) / cutoff


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """A mesh in a box and how a charge on one point acts on another.

    Attributes:
        cell: (3, 3) Å box vectors as rows.
        shape: numbers of points.
        to_points: (3, 3) turns positions into units of mesh points, 1/Å.
        influence: (n_a, n_b, n_c // 2 + 1) transform of the potential of a charge on a point, 1/Å.
    """

    cell: torch.Tensor
    shape: tuple[int, int, int]
    to_points: torch.Tensor
    influence: torch.Tensor

    def potential(self, values: torch.Tensor) -> torch.Tensor:
        """Potential on the mesh of charges on its points, both (n_a, n_b, n_c)."""
        transform = torch.fft.rfftn(values)
        transform *= self.influence
        return torch.fft.irfftn(transform, s=self.shape, norm="forward")


def make_mesh(cell: torch.Tensor, splitting: float) -> Mesh:
    """A mesh fine enough for the splitting (1/Å) in a box (3, 3) Å."""
    inverse = torch.linalg.inv(cell)
    # Distances between the faces of the box, whatever its angles.
    heights = (1.0 / torch.linalg.norm(inverse, dim=0)).tolist()
    a, b, c = (_fast_size(math.ceil(_POINTS_PER_WIDTH * splitting * h)) for h in heights)
    waves = [torch.fft.fftfreq(a, 1.0 / a), torch.fft.fftfreq(b, 1.0 / b)]
    waves.append(torch.fft.rfftfreq(c, 1.0 / c))
    waves = [w.to(cell.dtype) for w in waves]
    vectors = torch.cartesian_prod(*waves) @ inverse.T
    squared = (vectors**2).sum(1)
    # The wave of infinite length is the mean potential, which the background makes zero.
    squared[0] = math.inf
    volume = float(torch.linalg.det(cell).abs())
    decay = torch.exp(-(math.pi**2) * squared / splitting**2) / (math.pi * volume * squared)
    decay[0] = 0.0
    # A wave on the mesh is larger than its spline by this factor, once for each end of a pair.
    x, y, z = (
        (2.0 + torch.cos(2.0 * math.pi * wave / size)) / 3.0
        for wave, size in zip(waves, (a, b, c), strict=True)
    )
    splines = x[:, None, None] * y[:, None] * z
    influence = decay.reshape(splines.shape) / splines**2
    to_points = inverse * torch.tensor([a, b, c], dtype=cell.dtype)
    return Mesh(cell=cell, shape=(a, b, c), to_points=to_points, influence=influence)


class Stencil:
    """Where particles lie on a mesh, and their weights on the points around them."""

    def __init__(self, mesh: Mesh, positions: torch.Tensor) -> None:
        """
        Args:
            mesh: in the box of the particles.
            positions: (n_particles, 3) Å, in the box or not.
        """
        self._mesh = mesh
        points = (positions @ mesh.to_points).T
        whole = torch.floor(points)
        self._rest = (points - whole).contiguous()
        first = whole.to(torch.int64)
        back = torch.arange(_ORDER)[:, None]
        # Of shape (order, n_particles) for each axis: how far its points are from the first one.
        strides = (mesh.shape[1] * mesh.shape[2], mesh.shape[2], 1)
        self._offsets = [(first[d] - back) % mesh.shape[d] * strides[d] for d in range(3)]
        self._weights = [_splines(x) for x in self._rest]
        self._slopes = [_spline_slopes(x) for x in self._rest]

    def spread(self, charges: torch.Tensor) -> torch.Tensor:
        """Charges (n_particles,) on the mesh."""
        values = torch.zeros(self._mesh.shape, dtype=charges.dtype)
        flat = values.view(-1)
        x, y, z = self._weights
        for i, j, row in self._rows():
            share = (charges * x[i] * y[j]) * z
            flat.scatter_add_(0, row.view(-1), share.view(-1))
        return values

    def spread_dipoles(self, dipoles: torch.Tensor) -> torch.Tensor:
        """Dipoles (n_particles, 3) on the mesh."""
        values = torch.zeros(self._mesh.shape, dtype=dipoles.dtype)
        flat = values.view(-1)
        along = self._mesh.to_points.T @ dipoles.T
        (x, y, z), (x1, y1, z1) = self._weights, self._slopes
        for i, j, row in self._rows():
            share = (along[0] * x1[i] * y[j] + along[1] * x[i] * y1[j]) * z
            share += (along[2] * x[i] * y[j]) * z1
            flat.scatter_add_(0, row.view(-1), share.view(-1))
        return values

    def gradient(self, potential: torch.Tensor) -> torch.Tensor:
        """Gradient of a potential on the mesh at the particles, (n_particles, 3)."""
        # NumPy collects scattered values in half the time that torch takes.
        flat = potential.reshape(-1).numpy()
        (x, y, z), (x1, y1, z1) = self._weights, self._slopes
        slopes = torch.zeros_like(self._rest)
        for i, j, row in self._rows():
            near = torch.from_numpy(flat.take(row.numpy()))
            along = (near * z).sum(0)
            slopes[0] += x1[i] * y[j] * along
            slopes[1] += x[i] * y1[j] * along
            slopes[2] += x[i] * y[j] * (near * z1).sum(0)
        return (self._mesh.to_points @ slopes).T

    def curvature(self, potential: torch.Tensor) -> torch.Tensor:
        """Second derivatives of a potential on the mesh at the particles, (n_particles, 3, 3)."""
        a, b, c = self._offsets
        near = potential.reshape(-1)[a[:, None, None] + b[None, :, None] + c]
        orders = (self._weights, self._slopes, [_spline_curvatures(x) for x in self._rest])
        second = torch.empty((near.shape[-1], 3, 3), dtype=potential.dtype)
        for d in range(3):
            for e in range(d, 3):
                times = [(d == axis) + (e == axis) for axis in range(3)]
                x, y, z = (orders[n][axis] for axis, n in enumerate(times))
                curved = (near * x[:, None, None] * y[None, :, None] * z).sum((0, 1, 2))
                second[:, d, e] = second[:, e, d] = curved
        return self._mesh.to_points @ second @ self._mesh.to_points.T

    def _rows(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Two of the indices, and the points (order, n_particles) along the third."""
        a, b, c = self._offsets
        for i in range(_ORDER):
            for j in range(_ORDER):
                yield i, j, (a[i] + b[j]) + c


def _splines(x: torch.Tensor) -> torch.Tensor:
    """Cubic B-spline at x, x + 1, x + 2 and x + 3 for x (n,) from 0 to 1, (4, n)."""
    y = 1.0 - x
    second = (1.0 + 3.0 * x * (1.0 + x * y)) / 6.0
    third = (1.0 + 3.0 * y * (1.0 + y * x)) / 6.0
    return torch.stack([x**3 / 6.0, second, third, y**3 / 6.0])


def _spline_slopes(x: torch.Tensor) -> torch.Tensor:
    """First derivatives of :func:`_splines`."""
    y = 1.0 - x
    return 0.5 * torch.stack([x**2, 1.0 + x * (2.0 - 3.0 * x), y * (3.0 * y - 2.0) - 1.0, -(y**2)])


def _spline_curvatures(x: torch.Tensor) -> torch.Tensor:
    """Second derivatives of :func:`_splines`."""
    return torch.stack([x, 1.0 - 3.0 * x, 3.0 * x - 2.0, 1.0 - x])


def _fast_size(least: int) -> int:
    """The next number without prime factors above 5, for the Fourier transform."""
    size = max(least, _ORDER)
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1
