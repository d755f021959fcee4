"""What this machine is."""

import platform
from pathlib import Path


def processor_name() -> str:
    """The processor's model, with its numbers where the system tells them.

    The numbers tell generations apart whose name a virtual machine cuts short.
    """
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    first = text.strip().partition("\n\n")[0]
    fields = dict(line.split(":", 1) for line in first.splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    name = known.get("model name", platform.machine())
    if "cpu family" in known and "model" in known:
        return f"{name} (family {known['cpu family']}, model {known['model']})"
    return name
