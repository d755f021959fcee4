"""How OpenMP's threads wait, decided before the library that starts them is loaded."""

import os

# A tenth of a millisecond or so. GNU's default is a hundred times longer.
_SPINS = "3000"


def wait_briefly() -> None:
    """Let threads sleep soon when they wait for each other; call it before torch is imported.

    Threads that wait awake keep a busy machine from running the thread they wait for: training a
    small model beside two other trainings took eleven times as long as alone. What the user has
    set stays.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS
