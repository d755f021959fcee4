"""The evaluation form in plain torch: the definition, the fallback, and the test of the engine.

Works on every device and in the precision of the form. Derivatives come from autograd; neighbors
from a search over all pairs.
"""

import math
from typing import NamedTuple

import torch

from mace_mm.errors import GeometryError, InputError
from mace_mm.kernels.contraction_code import terms
from mace_mm.kernels.evaluation_form import unpack
from mace_mm.kernels.spherical_harmonics import spherical_harmonics

_PAIRS_AT_ONCE = 4_000_000


class Evaluated(NamedTuple):
    """Results for one system, as `mace_mm::energy_forces` returns them.

    Attributes:
        energies: (2,) float64 eV: total with E0, and interaction energy.
        forces: (n_atoms, 3) eV/Å, dtype of the positions.
        virial: (3, 3) float64 eV, -dE/d(strain), symmetric.
        node_energies: (n_atoms,) float64 eV, E0 included.
    """

    energies: torch.Tensor
    forces: torch.Tensor
    virial: torch.Tensor
    node_energies: torch.Tensor


def evaluate(
    model: torch.Tensor, positions: torch.Tensor, species: torch.Tensor, cell: torch.Tensor
) -> Evaluated:
    """Evaluate one system.

    Args:
        model: evaluation form, uint8.
        positions: (n_atoms, 3) Å.
        species: (n_atoms,) integers.
        cell: (3, 3) Å, rows; zero rows along open directions; or (0,) for none.

    Raises:
        InputError: a species that the model lacks.
        GeometryError: positions or cell not finite, a cell without volume, coincident atoms.
    """
    form = unpack(model)
    x = positions.detach().double()
    species = species.long()
    n_species = len(form["atomic_numbers"])
    if not bool(torch.isfinite(x).all()):
        raise GeometryError("positions must be finite")
    if len(species) and (int(species.min()) < 0 or int(species.max()) >= n_species):
        raise InputError(f"species must lie in 0 to {n_species - 1}")
    senders, receivers, vectors = edges(x, cell.detach().double(), float(form["r_max"][0]))
    vectors.requires_grad_(True)
    with torch.enable_grad():
        node = _node_energies(form, vectors, species, senders, receivers)
        gradient = torch.zeros_like(vectors)
        if len(vectors):
            (gradient,) = torch.autograd.grad(node.sum(), vectors)
    if not bool(torch.isfinite(gradient).all()):
        raise GeometryError("two atoms lie on top of each other, or a result is not finite")
    node, vectors = node.detach(), vectors.detach()
    forces = torch.zeros_like(x)
    forces.index_add_(0, senders, gradient).index_add_(0, receivers, -gradient)
    strain = vectors.t() @ gradient
    total = node + form["atomic_energies"][species]
    return Evaluated(
        energies=torch.stack([total.sum(), node.sum()]),
        forces=forces.to(positions.dtype),
        virial=-0.5 * (strain + strain.t()),
        node_energies=total,
    )


