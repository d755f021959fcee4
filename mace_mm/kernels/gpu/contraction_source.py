"""Triton source of the symmetric contraction: one polynomial per element, and its gradient."""

import itertools

from mace_mm.kernels.contraction_code import Term, groups, terms


def contraction_forward(l_max: int, l_out: int, correlation: int) -> str:
    """Kernel: the polynomial of one output irrep, one program an atom and channel block."""
    body: list[str] = []
    used = _inputs_used(l_max, l_out, correlation)
    body += [f"x{i} = tl.load(row + {i} * C)" for i in used]
    body += [f"o{k} = tl.zeros([BLOCK], tl.float32)" for k in range(2 * l_out + 1)]
    counter = itertools.count()
    for group in groups(l_max, l_out, correlation):
        a, b = group.pair
        body.append(f"p = x{a} * x{b}")
        for component, third in group.members:
            w = f"tl.load(w + {next(counter)} * C)"
            body.append(f"o{component} += p * {w}" + ("" if third is None else f" * x{third}"))
    for term in _linear_terms(l_max, l_out):
        body.append(f"o{term.component} += tl.load(w + {next(counter)} * C) * x{term.factors[0]}")
    lines = [
        "@triton.jit",
        "def contraction_forward(A, species, weights, out, stride, offset,",
        "                        C: tl.constexpr, BLOCK: tl.constexpr):",
        *_contraction_head(l_max, next(counter)),
        *[f"    {line}" for line in body],
        "    dst = out + i * stride * C + offset * C + c",
        *[f"    tl.store(dst + {k} * C, o{k})" for k in range(2 * l_out + 1)],
        "",
    ]
    return "\n".join(lines) + "\n"


def contraction_backward(l_max: int, l_out: int, correlation: int) -> str:
    """Kernel: gradient of the polynomial; adds to dA unless FIRST."""
    used = _inputs_used(l_max, l_out, correlation)
    body = [f"x{i} = tl.load(row + {i} * C)" for i in used]
    body += [f"d{k} = tl.load(src + {k} * C)" for k in range(2 * l_out + 1)]
    body += [f"g{i} = tl.zeros([BLOCK], tl.float32)" for i in range((l_max + 1) ** 2)]
    counter = itertools.count()
    for group in groups(l_max, l_out, correlation):
        a, b = group.pair
        body += [f"p = x{a} * x{b}", "s = tl.zeros([BLOCK], tl.float32)"]
        for component, third in group.members:
            body.append(f"v = tl.load(w + {next(counter)} * C) * d{component}")
            body.append("s += v" if third is None else f"s += v * x{third}")
            if third is not None:
                body.append(f"g{third} += v * p")
        body += [f"g{a} += s * x{b}", f"g{b} += s * x{a}"]
    for term in _linear_terms(l_max, l_out):
        i = term.factors[0]
        body.append(f"g{i} += tl.load(w + {next(counter)} * C) * d{term.component}")
    n = (l_max + 1) ** 2
    lines = [
        "@triton.jit",
        "def contraction_backward(A, species, weights, dout, stride, offset, dA,",
        "                         C: tl.constexpr, BLOCK: tl.constexpr, FIRST: tl.constexpr):",
        *_contraction_head(l_max, next(counter)),
        "    src = dout + i * stride * C + offset * C + c",
        *[f"    {line}" for line in body],
        f"    dst = dA + i * {n} * C + c",
        "    if not FIRST:",
        *[f"        g{i} += tl.load(dst + {i} * C)" for i in range(n)],
        *[f"    tl.store(dst + {i} * C, g{i})" for i in range(n)],
        "",
    ]
    return "\n".join(lines) + "\n"


def _contraction_head(l_max: int, n_terms: int) -> list[str]:
    return [
        "    i = tl.program_id(0).to(tl.int64)",
        "    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        f"    row = A + i * {(l_max + 1) ** 2} * C + c",
        f"    w = weights + tl.load(species + i).to(tl.int64) * {n_terms} * C + c",
    ]


def _inputs_used(l_max: int, l_out: int, correlation: int) -> list[int]:
    used = {term.factors[0] for term in _linear_terms(l_max, l_out)}
    for group in groups(l_max, l_out, correlation):
        used |= set(group.pair) | {m[1] for m in group.members if m[1] is not None}
    return sorted(used)


def _linear_terms(l_max: int, l_out: int) -> list[Term]:
    return [term for term in terms(l_max, l_out, 1) if len(term.factors) == 1]
