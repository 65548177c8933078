"""A user's optimizer as C++: one step of all weights.

What it keeps between steps are slots. One of weights has a number for each weight. The others have
one number, which the torch trainer keeps as a column, (replicas, 1), or as a number of Python.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from lecun_ablate.compiled.program import DTYPES, Program, struct
from lecun_ablate.compiled.refused import Refused
from lecun_ablate.compiled.trace import graph_of, trying
from lecun_ablate.compiled.translate import Axes, Statement, Translation, Value
from lecun_ablate.registry import Component

REPLICAS, WEIGHTS = 2, 5
AXES = Axes((REPLICAS, WEIGHTS), "weights", any_single=True)
TAKES_CURVATURE = 6  # arguments
STEPS = 3  # in which the slots must stay the same

_BODY = """
static constexpr int kStates = {states}, kNumbers = {numbers}, kSingles = {singles};

// once per step: what is kept, and what the weights need of it
LECUN_FORMULA static void before(const double* numbers, T rate, double* next, double* singles) {{
    using Float = Scalars<float>;
    using Double = Scalars<double>;
{before}
}}
// of one weight or of several
LECUN_FORMULA static void change(const double* singles, Number gradient, Number& weight,
                                 Number* state) {{
{change}
}}
"""


@dataclass(frozen=True)
class Slot:
    """What an optimizer keeps under one name."""

    name: str
    kind: str  # "weights", "column" or "number"
    dtype: str  # as NumPy names it


class _Steps(Translation):
    """What is single is computed before the weights change, with numbers of its own dtype."""

    def __init__(self, *arguments: Any):
        self.shared: dict[str, int] = {}  # the single variables that weights need
        super().__init__(*arguments)

    def operand(self, value: Value, whole: bool, space: str) -> str:
        if value.whole:
            return value.text
        if whole:
            place = self.shared.setdefault(value.text, len(self.shared))
            text = f"Math::constant(singles[{place}])"
            return f"({text} != Math::constant(0))" if value.mask else text
        if value.mask or space == self.space(False, value.dtype):
            return value.text
        return f"typename {space}::Number({value.text})"

    def space(self, whole: bool, dtype: torch.dtype) -> str:
        if whole:
            return "Math"
        return "Float" if dtype == torch.float32 else "Double"


def optimizer(
    function: Component, momentum: float, dtype: str
) -> tuple[tuple[Slot, ...], list[Program]]:
    """Return an optimizer's slots and its programs, with `before` and `change`.

    The first program is that of a run's first step, the second that of the others. Raises Refused
    where there are none.
    """
    if function.arity >= TAKES_CURVATURE:
        raise Refused("it takes the curvature")
    kind = DTYPES[dtype]
    slots = _slots(function, momentum, dtype)
    w, g = (
        torch.linspace(a, 1, REPLICAS * WEIGHTS, dtype=kind).reshape(REPLICAS, WEIGHTS)
        for a in (-1, -0.5)
    )
    lr = torch.full((REPLICAS, 1), 0.01, dtype=kind)
    kept = [
        torch.zeros((), dtype=torch.float64)
        if slot.kind == "number"
        else torch.zeros(
            REPLICAS, WEIGHTS if slot.kind == "weights" else 1, dtype=getattr(torch, slot.dtype)
        )
        for slot in slots
    ]

    def first(w: Tensor, g: Tensor, lr: Tensor) -> tuple[Any, ...]:
        return _after(function, momentum, slots, w, g, lr, {})

    def later(w: Tensor, g: Tensor, lr: Tensor, *kept: Tensor) -> tuple[Any, ...]:
        state = {slot.name: value.clone() for slot, value in zip(slots, kept, strict=True)}
        return _after(function, momentum, slots, w, g, lr, state)

    begins, goes_on = graph_of(first, [w, g, lr]), graph_of(later, [w, g, lr, *kept])
    programs = [
        _program(f"First_{dtype}", begins, kind, slots, ()),
        _program(f"Later_{dtype}", goes_on, kind, slots, slots),
    ]
    return slots, programs


def _after(
    function: Component,
    momentum: float,
    slots: Sequence[Slot],
    w: Tensor,
    g: Tensor,
    lr: Tensor,
    state: dict[str, Any],
) -> tuple[Any, ...]:
    w = w.clone()
    function(w, g.clone(), state, lr, momentum, None)
    return w, *(state[slot.name] for slot in slots)


def _slots(function: Component, momentum: float, dtype: str) -> tuple[Slot, ...]:
    """Take a few steps as the torch trainer would, and return what is kept between them."""
    kind = DTYPES[dtype]
    w = torch.linspace(-1, 1, REPLICAS * WEIGHTS, dtype=kind).reshape(REPLICAS, WEIGHTS)
    g = torch.linspace(-0.5, 1, REPLICAS * WEIGHTS, dtype=kind).reshape(REPLICAS, WEIGHTS)
    lr = torch.full((REPLICAS, 1), 0.01, dtype=kind)
    state: dict[str, Any] = {}
    found = []
    for _ in range(STEPS):
        gradients = g.clone()
        with trying([lr], "the learning rate"), torch.no_grad():
            function(w, gradients, state, lr, momentum, None)
        kept = [value for value in state.values() if isinstance(value, Tensor)]
        for value, given in itertools.product(kept, (w, gradients, lr)):
            if value.untyped_storage().data_ptr() == given.untyped_storage().data_ptr():
                raise Refused("it keeps an argument itself in its state: expected a copy")
        found.append(tuple(_slot(name, value, w) for name, value in state.items()))
    if len({frozenset(slots) for slots in found}) > 1:
        raise Refused("what it keeps in its state changes from step to step")
    return found[-1]


def _slot(name: Any, value: Any, w: Tensor) -> Slot:
    if not isinstance(name, str) or "/" in name:
        raise Refused(f"its state has the name {name!r}")
    if isinstance(value, bool | int | float):
        return Slot(name, "number", "float64" if isinstance(value, float) else "int64")
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if shape == (REPLICAS, 1):
        return Slot(name, "column", str(value.dtype).removeprefix("torch."))
    if shape != tuple(w.shape):
        raise Refused(f"its state {name!r} is no tensor like the weights, no column and no number")
    if value.dtype != w.dtype:
        raise Refused(f"it computes in {value.dtype}: state {name!r}".replace("torch.", ""))
    return Slot(name, "weights", str(value.dtype).removeprefix("torch."))


def _program(
    name: str,
    graph: GraphModule,
    kind: torch.dtype,
    slots: Sequence[Slot],
    given: Sequence[Slot],
) -> Program:
    places = {"weights": itertools.count(), "single": itertools.count()}
    inputs = [
        Value("w", whole=True, dtype=kind),
        Value("g", whole=True, dtype=kind),
        Value("rate", dtype=kind),
    ]
    for slot in given:
        if slot.kind == "weights":
            inputs.append(Value(f"s{next(places['weights'])}", whole=True, dtype=kind))
        else:
            dtype = torch.float64 if slot.kind == "number" else getattr(torch, slot.dtype)
            inputs.append(Value(f"n{next(places['single'])}", dtype=dtype))
    made = _Steps(graph, kind, AXES, inputs)
    weight, *kept = made.outputs
    whole = [v for slot, v in zip(slots, kept, strict=True) if slot.kind == "weights"]
    single = [v for slot, v in zip(slots, kept, strict=True) if slot.kind != "weights"]
    if any(value.whole for value in single):
        raise Refused("what it keeps in its state changes from step to step")
    change = [_line(s) for s in made.statements if s.value.whole]
    change.append(f"    weight = {made.number(weight)};")
    change += [f"    state[{k}] = {made.number(v)};" for k, v in enumerate(whole)]
    numbers = range(next(places["single"]))
    before = [
        f"    const {_single(value)} {value.text} = numbers[{k}];"
        for k, value in zip(numbers, (v for v in inputs[3:] if not v.whole), strict=True)
    ]
    before += [_line(s) for s in made.statements if not s.value.whole]
    before += [
        f"    next[{k}] = {made.number(v, False, made.space(False, v.dtype))};"
        for k, v in enumerate(single)
    ]
    before += [f"    singles[{place}] = {text};" for text, place in made.shared.items()]
    old = [f"    const Number s{k} = state[{k}];" for k in range(next(places["weights"]))]
    body = _BODY.format(
        states=len(whole),
        numbers=len(single),
        singles=len(made.shared),
        before="\n".join(before),
        change="\n".join(["    const Number w = weight, g = gradient;", *old, *change]),
    )
    return Program(name, struct(name, body), (graph,), frozenset(made.constants))


def _line(statement: Statement) -> str:
    value = statement.value
    kind = ("Mask" if value.mask else "Number") if value.whole else _single(value)
    return f"    const {kind} {value.text} = {statement.expression};"


def _single(value: Value) -> str:
    """Return the C++ type of a single variable."""
    if value.mask:
        return "bool"
    return "float" if value.dtype == torch.float32 else "double"
