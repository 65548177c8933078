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
from functools import cache as remembered
from pathlib import Path

from lecun_ablate.compiled import cache
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


@remembered
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


def digest_of(compiler: Compiler, text: str, options: Sequence[str]) -> str:
    """Return the digest under which the shared object of a C++ text is kept."""
    content = json.dumps([text, headers(), [*options, *OPTIONS], compiler.version])
    return hashlib.sha256(content.encode()).hexdigest()


def build(compiler: Compiler, text: str, options: Sequence[str]) -> ctypes.CDLL:
    """Return the shared object of a C++ text, from the cache folder if it is there and whole.

    Raises Refused if the compiler fails.
    """
    digest = digest_of(compiler, text, options)
    if (loaded := load(digest)) is not None:
        return loaded
    folder = cache.folder()
    if folder is not None:
        # in its own file system, so that it can be moved to its place in one step
        with suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as work:
            cache.keep(_compile(compiler, text, options, Path(work)), digest)
            if (loaded := load(digest)) is not None:
                return loaded
    with tempfile.TemporaryDirectory() as work:  # nothing can be kept
        made = _compile(compiler, text, options, Path(work))
        try:
            return ctypes.CDLL(str(made))
        except OSError as error:
            raise Refused(f"what the compiler made cannot be loaded: {error}") from None


def load(digest: str) -> ctypes.CDLL | None:
    """Return a kept shared object; None if none is whole: a damaged one might end the process."""
    for file in cache.kept(digest, ".so"):
        with suppress(OSError):
            return ctypes.CDLL(str(file))
    return None


def _compile(compiler: Compiler, text: str, options: Sequence[str], work: Path) -> Path:
    source, made = work / "component.cpp", work / "component.so"
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
