"""How many of the machine's cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the number of cores that the system lets this process use, at least 1.

    A container's CPU quota counts, rounded up. OMP_NUM_THREADS limits it further, as it does with
    PyTorch and NumPy.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    limits = [cores, _quota(), _asked()]
    return max(1, min(limit for limit in limits if limit))


def limit(threads: int) -> None:
    """Limit the cores that this process uses, including PyTorch and NumPy.

    Applies to libraries imported later and to child processes.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _asked() -> int | None:
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one per nested level
    return int(first) if first.isdecimal() and int(first) else None


def _quota() -> int | None:
    """Return how many cores the quotas of this process's control groups allow, if there are any."""
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, name = line.split(":", 2)
        for folder in (Path(name), *Path(name).parents):  # parents limit their children
            place = str(folder).lstrip("/")
            if not controllers:  # version 2
                found.append(_ratio(CGROUPS / place / "cpu.max"))
            elif "cpu" in controllers.split(","):
                found.append(_ratio_v1(CGROUPS / "cpu" / place))
    return min((quota for quota in found if quota), default=None)


def _ratio(file: Path) -> int | None:
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _ratio_v1(folder: Path) -> int | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return None if quota <= 0 else math.ceil(quota / period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
