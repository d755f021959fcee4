"""States from values, and what is said of runs whose paths are known."""

import numpy as np
import pytest

from mace_mm.free_energy.conformers.candidates import rotate_branch
from mace_mm.free_energy.conformers.ligand_molecule import LigandMolecule
from mace_mm.free_energy.conformers.search import Conformers, columns_of
from mace_mm.free_energy.coordinates.basins import BETWEEN, find_basins
from mace_mm.free_energy.coordinates.conformation import measure
from mace_mm.free_energy.coordinates.soft_coordinates import SoftCoordinate, find_coordinates
from mace_mm.free_energy.coordinates.states import find_states, is_mirror_symmetric
from mace_mm.free_energy.coordinates.verdict import Followed, Run, judge_conformers
from mace_mm.free_energy.settings import Limits
from tests.support.ligands import ligand_of

N_ITERATIONS, N_REPLICAS, DISCARD = 200, 5, 20
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
LIMITS = Limits()
ACID = "CC(=O)O"


def _hop(
    wells: dict[float, float], rate: float, starts: list[float], seed: int = 1, width: float = 9.0
) -> np.ndarray:
    """(n_iterations, n_replicas) angles of replicas that jump to a well drawn by weight."""
    generator = np.random.default_rng(seed)
    places = np.array([starts[r % len(starts)] for r in range(N_REPLICAS)], dtype=np.float64)
    rows = []
    for _ in range(N_ITERATIONS + DISCARD):
        jumps = generator.random(N_REPLICAS) < rate
        drawn = generator.choice(list(wells), N_REPLICAS, p=list(wells.values()))
        places = np.where(jumps, drawn, places)
        rows.append(places + generator.normal(0.0, width, N_REPLICAS))
    return np.array(rows)


def _windows(exchange: bool, seed: int = 3) -> np.ndarray:
    rows = np.tile(np.arange(N_REPLICAS), (N_ITERATIONS + DISCARD, 1))
    return np.random.default_rng(seed).permuted(rows, axis=1) if exchange else rows


def _known(
    ligand: LigandMolecule,
    coordinates: tuple[SoftCoordinate, ...],
    wells: dict[tuple[float, ...], tuple[float, float]],
    starts: tuple[int, ...],
) -> Conformers:
    """Conformers whose coordinates have the given values, with their energies at both ends."""
    rows = [(value, end, e[end]) for value, e in wells.items() for end in (0, 1)]
    rows = [row for row in rows if np.isfinite(row[2])]
    return Conformers(
        end_names=("the force field", "mace"),
        columns=columns_of(coordinates),
        positions_nm=np.array([ligand.positions_nm] * len(rows)),
        ends=np.array([end for _, end, _ in rows]),
        energies_kt=np.array([energy for _, _, energy in rows]),
        values=np.array([value for value, _, _ in rows], dtype=np.float64),
        starts=starts,
        ground="as told",
    )


def _judge(
    values: np.ndarray,
    wells: dict[tuple[float, ...], tuple[float, float]],
    *,
    smiles: str = ACID,
    exchange: bool = True,
    starts: tuple[int, ...] = (0,),
    in_site: bool = False,
    fits: object = None,
) -> list[Followed]:
    ligand = ligand_of(smiles)
    coordinates = find_coordinates(ligand)
    values = values.reshape(*values.shape[:2], -1)
    periods = np.array([c.period or 1e9 for c in coordinates for _ in c.columns])
    return judge_conformers(
        ligand,
        coordinates,
        _known(ligand, coordinates, wells, starts),
        Run(
            values=np.where(periods < 1e9, np.mod(values, periods), values),
            states=_windows(exchange),
            discard=DISCARD,
            lambdas=LAMBDAS,
        ),
        LIMITS,
        window_kt=3.0,
        in_site=in_site,
        fits=fits,  # type: ignore[arg-type]
    )


TWO = {(0.0,): (0.0, 0.5), (180.0,): (1.0, 0.0)}


