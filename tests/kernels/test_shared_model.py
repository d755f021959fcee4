"""Contexts with equal models share one copy of it, and nothing else."""

import os
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from mace_mm.evaluate.fold import fold
from mace_mm.kernels.backends import Context, available_instruction_sets, load_engine
from tests.support.engine_systems import LAYOUTS, NO_CELL, make_potential, structure

pytestmark = pytest.mark.plain
N_ATOMS = 24


@pytest.fixture(scope="module")
def engine():
    sets = available_instruction_sets()
    if not sets:
        pytest.skip("the engine was not compiled")
    return load_engine(sets[0])


def found(context):
    positions, species = structure(N_ATOMS, None)
    return context.evaluate(positions, species, NO_CELL, skin=0.5, threads=1)


def test_memory_of_many_contexts_is_that_of_one():
    script = textwrap.dedent(
        """
        from pathlib import Path
        import torch
        from mace_mm.evaluate.fold import fold
        from mace_mm.archive.open_model import open_model
        from mace_mm.kernels.backends import Context, available_instruction_sets, load_engine
        def resident():
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmRSS:")[1].split()[0]) / 1024
        engine = load_engine(available_instruction_sets()[0])
        form = fold(open_model().potential, precision="double").form
        positions, species = torch.randn(12, 3, dtype=torch.float64) * 4, torch.arange(12) % 4
        contexts, sizes = [], []
        for _ in range(9):
            contexts.append(Context(engine, form))
            contexts[-1].evaluate(positions, species, torch.zeros(0), skin=0.5, threads=1)
            sizes.append(resident())
        print(sizes[0], sizes[-1], form.numel() / 2**20)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    first, last, form = (float(word) for word in done.stdout.split())
    assert last - first < form / 4, (first, last, form)


def test_results_do_not_depend_on_who_made_the_model(engine):
    form = fold(make_potential(LAYOUTS["vectors"])).form
    alone = found(Context(engine, form))
    first = Context(engine, form.clone())
    second = Context(engine, form.clone())
    want = found(first)
    del first
    for got in (found(second), found(Context(engine, form))):
        for a, b, c in zip(alone, want, got, strict=True):
            assert torch.equal(a, b) and torch.equal(b, c)


def test_equal_digests_are_not_taken_for_equal_models(engine):
    forms = [fold(make_potential(LAYOUTS["vectors"], seed=seed)).form for seed in (1, 2)]
    want = [found(Context(engine, form)) for form in forms]
    forms[1][32:40] = forms[0][32:40]
    contexts = [Context(engine, form) for form in forms]
    for context, expected in zip(contexts, want, strict=True):
        assert torch.equal(found(context).forces, expected.forces)
    assert not torch.equal(want[0].forces, want[1].forces)


def test_threads_that_meet_elements_at_once(engine):
    form = fold(make_potential(LAYOUTS["vectors"])).form
    want = found(Context(engine, form))
    for _ in range(5):
        results = [None] * 6
        barrier = threading.Barrier(len(results))

        def run(k, results=results, barrier=barrier):
            context = Context(engine, form.clone())
            barrier.wait()
            results[k] = found(context)

        threads = [threading.Thread(target=run, args=(k,)) for k in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            assert torch.equal(result.forces, want.forces)
            assert torch.equal(result.energies, want.energies)
