"""Builds the engine and the training kernels: one library of each for each instruction set.

They need none of torch's headers.

A machine without a C++20 compiler still installs: each library is optional, and the package falls
back to plain torch and says so.
"""

import importlib.util
import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("mace_mm") / "kernels"
ENGINE = Path("engine")
FOLDERS = [ENGINE / name for name in ("include", "src", "torch", "training")]
SOURCES = {
    "engine": ("engine", "evaluator", "neighbors", "torch_op"),
    "training": ("training",),
}
COMMON = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
]
COMMON += ["-ffp-contract=fast", "-Wno-psabi"]
DEPENDS = [str(path) for folder in FOLDERS for path in sorted(folder.rglob("*.*"))]
DEPENDS += [str(KERNELS / "contraction_code.py")]
FLAGS = {
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "avx2": ["-march=x86-64-v3"],
    "portable": [],
}


def instruction_sets() -> list[str]:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return list(FLAGS) if x86 else ["portable"]


def write_generated(folder: Path) -> None:
    """Write the symmetric contraction; the generator is loaded without importing the package."""
    spec = importlib.util.spec_from_file_location("generator", KERNELS / "contraction_code.py")
    generator = importlib.util.module_from_spec(spec)
    sys.modules["generator"] = generator
    spec.loader.exec_module(generator)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "contraction_generated.h"
    text = generator.generate()
    if not target.is_file() or target.read_text() != text:
        target.write_text(text)


class BuildEngine(build_ext):
    """Plain shared libraries, whose names say the instruction set and nothing of Python."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or min(3, os.cpu_count() or 1)

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extensions(self) -> None:
        folder = Path(self.build_temp) / "generated"
        write_generated(folder)
        for ext in self.extensions:
            # Each library compiles the same files with its own flags, under names of its own.
            library, _, name = ext.name.rpartition("._")[2].rpartition("_")
            for source in SOURCES[library]:
                stub = folder / f"{source}_{name}.cpp"
                stub.write_text(f'#include "{source}.cpp"\n')
                ext.sources.append(str(stub))
            ext.include_dirs.append(str(folder))
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            f"mace_mm.kernels._{library}_{name}",
            [],
            language="c++",
            include_dirs=[str(folder) for folder in FOLDERS],
            depends=DEPENDS,
            extra_compile_args=COMMON + FLAGS[name],
            extra_link_args=["-pthread", "-ldl"],
            optional=True,
        )
        for library in SOURCES
        for name in instruction_sets()
    ],
    cmdclass={"build_ext": BuildEngine},
)
