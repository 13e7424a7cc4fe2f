"""How many CPUs this process may use: the affinity mask and the cgroup's quota, not the host's cores.

A container with a quota of two CPUs on a host of sixty-four would be throttled by sixty-four threads. A
quota of 2.5 CPUs counts as two: kernels wait for their slowest thread, and a third would be it.
"""

import os
from collections.abc import Iterator
from pathlib import Path


def usable_cpus(root: Path = Path("/")) -> int:
    """At least 1. `root` holds proc/ and sys/."""
    quotas = [quota for quota in _quotas(root) if quota is not None]
    return max(1, int(min([float(_affinity()), *quotas])))


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float | None]:
    """The quotas of the process's cgroup and all around it, in CPUs: version 2, then version 1."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers == "":
            yield from (_quota_v2(folder) for folder in _folders(root / "sys/fs/cgroup", place))
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", controllers):
                yield from (_quota_v1(folder) for folder in _folders(root / "sys/fs/cgroup" / mount, place))


def _folders(mount: Path, place: str) -> Iterator[Path]:
    """The cgroup's folder and those above it. In a container its own one may be the mount."""
    folder = mount / place.strip("/")
    yield folder
    while folder != mount:
        folder = folder.parent
        yield folder


def _quota_v2(folder: Path) -> float | None:
    """cpu.max: "max 100000" or "250000 100000"."""
    words = _text(folder / "cpu.max").split()
    return _share(*words) if len(words) == 2 else None


def _quota_v1(folder: Path) -> float | None:
    return _share(_text(folder / "cpu.cfs_quota_us").strip(), _text(folder / "cpu.cfs_period_us").strip())


def _share(quota: str, period: str) -> float | None:
    """CPUs; None where there is no limit ("max", -1, or no such file)."""
    if not (quota.isdigit() and period.isdigit()) or int(period) == 0:
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except OSError:
        return ""