@pytest.mark.parametrize("exchange", [True, False])
def test_two_states_between_which_nobody_went(exchange: bool) -> None:
    values = _hop({0.0: 0.5, 180.0: 0.5}, 0.0, [0.0, 180.0])
    (one,) = _judge(values, TWO, exchange=exchange, starts=(0, 2))
    assert one.slow is not None and one.slow.n_transitions == 0
    (reason,) = one.reasons
    assert reason.startswith("torsion O2-C1-O3-H7 (atoms 2, 1, 3, 7; [H]OC(C)=O) was seen in two")
    assert "no replica went between them" in reason


@pytest.mark.parametrize("exchange", [True, False])
def test_one_state_of_two_that_are_known(exchange: bool) -> None:
    values = _hop({0.0: 1.0}, 0.0, [0.0])
    (one,) = _judge(values, TWO, exchange=exchange)
    (reason,) = one.reasons
    assert "no transition seen in 200 iterations of 5 replicas" in reason
    assert "(known: 180°, 0.0 kT above the lowest conformer)" in reason


def test_states_that_exchange_are_no_reason_and_rare_exchange_is() -> None:
    (often,) = _judge(_hop({0.0: 0.5, 180.0: 0.5}, 0.1, [0.0, 180.0]), TWO)
    assert not often.reasons and often.slow is not None and often.slow.n_transitions > 30
    (rarely,) = _judge(_hop({0.0: 0.5, 180.0: 0.5}, 0.006, [0.0, 180.0], seed=5), TWO)
    assert rarely.slow is not None and 0 < rarely.slow.n_transitions < 10
    assert "changed its state 3 times in all 5 replicas, at least" in rarely.reasons[0]


@pytest.mark.parametrize(
    ("wells", "ground"),
    [
        ({(0.0,): (0.0, 0.0)}, "one state seen, none other known"),
        ({(0.0,): (0.0, 0.0), (180.0,): (6.3, 7.5)}, "others lie 6.3 kT or more above the lowest"),
        ({(0.0,): (0.0, 0.0), (180.0,): (3.4, np.inf)}, "others lie 3.4 kT or more"),
    ],
)
def test_one_state_is_no_reason_where_no_other_counts(
    wells: dict[tuple[float, ...], tuple[float, float]], ground: str
) -> None:
    (one,) = _judge(_hop({0.0: 1.0}, 0.0, [0.0]), wells)
    assert not one.reasons
    assert ground in one.ground


def test_a_state_that_its_starters_left_at_once_is_no_reason() -> None:
    values = _hop({0.0: 1.0}, 0.0, [0.0])
    values[:4, 1::2] += 180.0
    (one,) = _judge(values, TWO, starts=(0, 2))
    assert not one.reasons
    assert "left them at once and never came back" in one.ground
    # Who stayed for most of the equilibration and never came back in a short run proves nothing.
    values[:DISCARD, 1::2] = 180.0
    (one,) = _judge(values, TWO, starts=(0, 2))
    assert "no transition seen" in one.reasons[0]


def test_a_third_state_that_nobody_reached() -> None:
    wells = TWO | {(90.0,): (0.4, 0.2)}
    (one,) = _judge(_hop({0.0: 0.5, 180.0: 0.5}, 0.1, [0.0, 180.0]), wells)
    (reason,) = one.reasons
    assert "never reached its state at 90°, 0.2 kT above the lowest conformer" in reason


def test_a_rare_visit_is_no_state_to_be_judged() -> None:
    values = _hop({0.0: 1.0}, 0.0, [0.0])
    values[100:103, 2] += 170.0
    (one,) = _judge(values, {(0.0,): (0.0, 0.0)})
    assert not one.reasons
    # Who comes last and stays may stay for long.
    values[100:103, 2] -= 170.0
    values[-3:, 2] += 170.0
    (one,) = _judge(values, {(0.0,): (0.0, 0.0)})
    assert "changed its state once in all 5 replicas" in one.reasons[0]


def test_without_exchange_a_window_need_not_visit_what_is_high_there() -> None:
    """Both states at λ = 0, one at λ = 1: its window may stay."""
    values = _hop({0.0: 0.5, 180.0: 0.5}, 0.3, [0.0])
    values[:, -1] = _hop({0.0: 1.0}, 0.0, [0.0])[:, -1]
    wells = {(0.0,): (0.0, 0.0), (180.0,): (0.2, 9.0)}
    (one,) = _judge(values, wells, exchange=False)
    assert not one.reasons
    wells = {(0.0,): (0.0, 0.0), (180.0,): (0.2, 1.0)}
    (one,) = _judge(values, wells, exchange=False)
    (reason,) = one.reasons
    assert "0 times in the window λ = 1," in reason


