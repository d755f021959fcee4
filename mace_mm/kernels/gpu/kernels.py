"""Triton kernels that are the same for every layout: geometry, matrices, readout, sums."""

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
def geometry(
    positions, cell, sender, receiver, shifts, species, pair_table, n_edges,
    repulsion_pairs, repulsion_shape,
    vector, direction, knot, fraction, Y, dY, pair_energy, pair_slope,
    N_SPECIES: tl.constexpr, N_BINS: tl.constexpr, R_MAX: tl.constexpr, L_MAX: tl.constexpr,
    REPULSION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Edge vectors, spline positions, harmonics with derivatives and pair repulsion."""
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keep = e < tl.load(n_edges)
    i = tl.load(receiver + e, mask=keep, other=0)
    j = tl.load(sender + e, mask=keep, other=0)
    s0 = tl.load(shifts + 3 * e, mask=keep, other=0.0)
    s1 = tl.load(shifts + 3 * e + 1, mask=keep, other=0.0)
    s2 = tl.load(shifts + 3 * e + 2, mask=keep, other=0.0)
    vx = tl.load(positions + 3 * i) - tl.load(positions + 3 * j)
    vy = tl.load(positions + 3 * i + 1) - tl.load(positions + 3 * j + 1)
    vz = tl.load(positions + 3 * i + 2) - tl.load(positions + 3 * j + 2)
    vx += s0 * tl.load(cell) + s1 * tl.load(cell + 3) + s2 * tl.load(cell + 6)
    vy += s0 * tl.load(cell + 1) + s1 * tl.load(cell + 4) + s2 * tl.load(cell + 7)
    vz += s0 * tl.load(cell + 2) + s1 * tl.load(cell + 5) + s2 * tl.load(cell + 8)
    # Lanes beyond the last edge compute on a length of one and store nothing.
    d = tl.where(keep, tl.sqrt(vx * vx + vy * vy + vz * vz), 1.0)
    q = 1.0 / d
    x, y, z = vx * q, vy * q, vz * q
    tl.store(vector + 3 * e, vx, mask=keep)
    tl.store(vector + 3 * e + 1, vy, mask=keep)
    tl.store(vector + 3 * e + 2, vz, mask=keep)
    zi = tl.load(species + i)
    zj = tl.load(species + j)
    # Beyond the cutoff lies the last knot: value and slope are zero there.
    u = tl.minimum(d * (N_BINS / R_MAX), N_BINS * 1.0)
    bin = tl.minimum(u.to(tl.int32), N_BINS - 1)
    table = tl.load(pair_table + zi * N_SPECIES + zj).to(tl.int32)
    tl.store(knot + e, table * (N_BINS + 1) + bin, mask=keep)
    _put(fraction + e, u - bin, keep)
    # Slopes of the splines are per bin; the direction carries the change of unit.
    _put(direction + 3 * e, x * (N_BINS / R_MAX), keep)
    _put(direction + 3 * e + 1, y * (N_BINS / R_MAX), keep)
    _put(direction + 3 * e + 2, z * (N_BINS / R_MAX), keep)
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
    if REPULSION:
        pair = repulsion_pairs + (zi * N_SPECIES + zj) * 3
        strength, inverse, reach = tl.load(pair), tl.load(pair + 1), tl.load(pair + 2)
        p = tl.load(repulsion_shape + 8)
        phi, slope = o, o
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
def species_matmul(
    X, W, out, order, tile_start, tile_count, tile_species, meta,
    x_row, out_row,
    ADD: tl.constexpr, BIAS: tl.constexpr, bias,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Rows of one component of up to 16 atoms of one element, times the element's matrix.

    meta, for each component: offset in X's row, inner size, offset in W, W's stride from element
    to element, offset in the row of the result, width.
    """
    tile = tl.program_id(0)
    m = meta + tl.program_id(1) * 6
    x_offset, n_inner, w_offset = tl.load(m), tl.load(m + 1), tl.load(m + 2)
    w_stride, out_offset, width = tl.load(m + 3), tl.load(m + 4), tl.load(m + 5)
    column = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, 16)
    row_keep = r < tl.load(tile_count + tile)
    atom = tl.load(order + tl.load(tile_start + tile) + r, mask=row_keep, other=0).to(tl.int64)
    z = tl.load(tile_species + tile)
    column_keep = column < width
    k = tl.arange(0, BLOCK_K)
    x = X + atom[:, None] * x_row + x_offset + k[None, :]
    w = W + w_offset + z * w_stride + k[:, None] * width + column[None, :]
    total = tl.zeros([16, BLOCK_N], tl.float32)
    done = n_inner * 0
    while done < n_inner:
        left = tl.load(x, mask=row_keep[:, None], other=0.0)
        right = tl.load(w, mask=column_keep[None, :], other=0.0)
        total += tl.dot(left, right, input_precision="ieee")
        x += BLOCK_K
        w += BLOCK_K * width
        done += BLOCK_K
    keep = row_keep[:, None] & column_keep[None, :]
    target = out + atom[:, None] * out_row + out_offset + column[None, :]
    if BIAS and tl.program_id(1) == 0:
        total += tl.load(bias + z * width + column, mask=column_keep, other=0.0)[None, :]
    if ADD:
        total += tl.load(target, mask=keep, other=0.0)
    tl.store(target, total, mask=keep)


