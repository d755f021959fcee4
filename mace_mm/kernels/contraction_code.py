"""Which monomials the symmetric contraction needs, and the C++ that evaluates them.

The contraction of MACE (Batatia et al., NeurIPS 2022, eq. 10) with its weights is, for one element
and one channel, a polynomial in the (l_max+1)^2 values A_lm. Selection rules of the real harmonics
leave few monomials: 94 for a scalar, 328 for a vector (l_max 3, correlation 3).
This file lists them
in a fixed order, which is the order of the coefficients in the evaluation form, and prints
straight-line C++ over them. It imports nothing, because it runs while the package is built.
"""

import itertools
from typing import NamedTuple

MAX_L_MAX = 3
MAX_L_OUT = 2
MAX_CORRELATION = 3


class Term(NamedTuple):
    """One coefficient: output component and the factors (lm = l^2 + l + m) it multiplies."""

    component: int
    factors: tuple[int, ...]


def _orders(index: int) -> tuple[int, int]:
    degree = int(index**0.5)
    return degree, index - degree * degree - degree


def _allowed(factors: tuple[int, ...], l_out: int, m_out: int) -> bool:
    """Selection rules: inversion, reflection of x, the triangle rule and the azimuthal sum."""
    pairs = [_orders(i) for i in factors] + [(l_out, m_out)]
    degrees = [pair[0] for pair in pairs]
    orders = [pair[1] for pair in pairs]
    if sum(degrees) % 2 or 2 * max(degrees) > sum(degrees) or sum(m < 0 for m in orders) % 2:
        return False
    return any(
        sum(s * abs(m) for s, m in zip(signs, orders, strict=True)) == 0
        for signs in itertools.product((1, -1), repeat=len(orders))
    )


def _allowed_terms(l_max: int, l_out: int, degree: int) -> list[Term]:
    indices = range((l_max + 1) ** 2)
    return [
        Term(m + l_out, factors)
        for factors in itertools.combinations_with_replacement(indices, degree)
        for m in range(-l_out, l_out + 1)
        if _allowed(factors, l_out, m)
    ]


class Group(NamedTuple):
    """All terms that share the product x_a x_b: (component, c or None for the bare product)."""

    pair: tuple[int, int]
    members: tuple[tuple[int, int | None], ...]


def groups(l_max: int, l_out: int, correlation: int) -> list[Group]:
    """Terms of degree 2 and 3, collected greedily under as few common pairs as possible."""
    members: dict[tuple[int, int], list[tuple[int, int | None]]] = {}
    if correlation >= 2:
        for term in _allowed_terms(l_max, l_out, 2):
            members.setdefault((term.factors[0], term.factors[1]), []).append(
                (term.component, None)
            )
    remaining = set(_allowed_terms(l_max, l_out, 3)) if correlation >= 3 else set()
    while remaining:
        count: dict[tuple[int, int], int] = {}
        for term in remaining:
            for pair in set(itertools.combinations(term.factors, 2)):
                count[pair] = count.get(pair, 0) + 1
        best = max(count, key=lambda p: (count[p] + 1.5 * (p in members), p))
        taken = sorted(t for t in remaining if best in set(itertools.combinations(t.factors, 2)))
        for term in taken:
            rest = list(term.factors)
            rest.remove(best[0])
            rest.remove(best[1])
            members.setdefault(best, []).append((term.component, rest[0]))
        remaining.difference_update(taken)
    return [
        Group(pair, tuple(sorted(found, key=lambda x: (x[0], -1 if x[1] is None else x[1]))))
        for pair, found in sorted(members.items())
    ]


def terms(l_max: int, l_out: int, correlation: int) -> list[Term]:
    """Every term in the order of the coefficients: groups first, then the linear terms."""
    listed = []
    for group in groups(l_max, l_out, correlation):
        for component, third in group.members:
            listed.append(Term(component, group.pair if third is None else (*group.pair, third)))
    return listed + _allowed_terms(l_max, l_out, 1)


