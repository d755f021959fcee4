"""Real spherical harmonics of edge directions, in e3nn's order and "component" normalization.

Written out as polynomials of the unit vector so that TorchScript and double backward see plain
arithmetic; the tests hold them against `e3nn.o3.spherical_harmonics`.
"""

import math

import torch


def spherical_harmonics(unit_vectors: torch.Tensor, l_max: int) -> torch.Tensor:
    """Harmonics up to ``l_max`` (at most 3), with ``sum_m Y_lm**2 = 2 l + 1``.

    Args:
        unit_vectors: (n_edges, 3), length one.
        l_max: 0 to 3.

    Returns:
        (n_edges, (l_max + 1)**2), l ascending, e3nn's order of m (polar axis y).
    """
    # Local, because TorchScript does not read module constants.
    sqrt3, sqrt5, sqrt7 = math.sqrt(3.0), math.sqrt(5.0), math.sqrt(7.0)
    sqrt15, sqrt105 = math.sqrt(15.0), math.sqrt(105.0)
    sqrt35_8, sqrt21_8 = math.sqrt(35.0 / 8.0), math.sqrt(21.0 / 8.0)
    x, y, z = unit_vectors.unbind(-1)
    columns = [torch.ones_like(x)]
    if l_max >= 1:
        columns += [sqrt3 * x, sqrt3 * y, sqrt3 * z]
    if l_max >= 2:
        z2_x2 = z * z - x * x
        columns += [
            sqrt15 * x * z,
            sqrt15 * x * y,
            sqrt5 * (1.5 * y * y - 0.5),
            sqrt15 * y * z,
            0.5 * sqrt15 * z2_x2,
        ]
        if l_max >= 3:
            five_y2 = 5.0 * y * y
            columns += [
                sqrt35_8 * x * (2.0 * z * z + z2_x2),
                sqrt105 * x * y * z,
                sqrt21_8 * x * (five_y2 - 1.0),
                0.5 * sqrt7 * y * (five_y2 - 3.0),
                sqrt21_8 * z * (five_y2 - 1.0),
                0.5 * sqrt105 * y * z2_x2,
                sqrt35_8 * z * (z2_x2 - 2.0 * x * x),
            ]
    return torch.stack(columns, dim=-1)
