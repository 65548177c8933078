"""Records: components that have been compiled and have passed their check, for later processes.

A record holds for the same function (fingerprint.py), component file, PyTorch, compiler and
instruction set, and for the same version of this package's own code; else all is done anew.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import suppress
from dataclasses import astuple
from functools import cache as remembered
from pathlib import Path

from lecun_ablate.compiled import cache
from lecun_ablate.compiled.build import OPTIONS, Compiler, load
from lecun_ablate.compiled.fingerprint import fingerprint
from lecun_ablate.compiled.library import (
    Compiled,
    CompiledActivation,
    CompiledLoss,
    CompiledOptimizer,
)
from lecun_ablate.compiled.optimizer import Slot
from lecun_ablate.compiled.source import headers
from lecun_ablate.compiled.target import Target
from lecun_ablate.registry import Component


def key_of(component: Component, target: Target, compiler: Compiler, momentum: float) -> str | None:
    """Return the key of a record; None where the component's function has no fingerprint."""
    function = fingerprint(component.function, dict(component.changed), component.arity)
    if function is None:
        return None
    parts = [function, component.kind, component.digest, momentum, _package()]
    parts += [*astuple(target), *astuple(compiler), *OPTIONS]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@remembered
def _package() -> str:
    """Return a digest of the code that makes and checks C++."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    content = headers().encode() + b"".join(file.read_bytes() for file in files)
    return hashlib.sha256(content).hexdigest()


def read(key: str, kind: str, target: Target) -> Compiled | None:
    """Return the component of a record; None where there is none, or its object is missing."""
    for file in cache.kept(key, ".json"):
        with suppress(OSError):
            content = json.loads(file.read_text())
            library = load(content["object"])
            if library is None:
                continue
            built = (library, target.vector_bytes, content["structs"])
            if kind == "activation":
                return CompiledActivation(*built)
            if kind == "loss":
                return CompiledLoss(*built)
            slots = {
                dtype: tuple(Slot(*slot) for slot in own) for dtype, own in content["slots"].items()
            }
            return CompiledOptimizer(*built, slots)
    return None


def write(key: str, digest: str, made: Compiled) -> None:
    """Record a component whose shared object is kept under a digest, where that is possible."""
    folder = cache.folder()
    if folder is None:
        return
    content: dict[str, object] = {"object": digest, "structs": made.structs}
    if isinstance(made, CompiledOptimizer):
        content["slots"] = {d: [astuple(slot) for slot in own] for d, own in made.slots.items()}
    with suppress(OSError), tempfile.TemporaryDirectory(dir=folder) as work:
        file = Path(work) / "record.json"
        file.write_text(json.dumps(content))
        cache.keep(file, key)
