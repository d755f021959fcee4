"""Writes the Triton kernels of one layout as straight-line code; this file, the convolution.

The convolution and the contraction of a layout are fixed lists of products. Written out, every
accumulator is a register and nothing is looked up in the inner loop. The text is compiled from
memory; `linecache` shows it to Triton, which reads the source of its kernels.
"""

import hashlib
import linecache
from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True, kw_only=True)
class ConvolutionLayout:
    """Paths and couplings of one convolution.

    Attributes:
        paths: (l_in, l_edge, l_out) of each path, ascending in l_out.
        couplings: (path, m_in, m_out, y, value), y the index of the harmonic; none for the paths
            with l_in = 0 or l_edge = 0, which copy.
        l_max: of the edges.
    """

    paths: tuple[tuple[int, int, int], ...]
    couplings: tuple[tuple[int, int, int, int, float], ...]
    l_max: int

    @property
    def n_inputs(self) -> int:
        return max((l_in + 1) ** 2 for l_in, _, _ in self.paths)

    @property
    def n_harmonics(self) -> int:
        return (self.l_max + 1) ** 2

    def offset(self, path: int, m_out: int) -> int:
        """Where (path, m_out) stands in an atom's row, in units of the channel count."""
        l_out = self.paths[path][2]
        counts = [sum(p[2] == degree for p in self.paths) for degree in range(l_out + 1)]
        before = sum((2 * degree + 1) * counts[degree] for degree in range(l_out))
        place = sum(p[2] == l_out for p in self.paths[:path])
        return before + m_out * counts[l_out] + place

    @property
    def row(self) -> int:
        """Numbers in an atom's row, in units of the channel count."""
        return sum(2 * l_out + 1 for _, _, l_out in self.paths)

    def mixing(self, path: int) -> dict[tuple[int, int], list[tuple[int, float]]]:
        """(m_in, m_out) -> [(y, value)] of a path that couples."""
        found: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for p, m_in, m_out, y, value in self.couplings:
            if p == path:
                found.setdefault((m_in, m_out), []).append((y, value))
        return found


def compiled(text: str) -> SimpleNamespace:
    """Run kernel source of this module and return its functions."""
    name = f"<mace_mm kernels {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space: dict[str, object] = {"__name__": name}
    exec(compile(text, name, "exec"), space)  # noqa: S102 - text written above, nothing from outside
    return SimpleNamespace(**{k: v for k, v in space.items() if not k.startswith("__")})


# A while loop: Triton's interpreter cannot count over loaded bounds.
_EDGE_LOOP = (
    "    splits = tl.num_programs(2)",
    "    e = tl.load(first + i) + tl.program_id(2)",
    "    end = tl.load(last + i)",
    "    while e < end:",
)
HEADER = """import triton
import triton.language as tl

"""


def _edge_head(layout: ConvolutionLayout, with_slope: bool) -> list[str]:
    """Load what one edge brings: harmonics, features, radial functions and their slopes."""
    n_paths = len(layout.paths)
    lines = [
        "t = tl.load(fraction + e)",
        f"bin = radial + tl.load(knot + e).to(tl.int64) * {6 * n_paths} * C + c",
        f"hrow = h + tl.load(source + e).to(tl.int64) * {layout.n_inputs} * C + c",
    ]
    used = sorted(_harmonics_used(layout))
    lines += [f"y{k} = tl.load(Y + e * {layout.n_harmonics} + {k})" for k in used]
    lines += [f"h{m} = tl.load(hrow + {m} * C)" for m in range(layout.n_inputs)]
    for p in range(n_paths):
        lines += [f"k{n} = tl.load(bin + {6 * p + n} * C)" for n in range(6)]
        lines.append(f"r{p} = ((((k5 * t + k4) * t + k3) * t + k2) * t + k1) * t + k0")
        if with_slope:
            lines.append(
                f"q{p} = (((5.0 * k5 * t + 4.0 * k4) * t + 3.0 * k3) * t + 2.0 * k2) * t + k1"
            )
    return lines


def _harmonics_used(layout: ConvolutionLayout) -> set[int]:
    used = {y for _, _, _, y, _ in layout.couplings}
    for l_in, l_edge, _ in layout.paths:
        if l_in == 0:
            used |= set(range(l_edge**2, (l_edge + 1) ** 2))
    return used


def _sum(parts: list[tuple[int, float]]) -> str:
    return " + ".join(f"{value!r} * y{y}" for y, value in parts)


