"""What a run tells while it goes on."""

import time
from dataclasses import dataclass

_SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a run reports while it goes on.

    Attributes:
        stage: "minimization" or "dynamics".
        step: steps done, of the minimizer or the integrator.
        n_steps: steps in all; for the minimizer an upper bound.
        potential_energy_kj_mol: potential energy of the system.
        temperature_k: instantaneous temperature, None during minimization.
        ns_per_day: speed of this process, None until it can be measured.
    """

    stage: str
    step: int
    n_steps: int
    potential_energy_kj_mol: float
    temperature_k: float | None = None
    ns_per_day: float | None = None


class Speed:
    """Wall time and speed; the first interval warms up and does not count for the speed."""

    def __init__(self, step: int, timestep_fs: float) -> None:
        self._started = time.perf_counter()
        self._timestep_fs = timestep_fs
        self._warm: tuple[int, float] | None = None
        self.elapsed_s = 0.0
        self.ns_per_day: float | None = None

    def update(self, step: int) -> None:
        self.elapsed_s = time.perf_counter() - self._started
        if self._warm is None:
            self._warm = (step, self.elapsed_s)
        elif self.elapsed_s > self._warm[1]:
            simulated_ns = (step - self._warm[0]) * self._timestep_fs * 1e-6
            self.ns_per_day = simulated_ns / (self.elapsed_s - self._warm[1]) * _SECONDS_PER_DAY
