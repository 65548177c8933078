"""A user's component as machine code: traced, translated, compiled and checked, once."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache

from lecun_ablate.compiled import record
from lecun_ablate.compiled.activation import activation
from lecun_ablate.compiled.build import MISSING, Compiler, build, digest_of
from lecun_ablate.compiled.check import check_activation
from lecun_ablate.compiled.compare import check_loss, check_optimizer
from lecun_ablate.compiled.library import (
    Compiled,
    CompiledActivation,
    CompiledLoss,
    CompiledOptimizer,
)
from lecun_ablate.compiled.loss import loss
from lecun_ablate.compiled.optimizer import optimizer
from lecun_ablate.compiled.program import DTYPES, Program
from lecun_ablate.compiled.refused import Refused
from lecun_ablate.compiled.source import source
from lecun_ablate.compiled.target import Target
from lecun_ablate.registry import Component

Built = tuple[ctypes.CDLL, int, dict[str, str]]


def compiled(component: Component, target: Target, momentum: float = 0.0) -> Compiled:
    """Return a component of the user's, compiled for a kernel and checked against PyTorch.

    `momentum` is what an optimizer is given. Raises Refused, with the reason, where that is not
    possible. The answer is remembered, and a good one is kept for other processes.
    """
    given = momentum if component.kind == "optimizer" else 0.0
    with _one_at_a_time:
        outcome = _outcome(component, target, Compiler.find(), given)
    if isinstance(outcome, str):
        raise Refused(outcome)
    return outcome


_one_at_a_time = threading.Lock()  # to trace is to catch what the process prints


@lru_cache(maxsize=256)
def _outcome(
    component: Component, target: Target, compiler: Compiler | None, momentum: float
) -> Compiled | str:
    key = record.key_of(component, target, compiler, momentum) if compiler else None
    if key and (found := record.read(key, component.kind, target)):
        return found
    try:
        made, text = _made(component, target, compiler, momentum)
    except Refused as reason:
        return str(reason)
    if key and compiler:
        record.write(key, digest_of(compiler, text, target.options), made)
    return made


def _made(
    component: Component, target: Target, compiler: Compiler | None, momentum: float
) -> tuple[Compiled, str]:
    """Return a compiled component that has passed its check, and its C++."""

    def build_all(programs: Mapping[str, Sequence[Program]]) -> tuple[str, Built]:
        text = source(component.kind, programs, target.vector_bytes)
        if compiler is None:
            raise Refused(MISSING)
        structs = {dtype: "".join(p.text for p in own) for dtype, own in programs.items()}
        return text, (build(compiler, text, target.options), target.vector_bytes, structs)

    if component.kind == "activation":
        own = {dtype: activation(component, dtype) for dtype in DTYPES}
        text, built = build_all({dtype: [program] for dtype, program in own.items()})
        function = CompiledActivation(*built)
        for dtype, program in own.items():
            check_activation(component, function, program.graphs[0], program.constants, dtype)
        return function, text
    if component.kind == "loss":
        text, built = build_all({dtype: [loss(component, dtype)] for dtype in DTYPES})
        by_outputs = CompiledLoss(*built)
        for dtype in DTYPES:
            check_loss(component, by_outputs, dtype)
        return by_outputs, text
    steps = {dtype: optimizer(component, momentum, dtype) for dtype in DTYPES}
    text, built = build_all({dtype: programs for dtype, (_, programs) in steps.items()})
    step = CompiledOptimizer(*built, {dtype: slots for dtype, (slots, _) in steps.items()})
    for dtype in DTYPES:
        check_optimizer(component, momentum, step, dtype)
    return step, text
