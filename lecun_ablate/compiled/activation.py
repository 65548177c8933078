"""A user's activation as C++: f(x) and f'(x)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lecun_ablate.compiled.program import DTYPES, Program, struct
from lecun_ablate.compiled.trace import graph_of, refuse_other_results, trying
from lecun_ablate.compiled.translate import Axes, Translation, Value

SHAPE = (3, 5)  # of the argument of a graph; other shapes broadcast over it
AXES = Axes(SHAPE, "elements")

_BODY = """
LECUN_FORMULA static Activated<Number> at(Number x) {{
{statements}
    return {{{value}, {slope}}};
}}
"""


def activation(function: Callable[[Tensor], Tensor], dtype: str) -> Program:
    """Return the program of an activation, with `at`. Raises Refused where there is none.

    Its graph maps x, of SHAPE, to (f(x), f'(x)).
    """
    kind = DTYPES[dtype]
    x = torch.linspace(-2, 2, SHAPE[0] * SHAPE[1], dtype=kind).reshape(SHAPE)
    with trying([x], "its argument"):
        y = function(x)
    refuse_other_results(y, x, SHAPE, AXES.parts)

    def value_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
        value, pull, *_ = torch.func.vjp(function, x)
        return value, pull(torch.ones_like(value))[0]

    graph = graph_of(value_and_slope, [torch.zeros(SHAPE, dtype=kind)])
    made = Translation(graph, kind, AXES, [Value("x", whole=True, dtype=kind)])
    value, slope = map(made.number, made.outputs)
    lines = [
        f"    const {'Mask' if s.value.mask else 'Number'} {s.value.text} = {s.expression};"
        for s in made.statements
    ]
    body = _BODY.format(statements="\n".join(lines), value=value, slope=slope)
    name = f"Activation_{dtype}"
    return Program(name, struct(name, body), (graph,), frozenset(made.constants))
