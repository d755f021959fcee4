"""Triton kernel that finds the edges within the cutoff and all that depends on their vectors."""

# Triton compiles these functions; their annotations and names are its own.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def _put(pointer, value, keep):
    tl.store(pointer, value.to(tl.float32), mask=keep)


@triton.jit
def _put_harmonic(Y, dY, e, k: tl.constexpr, N: tl.constexpr, x, y, z, q, value, gx, gy, gz, keep):
    """Store Y_k and its derivative by the edge vector: (g - n (n . g)) / d."""
    along = gx * x + gy * y + gz * z
    _put(Y + e * N + k, value, keep)
    _put(dY + (e * N + k) * 3, (gx - x * along) * q, keep)
    _put(dY + (e * N + k) * 3 + 1, (gy - y * along) * q, keep)
    _put(dY + (e * N + k) * 3 + 2, (gz - z * along) * q, keep)


@triton.jit
def _edge(
    e, keep, d, vx, vy, vz, zi, zj, pair_table, repulsion_pairs, repulsion_shape,
    vector, direction, knot, fraction, Y, dY, pair_energy, pair_slope,
    N_SPECIES: tl.constexpr, N_BINS: tl.constexpr, R_MAX: tl.constexpr, L_MAX: tl.constexpr,
    REPULSION: tl.constexpr,
):  # fmt: skip
    """Store what the layers read of an edge: splines' places, harmonics, pair repulsion."""
    q = 1.0 / d
    x, y, z = vx * q, vy * q, vz * q
    tl.store(vector + 3 * e, vx, mask=keep)
    tl.store(vector + 3 * e + 1, vy, mask=keep)
    tl.store(vector + 3 * e + 2, vz, mask=keep)
    # Rounding may put an edge just within the cutoff onto the last knot.
    u = tl.minimum(d * (N_BINS / R_MAX), N_BINS * 1.0)
    bin = tl.minimum(u.to(tl.int32), N_BINS - 1)
    table = tl.load(pair_table + zi * N_SPECIES + zj).to(tl.int32)
    tl.store(knot + e, table * N_BINS + bin, mask=keep)
    _put(fraction + e, u - bin, keep)
    # Slopes of the splines are per bin; the direction carries the change of unit.
    _put(direction + 3 * e, x * (N_BINS / R_MAX), keep)
    _put(direction + 3 * e + 1, y * (N_BINS / R_MAX), keep)
    _put(direction + 3 * e + 2, z * (N_BINS / R_MAX), keep)
    _harmonics(e, keep, x, y, z, q, Y, dY, L_MAX)
    if REPULSION:
        pair = repulsion_pairs + (zi * N_SPECIES + zj) * 3
        _repulsion(e, keep, d, q, pair, repulsion_shape, pair_energy, pair_slope)


@triton.jit
def _harmonics(e, keep, x, y, z, q, Y, dY, L_MAX: tl.constexpr):
    """Real harmonics of the unit vector, sum_m Y_lm**2 = 2 l + 1, and their derivatives."""
    N: tl.constexpr = (L_MAX + 1) * (L_MAX + 1)
    o = x * 0.0
    one = o + 1.0
    _put_harmonic(Y, dY, e, 0, N, x, y, z, q, one, o, o, o, keep)
    if L_MAX >= 1:
        a = 1.7320508075688772
        _put_harmonic(Y, dY, e, 1, N, x, y, z, q, a * x, a * one, o, o, keep)
        _put_harmonic(Y, dY, e, 2, N, x, y, z, q, a * y, o, a * one, o, keep)
        _put_harmonic(Y, dY, e, 3, N, x, y, z, q, a * z, o, o, a * one, keep)
    if L_MAX >= 2:
        a = 3.872983346207417
        b = 2.23606797749979
        _put_harmonic(Y, dY, e, 4, N, x, y, z, q, a * x * z, a * z, o, a * x, keep)
        _put_harmonic(Y, dY, e, 5, N, x, y, z, q, a * x * y, a * y, a * x, o, keep)
        v = b * (1.5 * y * y - 0.5)
        _put_harmonic(Y, dY, e, 6, N, x, y, z, q, v, o, 3.0 * b * y, o, keep)
        _put_harmonic(Y, dY, e, 7, N, x, y, z, q, a * y * z, o, a * z, a * y, keep)
        v = 0.5 * a * (z * z - x * x)
        _put_harmonic(Y, dY, e, 8, N, x, y, z, q, v, -a * x, o, a * z, keep)
    if L_MAX >= 3:
        a = 2.091650066335189
        b = 10.246950765959598
        c = 1.620185174601965
        f = 1.3228756555322954
        zz, xx, yy = z * z, x * x, y * y
        v = a * x * (3.0 * zz - xx)
        _put_harmonic(Y, dY, e, 9, N, x, y, z, q, v, 3 * a * (zz - xx), o, 6 * a * x * z, keep)
        v = b * x * y * z
        _put_harmonic(Y, dY, e, 10, N, x, y, z, q, v, b * y * z, b * x * z, b * x * y, keep)
        v = c * x * (5.0 * yy - 1.0)
        gx = c * (5.0 * yy - 1.0)
        _put_harmonic(Y, dY, e, 11, N, x, y, z, q, v, gx, 10 * c * x * y, o, keep)
        v = f * y * (5.0 * yy - 3.0)
        _put_harmonic(Y, dY, e, 12, N, x, y, z, q, v, o, f * (15.0 * yy - 3.0), o, keep)
        v = c * z * (5.0 * yy - 1.0)
        _put_harmonic(Y, dY, e, 13, N, x, y, z, q, v, o, 10 * c * y * z, gx, keep)
        v = 0.5 * b * y * (zz - xx)
        gy = 0.5 * b * (zz - xx)
        _put_harmonic(Y, dY, e, 14, N, x, y, z, q, v, -b * x * y, gy, b * y * z, keep)
        v = a * z * (zz - 3.0 * xx)
        _put_harmonic(Y, dY, e, 15, N, x, y, z, q, v, -6 * a * x * z, o, 3 * a * (zz - xx), keep)


