"""Provenance of numbers: the machine, the versions, the commit."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from lecun_ablate.system.cores import usable_cores

PACKAGE = Path(__file__).resolve().parents[1]  # the folder of this package


def machine() -> str:
    """Return the CPU's name and how many of its cores this process may use."""
    cores = usable_cores()
    return f"{_cpu()}, {cores} core{'' if cores == 1 else 's'}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def git_commit() -> str | None:
    """Return the commit of the package's own checkout, with '-dirty' if it has changes.

    None if no git repository tracks the package; then its version is enough.
    """
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")
        changes = _git("status", "--porcelain", "--", ".")
        return _git("rev-parse", "HEAD") + ("-dirty" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    return done.stdout.strip()


@cache
def environment() -> dict[str, str]:
    """Return the versions and the machine that a run's numbers and timing may depend on."""
    return {
        "lecun_ablate": version("lecun_ablate"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
        "system": f"{platform.system()} {platform.machine()}",
        "machine": machine(),
    }
