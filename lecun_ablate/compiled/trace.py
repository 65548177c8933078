"""Tracing: a user's activation as a straight-line graph of elementwise ATen operations."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from lecun_ablate.compiled.refused import Refused

Function = Callable[[Tensor], Tensor]
SHAPE = (3, 5)  # of the argument; other shapes broadcast over it when a graph is evaluated
LONGEST = 160  # characters of an error that are shown
# ATen operations that a derivative or a module is still made of after the core decompositions
FURTHER = ("elu", "gelu", "hardtanh", "leaky_relu", "hardswish", "silu")


def trace(function: Function, dtype: torch.dtype) -> GraphModule:
    """Return a graph that maps x, of SHAPE and `dtype`, to (f(x), f'(x)), without mutations.

    Raises Refused if the function is more than a function of x, branches on its values, or fails.
    """
    _try_out(function, dtype)

    def value_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
        value, pull, *_ = torch.func.vjp(function, x)
        return value, pull(torch.ones_like(value))[0]

    from torch.fx.experimental.proxy_tensor import make_fx

    with quiet():
        try:
            graph: GraphModule = make_fx(
                torch.func.functionalize(value_and_slope, remove="mutations_and_views"),
                decomposition_table=_decompositions(),
                tracing_mode="fake",  # without values, so that no branch on one can go unnoticed
            )(torch.zeros(SHAPE, dtype=dtype))
            return graph
        except Exception as error:
            if "DataDependent" in type(error).__name__:
                raise Refused("it branches on the values of its argument") from None
            raise Refused(f"it cannot be traced: {_first_line(error)}") from None


def _try_out(function: Function, dtype: torch.dtype) -> None:
    """Call the function once as the torch trainer would. Raises Refused if it does not behave."""
    x = torch.linspace(-2, 2, SHAPE[0] * SHAPE[1], dtype=dtype).reshape(SHAPE)
    version = x._version
    with quiet() as printed:
        try:
            y = function(x)
        except Exception as error:
            raise Refused(f"it fails: {_first_line(error)}") from None
    if printed.getvalue():
        raise Refused("it prints, which compiled code would not")
    if x._version != version:
        raise Refused("it changes its argument in place")
    if not isinstance(y, Tensor):
        raise Refused(f"it returns {type(y).__name__}: expected a tensor")
    if y.dtype != dtype:
        raise Refused(f"it returns {_name(y.dtype)} for {_name(dtype)}")
    if y.shape != x.shape:
        raise Refused(f"it returns shape {tuple(y.shape)} for shape {SHAPE}: it mixes elements")


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Catch what a user's function prints, and leave random generators as they were."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    printed = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(printed),
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
        ):
            warnings.simplefilter("ignore")
            yield printed
    finally:
        logging.disable(level)


@cache
def _decompositions() -> dict[Any, Any]:
    from torch._decomp import core_aten_decompositions, get_decompositions

    further = get_decompositions([getattr(torch.ops.aten, name) for name in FURTHER])
    return {**core_aten_decompositions(), **further}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
