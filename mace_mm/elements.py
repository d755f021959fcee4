"""Chemical symbols, atomic numbers, covalent radii, and the species index of a model.

A *species* is the position of an element in the model's sorted list of atomic numbers.
"""

from collections.abc import Iterable, Sequence

from mace_mm.errors import ElementError

_SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br
Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er
Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md
No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
""".split()

# Covalent radii in Å: B. Cordero et al., Dalton Trans. 2832 (2008); 0.2 where none is known.
_COVALENT_RADII = (
    0.31,
    0.28,
    1.28,
    0.96,
    0.84,
    0.76,
    0.71,
    0.66,
    0.57,
    0.58,
    1.66,
    1.41,
    1.21,
    1.11,
    1.07,
    1.05,
    1.02,
    1.06,
    2.03,
    1.76,
    1.7,
    1.6,
    1.53,
    1.39,
    1.39,
    1.32,
    1.26,
    1.24,
    1.32,
    1.22,
    1.22,
    1.2,
    1.19,
    1.2,
    1.2,
    1.16,
    2.2,
    1.95,
    1.9,
    1.75,
    1.64,
    1.54,
    1.47,
    1.46,
    1.42,
    1.39,
    1.45,
    1.44,
    1.42,
    1.39,
    1.39,
    1.38,
    1.39,
    1.4,
    2.44,
    2.15,
    2.07,
    2.04,
    2.03,
    2.01,
    1.99,
    1.98,
    1.98,
    1.96,
    1.94,
    1.92,
    1.92,
    1.89,
    1.9,
    1.87,
    1.87,
    1.75,
    1.7,
    1.62,
    1.51,
    1.44,
    1.41,
    1.36,
    1.36,
    1.32,
    1.45,
    1.46,
    1.48,
    1.4,
    1.5,
    1.5,
    2.6,
    2.21,
    2.15,
    2.06,
    2,
    1.96,
    1.9,
    1.87,
    1.8,
    1.69,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
)

MAX_ATOMIC_NUMBER = len(_SYMBOLS)


def symbol(atomic_number: int) -> str:
    """Return the chemical symbol of an atomic number (1 to 118)."""
    if not 1 <= atomic_number <= MAX_ATOMIC_NUMBER:
        raise ElementError(
            f"an atomic number lies between 1 and {MAX_ATOMIC_NUMBER}, got {atomic_number}"
        )
    return _SYMBOLS[atomic_number - 1]


def atomic_number(symbol: str) -> int:
    """Return the atomic number of a chemical symbol such as ``"Cl"``."""
    try:
        return _SYMBOLS.index(symbol) + 1
    except ValueError:
        raise ElementError(f"{symbol!r} is not the symbol of a chemical element") from None


def covalent_radius(atomic_number: int) -> float:
    """Return the covalent radius in Å (Cordero 2008)."""
    symbol(atomic_number)
    return _COVALENT_RADII[atomic_number - 1]


def species_index(atomic_numbers: Iterable[int], model_elements: Sequence[int]) -> list[int]:
    """Map atomic numbers to positions in the model's element list.

    Args:
        atomic_numbers: (n_atoms,) atomic numbers.
        model_elements: the model's atomic numbers, in its own order.

    Raises:
        ElementError: an element is not among the model's; the message lists both.
    """
    table = {int(z): i for i, z in enumerate(model_elements)}
    numbers = [int(z) for z in atomic_numbers]
    unknown = sorted(set(numbers) - set(table))
    if unknown:
        known = " ".join(symbol(z) for z in model_elements)
        got = " ".join(symbol(z) if 1 <= z <= MAX_ATOMIC_NUMBER else str(z) for z in unknown)
        raise ElementError(f"the model knows the elements {known}; the input also holds {got}")
    return [table[z] for z in numbers]
