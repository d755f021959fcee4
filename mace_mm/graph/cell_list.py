"""A cell list in plain torch that TorchScript compiles: linear memory, any box, any device.

Atoms are wrapped into the box, surrounded by those of their images that lie within the cutoff of
it, and sorted into bins as wide as the cutoff (M. P. Allen and D. J. Tildesley, Computer Simulation
of Liquids, 2nd ed., section 5.3.2). Only occupied bins are stored.
"""

import torch

from mace_mm.errors import GeometryError


def completed_cell(cell: torch.Tensor, pbc: torch.Tensor) -> torch.Tensor:
    """The lattice with unit vectors, normal to the rest, in place of zero rows along open axes.

    Raises:
        GeometryError: a periodic cell without volume.
    """
    lattice = cell.clone()
    for k in range(3):
        if not bool(pbc[k]) and not bool(lattice[k].abs().sum() > 0):
            a = lattice[(k + 1) % 3]
            b = lattice[(k + 2) % 3]
            if not bool(a.abs().sum() > 0):
                # Both are open: any axis will do that is not along the third row.
                a = torch.zeros_like(b)
                a[int(b.abs().argmin())] = 1.0
            if not bool(b.abs().sum() > 0):
                b = torch.zeros_like(a)
                b[int(a.abs().argmin())] = 1.0
            normal = torch.linalg.cross(a, b)
            lattice[k] = normal / normal.norm()
    if not bool(torch.linalg.det(lattice).abs() > 1e-6):
        raise GeometryError("a periodic cell must be finite and have a volume")
    return lattice


