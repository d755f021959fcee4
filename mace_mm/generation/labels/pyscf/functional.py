"""What PySCF evaluates for the name of a method.

A name is not a functional: programs differ in what they take it for, and PySCF splits it into a
semilocal part, a nonlocal one and a dispersion correction by rules of its own.
"""

import warnings
from dataclasses import dataclass

from mace_mm.errors import ConfigError

# Names that PySCF takes for something else than most programs: what those take.
_ELSEWHERE = {
    "wb97x-d4": "wB97X-V with D4 in place of VV10 (A. Najibi, L. Goerigk, 2020)",
    "b97-d3bj": "the semilocal B97-D (S. Grimme, 2006)",
    "b97-d3zero": "the semilocal B97-D (S. Grimme, 2006)",
    "b97-d4": "the semilocal B97-D (S. Grimme, 2006)",
    "lda": "Slater exchange with a correlation functional",
}


@dataclass(frozen=True, kw_only=True)
class Functional:
    """What is evaluated.

    Attributes:
        method: the name that was asked for; ``hf`` for Hartree-Fock.
        semilocal: libxc's part, as PySCF names it; "" for Hartree-Fock.
        nonlocal_part: whether VV10 is evaluated; None where the functional has no such part.
        dispersion: version and parameters of the correction, as PySCF's ``disp`` takes them, such
            as "d3bj:wb97m"; "" for none.
    """

    method: str
    semilocal: str
    nonlocal_part: bool | None
    dispersion: str

    def __str__(self) -> str:
        base = self.semilocal or "hf"
        if self.nonlocal_part is not None:
            base += " with vv10" if self.nonlocal_part else " without vv10"
        return f"{base} + {self.dispersion}" if self.dispersion else base


def functional(method: str, asked: str | None = None) -> Functional:
    """Resolve the name of a method.

    Args:
        asked: what the caller knows to be evaluated, as ``str(Functional)``.

    Raises:
        ConfigError: PySCF does not know it, it is not what was asked for, or other programs take
            the name for something else and nothing was asked for.
    """
    name = method.lower()
    found = _resolved(name)
    if asked is not None and asked.lower().replace(" ", "") != str(found).replace(" ", ""):
        raise ConfigError(f"PySCF takes {method} for {found}; the option functional wants {asked}")
    if asked is None and name in _ELSEWHERE:
        raise ConfigError(
            f"PySCF takes {method} for {found}, other programs for {_ELSEWHERE[name]}: to have "
            f"PySCF's, give the option functional: {found}"
        )
    return found


def _resolved(name: str) -> Functional:
    from pyscf import dft
    from pyscf.scf import dispersion

    plain, _, suffix = name.partition("-d")
    if plain == "hf":
        found = f"d{suffix}:hf" if suffix else ""
        _check_dispersion(name, found)
        return Functional(method=name, semilocal="", nonlocal_part=None, dispersion=found)
    try:
        with warnings.catch_warnings():
            # PySCF warns of wb97x-d4, which is refused here.
            warnings.simplefilter("ignore", FutureWarning)
            semilocal, nlc, _ = dispersion.parse_dft(name)
            method, version, three_body = dispersion.parse_disp(name)
        dft.libxc.parse_xc(semilocal)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConfigError(f"PySCF does not know the functional {name}: {error}") from error
    correction = f"{version}:{method}" if version else ""
    _check_dispersion(name, correction)
    if three_body and correction.startswith("d3"):
        correction = f"{version}atm:{method}"
    if semilocal == "b3lyp":
        # Which VWN it has depends on a setting of PySCF's.
        semilocal = "b3lypg" if dft.libxc.XC_CODES["B3LYP"] == 402 else "b3lyp5"
    return Functional(
        method=name,
        semilocal=semilocal,
        nonlocal_part=(nlc is not False) if dft.libxc.is_nlc(semilocal) else None,
        dispersion=correction,
    )


def _check_dispersion(name: str, correction: str) -> None:
    from pyscf.scf import dispersion

    version = correction.split(":")[0]
    if version and version not in dispersion.DISP_VERSIONS:
        raise ConfigError(
            f"{name}: PySCF has the dispersion corrections {', '.join(dispersion.DISP_VERSIONS)}, "
            f"got {version}"
        )
