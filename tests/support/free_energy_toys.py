"""Small systems whose free energies are known, for the tests of free-energy calculations."""

import math

import numpy as np
import openmm
from openmm import unit

from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.schedule import even_lambdas, linear_schedule
from mace_mm.free_energy.settings import Dynamics

TEMPERATURE_K = 300.0
KT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin) * TEMPERATURE_K
FAST = Dynamics(timestep_fs=5.0, friction_per_ps=20.0, platform="Reference", seed=7)


def harmonic_leg(
    k0: float, k1: float, n_windows: int = 3, n_particles: int = 1, offset: float = 0.0
) -> Leg:
    """Independent particles in a harmonic well that stiffens from k0 to k1, kJ/mol/nm².

    ``offset`` moves the second well's center along x, nm.
    """
    system = openmm.System()
    force = openmm.CustomExternalForce(
        "0.5*((1-lambda_interpolate)*k0*(x^2+y^2+z^2)+lambda_interpolate*k1*((x-offset)^2+y^2+z^2))"
    )
    force.addGlobalParameter("lambda_interpolate", 0.0)
    for name, value in (("k0", k0), ("k1", k1), ("offset", offset)):
        force.addGlobalParameter(name, value)
    for particle in range(n_particles):
        system.addParticle(12.0)
        force.addParticle(particle, [])
    system.addForce(force)
    return Leg(
        name="well",
        system=system,
        positions_nm=np.zeros((n_particles, 3)),
        box_nm=None,
        schedule=linear_schedule(even_lambdas(n_windows), "lambda_interpolate"),
        temperature_k=TEMPERATURE_K,
    )


def harmonic_answer_kj_mol(k0: float, k1: float, n_particles: int = 1) -> float:
    """F(k1) - F(k0) of particles in three dimensions: 3/2 kT ln(k1/k0) each."""
    return 1.5 * n_particles * KT * math.log(k1 / k0)
