"""What this machine is."""

import platform
from pathlib import Path


def processor_name() -> str:
    """The processor's model; only its architecture where the system does not tell more."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
