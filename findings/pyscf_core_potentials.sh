#!/usr/bin/env bash
# PySCF: a def2 basis brings no effective core potential, and nothing says so.
#
# One would guess: `basis="def2-SVP"` on a molecule with iodine is the def2 basis with the
# core potential it was made for (28 core electrons of iodine replaced), as in ORCA, Psi4 or
# Turbomole; at least a warning where the basis has no functions for the core.
# Instead: all 54 electrons of HI are put into the valence functions. The calculation converges,
# the energy is off by 1700 hartree, the gradient on iodine by a factor of 800, and at the usual
# verbosity of scripts (0 to 3) no line mentions it. `ecp="def2-SVP"` has to be given as well.
# Bromine needs none in the def2 sets: a test with bromine alone does not show the difference.
# Seen: pyscf 2.14.0, Python 3.11, 2026-11-30.
# Why users care: datasets of drug-like molecules hold iodine; such labels are finite, converged
# and useless, and a network trained on them learns forces of 100 eV/Å.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check pyscf==2.14.0
cat > "$folder/show.py" <<'PY'
import numpy as np
import pyscf
from pyscf import gto, scf

print("pyscf", pyscf.__version__)
found = {}
for ecp in (None, "def2-SVP"):
    options = {} if ecp is None else {"ecp": ecp}
    molecule = gto.M(atom="H 0 0 0; I 0 0 1.609", basis="def2-SVP", verbose=3, **options)
    field = scf.RHF(molecule).run()
    gradient = scf.RHF(molecule).run().nuc_grad_method().kernel()
    force = float(np.abs(gradient[1]).max()) * 51.42208619
    found[ecp] = field.e_tot, force, molecule.nelectron, field.converged
    print(f"ecp={ecp}: {molecule.nelectron} electrons, converged {field.converged}, "
          f"{field.e_tot:.3f} hartree, {force:.3f} eV/Å on iodine")
bare, core = found[None], found["def2-SVP"]
assert bare[2] == 54 and core[2] == 26, "the number of electrons changed"
assert bare[3] and core[3], "one of them no longer converges"
assert abs(bare[0] + 1996.902) < 0.1 and abs(core[0] + 297.2315) < 0.01, "energies changed"
assert bare[1] > 100.0 and core[1] < 1.0, "forces changed"
print("as described")
PY
"$folder/env/bin/python" "$folder/show.py"
