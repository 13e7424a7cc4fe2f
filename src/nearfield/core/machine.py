"""What this process may take of the machine it runs on, containers included."""

import ctypes
from pathlib import Path

# Numbers of mallopt(3), and a size that no buffer of a step reaches.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _KEEP = -1, -3, 1 << 30

_PROC, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that can be allocated now without swapping; None where the system does not say.

    The least of the kernel's MemAvailable and what the control group (version 2) has left.
    """
    found = [_mem_available(meminfo), _cgroup_left(cgroup)]
    return min((value for value in found if value is not None), default=None)


def keep_freed_memory() -> None:
    """Tell the C library's allocator (glibc) to keep what is freed for the next step, process-wide.

    By default it hands buffers of some MiB back to the system and takes them anew at every step, page
    fault by page fault: decision 004 has the measurement. No effect with another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _KEEP)
    mallopt(_M_TRIM_THRESHOLD, _KEEP)


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
