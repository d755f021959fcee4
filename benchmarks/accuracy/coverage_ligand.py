"""Do error bars and the word "converged" hold for a real ligand with a slow torsion?

Acetic acid in vacuum: the turn of its hydroxyl group (cis and trans acid) is given a barrier of
some kT, and from λ = 0 (GAFF with this torsion) to λ = 1 the trans form gains some kT and bonds
stiffen. Everything else is the project's: search of conformers, windows, verdict. The right answer
comes from long runs in which a bias takes the barrier away.

    python benchmarks/accuracy/coverage_ligand.py FREESOLV    # all settings, hours
    python benchmarks/accuracy/coverage_ligand.py FREESOLV --repeats 2 --only "barrier 3"
"""

import argparse
import json
import logging
import math
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit
from openmmml import MLPotential
from openmmml.mlpotential import MLPotentialImpl
from pymbar import MBAR

from mace_mm.free_energy.config import Conditions, InputFiles, Potential
from mace_mm.free_energy.jobs.run_leg import LegResult, Protocol, run_leg
from mace_mm.free_energy.legs.end_state import INTERPOLATION_PARAMETER, end_state_leg
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.schedule import even_lambdas, linear_schedule
from mace_mm.free_energy.settings import Dynamics, Execution, Limits, Starts, Windows
from mace_mm.free_energy.systems.inputs import MMSystem, load_system

TEMPERATURE_K = 300.0
KT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin) * TEMPERATURE_K
MOLECULE = "acetic acid"
# kT by which the trans form lies above the cis form at both ends.
HEIGHTS_KT = (1.0, -1.5)
STIFFER = 1.15


@dataclass(frozen=True)
class Setting:
    """One way to run it."""

    barrier_kt: float
    exchange: bool
    iterations: int
    starts: int | None = None

    @property
    def name(self) -> str:
        start = "" if self.starts is None else f", starts: {self.starts}"
        kind = "exchange" if self.exchange else "no exchange"
        return f"barrier {self.barrier_kt:g} kT, {kind}, {self.iterations} iterations{start}"


SETTINGS = (
    Setting(3.0, True, 200),
    Setting(3.0, False, 200),
    Setting(4.5, True, 200),
    Setting(4.5, True, 800),
    Setting(8.0, True, 200),
    Setting(8.0, False, 200),
    Setting(8.0, True, 200, starts=1),
)


class GivenForces(MLPotentialImpl):
    """A force field that OpenMM-ML takes for a machine-learned potential."""

    def __init__(self, system: openmm.System) -> None:
        self._system = system

    def addForces(  # noqa: N802 (OpenMM-ML's names)
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,  # noqa: N803
        **arguments: Any,
    ) -> None:
        del topology, atoms, arguments
        for force in self._system.getForces():
            made = openmm.XmlSerializer.clone(force)
            made.setForceGroup(forceGroup)
            system.addForce(made)

    def createImpl(self, name: str, **arguments: Any) -> "GivenForces":  # noqa: N802
        """Stands for its own factory."""
        del name, arguments
        return self


def hydroxyl(mm: MMSystem) -> tuple[int, int, int, int]:
    """The atoms O=C-O-H."""
    atoms = list(mm.topology.atoms())
    near: dict[int, list[int]] = {atom.index: [] for atom in atoms}
    for bond in mm.topology.bonds():
        near[bond.atom1.index].append(bond.atom2.index)
        near[bond.atom2.index].append(bond.atom1.index)
    hydrogen = next(a.index for a in atoms if a.element is app.element.hydrogen
                    and atoms[near[a.index][0]].element is app.element.oxygen)  # fmt: skip
    oxygen = near[hydrogen][0]
    carbon = next(i for i in near[oxygen] if i != hydrogen)
    double = next(i for i in near[carbon] if i != oxygen and atoms[i].element is app.element.oxygen)
    return double, carbon, oxygen, hydrogen