def edges(
    positions: torch.Tensor, cell: torch.Tensor, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All pairs within the cutoff, images included: senders, receivers, vectors to the receiver."""
    device, n = positions.device, len(positions)
    box = torch.zeros(3, 3, dtype=torch.float64, device=device)
    if cell.numel():
        box = cell.reshape(3, 3)
    if not bool(torch.isfinite(box).all()):
        raise GeometryError("a cell must be finite")
    periodic = (box != 0).any(dim=1)
    shifts = torch.zeros(1, 3, dtype=torch.float64, device=device)
    if bool(periodic.any()):
        full = box.clone()
        if not bool(periodic.all()):
            # Complete the rows with normals: the trailing right singular vectors.
            rank = int(periodic.sum())
            full[~periodic] = torch.linalg.svd(box[periodic])[2][rank:]
        if abs(float(torch.linalg.det(full))) < 1e-9 * float(full.norm(dim=1).prod()):
            raise GeometryError(f"a cell must have a volume, got {box.tolist()}")
        inverse = torch.linalg.inv(full)
        fractional = positions @ inverse
        wrapped = positions - torch.where(periodic, fractional.floor(), 0.0) @ full
        reach = torch.ceil(cutoff * inverse.norm(dim=0)) * periodic
        ranges = [torch.arange(-int(r), int(r) + 1, dtype=torch.float64) for r in reach]
        shifts = torch.cartesian_prod(*ranges).to(device) @ full
    else:
        wrapped = positions
    found = []
    rows = max(1, _PAIRS_AT_ONCE // max(1, n * len(shifts)))
    for start in range(0, n, rows):
        chunk = wrapped[start : start + rows]
        vectors = chunk[:, None, None] - wrapped[None, :, None] + shifts
        near = (vectors * vectors).sum(-1) < cutoff * cutoff
        i, j, s = near.nonzero(as_tuple=True)
        keep = ~((i + start == j) & (shifts[s] == 0).all(dim=1))
        found.append((j[keep], i[keep] + start, vectors[i[keep], j[keep], s[keep]]))
    if not found:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return empty, empty, positions.new_zeros(0, 3)
    senders, receivers, vectors = (torch.cat(part) for part in zip(*found, strict=True))
    return senders, receivers, vectors


def _node_energies(
    form: dict[str, torch.Tensor],
    vectors: torch.Tensor,
    species: torch.Tensor,
    senders: torch.Tensor,
    receivers: torch.Tensor,
) -> torch.Tensor:
    """Interaction energy of each atom, float64."""
    l_max, n_layers = int(form["config"][2]), int(form["config"][3])
    real = form["readout_out"].dtype
    distances = torch.linalg.vector_norm(vectors, dim=1)
    harmonics = spherical_harmonics((vectors / distances[:, None]).to(real), l_max)
    energy = form["node_constant"][species]
    energy = energy.index_add(
        0, receivers, _repulsion(form, distances, species, senders, receivers)
    )
    pair = form["pair_table"][species[receivers], species[senders]]
    hidden = form["readout_bias"][species]
    outputs: list[list[torch.Tensor]] = []
    for i in range(n_layers):
        features = _features(form, i, outputs, species)
        radial = _radial(form, i, distances, pair)
        messages = _messages(form, i, features, radial, harmonics, species, senders, receivers)
        outputs.append(_contract(form, i, messages, species))
        scalars = outputs[i][0][:, 0]
        hidden = hidden + _by_species(form[f"readout.{i}"], scalars.unsqueeze(1), species)[:, 0]
        energy = energy + (scalars * form[f"linear_readout.{i}"][species]).sum(1).double()
    last = (torch.nn.functional.silu(hidden) * form["readout_out"]).double().sum(1)
    return energy + last


def _by_species(
    matrix: torch.Tensor, features: torch.Tensor, species: torch.Tensor
) -> torch.Tensor:
    """(n, m, k) times (1 or n_species, k, width)."""
    if len(matrix) == 1:
        return features @ matrix[0]
    out = features.new_zeros(*features.shape[:2], matrix.size(2))
    for z in torch.unique(species):
        atoms = (species == z).nonzero().squeeze(1)
        out = out.index_copy(0, atoms, features[atoms] @ matrix[z])
    return out


def _features(
    form: dict[str, torch.Tensor], i: int, outputs: list[list[torch.Tensor]], species: torch.Tensor
) -> list[torch.Tensor]:
    """What the atoms send in layer i, one (n_atoms, 2 l + 1, channels) for each l."""
    found = [form[f"up_bias.{i}"][species].unsqueeze(1)]
    for degree in range(1, int(form[f"layer.{i}"][0]) + 1):
        found.append(found[0].new_zeros(len(species), 2 * degree + 1, found[0].size(2)))
    for j, output in enumerate(outputs):
        for degree in range(len(found)):
            matrix = form[f"up.{i}.{j}.{degree}"]
            found[degree] = found[degree] + _by_species(matrix, output[degree], species)
    return found


def _radial(
    form: dict[str, torch.Tensor], i: int, distances: torch.Tensor, pair: torch.Tensor
) -> torch.Tensor:
    """Splines (n_edges, n_paths, channels); see `mace_mm.evaluate.splines.interpolate`."""
    n_bins, r_max = int(form["config"][4]), float(form["r_max"][0])
    table = form[f"radial.{i}"]
    u = distances * (n_bins / r_max)
    knot = u.detach().long().clamp(max=n_bins - 1)
    t = (u - knot).to(table.dtype)[:, None, None, None]
    near, far = table[pair, knot].unbind(-2), table[pair, knot + 1].unbind(-2)
    s = 1 - t
    step = far[0] - near[0]
    value = near[0] + t**3 * (10 - 15 * t + 6 * t * t) * step
    value = value + t * s**3 * (1 + 3 * t) * near[1] - t**3 * s * (4 - 3 * t) * far[1]
    value = value + 0.5 * t**2 * s**3 * near[2] + 0.5 * t**3 * s**2 * far[2]
    value = value.transpose(1, 2).flatten(2)  # from (n_edges, blocks, paths, 16)
    return value.to(form["up_bias.0"].dtype)


def _messages(
    form: dict[str, torch.Tensor],
    i: int,
    features: list[torch.Tensor],
    radial: torch.Tensor,
    harmonics: torch.Tensor,
    species: torch.Tensor,
    senders: torch.Tensor,
    receivers: torch.Tensor,
) -> torch.Tensor:
    """Summed and mixed messages A, (n_atoms, (l_max + 1)**2, channels)."""
    n_atoms, l_max = len(features[0]), int(form["config"][2])
    blocks: list[list[torch.Tensor]] = [[] for _ in range(l_max + 1)]
    index, value = form[f"coupling_index.{i}"], form[f"coupling_value.{i}"]
    for p, (l_in, l_edge, l_out) in enumerate(form[f"paths.{i}"].tolist()):
        n_in, n_out = 2 * l_in + 1, 2 * l_out + 1
        h = features[l_in][senders] * radial[:, p].unsqueeze(1)
        if l_in == 0:
            message = h * harmonics[:, l_out**2 : (l_out + 1) ** 2].unsqueeze(2)
        elif l_edge == 0:
            message = h
        else:
            chosen = index[:, 0] == p
            _, m_in, m_out, y = index[chosen].t()
            mixing = harmonics.new_zeros(len(senders), n_in * n_out)
            weighted = harmonics[:, y] * value[chosen].to(harmonics.dtype)
            mixing = mixing.index_add(1, m_in * n_out + m_out, weighted)
            message = mixing.view(-1, n_in, n_out).transpose(1, 2) @ h
        empty = message.new_zeros(n_atoms, n_out, message.size(2))
        blocks[l_out].append(empty.index_add(0, receivers, message))
    mixed = [
        _by_species(form[f"linear.{i}.{degree}"], torch.cat(found, dim=2), species)
        for degree, found in enumerate(blocks)
    ]
    return torch.cat(mixed, dim=1)


def _contract(
    form: dict[str, torch.Tensor], i: int, a: torch.Tensor, species: torch.Tensor
) -> list[torch.Tensor]:
    """Outputs of the symmetric contraction, one (n_atoms, 2 l + 1, channels) for each l."""
    l_max, (_, hidden_out, correlation, _) = int(form["config"][2]), form[f"layer.{i}"].tolist()
    found = []
    for degree in range(hidden_out + 1):
        polynomial = form[f"polynomial.{i}.{degree}"].transpose(1, 2).flatten(2)[species]
        out = [a.new_zeros(len(a), a.size(2)) for _ in range(2 * degree + 1)]
        for k, term in enumerate(terms(l_max, degree, correlation)):
            product = math.prod((a[:, f] for f in term.factors[1:]), start=a[:, term.factors[0]])
            out[term.component] = out[term.component] + polynomial[:, k] * product
        found.append(torch.stack(out, dim=1))
    return found


def _repulsion(
    form: dict[str, torch.Tensor],
    distances: torch.Tensor,
    species: torch.Tensor,
    senders: torch.Tensor,
    receivers: torch.Tensor,
) -> torch.Tensor:
    """Half of the Ziegler-Biersack-Littmark repulsion of each edge, eV."""
    if "repulsion_pairs" not in form:
        return torch.zeros_like(distances)
    pairs = form["repulsion_pairs"][species[receivers], species[senders]]
    strength, inverse_length, reach = pairs.unbind(1)
    shape = form["repulsion_shape"]
    p = float(shape[8])
    phi = (shape[:4] * torch.exp(-shape[4:8] * (distances * inverse_length)[:, None])).sum(1)
    u = distances / reach
    up = u**p
    envelope = 1 - 0.5 * (p + 1) * (p + 2) * up + p * (p + 2) * up * u
    envelope = torch.where(u < 1, envelope - 0.5 * p * (p + 1) * up * u * u, 0.0)
    return strength / distances * phi * envelope
