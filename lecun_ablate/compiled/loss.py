"""A user's loss as C++: its value and its derivatives by the ten outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lecun_ablate.compiled.program import DTYPES, Program, struct
from lecun_ablate.compiled.trace import graph_of, refuse_other_results, trying
from lecun_ablate.compiled.translate import Axes, Statement, Translation, Value

PATTERNS, OUTPUTS = 3, 10
AXES = Axes((PATTERNS, OUTPUTS), "patterns", reduces=True)

_BODY = """
// y: the outputs; t: the targets
LECUN_FORMULA static Number at(const Number (&y)[Math::kRow], const Number (&t)[Math::kRow],
                               Number (&slopes)[Math::kRow]) {{
{statements}
    LECUN_UNROLL for (int i = 0; i < Math::kRow; ++i) slopes[i] = {slope};
    return {value};
}}
"""


class _Rows(Translation):
    """What is whole is an array of Numbers, and each statement about it a loop."""

    def operand(self, value: Value, whole: bool, space: str) -> str:
        return f"{value.text}[i]" if value.whole else value.text


def loss(function: Callable[[Tensor, Tensor], Tensor], dtype: str) -> Program:
    """Return the program of a loss, with `at`. Raises Refused where there is none.

    Its graph maps outputs and targets, (patterns, 10), to the losses and to their derivatives by
    the outputs.
    """
    kind = DTYPES[dtype]
    outputs = torch.linspace(-1.3, 1.4, PATTERNS * OUTPUTS, dtype=kind).reshape(PATTERNS, OUTPUTS)
    targets = torch.eye(OUTPUTS, dtype=kind)[:PATTERNS]
    with trying([outputs, targets], "its argument"):
        found = function(outputs, targets)
    refuse_other_results(found, outputs, (PATTERNS,), AXES.parts)

    def value_and_slopes(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        value, pull, *_ = torch.func.vjp(lambda y: function(y, targets), outputs)
        return value, pull(torch.ones_like(value))[0]

    graph = graph_of(value_and_slopes, [outputs, targets], reduces=True)
    inputs = [Value(name, whole=True, dtype=kind) for name in ("y", "t")]
    made = _Rows(graph, kind, AXES, inputs)
    value, slope = made.outputs
    body = _BODY.format(
        statements="\n".join(map(_line, made.statements)),
        value=made.number(value, False),
        slope=made.number(slope),
    )
    name = f"Loss_{dtype}"
    return Program(name, struct(name, body), (graph,), frozenset(made.constants))


def _line(statement: Statement) -> str:
    value = statement.value
    kind = "Mask" if value.mask else "Number"
    if not value.whole:
        return f"    const {kind} {value.text} = {statement.expression};"
    each = f"{value.text}[i] = {statement.expression};"
    return (
        f"    {kind} {value.text}[Math::kRow];\n"
        f"    LECUN_UNROLL for (int i = 0; i < Math::kRow; ++i) {each}"
    )