def with_torsion(mm: MMSystem, barrier_kt: float, height_kt: float, stiffer: float) -> MMSystem:
    """The molecule with two wells of its hydroxyl group, cis at 0° and trans at 180°."""
    system = openmm.XmlSerializer.clone(mm.system)
    double, carbon, oxygen, hydrogen = hydroxyl(mm)
    for force in system.getForces():
        if isinstance(force, openmm.PeriodicTorsionForce):
            for index in range(force.getNumTorsions()):
                *atoms, periodicity, phase, k = force.getTorsionParameters(index)
                if {atoms[1], atoms[2]} == {carbon, oxygen}:
                    force.setTorsionParameters(index, *atoms, periodicity, phase, 0.0 * k)
            force.addTorsion(double, carbon, oxygen, hydrogen, 2, math.pi, 0.5 * barrier_kt * KT)
            force.addTorsion(double, carbon, oxygen, hydrogen, 1, math.pi, 0.5 * height_kt * KT)
        elif isinstance(force, openmm.HarmonicBondForce):
            for index in range(force.getNumBonds()):
                *rest, k = force.getBondParameters(index)
                force.setBondParameters(index, *rest, stiffer * k)
        elif isinstance(force, openmm.NonbondedForce):
            # Charges would add a barrier and a height of their own.
            for index in range(force.getNumParticles()):
                _, sigma, epsilon = force.getParticleParameters(index)
                force.setParticleParameters(index, 0.0, sigma, epsilon)
            for index in range(force.getNumExceptions()):
                first, second, _, sigma, epsilon = force.getExceptionParameters(index)
                force.setExceptionParameters(index, first, second, 0.0, sigma, epsilon)
    return MMSystem(
        topology=mm.topology,
        system=system,
        positions_nm=mm.positions_nm,
        box_nm=None,
        ligand=mm.ligand,
    )


def make_leg(mm: MMSystem, barrier_kt: float, starts: int | None = None) -> Leg:
    """From the first molecule to the second, through OpenMM-ML."""
    first, second = (
        with_torsion(mm, barrier_kt, height, stiffer)
        for height, stiffer in zip(HEIGHTS_KT, (1.0, STIFFER), strict=True)
    )
    MLPotential.registerImplFactory("given-forces", GivenForces(second.system))
    return end_state_leg(
        "acid",
        first,
        Potential(name="given-forces"),
        linear_schedule(even_lambdas(5), INTERPOLATION_PARAMETER),
        Conditions(temperature_k=TEMPERATURE_K),
        starts=Starts(most=starts),
    )


def run_once(leg: Leg, setting: Setting, seed: int, folder: Path) -> LegResult:
    """One run to its verdict."""
    result = run_leg(
        leg,
        folder,
        Protocol(
            windows=Windows(
                lambdas=even_lambdas(5),
                iterations=setting.iterations,
                equilibration=20,
                steps=100,
                exchange=setting.exchange,
            ),
            switching=None,
            dynamics=Dynamics(
                timestep_fs=1.0, friction_per_ps=2.0, platform="Reference", seed=seed
            ),
            execution=Execution(),
            limits=Limits(),
        ),
    )
    if result is None:
        raise SystemExit("run this without MPI")
    return result


def right_answer(mm: MMSystem, barrier_kt: float, n_samples: int) -> tuple[float, float]:
    """F(1) - F(0) in kJ/mol and its error, from runs in which the hydroxyl group turns freely."""
    leg = make_leg(mm, barrier_kt)
    system = openmm.XmlSerializer.clone(leg.system)
    bias = openmm.CustomTorsionForce("-0.5*on*barrier*(1-cos(2*theta))")
    bias.addGlobalParameter("on", 1.0)
    bias.addGlobalParameter("barrier", barrier_kt * KT)
    bias.addTorsion(*hydroxyl(mm), [])
    system.addForce(bias)
    integrator = openmm.LangevinMiddleIntegrator(
        TEMPERATURE_K * unit.kelvin, 2.0 / unit.picosecond, 1.0 * unit.femtosecond
    )
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    # The last two states, without the bias, are those asked for; they are not sampled.
    states = [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)]
    reduced: list[list[float]] = [[] for _ in states]
    for value, on in states[:3]:
        context.setPositions(mm.positions_nm)
        _set(context, value, 1.0)
        openmm.LocalEnergyMinimizer.minimize(context)
        context.setVelocitiesToTemperature(TEMPERATURE_K)
        integrator.step(5000)
        for _ in range(n_samples):
            _set(context, value, on)
            integrator.step(200)
            for index, state in enumerate(states):
                _set(context, *state)
                energy = context.getState(getEnergy=True).getPotentialEnergy()
                reduced[index].append(energy.value_in_unit(unit.kilojoule_per_mole) / KT)
    fit = MBAR(
        np.array(reduced), np.array([n_samples] * 3 + [0, 0])
    ).compute_free_energy_differences()
    return KT * float(fit["Delta_f"][3, 4]), KT * float(fit["dDelta_f"][3, 4])