@triton.jit
def _repulsion(e, keep, d, q, pair, repulsion_shape, pair_energy, pair_slope):
    """Half of the Ziegler-Biersack-Littmark repulsion of each edge and its slope."""
    zero = d * 0.0
    strength, inverse, reach = tl.load(pair), tl.load(pair + 1), tl.load(pair + 2)
    p = tl.load(repulsion_shape + 8)
    phi, slope = zero, zero
    for k in tl.static_range(4):
        decay = tl.load(repulsion_shape + 4 + k) * inverse
        term = tl.load(repulsion_shape + k) * tl.exp(-decay * d)
        phi += term
        slope -= decay * term
    w = d / reach
    inside = w < 1.0
    power = tl.exp((p - 1.0) * tl.log(tl.minimum(w, 1.0)))
    ca, cb, cc = 0.5 * (p + 1.0) * (p + 2.0), p * (p + 2.0), 0.5 * p * (p + 1.0)
    envelope = 1.0 - power * w * (ca - cb * w + cc * w * w)
    fall = -power * (ca * p - cb * (p + 1.0) * w + cc * (p + 2.0) * w * w) / reach
    energy = strength * q * phi * envelope
    change = strength * q * (slope * envelope + phi * fall) - energy * q
    tl.store(pair_energy + e, tl.where(inside, energy, 0.0), mask=keep)
    tl.store(pair_slope + e, tl.where(inside, change, 0.0), mask=keep)


@triton.jit
def geometry(
    positions, cell, anchor, first, last, sender, shifts, reverse, species, pair_table,
    repulsion_pairs, repulsion_shape,
    place, near_sender, near_species, near_reverse, vector, direction, knot, fraction, Y, dY,
    pair_energy, pair_slope, extremes,
    N_SPECIES: tl.constexpr, N_BINS: tl.constexpr, R_MAX: tl.constexpr, L_MAX: tl.constexpr,
    REPULSION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Drop an atom's edges beyond the cutoff; vectors, splines and harmonics of those that stay.

    They move to the front of the atom's row: `last` is where they end, `place` where each went.
    """
    i = tl.program_id(0).to(tl.int64)
    here_x = tl.load(positions + 3 * i)
    here_y = tl.load(positions + 3 * i + 1)
    here_z = tl.load(positions + 3 * i + 2)
    zi = tl.load(species + i)
    at = tl.load(first + i)
    start = at
    end = tl.load(first + i + 1)
    closest = tl.full((), 1e30, tl.float64)
    while start < end:
        listed = start + tl.arange(0, BLOCK)
        valid = listed < end
        j = tl.load(sender + listed, mask=valid, other=0)
        s0 = tl.load(shifts + 3 * listed, mask=valid, other=0.0)
        s1 = tl.load(shifts + 3 * listed + 1, mask=valid, other=0.0)
        s2 = tl.load(shifts + 3 * listed + 2, mask=valid, other=0.0)
        vx = here_x - tl.load(positions + 3 * j)
        vy = here_y - tl.load(positions + 3 * j + 1)
        vz = here_z - tl.load(positions + 3 * j + 2)
        vx += s0 * tl.load(cell) + s1 * tl.load(cell + 3) + s2 * tl.load(cell + 6)
        vy += s0 * tl.load(cell + 1) + s1 * tl.load(cell + 4) + s2 * tl.load(cell + 7)
        vz += s0 * tl.load(cell + 2) + s1 * tl.load(cell + 5) + s2 * tl.load(cell + 8)
        squared = tl.where(valid, vx * vx + vy * vy + vz * vz, 1e30)
        closest = tl.minimum(closest, tl.min(squared, 0))
        keep = squared < R_MAX * R_MAX
        rank = tl.cumsum(keep.to(tl.int64), 0)
        e = at + rank - 1
        tl.store(place + listed, e, mask=keep)
        back = tl.load(reverse + listed, mask=keep, other=0)
        tl.store(near_reverse + e, back, mask=keep)
        tl.store(near_sender + e, j, mask=keep)
        zj = tl.load(species + j)
        tl.store(near_species + e, zj, mask=keep)
        # Lanes without an edge compute on a length of one and store nothing.
        d = tl.where(keep, tl.sqrt(squared), 1.0)
        _edge(
            e, keep, d, vx, vy, vz, zi, zj, pair_table, repulsion_pairs, repulsion_shape,
            vector, direction, knot, fraction, Y, dY, pair_energy, pair_slope,
            N_SPECIES, N_BINS, R_MAX, L_MAX, REPULSION,
        )  # fmt: skip
        at += tl.sum(keep.to(tl.int64), 0)
        start += BLOCK
    tl.store(last + i, at)
    mx = here_x - tl.load(anchor + 3 * i)
    my = here_y - tl.load(anchor + 3 * i + 1)
    mz = here_z - tl.load(anchor + 3 * i + 2)
    tl.store(extremes + 2 * i, mx * mx + my * my + mz * mz)
    tl.store(extremes + 2 * i + 1, -closest)
