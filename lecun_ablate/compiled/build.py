"""Building: C++ text to a loaded shared object, kept in the user's cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lecun_ablate.compiled.refused import Refused
from lecun_ablate.compiled.source import FOLDERS, headers

PROGRAMS = ("g++", "clang++", "c++")
OPTIONS = ("-std=c++20", "-shared", "-fPIC", "-fvisibility=hidden", "-w")
LONGEST = 120  # seconds


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler of this machine."""

    program: str
    version: str  # the first line of what it says of itself

    @classmethod
    def find(cls) -> Compiler | None:
        """Return the compiler that $CXX names, else the first of PROGRAMS; None without any."""
        return _find(os.environ.get("CXX", ""))


MISSING = (
    "there is no C++ compiler: install g++ or clang++ (Debian, Ubuntu: apt install g++; macOS: "
    "xcode-select --install), or name one in CXX"
)


@cache
def _find(named: str) -> Compiler | None:
    for name in [named] if named else PROGRAMS:
        program = shutil.which(name)
        if program is None:
            continue
        try:
            said = subprocess.run(
                [program, "--version"], capture_output=True, text=True, timeout=LONGEST, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        if said.strip():
            return Compiler(program, said.strip().splitlines()[0])
    return None


def build(compiler: Compiler, text: str, options: Sequence[str]) -> ctypes.CDLL:
    """Return the shared object of a C++ text, from the cache folder if it is there and whole.

    Raises Refused if the compiler fails.
    """
    content = json.dumps([text, headers(), [*options, *OPTIONS], compiler.version])
    digest = hashlib.sha256(content.encode()).hexdigest()
    folder = cache_folder()
    if folder is not None:
        if (loaded := _load(folder, digest)) is not None:
            return loaded
        # beside its place, so that renaming it is one step: another process sees all or nothing
        with suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as work:
            made = _compile(compiler, text, options, Path(work))
            made.replace(folder / f"{digest}-{_checksum(made)}.so")
            if (loaded := _load(folder, digest)) is not None:
                return loaded
    with tempfile.TemporaryDirectory() as work:  # nothing can be kept
        made = _compile(compiler, text, options, Path(work))
        try:
            return ctypes.CDLL(str(made))
        except OSError as error:
            raise Refused(f"what the compiler made cannot be loaded: {error}") from None


def cache_folder() -> Path | None:
    """Return the folder of compiled activations, made if need be; None where none can be."""
    base = os.environ.get("XDG_CACHE_HOME")
    with suppress(OSError, RuntimeError):  # RuntimeError: no home folder is known
        folder = (Path(base) if base else Path.home() / ".cache") / "lecun_ablate" / "compiled"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    return None


def _load(folder: Path, digest: str) -> ctypes.CDLL | None:
    """Return a kept object; None if none is whole. The end of its name is a checksum.

    Loading a damaged one might end the process.
    """
    for kept in folder.glob(f"{digest}-*.so"):
        try:
            if kept.stem == f"{digest}-{_checksum(kept)}":
                return ctypes.CDLL(str(kept))
            kept.unlink()
        except OSError:
            continue
    return None


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]


def _compile(compiler: Compiler, text: str, options: Sequence[str], work: Path) -> Path:
    source, made = work / "activation.cpp", work / "activation.so"
    source.write_text(text)
    include = [f"-I{folder}" for folder in FOLDERS]
    command = [compiler.program, *options, *OPTIONS, *include, str(source), "-o", str(made)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise Refused(f"{compiler.program} cannot be run: {error}") from None
    if done.returncode or not made.exists():
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        words = (errors or done.stderr.splitlines() or ["it says nothing"])[0]
        raise Refused(f"{compiler.program} fails: {words}")
    return made
