"""Triton kernels that are the same for every layout: matrices, readout, sums over edges."""

# Triton compiles these functions; their annotations and names are its own.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def species_matmul(
    X, W, out, order, tile_start, tile_count, tile_species, meta,
    x_row, out_row,
    ADD: tl.constexpr, BIAS: tl.constexpr, bias,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of one component of up to ROWS atoms of one element, times the element's matrix.

    meta, for each component: offset in X's row, inner size, offset in W, W's stride from element
    to element, offset in the row of the result, width.
    """
    tile = tl.program_id(0)
    m = meta + tl.program_id(1) * 6
    x_offset, n_inner, w_offset = tl.load(m), tl.load(m + 1), tl.load(m + 2)
    w_stride, out_offset, width = tl.load(m + 3), tl.load(m + 4), tl.load(m + 5)
    column = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    r = tl.arange(0, ROWS)
    row_keep = r < tl.load(tile_count + tile)
    atom = tl.load(order + tl.load(tile_start + tile) + r, mask=row_keep, other=0).to(tl.int64)
    z = tl.load(tile_species + tile)
    column_keep = column < width
    k = tl.arange(0, BLOCK_K)
    x = X + atom[:, None] * x_row + x_offset + k[None, :]
    w = W + w_offset + z * w_stride + k[:, None] * width + column[None, :]
    total = tl.zeros([ROWS, BLOCK_N], tl.float32)
    done = n_inner * 0
    while done < n_inner:
        left = tl.load(x, mask=row_keep[:, None], other=0.0)
        right = tl.load(w, mask=column_keep[None, :], other=0.0)
        total += tl.dot(left, right, input_precision=PRECISION)
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
def gather_features(first, last, reverse, place, dh, out, ROW: tl.constexpr, BLOCK: tl.constexpr):
    """Sum what the reverse of each of an atom's edges says about its features."""
    i = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = c < ROW
    total = tl.zeros([BLOCK], tl.float32)
    e = tl.load(first + i)
    end = tl.load(last + i)
    while e < end:
        r = tl.load(place + tl.load(reverse + e))
        total += tl.load(dh + r * ROW + c, mask=keep, other=0.0)
        e += 1
    tl.store(out + i * ROW + c, total, mask=keep)


@triton.jit
def forces_and_virial(
    first, last, reverse, place, vector, gradient, pair_energy, pair_slope, energy, isolated,
    forces, nodes, sums,
    N_PARTS: tl.constexpr, REPULSION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """F_i = sum over edges of (gradient of the reverse - gradient); energies and virial by atom."""
    i = tl.program_id(0).to(tl.int64)
    zero = tl.zeros([BLOCK], tl.float64)
    fx, fy, fz, pair = zero, zero, zero, zero
    xx, yy, zz, yz, xz, xy = zero, zero, zero, zero, zero, zero
    start = tl.load(first + i)
    end = tl.load(last + i)
    while start < end:
        e = start + tl.arange(0, BLOCK)
        keep = e < end
        r = tl.load(place + tl.load(reverse + e, mask=keep, other=0), mask=keep, other=0)
        gx, gy, gz = zero, zero, zero
        rx, ry, rz = zero, zero, zero
        for k in tl.static_range(N_PARTS):
            own = gradient + (e * N_PARTS + k) * 3
            other = gradient + (r * N_PARTS + k) * 3
            gx += tl.load(own, mask=keep, other=0.0).to(tl.float64)
            gy += tl.load(own + 1, mask=keep, other=0.0).to(tl.float64)
            gz += tl.load(own + 2, mask=keep, other=0.0).to(tl.float64)
            rx += tl.load(other, mask=keep, other=0.0).to(tl.float64)
            ry += tl.load(other + 1, mask=keep, other=0.0).to(tl.float64)
            rz += tl.load(other + 2, mask=keep, other=0.0).to(tl.float64)
        vx = tl.load(vector + 3 * e, mask=keep, other=0.0)
        vy = tl.load(vector + 3 * e + 1, mask=keep, other=0.0)
        vz = tl.load(vector + 3 * e + 2, mask=keep, other=0.0)
        if REPULSION:
            d = tl.where(keep, tl.sqrt(vx * vx + vy * vy + vz * vz), 1.0)
            push = tl.load(pair_slope + e, mask=keep, other=0.0) / d
            gx += push * vx
            gy += push * vy
            gz += push * vz
            rx -= push * vx
            ry -= push * vy
            rz -= push * vz
            pair += tl.load(pair_energy + e, mask=keep, other=0.0)
        fx += rx - gx
        fy += ry - gy
        fz += rz - gz
        xx += vx * gx
        yy += vy * gy
        zz += vz * gz
        yz += 0.5 * (vy * gz + vz * gy)
        xz += 0.5 * (vx * gz + vz * gx)
        xy += 0.5 * (vx * gy + vy * gx)
        start += BLOCK
    tl.store(forces + 3 * i, tl.sum(fx, 0))
    tl.store(forces + 3 * i + 1, tl.sum(fy, 0))
    tl.store(forces + 3 * i + 2, tl.sum(fz, 0))
    interaction = tl.load(energy + i) + tl.sum(pair, 0)
    total = interaction + tl.load(isolated + i)
    tl.store(nodes + i, total)
    w = sums + 8 * i
    tl.store(w, total)
    tl.store(w + 1, interaction)
    tl.store(w + 2, -tl.sum(xx, 0))
    tl.store(w + 3, -tl.sum(yy, 0))
    tl.store(w + 4, -tl.sum(zz, 0))
    tl.store(w + 5, -tl.sum(yz, 0))
    tl.store(w + 6, -tl.sum(xz, 0))
    tl.store(w + 7, -tl.sum(xy, 0))