class _Writer:
    """Collects the statements of one function; coefficients are numbered as they are used."""

    def __init__(self, l_max: int, l_out: int, correlation: int) -> None:
        self.size = (l_max + 1) ** 2
        self.n_out = 2 * l_out + 1
        self.groups = groups(l_max, l_out, correlation)
        self.linear = _allowed_terms(l_max, l_out, 1)
        self.name = f"{l_max}{l_out}{correlation}"
        self.lines: list[str] = []
        self.next = 0

    def coefficient(self) -> str:
        self.next += 1
        return f"load(c+{16 * (self.next - 1)})"

    def load_inputs(self, linear: bool = True) -> None:
        used = {i for g in self.groups for i in (*g.pair, *(m[1] for m in g.members))}
        if linear:
            used |= {term.factors[0] for term in self.linear}
        self.lines += [f"const V x{i}=load(x+{i}*sx);" for i in range(self.size) if i in used]

    def weighted_sums(self, group: Group) -> list[tuple[int, str]]:
        """Declare s_k = w_ab + sum_c w_abc x_c for each output component k of the group."""
        found = []
        for component, members in itertools.groupby(group.members, key=lambda m: m[0]):
            text = ""
            for _, third in members:
                w = self.coefficient()
                factor = w if third is None else f"{w}*x{third}"
                text = factor if not text else f"{text}+{factor}"
            self.lines.append(f"const V s{component}={text};")
            found.append((component, f"s{component}"))
        return found

    def value(self) -> str:
        """out_k += polynomial."""
        self.load_inputs()
        self.lines += [f"V o{k}={{}};" for k in range(self.n_out)]
        for group in self.groups:
            a, b = group.pair
            self.lines.append(f"{{const V p=x{a}*x{b};")
            self.lines += [f"o{k}+=p*{s};" for k, s in self.weighted_sums(group)]
            self.lines.append("}")
        for term in self.linear:
            self.lines.append(f"o{term.component}+={self.coefficient()}*x{term.factors[0]};")
        self.lines += [f"store(out+{k}*so,o{k});" for k in range(self.n_out)]
        arguments = "const T*__restrict x,int sx,const T*__restrict c,T*__restrict out,int so"
        return self.function("value", arguments)

    def value_gradient(self) -> str:
        """out = polynomial, g_i = d out / d x_i, for a scalar output."""
        self.load_inputs()
        self.lines += ["V o={};"] + [f"V g{i}={{}};" for i in range(self.size)]
        for group in self.groups:
            a, b = group.pair
            self.lines.append(f"{{const V p=x{a}*x{b}; V s={{}};")
            for _, third in group.members:
                w = self.coefficient()
                if third is None:
                    self.lines.append(f"s+={w};")
                else:
                    self.lines.append(f"{{const V w={w}; s+=w*x{third}; g{third}+=w*p;}}")
            self.lines.append(f"o+=p*s; g{a}+=s*x{b}; g{b}+=s*x{a};}}")
        for term in self.linear:
            i = term.factors[0]
            self.lines.append(f"{{const V w={self.coefficient()}; o+=w*x{i}; g{i}+=w;}}")
        self.lines += [f"store(g+{i}*sx,g{i});" for i in range(self.size)] + ["store(out,o);"]
        # g may be x: the gradient then replaces the input.
        arguments = "const T* x,int sx,const T*__restrict c,T* g,T*__restrict out"
        return self.function("value_gradient", arguments)

    def backward(self) -> str:
        """g_i += sum_k d_k d out_k / d x_i."""
        self.load_inputs(linear=False)
        self.lines += [f"const V d{k}=load(d+{k}*so);" for k in range(self.n_out)]
        self.lines += [f"V g{i}=load(g+{i}*sx);" for i in range(self.size)]
        for group in self.groups:
            a, b = group.pair
            self.lines.append(f"{{const V p=x{a}*x{b}; V s={{}};")
            for component, found in itertools.groupby(group.members, key=lambda m: m[0]):
                members = list(found)
                self.lines.append(f"{{const V q=p*d{component}; V t={{}};")
                for _, third in members:
                    w = self.coefficient()
                    if third is None:
                        self.lines.append(f"t+={w};")
                    else:
                        self.lines.append(f"{{const V w={w}; t+=w*x{third}; g{third}+=w*q;}}")
                self.lines.append(f"s+=t*d{component};}}")
            self.lines.append(f"g{a}+=s*x{b}; g{b}+=s*x{a};}}")
        for term in self.linear:
            self.lines.append(f"g{term.factors[0]}+={self.coefficient()}*d{term.component};")
        self.lines += [f"store(g+{i}*sx,g{i});" for i in range(self.size)]
        arguments = (
            "const T*__restrict x,int sx,const T*__restrict c,"
            "const T*__restrict d,int so,T*__restrict g"
        )
        return self.function("backward", arguments)

    def function(self, kind: str, arguments: str) -> str:
        head = f"template<class T> static void {kind}_{self.name}({arguments}) {{ using V=Vec<T>;"
        return "\n".join([head, *self.lines, "}"])


def generate() -> str:
    """The C++ text of ``contraction_generated.h``: functions and a table of them."""
    parts = ["// Written by contraction_code.py while the package is built.", "namespace mm {"]
    for option in ("variable", "parameter"):
        parts.append(f'#pragma GCC diagnostic ignored "-Wunused-{option}"')
    rows = []
    for l_max, l_out, correlation in itertools.product(
        range(1, MAX_L_MAX + 1), range(MAX_L_OUT + 1), range(1, MAX_CORRELATION + 1)
    ):
        key = (l_max, l_out, correlation)
        parts.append(_Writer(*key).value())
        parts.append(_Writer(*key).value_gradient() if l_out == 0 else _Writer(*key).backward())
        name = "".join(map(str, key))
        gradient, backward = (f"value_gradient_{name}<T>", "nullptr")
        if l_out:
            gradient, backward = "nullptr", f"backward_{name}<T>"
        count = len(terms(*key))
        rows.append(
            f"{{{l_max},{l_out},{correlation},{count},value_{name}<T>,{gradient},{backward}}},"
        )
    parts.append("template<class T> static const Contraction<T> CONTRACTIONS[] = {")
    return "\n".join([*parts, *rows, "};", "}", ""])