def test_mirror_images_count_once_unless_something_tells_them_apart() -> None:
    """Gauche+ and gauche- of dichloroethane weigh the same; in a chiral site they do not."""
    trapped = _hop({65.0: 0.5, 295.0: 0.5}, 0.0, [65.0, 295.0])
    wells = {(65.0,): (0.0, 0.0), (295.0,): (0.0, 0.0)}
    (one,) = _judge(trapped, wells, smiles="ClCCCl", starts=(0, 2))
    assert not one.reasons and "mirror images count as one state" in one.ground
    (one,) = _judge(trapped, wells, smiles="ClCCCl", starts=(0, 2), in_site=True)
    assert "no replica went between them" in one.reasons[0]
    # Gauche and anti are no mirror images.
    (one,) = _judge(
        _hop({65.0: 0.5, 180.0: 0.5}, 0.0, [65.0, 180.0]),
        {(65.0,): (0.0, 0.0), (180.0,): (0.0, 0.0)},
        smiles="ClCCCl",
        starts=(0, 2),
    )
    assert "no replica went between them" in one.reasons[0]


@pytest.mark.parametrize(
    ("smiles", "symmetric"),
    [
        ("ClCCCl", True),
        ("CC(=O)N1CCOCC1", True),
        ("C1CCCCC1", True),
        ("CN1CCCCC1", True),
        ("CC1CCCCC1", False),
        ("C[C@H](O)CC", False),
        ("CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O", False),
    ],
)
def test_which_molecules_are_their_own_mirror_images(smiles: str, symmetric: bool) -> None:
    ligand = ligand_of(smiles)
    assert is_mirror_symmetric(ligand, find_coordinates(ligand)) == symmetric


def test_two_slow_coordinates_are_not_mirrored_away() -> None:
    first = _hop({60.0: 0.5, 300.0: 0.5}, 0.0, [60.0, 300.0])
    values = np.stack([first, first], axis=-1)
    wells = {(60.0, 60.0): (0.0, 0.0), (300.0, 300.0): (0.0, 0.0)}
    found = _judge(values, wells, smiles="OCCCl", starts=(0, 2))
    assert all("no replica went between them" in one.reasons[0] for one in found)


@pytest.mark.parametrize("smiles", ["OC1CCCCC1", "C1CCCCC1"])
def test_trapped_chairs_count_where_they_differ(smiles: str) -> None:
    ligand = ligand_of(smiles)
    coordinates = find_coordinates(ligand)
    ring = next(c for c in coordinates if c.kind == "ring")
    assert coordinates.index(ring) == len(coordinates) - 1
    up = measure([ring], ligand.positions_nm)
    generator = np.random.default_rng(2)
    shape = (N_ITERATIONS + DISCARD, N_REPLICAS, 3)
    signs = np.where(np.arange(N_REPLICAS) % 2, -1.0, 1.0)[:, None]
    rings = signs * up + generator.normal(0.0, 0.05, shape)
    turns = _hop({60.0: 0.4, 180.0: 0.3, 300.0: 0.3}, 0.5, [60.0])[..., None]
    values = np.concatenate([turns, rings], axis=-1) if len(coordinates) == 2 else rings
    extra = (60.0,) if len(coordinates) == 2 else ()
    wells = {(*extra, *up): (0.0, 0.0), (*extra, *(-up)): (0.5, 0.5)}
    *others, one = _judge(values, wells, smiles=smiles, starts=(0, 2))
    assert not any(other.reasons for other in others)
    assert {name.split(" ")[0] for name in one.states} == {"chair"}
    assert bool(one.reasons) == (smiles == "OC1CCCCC1")


