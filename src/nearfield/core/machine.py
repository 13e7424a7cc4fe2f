"""What this process may take of the machine it runs on, containers included."""

from pathlib import Path

_PROC, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that can be allocated now without swapping; None where the system does not say.

    The least of the kernel's MemAvailable and what the control group (version 2) has left.
    """
    found = [_mem_available(meminfo), _cgroup_left(cgroup)]
    return min((value for value in found if value is not None), default=None)


def _mem_available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _cgroup_left(cgroup: Path) -> int | None:
    try:
        return max(0, int((cgroup / "memory.max").read_text()) - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):   # no control group, or its limit is "max"
        return None
