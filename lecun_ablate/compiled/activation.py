"""A user's activation as functions that the native kernel calls."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from lecun_ablate.compiled.build import MISSING, Compiler, build
from lecun_ablate.compiled.check import check
from lecun_ablate.compiled.refused import Refused
from lecun_ablate.compiled.source import source
from lecun_ablate.compiled.trace import trace
from lecun_ablate.compiled.translate import translate
from lecun_ablate.registry import Component

DTYPES = {"float32": torch.float32, "float64": torch.float64}
ENTRIES = ("value", "with_slope")


@dataclass(frozen=True)
class Target:
    """What a kernel needs its functions compiled for."""

    instruction_set: str
    vector_bytes: int  # of its longest vectors
    options: tuple[str, ...]  # of the compiler


class CompiledActivation:
    """The functions of a shared object, in both dtypes. They live as long as the process."""

    def __init__(self, library: ctypes.CDLL, vector_bytes: int):
        self._library = library
        self._vector_bytes = vector_bytes

    def addresses(self, dtype: str) -> tuple[int, int]:
        """Return the addresses of the function of values and of that with slopes."""
        first, second = (
            ctypes.cast(getattr(self._library, f"{entry}_{dtype}"), ctypes.c_void_p).value
            for entry in ENTRIES
        )
        assert first and second
        return first, second

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return f(x) and f'(x), (n,), of float32 or float64 numbers.

        Raises Refused if the two functions give other values.
        """
        alone, _ = self._run("value", x)
        values, slopes = self._run("with_slope", x)
        if not np.array_equal(alone, values, equal_nan=True):
            raise Refused("its values differ with and without slopes")
        return values, slopes

    def _run(self, entry: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        vectors = -(-x.nbytes // self._vector_bytes)
        values, slopes = (self._aligned(vectors, x.dtype) for _ in range(2))
        values[: len(x)] = x
        function = getattr(self._library, f"{entry}_{x.dtype}")
        scalar = ctypes.c_float if x.dtype == np.float32 else ctypes.c_double
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, scalar]
        function.restype = None
        function(values.ctypes.data, slopes.ctypes.data, vectors, 0.0)
        return values[: len(x)], slopes[: len(x)]

    def _aligned(self, vectors: int, dtype: np.dtype) -> np.ndarray:
        size = vectors * self._vector_bytes
        memory = np.zeros(size + self._vector_bytes, np.uint8)
        start = -memory.ctypes.data % self._vector_bytes
        return memory[start : start + size].view(dtype)


@lru_cache(maxsize=256)
def _outcome(
    component: Component, target: Target, compiler: Compiler | None
) -> CompiledActivation | str:
    try:
        graphs = {name: trace(component, dtype) for name, dtype in DTYPES.items()}
        formulas = {name: translate(graph, DTYPES[name]) for name, graph in graphs.items()}
        if compiler is None:
            raise Refused(MISSING)
        library = build(compiler, source(formulas, target.vector_bytes), target.options)
        made = CompiledActivation(library, target.vector_bytes)
        for name, formula in formulas.items():
            check(component, made, graphs[name], formula.constants, name)
    except Refused as reason:
        return str(reason)
    return made


def compiled(component: Component, target: Target) -> CompiledActivation:
    """Return an activation of the user's, compiled for a kernel and checked against PyTorch.

    Raises Refused, with the reason, where that is not possible. The answer is remembered.
    """
    outcome = _outcome(component, target, Compiler.find())
    if isinstance(outcome, str):
        raise Refused(outcome)
    return outcome
