"""Parameters of :mod:`mace_mm.simulation.electrostatics`, by atomic number."""

# Electronegativity (eV/e), its change with the root of the coordination number (eV/e), hardness
# (eV/e²), radius of the Gaussian charge (Å). Fitted by scripts/fit_charge_model.py.
CHARGE_PARAMETERS: dict[int, tuple[float, float, float, float]] = {
    1: (5.3567, 5.0000, 0.5000, 0.7169),
    6: (5.1823, 1.9188, 0.6760, 1.0812),
    7: (10.4748, 3.4675, 0.5000, 0.6765),
    8: (9.4532, 4.4415, 0.5000, 0.7869),
    9: (7.3982, 1.8684, 10.3359, 0.5511),
    15: (2.2560, 2.7507, 3.6455, 0.8183),
    16: (8.1387, 4.2354, 2.5128, 1.5000),
    17: (4.9943, 1.9362, 10.1766, 1.5000),
    35: (5.5460, 3.0811, 4.4263, 1.5000),
    53: (3.1997, 1.1110, 4.1618, 1.5000),
}

# Å³: P. Th. van Duijnen and M. Swart, J. Phys. Chem. A 102, 2399 (1998), exponential model fitted
# to experiment; phosphorus: C. Zhang et al., J. Chem. Theory Comput. 14, 2084 (2018).
POLARIZABILITIES: dict[int, float] = {
    1: 0.4138,
    6: 1.2886,
    7: 0.9716,
    8: 0.8520,
    9: 0.4448,
    15: 1.8280,
    16: 2.4744,
    17: 2.4003,
    35: 3.4929,
    53: 5.4810,
}
