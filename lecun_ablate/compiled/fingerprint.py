"""Fingerprints: a hash of all that decides what a function of the user's computes.

That is its code, its defaults, what it closes over, the globals that its code names, and likewise
everything that these refer to. Libraries whose versions are known are taken by name. A function
that refers to anything else has no fingerprint: it is traced and checked anew in every process.
"""

from __future__ import annotations

import builtins
import dis
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np
import torch

# modules whose content follows from the versions of Python, PyTorch and NumPy
BY_NAME = {
    "__future__",
    "builtins",
    "cmath",
    "collections",
    "dataclasses",
    "functools",
    "itertools",
    "lecun_ablate",
    "math",
    "numpy",
    "operator",
    "torch",
    "typing",
}
# built-in functions with which code reaches what it does not name
REACHING = {
    "__import__",
    "compile",
    "eval",
    "exec",
    "globals",
    "input",
    "locals",
    "open",
    "vars",
}
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


class Unknown(Exception):
    """A function refers to something that has no fingerprint."""


def fingerprint(*things: Any) -> str | None:
    """Return a SHA-256 of functions and values; None where there is none."""
    try:
        said = list(_Description().of(things))
    except (Unknown, RecursionError):
        return None
    versions = [sys.version, torch.__version__, np.__version__, str(torch.get_default_dtype())]
    return hashlib.sha256(json.dumps([versions, said]).encode()).hexdigest()


class _Description:
    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, Any]] = {}  # by id; kept, so that no id is used again

    def of(self, x: Any) -> Iterator[str]:
        """Yield words that are the same only for things that behave in the same way."""
        if isinstance(x, PLAIN):
            yield f"{type(x).__name__} {x!r}"
            return
        if id(x) in self._seen:
            yield f"again {self._seen[id(x)][0]}"
            return
        self._seen[id(x)] = (len(self._seen), x)
        yield type(x).__qualname__
        yield from self._parts(x)

    def _parts(self, x: Any) -> Iterator[str]:
        if (values := _values(x)) is not None:
            yield values
        elif (inside := _inside(x)) is not None:
            yield from self._each(inside)
        elif isinstance(x, CodeType):
            yield from self._code(x)
        elif named := _by_name(x):
            yield named
        elif isinstance(x, FunctionType):
            yield from self._function(x)
        elif isinstance(x, type):
            yield from self._class(x)
        elif hasattr(x, "__dict__") and not isinstance(x, ModuleType):
            yield from self._each([type(x), vars(x)])
        else:
            raise Unknown(type(x))

    def _each(self, parts: Any) -> Iterator[str]:
        yield str(len(parts))
        for part in parts:
            yield from self.of(part)

    def _code(self, code: CodeType) -> Iterator[str]:
        yield code.co_code.hex()
        yield f"{code.co_argcount} {code.co_kwonlyargcount} {code.co_flags}"
        yield from self._each([code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars])
        yield from self._each(code.co_consts)

    def _function(self, function: FunctionType) -> Iterator[str]:
        yield from self.of(function.__code__)
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        yield from self._each([function.__defaults__, function.__kwdefaults__, cells])
        yield from self._each([vars(function)])
        codes = list(_nested(function.__code__))
        names = sorted({name for code in codes for name in code.co_names})
        for code in codes:
            for instruction in dis.get_instructions(code):
                if instruction.opname == "IMPORT_NAME":
                    self._refuse_module(str(instruction.argval))
        for name in names:
            if name in function.__globals__:
                yield name
                yield from self._global(function.__globals__[name], names)
            elif name in REACHING and hasattr(builtins, name):
                raise Unknown(name)

    def _global(self, value: Any, names: list[str]) -> Iterator[str]:
        if not isinstance(value, ModuleType) or value.__name__.partition(".")[0] in BY_NAME:
            yield from self.of(value)
            return
        if value.__name__ in sys.stdlib_module_names or hasattr(value, "__path__"):
            raise Unknown(value.__name__)
        for name in names:  # of a module of the user's, what the code may mean
            if hasattr(value, name):
                yield name
                yield from self._global(getattr(value, name), names)

    def _class(self, kind: type) -> Iterator[str]:
        yield from self._each(kind.__bases__)
        own = {
            name: value
            for name, value in vars(kind).items()
            if name not in ("__dict__", "__weakref__", "__doc__", "__annotations__", "__module__")
        }
        if "__slots__" in own:
            raise Unknown(kind)
        yield from self.of(own)

    def _refuse_module(self, name: str) -> None:
        if name.partition(".")[0] not in BY_NAME:
            raise Unknown(name)


def _values(x: Any) -> str | None:
    """Return what describes a thing that holds numbers."""
    if isinstance(x, torch.dtype | torch.device):
        return str(x)
    if isinstance(x, torch.Tensor):
        numbers = x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        kind = f"{x.dtype} {tuple(x.shape)} {x.requires_grad}"
    elif isinstance(x, np.ndarray | np.generic) and x.dtype != object:
        numbers, kind = np.asarray(x), f"{x.dtype} {x.shape}"
    else:
        return None
    return f"{kind} {hashlib.sha256(numbers.tobytes()).hexdigest()}"


def _inside(x: Any) -> list[Any] | None:
    """Return the parts of a container, or of a function that is bound to arguments."""
    if type(x) in (tuple, list):
        return list(x)
    if type(x) in (set, frozenset):
        return sorted(x, key=repr)
    if isinstance(x, Mapping) and type(x).__module__ in ("builtins", "collections", "types"):
        return [part for item in x.items() for part in item]
    if isinstance(x, functools.partial):
        return [x.func, x.args, x.keywords]
    if isinstance(x, MethodType):
        return [x.__func__, x.__self__]
    return None


def _by_name(x: Any) -> str | None:
    """Return the name of something that a library of BY_NAME defines."""
    if isinstance(x, ModuleType):
        return x.__name__ if x.__name__.partition(".")[0] in BY_NAME else None
    if isinstance(x, property | staticmethod | classmethod):
        raise Unknown(type(x))
    name = getattr(x, "__qualname__", None) or getattr(x, "__name__", None)
    if isinstance(x, BuiltinFunctionType | MethodDescriptorType):
        owner = getattr(x, "__self__", None)
        place = getattr(owner, "__name__", type(owner).__name__)
        return f"{x.__module__} {place} {name}"
    module = getattr(x, "__module__", None) or ""
    known = isinstance(module, str) and module.partition(".")[0] in BY_NAME
    if known and isinstance(x, FunctionType | type | np.ufunc) and "<" not in str(name):
        return f"{module} {name}"
    return None


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
