"""Tracing: a user's function as a straight-line graph of ATen operations."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from lecun_ablate.compiled.refused import Refused

LONGEST = 160  # characters of an error that are shown
# ATen operations that a derivative or a module is still made of after the core decompositions
FURTHER = ("elu", "gelu", "hardtanh", "leaky_relu", "hardswish", "silu")
# and those over the last axis, for functions that may reduce over it
REDUCING = (
    "_log_softmax",
    "_softmax",
    "binary_cross_entropy",
    "huber_loss",
    "linalg_vector_norm",
    "logsumexp",
    "mse_loss",
    "smooth_l1_loss",
)


def graph_of(
    function: Callable[..., Any], arguments: Sequence[Tensor], reduces: bool = False
) -> GraphModule:
    """Return a function of tensors as a graph without mutations.

    With `reduces`, operations over the last axis are made of sums and the like. Raises Refused if
    the function branches on values, or fails.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with quiet():
        try:
            graph: GraphModule = make_fx(
                torch.func.functionalize(function, remove="mutations_and_views"),
                decomposition_table=_decompositions(reduces),
                tracing_mode="fake",  # without values, so that no branch on one can go unnoticed
            )(*arguments)
            return graph
        except Exception as error:
            if "DataDependent" in type(error).__name__:
                raise Refused("it branches on the values of its arguments") from None
            raise Refused(f"it cannot be traced: {first_line(error)}") from None


@contextlib.contextmanager
def trying(arguments: Sequence[Tensor], what: str) -> Iterator[None]:
    """Call a function of the user's inside. Raises Refused if it fails or does more than return.

    `what` names its arguments, which it must not change.
    """
    versions = [argument._version for argument in arguments]
    with quiet() as printed:
        try:
            yield
        except Exception as error:
            raise Refused(f"it fails: {first_line(error)}") from None
    if printed.getvalue():
        raise Refused("it prints, which compiled code would not")
    if [argument._version for argument in arguments] != versions:
        raise Refused(f"it changes {what} in place")


def refuse_other_results(result: Any, like: Tensor, shape: Sequence[int], parts: str) -> None:
    """Raise Refused if a result is no tensor of a shape and of the dtype of `like`.

    `parts` are what a function mixes whose result has another shape.
    """
    if not isinstance(result, Tensor):
        raise Refused(f"it returns {type(result).__name__}: expected a tensor")
    if result.dtype != like.dtype:
        raise Refused(f"it returns {_name(result.dtype)} for {_name(like.dtype)}")
    if tuple(result.shape) != tuple(shape):
        raise Refused(
            f"it returns shape {tuple(result.shape)} for shape {tuple(like.shape)}: "
            f"it mixes {parts}"
        )


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
def _decompositions(reduces: bool) -> dict[Any, Any]:
    from torch._decomp import core_aten_decompositions, get_decompositions

    names = (*FURTHER, *REDUCING) if reduces else FURTHER
    further = get_decompositions([getattr(torch.ops.aten, name) for name in names])
    return {**core_aten_decompositions(), **further}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def first_line(error: Exception) -> str:
    """Return the name of an error and the first line of what it says."""
    words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."