def convolution_forward(layout: ConvolutionLayout) -> str:
    """Kernel: sum over a receiver's edges of R h Y, one program an atom and channel block."""
    body = _edge_head(layout, with_slope=False)
    for p, (l_in, l_edge, l_out) in enumerate(layout.paths):
        if l_in == 0:
            body.append(f"x = r{p} * h0")
            body += [f"a{p}_{m} += x * y{l_out**2 + m}" for m in range(2 * l_out + 1)]
        elif l_edge == 0:
            body += [f"a{p}_{m} += r{p} * h{l_in**2 + m}" for m in range(2 * l_in + 1)]
        else:
            body += [f"x{m} = r{p} * h{l_in**2 + m}" for m in range(2 * l_in + 1)]
            for (m_in, m_out), parts in layout.mixing(p).items():
                body.append(f"a{p}_{m_out} += ({_sum(parts)}) * x{m_in}")
    names = [(p, m) for p, path in enumerate(layout.paths) for m in range(2 * path[2] + 1)]
    lines = [
        "@triton.jit",
        "def convolution_forward(first, last, source, knot, fraction, Y, h, radial, out,",
        "                        C: tl.constexpr, BLOCK: tl.constexpr):",
        "    i = tl.program_id(0).to(tl.int64)",
        "    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        *[f"    a{p}_{m} = tl.zeros([BLOCK], tl.float32)" for p, m in names],
        *_EDGE_LOOP,
        *[f"        {line}" for line in body],
        "        e += splits",
        "    part = tl.program_id(2) * tl.num_programs(0) + i",
        f"    row = out + part * {layout.row} * C + c",
        *[f"    tl.store(row + {layout.offset(p, m)} * C, a{p}_{m})" for p, m in names],
        "",
    ]
    return "\n".join(lines) + "\n"


def convolution_backward(layout: ConvolutionLayout, with_features: bool) -> str:
    """Kernel: gradient of each edge's vector and of the sender's features, one block of channels.

    The gradient of a receiver's row stays in registers over its edges. Nothing is scattered: the
    edge owns what it writes.
    """
    body = _edge_head(layout, with_slope=True)
    n_inputs = layout.n_inputs
    body += [f"z{k} = tl.zeros([BLOCK], tl.float32)" for k in sorted(_harmonics_used(layout))]
    body += ["slope = tl.zeros([BLOCK], tl.float32)"]
    body += [f"g{m} = tl.zeros([BLOCK], tl.float32)" for m in range(n_inputs)]
    for p, (l_in, l_edge, l_out) in enumerate(layout.paths):
        if l_in == 0:
            body += [f"x = r{p} * h0", "u = tl.zeros([BLOCK], tl.float32)"]
            for m in range(2 * l_out + 1):
                k = l_out**2 + m
                body += [f"z{k} += d{p}_{m} * x", f"u += d{p}_{m} * y{k}"]
            body += [f"slope += u * h0 * q{p}", f"g0 += u * r{p}"]
        elif l_edge == 0:
            for m in range(2 * l_in + 1):
                k = l_in**2 + m
                body += [f"slope += d{p}_{m} * h{k} * q{p}", f"g{k} += d{p}_{m} * r{p}"]
        else:
            mixing = layout.mixing(p)
            for m_in in range(2 * l_in + 1):
                k = l_in**2 + m_in
                body += [f"x = r{p} * h{k}", "u = tl.zeros([BLOCK], tl.float32)"]
                for (row, m_out), parts in mixing.items():
                    if row != m_in:
                        continue
                    body.append(f"u += d{p}_{m_out} * ({_sum(parts)})")
                    body.append(f"w = d{p}_{m_out} * x")
                    body += [f"z{y} += {value!r} * w" for y, value in parts]
                body += [f"slope += u * h{k} * q{p}", f"g{k} += u * r{p}"]
    for axis, name in enumerate("xyz"):
        terms = [
            f"z{k} * tl.load(dY + e * {3 * layout.n_harmonics} + {3 * k + axis})"
            for k in sorted(_harmonics_used(layout))
            if k > 0
        ]
        terms.append(f"slope * tl.load(direction + e * 3 + {axis})")
        body.append(f"e{name} = {' + '.join(terms)}")
        body.append(
            f"tl.store(gradient + (e * STRIDE + tl.program_id(1)) * 3 + {axis}, tl.sum(e{name}))"
        )
    if with_features:
        body.append(f"dst = dh + e * {n_inputs} * C + c")
        body += [f"tl.store(dst + {m} * C, g{m})" for m in range(n_inputs)]
    names = [(p, m) for p, path in enumerate(layout.paths) for m in range(2 * path[2] + 1)]
    lines = [
        "@triton.jit",
        "def convolution_backward(first, last, source, knot, fraction, Y, dY, direction, h,",
        "                         radial, dout, gradient, dh,",
        "                         C: tl.constexpr, BLOCK: tl.constexpr,",
        "                         STRIDE: tl.constexpr):",
        "    i = tl.program_id(0).to(tl.int64)",
        "    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        f"    row = dout + i * {layout.row} * C + c",
        *[f"    d{p}_{m} = tl.load(row + {layout.offset(p, m)} * C)" for p, m in names],
        *_EDGE_LOOP,
        *[f"        {line}" for line in body],
        "        e += splits",
        "",
    ]
    return "\n".join(lines) + "\n"
