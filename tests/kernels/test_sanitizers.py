"""Every instruction set under the address and undefined-behavior sanitizers, and a long run."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mace_mm.kernels import contraction_code
from mace_mm.kernels.backends import available_instruction_sets

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "engine"
INCLUDES = [f"-I{ENGINE / name}" for name in ("include", "src", "torch", "training")]
FLAGS = {
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
    "portable": [],
}
RUN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import torch
    sys.path[:0] = [sys.argv[2]]
    from tests.support.engine_systems import LAYOUTS, SMALL, make_potential, structure
    from mace_mm.evaluate.fold import fold
    from mace_mm.errors import GeometryError
    from mace_mm.kernels.backends import Context, Engine
    engine = Engine(Path(sys.argv[1]))
    for layout in ("vectors", "orders 1, 2, 3", "repulsion", "one layer"):
        for precision in ("single", "double"):
            form = fold(make_potential(LAYOUTS[layout]), precision=precision).form
            context = Context(engine, form)
            for n, cell in ((1, None), (2, SMALL), (5, None), (40, SMALL), (70, None)):
                x, species = structure(n, cell)
                box = torch.zeros(0) if cell is None else cell
                for step in range(3):
                    found = context.evaluate(x + step, species, box, skin=0.4, threads=1 + step)
                    assert torch.isfinite(found.forces).all()
            try:
                context.evaluate(x * float("nan"), species, box, skin=0.4, threads=2)
            except GeometryError:
                continue
            raise SystemExit("positions that are not finite were accepted")
    print("clean")
    """
)


@pytest.mark.parametrize("instruction_set", list(FLAGS))
def test_engine_is_clean_under_sanitizers(instruction_set, tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ here")
    if instruction_set not in available_instruction_sets():
        pytest.skip(f"this processor does not run {instruction_set}")
    (tmp_path / "contraction_generated.h").write_text(contraction_code.generate())
    library = tmp_path / "engine.so"
    sources = [str(ENGINE / "src" / f"{name}.cpp") for name in ("engine", "evaluator", "neighbors")]
    command = [compiler, "-std=c++20", "-O1", "-g1", "-shared", "-fPIC", "-fno-omit-frame-pointer"]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-Wno-psabi"]
    command += [*INCLUDES, f"-I{tmp_path}", *FLAGS[instruction_set], *sources]
    command += [str(ENGINE / "torch" / "torch_op.cpp"), "-o", str(library), "-pthread", "-ldl"]
    subprocess.run(command, check=True, timeout=1200)
    preload = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and torch keep what they have till the end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(library), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=1200,
    )
    assert done.returncode == 0 and done.stdout.strip() == "clean", done.stderr[-4000:]
    assert "runtime error" not in done.stderr


def test_a_million_steps_need_no_more_memory_and_no_more_time():
    """One process, a ligand that moves: resident memory and time for each tenth of the run."""
    script = textwrap.dedent(
        """
        import time, torch
        from pathlib import Path
        from mace_mm.archive.open_model import open_model
        from mace_mm.simulation.benchmark.timing import make_system
        from mace_mm.evaluate.build import build_evaluator
        system = make_system(27)
        evaluator = build_evaluator(open_model(), system.numbers.tolist(), engine="native")
        frames, box = torch.tensor(system.frames), torch.zeros(0, dtype=torch.float64)
        def resident():
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmRSS:")[1].split()[0])
        with torch.no_grad():
            for tenth in range(11):
                start = time.process_time()
                for step in range(100_000 if tenth else 2000):
                    evaluator.in_units(frames[step % len(frames)], box, 1.0, 1.0)
                print(resident(), time.process_time() - start, flush=True)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    memory = [int(kb) for kb, _ in lines]
    times = [float(seconds) for _, seconds in lines[1:]]
    assert memory[-1] - memory[0] < 1024, memory
    # Other work on the machine makes single tenths slower; a leak of time would slow the last ones.
    assert min(times[5:]) < 1.2 * min(times[:5]), times
