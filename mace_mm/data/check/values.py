"""Tests of single values: forces, contacts, energies, duplicates."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mace_mm import units
from mace_mm.data.check.frame_scan import FrameScan, find_duplicates
from mace_mm.data.statistics import fit_atomic_energies
from mace_mm.elements import symbol
from mace_mm.errors import DataError

# Energy of formation from atoms per atom, eV: from noble-gas dimers to CO2, with a margin.
_BINDING_RANGE = (-9.0, 0.5)

LEVELS = ("ok", "note", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class CheckSettings:
    """What to look for.

    Attributes:
        max_force: largest force component that is no outlier, eV/Å; SPICE leaves out frames above
            1 hartree/bohr.
        max_net_force: largest sum of the forces on a frame, eV/Å; more means noise or lost atoms.
        min_closest: shortest distance between two atoms, in units of their covalent radii.
        max_energy_deviations: energies per atom farther than this many (robust) standard
            deviations from the fit are outliers.
        atomic_energies: head -> atomic number -> eV; heads not named are fitted.
        unit_frames: frames, of random molecules, for the tests of the units.
        consistency: compare energies with the work of the forces in every molecule.
        max_frames: look at a random sample of this many frames; None looks at all.
        seed: of the samples.
    """

    max_force: float = units.HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
    max_net_force: float = 0.1
    min_closest: float = 0.6
    max_energy_deviations: float = 10.0
    atomic_energies: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    unit_frames: int = 3000
    consistency: bool = False
    max_frames: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
        level: "ok", "note", "warning" (look at it) or "error" (do not train on it).
        check: name of the test.
        text: what was found.
        frames: frame numbers concerned, complete.
    """

    level: str
    check: str
    text: str
    frames: tuple[int, ...] = ()


def check_forces(scan: FrameScan, settings: CheckSettings) -> list[Finding]:
    """Force components and sums of forces above the limits."""
    limits = (
        ("force outliers", scan.max_force, settings.max_force, "a force component above"),
        ("net force", scan.net_force, settings.max_net_force, "forces that add up to more than"),
    )
    found = []
    for check, values, limit, text in limits:
        bad = np.flatnonzero(values > limit)
        if bad.size:
            worst = bad[np.argmax(values[bad])]
            found.append(
                Finding(
                    level="warning",
                    check=check,
                    text=f"{bad.size} frames have {text} {limit:.3g} eV/Å; "
                    f"the worst is frame {scan.index[worst]} with {values[worst]:.4g}",
                    frames=tuple(scan.index[bad].tolist()),
                )
            )
        elif not np.isnan(values).all():
            found.append(
                Finding(
                    level="ok",
                    check=check,
                    text=f"none; the largest is {np.nanmax(values):.3g} eV/Å",
                )
            )
    return found


def check_geometry(scan: FrameScan, settings: CheckSettings) -> list[Finding]:
    """Atoms too close to each other."""
    bad = np.flatnonzero(scan.closest < settings.min_closest)
    if not bad.size:
        return [Finding(level="ok", check="close contacts", text="none")]
    worst = bad[np.argmin(scan.closest[bad])]
    return [
        Finding(
            level="warning",
            check="close contacts",
            text=f"{bad.size} frames have atoms closer than {settings.min_closest} covalent radii; "
            f"the worst is frame {scan.index[worst]} with {scan.closest[worst]:.2f}",
            frames=tuple(scan.index[bad].tolist()),
        )
    ]


def energy_residuals(
    scan: FrameScan, settings: CheckSettings
) -> tuple[np.ndarray, dict[str, dict[int, float]]]:
    """Energy per atom beside given or fitted atomic energies, (n,) eV, and those energies."""
    residuals = np.full(scan.index.size, np.nan)
    energies: dict[str, dict[int, float]] = {}
    for head in sorted(set(scan.head)):
        rows = np.flatnonzero((scan.head == head) & ~np.isnan(scan.energy))
        if not rows.size:
            continue
        counts = scan.composition[rows].astype(np.float64)
        used = np.flatnonzero(counts.any(axis=0))
        present = [scan.elements[k] for k in used]
        table = settings.atomic_energies.get(head)
        if table is None:
            table = fit_atomic_energies(counts[:, used], scan.energy[rows], present)
        missing = [symbol(z) for z in present if z not in table]
        if missing:
            raise DataError(f"atomic energies of head {head!r} lack {' '.join(missing)}")
        energies[head] = {z: float(table[z]) for z in present}
        values = np.array([energies[head][z] for z in present])
        residuals[rows] = (scan.energy[rows] - counts[:, used] @ values) / scan.n_atoms[rows]
    return residuals, energies


def check_energies(
    scan: FrameScan, residuals: np.ndarray, settings: CheckSettings
) -> list[Finding]:
    """Energies per atom far from the rest of their head."""
    found = []
    for head in sorted(set(scan.head[~np.isnan(residuals)])):
        rows = np.flatnonzero((scan.head == head) & ~np.isnan(residuals))
        values = residuals[rows]
        center = np.median(values)
        spread = max(1.4826 * float(np.median(np.abs(values - center))), 0.005)
        bad = rows[np.abs(values - center) > settings.max_energy_deviations * spread]
        how = "given" if head in settings.atomic_energies else "fitted"
        text = f"head {head!r}: {center:.3f} ± {spread:.3f} eV/atom beside {how} atomic energies"
        level = "warning" if bad.size else "ok"
        if bad.size:
            worst = bad[np.argmax(np.abs(residuals[bad] - center))]
            text += f"; {bad.size} outliers, the worst is frame {scan.index[worst]} with "
            text += f"{residuals[worst]:.3f}"
        if how == "given" and not _BINDING_RANGE[0] < center < _BINDING_RANGE[1]:
            level = "error"
            text += "; no molecule is bound like that: the atomic energies are of another method"
        found.append(
            Finding(
                level=level, check="energies", text=text, frames=tuple(scan.index[bad].tolist())
            )
        )
    return found


def check_duplicates(scan: FrameScan) -> list[Finding]:
    """Frames with the same geometry, with the same labels or with others."""
    pairs = find_duplicates(scan)
    if not pairs:
        return [Finding(level="ok", check="duplicates", text="none")]
    found = []
    for agree, level, text in (
        (True, "warning", "frames repeat another one"),
        (False, "error", "frames have the geometry of another one and other labels"),
    ):
        chosen = [(a, b) for a, b, same in pairs if same == agree]
        if chosen:
            shown = ", ".join(f"{a} and {b}" for a, b in chosen[:5])
            found.append(
                Finding(
                    level=level,
                    check="duplicates",
                    text=f"{len(chosen)} {text}: {shown}",
                    frames=tuple(b for _, b in chosen),
                )
            )
    return found
