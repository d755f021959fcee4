"""Free-energy runs look at the molecule: what they see stops them and stays with the result."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app

from mace_mm.errors import RunStoppedError
from mace_mm.free_energy.legs.leg import Leg
from mace_mm.free_energy.legs.schedule import even_lambdas, linear_schedule
from mace_mm.free_energy.legs.watch import watch_of
from mace_mm.free_energy.sampling.journal import Journal
from mace_mm.free_energy.sampling.molecule_observer import MoleculeObserver, molecule_observer
from mace_mm.free_energy.sampling.restart import Restart
from mace_mm.free_energy.sampling.windows import run_windows
from mace_mm.free_energy.settings import Windows
from mace_mm.simulation.ligand import ligand_from_smiles
from mace_mm.simulation.watch.settings import WatchSettings
from tests.support.free_energy_toys import FAST, TEMPERATURE_K

WINDOWS = Windows(lambdas=even_lambdas(3), iterations=12, equilibration=2, steps=20)


def pair(pull: float) -> tuple[openmm.System, app.Topology, np.ndarray]:
    """Two carbons on a spring that a force pulls apart where λ is 1, kJ/mol/nm."""
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    atoms = [topology.addAtom(f"C{i + 1}", app.element.carbon, residue) for i in range(2)]
    topology.addBond(*atoms)
    for _ in atoms:
        system.addParticle(12.011)
    bond = openmm.CustomBondForce(f"200*(1-exp(-20*(r-0.154)))^2 - lambda_interpolate*{pull}*r")
    bond.addGlobalParameter("lambda_interpolate", 0.0)
    bond.addBond(0, 1, [])
    system.addForce(bond)
    return system, topology, np.array([[0.0, 0.0, 0.0], [0.154, 0.0, 0.0]])


def pair_leg(pull: float, watch: str = "stop") -> Leg:
    system, topology, positions = pair(pull)
    observer = molecule_observer(
        topology, system, [0, 1], positions, TEMPERATURE_K, WatchSettings(watch=watch)
    )
    return Leg(
        name="pair",
        system=system,
        positions_nm=positions,
        box_nm=None,
        schedule=linear_schedule(WINDOWS.lambdas, "lambda_interpolate"),
        temperature_k=TEMPERATURE_K,
        observers=(observer,),
    )


@pytest.mark.parametrize("exchange", [True, False])
def test_a_molecule_that_breaks_ends_its_windows_and_keeps_what_was_sampled(
    tmp_path: Path, exchange: bool
) -> None:
    leg, windows = pair_leg(6000.0), WINDOWS.model_copy(update={"exchange": exchange})
    with pytest.raises(RunStoppedError, match=r"bond C1–C2 \(atoms 0 and 1\) broke") as first:
        run_windows(leg, tmp_path, windows, FAST)
    assert "in iteration " in str(first.value) and ", replica " in str(first.value)
    journal = Journal(tmp_path, 3, 3, leg.observers)
    done = journal.n_iterations()
    assert done >= 1
    # What is continued is looked at again, and nothing more is sampled.
    with pytest.raises(RunStoppedError, match="broke"):
        run_windows(leg, tmp_path, windows, FAST)
    assert journal.n_iterations() == done
    seen = watch_of(leg, {"windows": [journal]})
    assert seen is not None
    finding = seen.findings[0]
    assert finding.step == done and finding.kind == "bond_broken" and finding.atoms == (0, 1)
    assert seen.looks == 3 * done and seen.not_looked == 0
    assert not seen.verdict.converged
    assert "bond C1–C2 (atoms 0 and 1) broke (windows, replica " in seen.verdict.reasons[0]
    # Whoever wants to know how it goes on can.
    flagging = pair_leg(6000.0, "flag")
    run_windows(flagging, tmp_path, windows, FAST)
    assert journal.n_iterations() == 14
    again = watch_of(flagging, {"windows": [journal]})
    assert again is not None and again.findings[0].step == done
    assert again.findings[0].looks > 1


def test_a_molecule_that_stays_is_said_to(tmp_path: Path) -> None:
    leg = pair_leg(0.0)
    journal = run_windows(leg, tmp_path, WINDOWS, FAST)
    seen = watch_of(leg, {"windows": [journal]})
    assert seen is not None and seen.verdict.converged
    assert seen.in_words() == "42 looks at 1 bond."
    content = seen.to_json()
    assert content["findings"] == [] and content["looks"] == 42


def test_runs_without_an_observer_say_that_nobody_looked(tmp_path: Path) -> None:
    leg = pair_leg(0.0)
    journal = run_windows(replace(leg, observers=()), tmp_path, WINDOWS, FAST)
    assert watch_of(replace(leg, observers=()), {"windows": [journal]}) is None
    seen = watch_of(leg, {"windows": [journal]})
    assert seen is not None and seen.looks == 0 and seen.not_looked == 42
    assert seen.in_words().startswith("Nobody looked")


def observed(smiles: str) -> tuple[MoleculeObserver, np.ndarray]:
    ligand = ligand_from_smiles(smiles)
    system = openmm.System()
    for atom in ligand.topology.atoms():
        system.addParticle(atom.element.mass)
    atoms = range(ligand.n_atoms)
    observer = molecule_observer(
        ligand.topology, system, atoms, ligand.positions_nm, 300.0, WatchSettings()
    )
    return observer, ligand.positions_nm


def said(observer: MoleculeObserver, positions: np.ndarray, speed: float = 0.0) -> list[str]:
    restart = Restart(
        iteration=1,
        states=np.array([0]),
        positions_nm=positions[None],
        velocities_nm_ps=np.full((1, *positions.shape), speed),
        boxes_nm=None,
    )
    (row,) = observer.measure(restart, np.zeros((1, 1)))
    assert len(row) == len(observer.columns)
    return [change.text for change in observer.changes(row)]


def test_every_kind_survives_the_journal_as_numbers() -> None:
    observer, start = observed("C[C@H](N)C(=O)O")
    assert said(observer, start) == []
    assert said(observer, start * [1, 1, -1]) == ["the configuration of C2 (atom 1) is inverted"]
    torn = start.copy()
    torn[[6, 7, 8]] += 1.0
    assert said(observer, torn) == ["bond C1–H1 (atoms 0 and 6) broke and 2 more of this kind"]
    acid = start.copy()
    outward = start[4] - start[3]
    acid[12] = start[4] + 0.097 * outward / np.linalg.norm(outward)
    assert said(observer, acid) == ["proton H7 (atom 12) moved from O2 (atom 5) to O1 (atom 4)"]
    lost = start.copy()
    lost[3] = np.nan
    assert said(observer, lost) == ["the positions of C3 (atom 3) are not numbers"]
    (hot,) = said(observer, start, speed=10.0)
    assert hot.startswith("the temperature of the molecule is")


def test_a_strict_observer_stops_at_an_inverted_center_and_a_usual_one_does_not() -> None:
    observer, start = observed("C[C@H](N)C(=O)O")
    restart = Restart(
        iteration=7,
        states=np.array([0, 1]),
        positions_nm=np.stack([start, start * [1, 1, -1]]),
        velocities_nm_ps=np.zeros((2, *start.shape)),
        boxes_nm=None,
    )
    values = observer.measure(restart, np.zeros((2, 2)))
    observer.check(7, values)
    strict = replace(observer, settings=WatchSettings(watch="strict"))
    with pytest.raises(RunStoppedError, match="in iteration 7, replica 2: the configuration of C2"):
        strict.check(7, values)
