"""Langevin dynamics and short minimization, driven by any force function."""

from collections.abc import Callable

import numpy as np

from mace_mm.errors import GeometryError
from mace_mm.units import BOLTZMANN_EV_PER_K, EV_TO_KJ_MOL

# Positions (n_atoms, 3) Å -> forces (n_atoms, 3) eV/Å.
ForceFunction = Callable[[np.ndarray], np.ndarray]

# 1 eV/Å acting on 1 amu accelerates by this many Å/fs²: 1 kJ/mol = 1 amu nm²/ps² = 1e-4 amu Å²/fs².
ACCELERATION = EV_TO_KJ_MOL * 1e-4
LARGEST_FORCE_EV_PER_ANGSTROM = 200.0


def langevin(
    forces: ForceFunction,
    positions: np.ndarray,
    masses: np.ndarray,
    *,
    temperature_k: float,
    timestep_fs: float,
    friction_per_ps: float,
    n_frames: int,
    steps_per_frame: int,
    seed: int,
) -> np.ndarray:
    """Sample with the BAOAB integrator (B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013,
    34, 2013).

    Args:
        forces: positions (n_atoms, 3) Å to forces (n_atoms, 3) eV/Å.
        positions: (n_atoms, 3) Å, the start.
        masses: (n_atoms,) amu.

    Returns:
        (n_frames, n_atoms, 3) Å.

    Raises:
        GeometryError: the trajectory blew up (forces that are not finite or beyond 200 eV/Å).
    """
    generator = np.random.Generator(np.random.Philox(seed))
    x = np.array(positions, dtype=np.float64)
    inverse_mass = ACCELERATION / masses[:, None]
    thermal_speed = np.sqrt(BOLTZMANN_EV_PER_K * temperature_k * inverse_mass)
    decay = np.exp(-friction_per_ps * 1e-3 * timestep_fs)
    kick = np.sqrt(1.0 - decay**2) * thermal_speed
    half_kick = 0.5 * timestep_fs * inverse_mass
    v = thermal_speed * generator.standard_normal(x.shape)
    f = _checked(forces(x), 0)
    frames = np.empty((n_frames, *x.shape))
    for frame in range(n_frames):
        noise = generator.standard_normal((steps_per_frame, *x.shape))
        for step in range(steps_per_frame):
            v += half_kick * f
            x += 0.5 * timestep_fs * v
            v = decay * v + kick * noise[step]
            x += 0.5 * timestep_fs * v
            f = forces(x)
            v += half_kick * f
        _checked(f, (frame + 1) * steps_per_frame)
        frames[frame] = x
    return frames


def _checked(forces: np.ndarray, step: int) -> np.ndarray:
    largest = np.abs(forces).max()
    if not largest < LARGEST_FORCE_EV_PER_ANGSTROM:
        raise GeometryError(
            f"the dynamics blew up at step {step}: a force component of {largest:.3g} eV/Å"
        )
    return forces


def minimize(
    forces: ForceFunction, positions: np.ndarray, *, n_steps: int, largest_step: float = 0.1
) -> np.ndarray:
    """A few L-BFGS steps (J. Nocedal, Math. Comp. 35, 773, 1980) without line search.

    Args:
        largest_step: no atom moves farther than this in one step, Å.

    Returns:
        (n_atoms, 3) Å.
    """
    x = np.array(positions, dtype=np.float64).ravel()
    shape = np.shape(positions)
    history: list[tuple[np.ndarray, np.ndarray]] = []
    f = forces(x.reshape(shape)).ravel()
    for step in range(n_steps):
        direction = _two_loop(f, history)
        if direction @ f <= 0.0:
            direction = f / 70.0
        longest = np.linalg.norm(direction.reshape(shape), axis=1).max()
        direction = direction * min(1.0, largest_step / max(longest, 1e-12))
        new_x = x + direction
        new_f = _checked(forces(new_x.reshape(shape)), step + 1).ravel()
        s, y = new_x - x, f - new_f
        if s @ y > 1e-10:
            history = [*history[-9:], (s, y)]
        x, f = new_x, new_f
    return x.reshape(shape)


def _two_loop(f: np.ndarray, history: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The L-BFGS step for the force f; the first curvature guess is 70 eV/Å² (ASE's value)."""
    q = f.copy()
    factors = []
    for s, y in reversed(history):
        factor = (s @ q) / (s @ y)
        q -= factor * y
        factors.append(factor)
    q /= 70.0
    for (s, y), factor in zip(history, reversed(factors), strict=True):
        q += s * (factor - (y @ q) / (s @ y))
    return q
