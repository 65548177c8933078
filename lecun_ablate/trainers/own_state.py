"""What an optimizer of the user's keeps between steps, as the native kernel is handed it."""

from __future__ import annotations

from typing import Any

import numpy as np

from lecun_ablate.compiled.library import CompiledOptimizer
from lecun_ablate.network.initial import PARAMETERS
from lecun_ablate.trainers.base import State
from lecun_ablate.trainers.flat import flatten, tensors


class OwnState:
    """The slots of an optimizer: flat tensors, and numbers in float64."""

    def __init__(self, optimizer: CompiledOptimizer, state: State, dtype: str):
        self.address = optimizer.address(f"step_{dtype}")
        self._slots = optimizer.slots[dtype]
        weights = [slot.name for slot in self._slots if slot.kind == "weights"]
        self._single = [slot for slot in self._slots if slot.kind != "weights"]
        kept = state.optimizer
        there = [f"{name}/h1_weight" in kept for name in weights]
        there += [slot.name in kept for slot in self._single]
        self._fresh = not any(there)
        self._tensors = {
            name: np.zeros(PARAMETERS, dtype) if self._fresh else flatten(kept, dtype, f"{name}/")
            for name in weights
        }
        numbers = [0.0 if self._fresh else kept[slot.name].item() for slot in self._single]
        self._numbers = np.array(numbers, "float64")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the kernel for an epoch, after which the state is not fresh."""
        fresh, self._fresh = self._fresh, False
        return {"own": list(self._tensors.values()), "numbers": self._numbers, "fresh": fresh}

    def stored(self) -> dict[str, np.ndarray]:
        """Return copies of the slots in the form of the torch trainer's."""
        found: dict[str, np.ndarray] = {}
        if self._fresh:
            return found
        for name, values in self._tensors.items():
            found |= tensors(values, f"{name}/")
        for slot, number in zip(self._single, self._numbers, strict=True):
            value = np.array(number).astype(slot.dtype)
            found[slot.name] = value[None] if slot.kind == "column" else value
        return found
