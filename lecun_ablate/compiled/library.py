"""The functions of a compiled component, for the kernel by address and for its check on arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lecun_ablate.compiled.optimizer import Slot
from lecun_ablate.compiled.refused import Refused

_POINTER, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_double


@dataclass(frozen=True)
class Compiled:
    """A shared object, which lives as long as the process."""

    library: ctypes.CDLL
    vector_bytes: int  # for which it is compiled; 0: single numbers
    structs: Mapping[str, str]  # of its programs, by dtype

    def address(self, function: str) -> int:
        """Return the address of a function."""
        found = ctypes.cast(getattr(self.library, function), ctypes.c_void_p).value
        assert found
        return found

    def _aligned(self, values: np.ndarray) -> np.ndarray:
        """Return a copy that begins with a vector; the memory behind it ends with one."""
        vector = self.vector_bytes or values.itemsize
        size = -(-values.nbytes // vector) * vector
        memory = np.zeros(size + vector, np.uint8)
        start = -memory.ctypes.data % vector
        copy = memory[start : start + size].view(values.dtype)
        copy[: values.size] = values.ravel()
        return copy


class CompiledActivation(Compiled):
    """An activation: void value(T* values, T* slopes, int vectors, T), in place; with_slope."""

    def addresses(self, dtype: str) -> tuple[int, int]:
        """Return the addresses of the function of values and of that with slopes."""
        return self.address(f"value_{dtype}"), self.address(f"with_slope_{dtype}")

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
        values = self._aligned(x)
        slopes = self._aligned(np.zeros_like(x))
        function = getattr(self.library, f"{entry}_{x.dtype}")
        scalar = ctypes.c_float if x.dtype == np.float32 else ctypes.c_double
        function.argtypes, function.restype = [_POINTER, _POINTER, _INT, scalar], None
        vectors = values.nbytes // (self.vector_bytes or x.itemsize)
        function(values.ctypes.data, slopes.ctypes.data, vectors, 0.0)
        return values[: len(x)], slopes[: len(x)]


class CompiledLoss(Compiled):
    """A loss: T value(const T* outputs, const T* targets); void gradient(..., T* gradient)."""

    def addresses(self, dtype: str) -> tuple[int, int]:
        """Return the addresses of the value, in float64 always, and of the gradient in a dtype."""
        return self.address("value_float64"), self.address(f"gradient_{dtype}")

    def __call__(self, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of each pattern, (n,), and its derivatives by the outputs, (n, 10)."""
        value = getattr(self.library, f"value_{outputs.dtype}")
        value.argtypes = [_POINTER] * 2
        value.restype = ctypes.c_float if outputs.dtype == np.float32 else ctypes.c_double
        slopes = getattr(self.library, f"gradient_{outputs.dtype}")
        slopes.argtypes, slopes.restype = [_POINTER] * 3, None
        outputs, targets = map(np.ascontiguousarray, (outputs, targets))
        found, gradient = np.empty(len(outputs), outputs.dtype), np.empty_like(outputs)
        for y, t, g, i in zip(outputs, targets, gradient, range(len(found)), strict=True):
            found[i] = value(y.ctypes.data, t.ctypes.data)
            slopes(y.ctypes.data, t.ctypes.data, g.ctypes.data)
        return found, gradient


@dataclass(frozen=True)
class CompiledOptimizer(Compiled):
    """An optimizer: see step_all in operations.hpp."""

    slots: Mapping[str, tuple[Slot, ...]]  # by the dtype of the weights

    def step(
        self,
        first: bool,
        weights: np.ndarray,
        gradient: np.ndarray,
        states: Sequence[np.ndarray],
        numbers: np.ndarray,
        rate: float,
    ) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Return new weights, (n,), states of weights, (n,) each, and numbers, float64."""
        n = len(weights)
        w, g, *own = map(self._aligned, (weights, gradient, *states))
        pointers = (ctypes.c_void_p * (len(own) + 1))(*(s.ctypes.data for s in own))
        kept = np.append(numbers, 0.0)
        ranges = (ctypes.c_int * 2)(0, len(w))
        function = getattr(self.library, f"step_{weights.dtype}")
        function.argtypes = [_POINTER] * 4 + [_DOUBLE, _INT, _POINTER, _INT]
        function.restype = None
        function(w.ctypes.data, g.ctypes.data, pointers, kept.ctypes.data, rate, first, ranges, 1)
        return w[:n], [s[:n] for s in own], kept[:-1]