@triton.jit
def readout(
    hidden, scale, constant, species, energy, n_atoms,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Node energies from the last hidden layer; its values become the gradient by them.

    Column WIDTH is the sum of the linear readouts and passes without activation.
    """
    a = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = a < n_atoms
    k = tl.arange(0, PADDED)
    place = hidden + a[:, None] * (WIDTH + 16) + k[None, :]
    mask = keep[:, None] & (k < WIDTH + 16)[None, :]
    x = tl.load(place, mask=mask, other=0.0)
    out = tl.load(scale + k, mask=k < WIDTH, other=0.0)[None, :]
    s = 1.0 / (1.0 + tl.exp(-x))
    linear = tl.where(k == WIDTH, 1.0, 0.0)[None, :]
    value = tl.sum((out * x * s + linear * x).to(tl.float64), 1)
    tl.store(place, out * s * (1.0 + x * (1.0 - s)) + linear, mask=mask)
    z = tl.load(species + a, mask=keep, other=0)
    tl.store(energy + a, value + tl.load(constant + z, mask=keep, other=0.0), mask=keep)


@triton.jit
def gather_features(first, reverse, dh, out, ROW: tl.constexpr, BLOCK: tl.constexpr):
    """Sum what the reverse of each of an atom's edges says about its features."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = c < ROW
    total = tl.zeros([BLOCK], tl.float32)
    e = tl.load(first + i)
    end = tl.load(first + i + 1)
    while e < end:
        r = tl.load(reverse + e).to(tl.int64)
        total += tl.load(dh + r * ROW + c, mask=keep, other=0.0)
        e += 1
    tl.store(out + i * ROW + c, total, mask=keep)


@triton.jit
def forces_and_virial(
    first, reverse, vector, gradient, pair_energy, pair_slope, energy, forces, virial,
    N_PARTS: tl.constexpr, PARTS: tl.constexpr, REPULSION: tl.constexpr,
):  # fmt: skip
    """F_i = sum over edges of (gradient of the reverse - gradient); virial by atom; pair energy."""
    i = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, PARTS)
    keep = k < N_PARTS
    zero = tl.full((), 0.0, tl.float64)
    fx, fy, fz = zero, zero, zero
    xx, xy, xz, yy, yz, zz = zero, zero, zero, zero, zero, zero
    pair = zero
    e = tl.load(first + i)
    end = tl.load(first + i + 1)
    while e < end:
        r = tl.load(reverse + e).to(tl.int64)
        own = gradient + (e * N_PARTS + k) * 3
        other = gradient + (r * N_PARTS + k) * 3
        gx = tl.sum(tl.load(own, mask=keep, other=0.0).to(tl.float64))
        gy = tl.sum(tl.load(own + 1, mask=keep, other=0.0).to(tl.float64))
        gz = tl.sum(tl.load(own + 2, mask=keep, other=0.0).to(tl.float64))
        rx = tl.sum(tl.load(other, mask=keep, other=0.0).to(tl.float64))
        ry = tl.sum(tl.load(other + 1, mask=keep, other=0.0).to(tl.float64))
        rz = tl.sum(tl.load(other + 2, mask=keep, other=0.0).to(tl.float64))
        vx, vy, vz = (
            tl.load(vector + 3 * e),
            tl.load(vector + 3 * e + 1),
            tl.load(vector + 3 * e + 2),
        )
        if REPULSION:
            push = tl.load(pair_slope + e) / tl.sqrt(vx * vx + vy * vy + vz * vz)
            gx += push * vx
            gy += push * vy
            gz += push * vz
            rx -= push * vx
            ry -= push * vy
            rz -= push * vz
            pair += tl.load(pair_energy + e)
        fx += rx - gx
        fy += ry - gy
        fz += rz - gz
        xx += vx * gx
        yy += vy * gy
        zz += vz * gz
        xy += 0.5 * (vx * gy + vy * gx)
        xz += 0.5 * (vx * gz + vz * gx)
        yz += 0.5 * (vy * gz + vz * gy)
        e += 1
    tl.store(forces + 3 * i, fx)
    tl.store(forces + 3 * i + 1, fy)
    tl.store(forces + 3 * i + 2, fz)
    if REPULSION:
        tl.store(energy + i, tl.load(energy + i) + pair)
    w = virial + 6 * i
    tl.store(w, -xx)
    tl.store(w + 1, -yy)
    tl.store(w + 2, -zz)
    tl.store(w + 3, -yz)
    tl.store(w + 4, -xz)
    tl.store(w + 5, -xy)
