"""The order in which each of many runs sees the patterns of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lecun_ablate.network.initial import pattern_order
from lecun_ablate.trainers.base import Run


class Orders:
    """The orders of runs, epoch by epoch. Equal orders are drawn once."""

    def __init__(self, runs: Sequence[Run], n: int):
        self.runs = runs
        self.n = n
        self._ahead: tuple[int, np.ndarray, np.ndarray] | None = None

    def draw_ahead(self, epoch: int, active: Sequence[int]) -> None:
        """Draw the orders of a later epoch, while the device is busy with this one."""
        self._ahead = (epoch, *self._draw(epoch, active))

    def take(self, epoch: int, active: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the different orders, (any, n) int64, and which of them each run has.

        The latter is (runs,) int64, -1 for the runs that are not active.
        """
        if self._ahead is None or self._ahead[0] != epoch:
            self.draw_ahead(epoch, active)
        assert self._ahead is not None
        _, orders, rows = self._ahead
        self._ahead = None
        resting = np.full_like(rows, -1)
        resting[list(active)] = rows[list(active)]
        return orders, resting

    def _draw(self, epoch: int, active: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        row_of: dict[Any, int] = {}
        orders: list[np.ndarray] = []
        rows = np.full(len(self.runs), -1)
        for i in active:
            recipe, seed = self.runs[i].recipe, self.runs[i].seed
            order = recipe.component("order")
            drawn_from = seed if recipe.order_seed is None else recipe.order_seed
            key = (recipe.order, drawn_from if order.arity > 1 else None)  # takes a generator?
            if key not in row_of:
                row_of[key] = len(orders)
                orders.append(pattern_order(recipe, seed, epoch, self.n).numpy())
            rows[i] = row_of[key]
        return np.stack(orders), rows
