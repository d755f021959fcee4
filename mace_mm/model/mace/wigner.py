"""Real Wigner 3j symbols in e3nn's phases, without e3nn at run time.

Importing e3nn loads torch's compiler, one to two seconds in every process that only wants to
evaluate a model. The tests hold these symbols against `e3nn.o3.wigner_3j`.
"""

from functools import lru_cache
from math import factorial, sqrt

import numpy as np


def _clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j3: int, m3: int) -> float:
    """<j1 m1 j2 m2 | j3 m3>, Racah's formula (Edmonds, Angular Momentum, Eq. 3.6.10)."""
    if m3 != m1 + m2:
        return 0.0
    total = 0.0
    for k in range(j1 + j2 - j3 + 1):
        terms = (k, j1 + j2 - j3 - k, j1 - m1 - k, j2 + m2 - k, j3 - j2 + m1 + k, j3 - j1 - m2 + k)
        if min(terms) >= 0:
            product = 1
            for term in terms:
                product *= factorial(term)
            total += (-1) ** k / product
    square = (2 * j3 + 1) * factorial(j3 + j1 - j2) * factorial(j3 - j1 + j2)
    square *= factorial(j1 + j2 - j3)
    for j, m in ((j1, m1), (j2, m2), (j3, m3)):
        square *= factorial(j + m) * factorial(j - m)
    return total * sqrt(square / factorial(j1 + j2 + j3 + 1))


def _real_to_complex(degree: int) -> np.ndarray:
    """Change of basis from e3nn's real harmonics to complex ones, (2 l + 1, 2 l + 1)."""
    q = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=np.complex128)
    for m in range(-degree, 0):
        q[degree + m, degree - m] = 1 / sqrt(2)
        q[degree + m, degree + m] = -1j / sqrt(2)
    q[degree, degree] = 1
    for m in range(1, degree + 1):
        q[degree + m, degree + m] = (-1) ** m / sqrt(2)
        q[degree + m, degree - m] = 1j * (-1) ** m / sqrt(2)
    # The power of -i makes the symbols real.
    return (-1j) ** degree * q


@lru_cache(maxsize=512)
def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """The invariant coupling of three irreps, (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), unit norm.

    Args:
        l1, l2, l3: degrees that satisfy the triangle rule.
    """
    su2 = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            if abs(m1 + m2) <= l3:
                value = _clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
                su2[l1 + m1, l2 + m2, l3 + m1 + m2] = value
    q1, q2, q3 = (_real_to_complex(degree) for degree in (l1, l2, l3))
    real = np.einsum("ij,kl,mn,ikn->jlm", q1, q2, np.conj(q3.T), su2).real
    return real / np.linalg.norm(real)
