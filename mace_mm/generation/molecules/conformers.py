"""Starting structures from RDKit: ETKDGv3 conformers, relaxed with MMFF94."""

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, rdDistGeom

from mace_mm.errors import InputError
from mace_mm.generation.protocol import ConformerSettings


def embed_conformers(mol: Chem.Mol, settings: ConformerSettings, seed: int) -> np.ndarray:
    """Conformers of a molecule with hydrogens (ETKDGv3, S. Wang et al., J. Chem. Inf. Model. 60,
    2044, 2020).

    Returns:
        (n_conformers, n_atoms, 3) Å; at most ``settings.count``, fewer where RDKit finds fewer.

    Raises:
        InputError: none could be embedded; the message says which of RDKit's checks failed.
    """
    mol = Chem.Mol(mol)
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed % (2**31 - 1)
    parameters.maxIterations = settings.attempts
    parameters.numThreads = 1
    parameters.trackFailures = True
    with rdBase.BlockLogs():
        ids = list(rdDistGeom.EmbedMultipleConfs(mol, settings.count, parameters))
        if not ids:
            raise InputError(
                f"no conformer could be embedded in {settings.count} x {settings.attempts} attempts"
                f" (failed checks: {_failed_checks(parameters)})"
            )
        if settings.relax and AllChem.MMFFHasAllMoleculeParams(mol):
            AllChem.MMFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=200)
    return np.stack([mol.GetConformer(i).GetPositions() for i in ids])


def _failed_checks(parameters: rdDistGeom.EmbedParameters) -> str:
    counts = parameters.GetFailureCounts()
    names = rdDistGeom.EmbedFailureCauses.names
    failed = {name: counts[int(cause)] for name, cause in names.items() if counts[int(cause)]}
    worst = sorted(failed.items(), key=lambda entry: (-entry[1], entry[0]))[:3]
    return ", ".join(f"{name} {count}" for name, count in worst) or "none counted"
