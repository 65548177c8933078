"""What an optimizer of the user's keeps between steps, as the compiled trainers hold it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lecun_ablate.compiled.optimizer import Slot
from lecun_ablate.network.initial import PARAMETERS
from lecun_ablate.trainers.base import State
from lecun_ablate.trainers.flat import flatten, tensors


@dataclass
class OwnState:
    """The slots of an optimizer: those of weights, flat, and the others as float64 numbers."""

    slots: Sequence[Slot]
    fresh: bool  # before the first step: there is nothing yet
    weights: np.ndarray  # (slots of weights, PARAMETERS) in the recipe's dtype
    numbers: np.ndarray  # (other slots,) float64

    @classmethod
    def of(cls, slots: Sequence[Slot], state: State, dtype: str) -> OwnState:
        """Return what a state holds of the slots."""
        kept = state.optimizer
        wide = [slot for slot in slots if slot.kind == "weights"]
        single = [slot.name for slot in slots if slot.kind != "weights"]
        fresh = not any(f"{slot.name}/h1_weight" in kept for slot in wide) and not any(
            name in kept for name in single
        )
        weights = np.zeros((len(wide), PARAMETERS), dtype)
        numbers = np.zeros(len(single))
        if not fresh:
            for row, slot in zip(weights, wide, strict=True):
                row[:] = flatten(kept, dtype, f"{slot.name}/")
            numbers[:] = [kept[name].item() for name in single]
        return cls(slots, fresh, weights, numbers)

    def stored(self) -> dict[str, np.ndarray]:
        """Return copies of the slots in the form of the torch trainer's."""
        found: dict[str, np.ndarray] = {}
        weights, numbers = iter(self.weights), iter(self.numbers)
        for slot in self.slots if not self.fresh else ():
            if slot.kind == "weights":
                found |= tensors(next(weights), f"{slot.name}/")
            else:
                value = np.array(next(numbers)).astype(slot.dtype)
                found[slot.name] = value[None] if slot.kind == "column" else value
        return found