def images_within(
    fractional: torch.Tensor, pbc: torch.Tensor, margins: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every atom and every image of it that lies within a margin of the atoms' own extent.

    Args:
        fractional: (n_atoms, 3) fractional coordinates.
        pbc: (3,) bool.
        margins: (3,) cutoff over the distance of the box's faces.

    Returns:
        atoms (n_images,) int64 and the integer translation (n_images, 3) of each.
    """
    atoms = torch.arange(fractional.shape[0], device=fractional.device)
    shifts = torch.zeros_like(fractional)
    for k in range(3):
        if bool(pbc[k]):
            along = fractional[:, k]
            low = along.min() - margins[k]
            high = along.max() + margins[k]
            most = int(torch.ceil(margins[k] + along.max() - along.min()))
            steps = torch.arange(-most, most + 1, device=along.device).to(along.dtype)
            moved = along.index_select(0, atoms).unsqueeze(0) + steps.unsqueeze(1)
            kept = torch.nonzero((moved >= low) & (moved <= high))
            atoms = atoms.index_select(0, kept[:, 1])
            shifts = shifts.index_select(0, kept[:, 1])
            shifts[:, k] = steps.index_select(0, kept[:, 0])
    return atoms, shifts


def bin_numbers(points: torch.Tensor, width: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Integer bin (n, 3) of each point and the number of bins (3,) along each axis."""
    scaled = torch.floor((points - points.min(0).values) / width)
    if not bool(scaled.max() < 2.0e6):
        raise GeometryError("atoms are spread too far apart: more than two million cutoffs")
    bins = scaled.to(torch.int64)
    return bins, bins.max(0).values + 1


def column_pairs(
    bins: torch.Tensor,
    n_bins: torch.Tensor,
    sorted_keys: torch.Tensor,
    dx: int,
    dy: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates of every center in one column of three bins along z.

    Args:
        bins: (n_centers, 3) bins of the centers.
        n_bins: (3,).
        sorted_keys: (n_images,) ascending bin keys of all images.
        dx, dy: the column's offset from the center's bin.

    Returns:
        centers (n_pairs,) and places (n_pairs,) in the sorted order of images.
    """
    x = bins[:, 0] + dx
    y = bins[:, 1] + dy
    inside = (x >= 0) & (x < n_bins[0]) & (y >= 0) & (y < n_bins[1])
    column = (x * n_bins[1] + y) * n_bins[2]
    first = column + (bins[:, 2] - 1).clamp(min=0)
    last = column + torch.minimum(bins[:, 2] + 1, n_bins[2] - 1)
    begin = torch.searchsorted(sorted_keys, first)
    end = torch.searchsorted(sorted_keys, last, right=True)
    counts = torch.where(inside, end - begin, torch.zeros_like(begin))
    centers = torch.repeat_interleave(counts)
    before = (counts.cumsum(0) - counts - begin).index_select(0, centers)
    places = torch.arange(centers.shape[0], device=centers.device) - before
    return centers, places


def close_pairs(
    points: torch.Tensor, own: torch.Tensor, cutoff: float, one_bin_pairs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of a center and a point closer than the cutoff.

    Args:
        points: (n_points, 3), Å.
        own: (n_centers,) int64, the points that are centers.
        cutoff: Å.
        one_bin_pairs: as in :func:`full_neighbor_list`.

    Returns:
        centers (n_pairs,), places in ``own``, and partners (n_pairs,), indices of points. A center
        is not its own partner.
    """
    centers_at = points.index_select(0, own)
    width = cutoff * 1.0001  # a little wider, so that rounding cannot hide a pair two bins apart
    if points.shape[0] * own.shape[0] <= one_bin_pairs:
        extent = float((points.max(0).values - points.min(0).values).max())
        width = max(width, extent * 1.0001)
    bins, n_bins = bin_numbers(points, width)
    keys = (bins[:, 0] * n_bins[1] + bins[:, 1]) * n_bins[2] + bins[:, 2]
    order = torch.argsort(keys, stable=True)
    sorted_keys = keys.index_select(0, order)
    center_bins = bins.index_select(0, own)

    reach_x = min(1, int(n_bins[0]) - 1)
    reach_y = min(1, int(n_bins[1]) - 1)
    found_centers = [own[:0]]
    found_partners = [own[:0]]
    for dx in range(-reach_x, reach_x + 1):
        for dy in range(-reach_y, reach_y + 1):
            centers, places = column_pairs(center_bins, n_bins, sorted_keys, dx, dy)
            partners = order.index_select(0, places)
            vectors = centers_at.index_select(0, centers) - points.index_select(0, partners)
            close = (vectors * vectors).sum(1) < cutoff * cutoff
            close = close & (own.index_select(0, centers) != partners)
            kept = torch.nonzero(close).squeeze(1)
            found_centers.append(centers.index_select(0, kept))
            found_partners.append(partners.index_select(0, kept))
    return torch.cat(found_centers), torch.cat(found_partners)


def canonical_order(
    senders: torch.Tensor, receivers: torch.Tensor, cell_shifts: torch.Tensor, n_atoms: int
) -> torch.Tensor:
    """Permutation that sorts edges by receiver, sender and shift.

    Sums over neighbors then do not depend on when and where the list was built, so that a restarted
    simulation repeats the undisturbed one bit for bit.
    """
    pairs = receivers * n_atoms + senders
    shifts = cell_shifts.to(torch.int64)
    width = int(shifts.abs().max()) if shifts.shape[0] > 0 else 0
    if width == 0:
        return torch.argsort(pairs)
    side = 2 * width + 1
    by_shift = torch.argsort((shifts[:, 0] * side + shifts[:, 1]) * side + shifts[:, 2])
    by_pair = torch.argsort(pairs.index_select(0, by_shift), stable=True)
    return by_shift.index_select(0, by_pair)


def full_neighbor_list(
    positions: torch.Tensor,
    cell: torch.Tensor,
    pbc: torch.Tensor,
    cutoff: float,
    one_bin_pairs: int = 262144,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every pair closer than the cutoff, images included, sorted by receiver, sender, shift.

    The edge vector is ``positions[receivers] - positions[senders] + cell_shifts @ cell``.

    Args:
        positions: (n_atoms, 3), Å, anywhere in space.
        cell: (3, 3), rows, Å, or zeros.
        pbc: (3,) bool.
        cutoff: Å.
        one_bin_pairs: below this number of candidates one bin holds everything, which takes fewer
            and larger operations.

    Returns:
        senders (n_edges,) int64, receivers (n_edges,) int64, cell_shifts (n_edges, 3) in the
        dtype of the positions.

    Raises:
        GeometryError: positions not finite or too far apart, a periodic cell without volume or
            thinner than 0.5 Å.
    """
    if not bool(torch.isfinite(positions).all()):
        bad = int(torch.nonzero(~torch.isfinite(positions).all(1))[0])
        raise GeometryError(f"positions must be finite; those of atom {bad} are not")
    lattice = completed_cell(cell, pbc)
    inverse = torch.linalg.inv(lattice)
    # The columns of the inverse are the reciprocal vectors: 1/norm is the distance of the faces.
    thickness = 1.0 / inverse.square().sum(0).sqrt()
    thinnest = torch.where(pbc, thickness, torch.full_like(thickness, 1.0)).min()
    if not bool(thinnest >= 0.5):
        raise GeometryError(
            f"a periodic cell must be at least 0.5 Å thick, this one is {float(thinnest)} Å"
        )
    fractional = positions @ inverse
    home = torch.floor(fractional) * pbc.to(positions.dtype).unsqueeze(0)
    fractional = fractional - home
    atoms, shifts = images_within(fractional, pbc, cutoff / thickness)
    images_at = (fractional @ lattice).index_select(0, atoms) + shifts @ lattice

    # The untranslated atoms are among the images, in their own order: they are the centers.
    own = torch.nonzero((shifts == 0).all(1)).squeeze(1)
    receiver, image = close_pairs(images_at, own, cutoff, one_bin_pairs)
    sender = atoms.index_select(0, image)
    # The vector is x_i - (x_j + shift), where both x are still to be moved back from home.
    cell_shifts = (
        home.index_select(0, sender)
        - home.index_select(0, receiver)
        - shifts.index_select(0, image)
    )
    in_order = canonical_order(sender, receiver, cell_shifts, positions.shape[0])
    return (
        sender.index_select(0, in_order),
        receiver.index_select(0, in_order),
        cell_shifts.index_select(0, in_order),
    )
