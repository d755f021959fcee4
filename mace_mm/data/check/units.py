"""Are the units right? Answered by physics that does not depend on the level of theory.

- Lengths: a hydrogen atom sits at the sum of the covalent radii from its partner.
- Forces: a free X-H bond resists stretching with a force constant that every quantum-chemistry
  method agrees on within a few percent. The force on the hydrogen along the bond against the bond
  length gives it.
- Energies: between two frames of one molecule that lie close together, the energy changes by the
  work of the forces (trapezoid rule after superposition; exact for a harmonic surface).
- Energies: total energies of all-electron methods are the sum of the atoms' within 2 %, formation
  energies the sum of typical contributions of each element.

Each test gives the ratio measured / expected. The tests are independent: a length that is wrong is
put right before the forces are looked at, and wrong forces before their work is.
"""

from collections.abc import Sequence

import numpy as np

from mace_mm.data.check.verdict import FACTORS, UnitVerdict, verdict
from mace_mm.data.check.work import check_work
from mace_mm.data.labels import FrameSource, LabeledMolecule
from mace_mm.elements import covalent_radius

# Force constants of free X-H bonds, eV/Å²: means over SPICE (wB97M-D3), rMD17 (PBE), 3BPA (wB97X)
# and two neural potentials, which lie within 8 % of them.
_STRETCH = {6: 32.5, 7: 42.5, 8: 46.5, 16: 26.0}
_LONGEST_BOND = {6: 1.35, 7: 1.3, 8: 1.25, 16: 1.65}

# Isolated atoms at wB97M-D3(BJ)/def2-TZVPPD, eV (SPICE); other all-electron methods differ by
# less than 1 %. Elements with effective core potentials at this level are left out.
_ATOMS = {
    1: -13.571964772646918,
    6: -1030.5671648271828,
    7: -1486.3750255780376,
    8: -2043.933693071156,
    9: -2715.318528602957,
    15: -9287.407133426237,
    16: -10834.4844708122,
    17: -12522.649269035726,
    35: -70045.28385080204,
}
# Mean contribution of an element to the energy of formation from atoms, eV (fit to neutral organic
# molecules); good to about 0.1 eV per atom.
_BINDING = {1: -2.9, 6: -6.2, 7: -3.6, 8: -3.4, 9: -2.1, 15: -4.0, 16: -2.5, 17: -1.0, 35: -0.8}


def check_units(source: FrameSource, frames: Sequence[Sequence[int]]) -> list[UnitVerdict]:
    """Test lengths, forces and energies.

    Args:
        source: the frames.
        frames: frame numbers, grouped by molecule.
    """
    molecules = [[source[int(i)] for i in group] for group in frames]
    every = [frame for group in molecules for frame in group]
    length = check_length(every)
    length_scale = length.ratio if length.ok is False else 1.0
    forces = check_forces(molecules, length_scale)
    force_scale = forces.ratio if forces.ok is False else 1.0
    work = check_work(molecules, length_scale, force_scale)
    totals = check_totals(every)
    if forces.ok is None and totals.ok and work.ok is not None:
        how = f"energies whose unit is right: {work.how}"
        return [length, verdict("forces", 1 / work.ratio, work.n, how), totals]
    return [length, forces, work, totals]


def check_length(frames: Sequence[LabeledMolecule]) -> UnitVerdict:
    """Distance of each hydrogen (each atom, without hydrogens) to its nearest atom, in radii."""
    ratios: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for frame in frames:
        z = frame.molecule.atomic_numbers
        if z.size < 2:
            continue
        distance = _distances(frame)
        nearest = distance.argmin(axis=1)
        radii = np.array([covalent_radius(int(a)) for a in z])
        ratio = distance.min(axis=1) / (radii + radii[nearest])
        ratios[True].append(ratio[z == 1])
        ratios[False].append(ratio)
    with_hydrogen = any(part.size for part in ratios[True])
    parts = ratios[with_hydrogen]
    values = np.concatenate(parts) if parts else np.zeros(0)
    ratio = float(np.median(values)) if values.size else np.nan
    what = "hydrogens" if with_hydrogen else "atoms"
    return verdict(
        "length", ratio, values.size, f"distance of {what} to their nearest atom in covalent radii"
    )


def check_forces(molecules: Sequence[Sequence[LabeledMolecule]], scale: float = 1.0) -> UnitVerdict:
    """Force constants of free X-H bonds; C-H goes before N-H, O-H and S-H.

    Args:
        molecules: frames, grouped by molecule.
        scale: lengths are divided by it first.
    """
    samples: dict[int, list[tuple[int, int, float, float]]] = {z: [] for z in _STRETCH}
    for m, group in enumerate(molecules):
        for frame in group:
            if frame.forces is not None:
                for partner, *sample in _bonds(frame, scale):
                    samples[partner].append((m, *sample))  # type: ignore[arg-type]
    for partner, rows in samples.items():
        fit = _force_constant(np.array(rows).reshape(-1, 4))
        if fit is None:
            continue
        constant, correlation, n = fit
        how = (
            f"force constant of {n} {_NAMES[partner]} bonds {constant:.1f} eV/Å², expected "
            f"{_STRETCH[partner]} (correlation {correlation:.2f})"
        )
        return verdict("forces", constant / _STRETCH[partner], n, how)
    n = sum(len(rows) for rows in samples.values())
    return verdict("forces", np.nan, n, "no X-H bonds that are stretched enough to tell")