def test_a_state_without_room_in_the_site_is_no_reason() -> None:
    values = _hop({0.0: 1.0}, 0.0, [0.0])
    (closed,) = _judge(values, TWO, in_site=True, fits=lambda coordinate, value: False)
    assert not closed.reasons and "the site has no room for others" in closed.ground
    (open_site,) = _judge(values, TWO, in_site=True, fits=lambda coordinate, value: True)
    assert "no transition seen" in open_site.reasons[0]


def test_a_run_that_was_not_followed_says_so() -> None:
    ligand = ligand_of(ACID)
    coordinates = find_coordinates(ligand)
    known = _known(ligand, coordinates, TWO, (0,))
    nan = np.full((N_ITERATIONS + DISCARD, N_REPLICAS, 1), np.nan)
    for values in (None, nan):
        run = Run(values=values, states=_windows(True), discard=DISCARD, lambdas=LAMBDAS)
        (one,) = judge_conformers(
            ligand, coordinates, known, run, LIMITS, window_kt=3.0, in_site=False
        )
        assert one.slow is None and "was not followed" in one.reasons[0]
    # The beginning of a run that another version made is left out.
    half = _hop({0.0: 0.5, 180.0: 0.5}, 0.3, [0.0])[..., None] % 360.0
    half[:100] = np.nan
    run = Run(values=half, states=_windows(True), discard=DISCARD, lambdas=LAMBDAS)
    (one,) = judge_conformers(ligand, coordinates, known, run, LIMITS, window_kt=3.0, in_site=False)
    assert one.slow is not None and one.slow.n_iterations == 120 and not one.reasons


@pytest.mark.parametrize(("center", "spread"), [(0.0, 12.0), (180.0, 30.0), (90.0, 60.0)])
def test_one_well_is_one_basin_wherever_it_lies(center: float, spread: float) -> None:
    for seed in range(5):
        draws = np.random.default_rng(seed).normal(center, spread, 800)
        assert find_basins(np.mod(draws, 360.0), 10.0, 360.0).n_basins == 1


def test_flat_coordinates_and_small_samples_make_few_basins() -> None:
    generator = np.random.default_rng(4)
    assert find_basins(generator.uniform(0.0, 360.0, 20000), 10.0, 360.0).n_basins == 1
    assert find_basins(np.array([10.0, 12.0]), 10.0, 360.0).n_basins == 1
    assert find_basins(np.array([0.1, np.nan]), 0.07, None).n_basins == 1


def test_basins_of_a_torsion_follow_its_wells() -> None:
    generator = np.random.default_rng(5)
    draws = np.concatenate([generator.normal(c, 11.0, 500) for c in (20.0, 140.0, 355.0)])
    basins = find_basins(np.mod(draws, 360.0), 10.0, 360.0)
    # 355° and 20° are one broad well, whichever side of zero it is cut.
    assert basins.n_basins == 2
    assert basins.label(np.array([5.0, 359.0, 140.0])).tolist() == [0, 0, 1]
    top = basins.label(np.array([80.0, 250.0, np.nan]))
    assert (top == BETWEEN).all()
    assert basins.find(175.0, 45.0) == 1 and basins.find(250.0, 45.0) is None


def test_a_look_over_the_barrier_is_no_transition() -> None:
    coordinate = SoftCoordinate(kind="torsion", atoms=(0, 1, 2, 3), first=(0,), last=(3,))
    values = _hop({60.0: 0.5, 180.0: 0.5}, 0.0, [60.0, 180.0])
    values[50:150:10, 0] = 125.0
    labels = find_states(coordinate, values[..., None], []).labels
    assert (labels == labels[0]).all()


def test_angles_of_real_structures_are_told_apart() -> None:
    """The whole way from positions to states: an acid whose hydroxyl is turned."""
    ligand = ligand_of(ACID)
    coordinates = find_coordinates(ligand)
    turned = rotate_branch(ligand, coordinates[0].atoms[1:3], 180.0, ligand.positions_nm)
    assert turned is not None
    positions = np.array([[ligand.positions_nm, turned]] * 30)
    positions += np.random.default_rng(0).normal(0.0, 0.003, positions.shape)
    states = find_states(coordinates[0], measure(coordinates, positions), [])
    assert states.n_seen == 2 and set(states.labels[:, 0]) != set(states.labels[:, 1])