def _set(context: openmm.Context, value: float, on: float) -> None:
    context.setParameter(INTERPOLATION_PARAMETER, value)
    context.setParameter("on", on)


def repeat(mm: MMSystem, setting: Setting, repeats: int) -> Iterator[dict[str, Any]]:
    """Run a setting again and again with other noise."""
    for number in range(repeats):
        started = time.monotonic()
        leg = make_leg(mm, setting.barrier_kt, setting.starts)
        with tempfile.TemporaryDirectory() as folder:
            result = run_once(leg, setting, 1 + 101 * number, Path(folder))
        conformers = result.conformers
        slow = [] if conformers is None else conformers.parts["windows"]
        yield {
            "value": result.estimate.value_kj_mol,
            "error": result.estimate.error_kj_mol,
            "converged": result.verdict.converged,
            "starts": 0 if conformers is None else conformers.n_starts,
            "transitions": [0 if one.slow is None else one.slow.n_transitions for one in slow],
            "reasons": list(result.verdict.reasons),
            "conformer_reasons": [reason for one in slow for reason in one.reasons],
            "seconds": round(time.monotonic() - started, 1),
        }


def summarize(runs: list[dict[str, Any]], answer: float) -> dict[str, Any]:
    """Scatter, reported error, and what intervals and verdicts hold."""
    values = np.array([run["value"] for run in runs])
    errors = np.array([run["error"] for run in runs])
    converged = np.array([run["converged"] for run in runs])
    inside = np.abs(values - answer) <= 1.96 * errors
    unmoved = np.array([sum(run["transitions"]) == 0 for run in runs])
    return {
        "right_kj_mol": round(answer, 3),
        "mean_kj_mol": round(float(values.mean()), 3),
        "scatter_kj_mol": round(float(values.std(ddof=1)), 3) if len(values) > 1 else None,
        "reported_error_kj_mol": round(float(np.median(errors)), 3),
        "inside_95": round(float(inside.mean()), 3),
        "converged": int(converged.sum()),
        "inside_95_of_converged": round(float(inside[converged].mean()), 3)
        if converged.any()
        else None,
        "runs_without_a_flip": int(unmoved.sum()),
        "of_these_called_converged": int((converged & unmoved).sum()),
        "median_transitions": float(np.median([sum(run["transitions"]) for run in runs])),
        "median_seconds": float(np.median([run["seconds"] for run in runs])),
    }


def main() -> None:
    """Run all settings, keep results after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("freesolv", type=Path, help="folder of the FreeSolv database")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--only", default="", help="settings whose name holds this")
    parser.add_argument("--samples", type=int, default=20000, help="of each state of the answer")
    parser.add_argument("--output", type=Path, default=Path("coverage_ligand.json"))
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    mm = load_system(InputFiles(freesolv=arguments.freesolv, molecule=MOLECULE))
    content = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for setting in SETTINGS:
        if arguments.only not in setting.name:
            continue
        answers = content.setdefault("answers", {})
        key = f"{setting.barrier_kt:g}"
        if key not in answers:
            answers[key] = right_answer(mm, setting.barrier_kt, arguments.samples)
        known = content.setdefault("settings", {}).setdefault(
            setting.name, {"setting": asdict(setting), "runs": []}
        )
        runs = known["runs"]
        for number, run in enumerate(repeat(mm, setting, arguments.repeats)):
            runs.append(run)
            known["summary"] = summarize(runs, answers[key][0])
            arguments.output.write_text(json.dumps(content, indent=1))
            print(setting.name, number, run, flush=True)
        print(setting.name, known["summary"], flush=True)


if __name__ == "__main__":
    main()