_NAMES = {6: "C-H", 7: "N-H", 8: "O-H", 16: "S-H"}


def check_totals(frames: Sequence[LabeledMolecule]) -> UnitVerdict:
    """Energies against isolated atoms: total energies, or formation energies from atoms.

    Energies of another kind (pseudopotentials, semi-empirical methods) do not tell anything here.
    """
    totals, atoms, bindings = [], [], []
    for frame in frames:
        z = frame.molecule.atomic_numbers.tolist()
        if frame.energy is None or not set(z) <= set(_ATOMS) or len(z) < 2:
            continue
        totals.append(frame.energy)
        atoms.append(sum(_ATOMS[a] for a in z))
        bindings.append(sum(_BINDING[a] for a in z))
    if len(totals) < 3:
        return verdict("energy", np.nan, len(totals), "too few frames with known elements")
    as_totals = np.array(totals) / (np.array(atoms) + np.array(bindings))
    as_formation = np.array(totals) / np.array(bindings)
    for values, what, width in (
        (as_totals, "total energies against the sum of all-electron atoms", 1.02),
        (as_formation, "energies against typical formation energies of their elements", 1.25),
    ):
        ratio = float(np.median(values))
        steady = np.std(values) < (width - 1) * abs(ratio)
        known = [1.0, *FACTORS["energy"].values()]
        if steady and any(abs(np.log(max(ratio, 1e-9) / f)) < np.log(width) for f in known):
            return verdict("energy", ratio, len(totals), what)
    return verdict(
        "energy", np.nan, len(totals), "neither all-electron totals nor formation energies"
    )


def _distances(frame: LabeledMolecule, scale: float = 1.0) -> np.ndarray:
    """(n_atoms, n_atoms) distances in Å, infinite on the diagonal; images are not looked at."""
    positions = frame.molecule.positions / scale
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return distance


def _bonds(frame: LabeledMolecule, scale: float) -> list[tuple[int, int, float, float]]:
    """Free X-H bonds: (element X, hydrogen, length in Å, force on H along the bond in eV/Å).

    A hydrogen with a second heavy atom within 2.4 Å may be in a hydrogen bond, whose pull would
    look like a softer bond; angles of a C-H keep its second neighbors at 2.0 Å and more, where
    nothing pulls, so those stay.
    """
    z = frame.molecule.atomic_numbers
    if frame.forces is None or z.size < 2:
        return []
    hydrogens, heavy = np.flatnonzero(z == 1), np.flatnonzero(z > 1)
    if not hydrogens.size or not heavy.size:
        return []
    distance = _distances(frame, scale)[np.ix_(hydrogens, heavy)]
    found = []
    for h, row in zip(hydrogens, distance, strict=True):
        nearest = int(row.argmin())
        partner = int(z[heavy[nearest]])
        length = float(row[nearest])
        if length > _LONGEST_BOND.get(partner, 0.0):
            continue
        others = np.delete(row, nearest)
        acceptors = np.isin(np.delete(z[heavy], nearest), (7, 8, 9, 16, 17, 35))
        if partner != 6 and (others[acceptors] < 2.4).any():
            continue
        bond = (frame.molecule.positions[h] - frame.molecule.positions[heavy[nearest]]) / scale
        found.append((partner, int(h), length, float(frame.forces[h] @ bond) / length))
    return found


def _force_constant(samples: np.ndarray) -> tuple[float, float, int] | None:
    """Slope of force against length, its correlation and the samples used; None if undetermined.

    Bonds seen in several frames are compared with themselves (their own mean length and force are
    taken away), so that different equilibrium lengths do not blur the slope.
    """
    if len(samples) < 20:
        return None
    molecule, atom, length, force = samples.T
    _, which, n = np.unique(molecule * 1e6 + atom, return_inverse=True, return_counts=True)
    repeated = n[which] >= 3
    if repeated.sum() >= 50:
        length = (length - (np.bincount(which, length) / n)[which])[repeated]
        force = (force - (np.bincount(which, force) / n)[which])[repeated]
    else:
        length, force = length - length.mean(), force - force.mean()
    if length.std() < 0.004 or not force.std():
        return None
    correlation = float((length @ force) / np.sqrt((length @ length) * (force @ force)))
    if abs(correlation) < 0.9:
        return None
    return float(-(length @ force) / (length @ length)), correlation, length.size
