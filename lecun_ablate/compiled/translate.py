"""Translation: a graph of ATen operations as C++ in the formula language of the kernels.

A tensor with a value at each place of the last axis is *whole*. One with a single value for all
places is *single*. In the result, `Math::Number` is what a vector holds of a whole tensor, and
`Math::Mask` the same of a boolean one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from lecun_ablate.compiled.aten import (
    COMPARISONS,
    LOGIC,
    NUMBERS,
    RANDOM,
    REDUCING,
    REDUCTIONS,
    SAME,
    TESTS,
    WITH_PLACE,
)
from lecun_ablate.compiled.refused import Refused


@dataclass(frozen=True)
class Axes:
    """The shapes of a graph's tensors."""

    whole: tuple[int, ...]  # of a tensor with a value at each place of the last axis
    parts: str  # what a function would mix that looks at several places, or at another axis
    reduces: bool = False  # whether it may reduce over the last axis
    any_single: bool = False  # whether what is single may have a dtype of its own

    @property
    def single(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of tensors with one value for the whole last axis."""
        return (self.whole[:-1], (*self.whole[:-1], 1))


@dataclass(frozen=True)
class Value:
    """What a tensor of the graph is in C++: a constant, or a variable."""

    text: str = ""
    mask: bool = False
    whole: bool = False
    dtype: torch.dtype = torch.float64
    constant: float | None = None


@dataclass(frozen=True)
class Statement:
    """The definition of a variable."""

    value: Value
    expression: str


class Translation:
    """The statements that compute a graph's outputs. Raises Refused at what has no translation.

    `inputs` are the arguments of the graph, in their order.
    """

    def __init__(self, graph: GraphModule, dtype: torch.dtype, axes: Axes, inputs: Sequence[Value]):
        self.graph = graph
        self.dtype = dtype
        self.axes = axes
        self.statements: list[Statement] = []
        self.constants: set[float] = set()  # seams may lie there
        self._values: dict[Node, Value] = {}
        self._known: dict[Node, Tensor] = {}  # those that depend on no argument
        nodes = list(graph.graph.nodes)
        for node in nodes:
            if getattr(node.meta.get("val"), "dtype", dtype).is_complex:
                raise Refused(f"it computes with complex numbers: aten.{_name(node)}")
        arguments = (node for node in nodes if node.op == "placeholder")
        self._values.update(zip(arguments, inputs, strict=True))
        needed = _needed(nodes[-1])
        for node in needed:
            if any(word in _name(node) for word in RANDOM):
                raise Refused(f"it draws random numbers: aten.{_name(node)}")
        for node in nodes[:-1]:
            if node in needed and node not in self._values:
                self._add(node)
        self.outputs = [self._value(argument) for argument in _flat(nodes[-1].args[0])]

    # ---- how a variable is written; kinds of functions differ in this ------------------------

    def operand(self, value: Value, whole: bool, space: str) -> str:
        """Return a variable in a statement of a namespace, one of a whole or a single."""
        return value.text

    def space(self, whole: bool, dtype: torch.dtype) -> str:
        """Return the namespace of a statement."""
        return "Math"

    # ---- operands ----------------------------------------------------------------------------

    def number(self, value: Value, whole: bool = True, space: str = "Math") -> str:
        """Return a value as a Number."""
        if value.constant is not None:
            return self._literal(value.constant, space)
        text = self.operand(value, whole, space)
        return f"{space}::number({text})" if value.mask else text

    def mask(self, value: Value, whole: bool = True, space: str = "Math") -> str:
        """Return a value as a Mask."""
        if value.mask and value.constant is None:
            return self.operand(value, whole, space)
        return f"({self.number(value, whole, space)} != {space}::constant(0))"

    def _literal(self, number: float, space: str) -> str:
        if math.isnan(number):
            return f"{space}::nan()"
        if math.isinf(number):
            return f"{'-' * (number < 0)}{space}::infinity()"
        return f"{space}::constant({number!r})"

    def _value(self, argument: Any) -> Value:
        if isinstance(argument, Node):
            if argument not in self._values:
                raise Refused(f"aten.{_name(argument)} has no translation")
            return self._values[argument]
        if isinstance(argument, complex) or not isinstance(argument, bool | int | float):
            raise Refused(f"it has a constant that is no real number: {argument!r}")
        return self._constant(float(argument), isinstance(argument, bool))

    def _constant(self, number: float, mask: bool = False) -> Value:
        if math.isfinite(number):
            self.constants.add(number)
        return Value(constant=number, mask=mask)

    # ---- nodes -------------------------------------------------------------------------------

    def _add(self, node: Node) -> None:
        name = _name(node)
        if (known := self._evaluate(name, node)) is not None:
            self._known[node] = known
            self._values[node] = self._of_known(known)
            return
        if name in WITH_PLACE and node.target is not operator.getitem:
            return  # its results are nodes of their own
        if name.startswith("empty"):
            return  # nothing, for what is written over or random
        if name == "_local_scalar_dense":
            raise Refused("it reads a value out of a tensor, as `item()` does")
        if not isinstance(node.meta.get("val"), Tensor) and node.op == "call_function":
            raise Refused(f"aten.{name} has no translation")
        value = self._translate(name, node)
        self._refuse_other_kinds(name, node, value)
        self._values[node] = value

    def _evaluate(self, name: str, node: Node) -> Tensor | None:
        """Return what an operation gives that depends on no argument of the function."""
        if node.op == "get_attr":
            constant: Tensor = getattr(self.graph, str(node.target))
            return constant
        if name.startswith("empty") or name == "_local_scalar_dense":
            return None
        if any(source not in self._known for source in node.all_input_nodes):
            return None
        arguments, options = map_arg((node.args, dict(node.kwargs)), self._known.get)
        with torch.no_grad():
            result = node.target(*arguments, **options)  # type: ignore[operator]
        return result if isinstance(result, Tensor) else None

    def _of_known(self, tensor: Tensor) -> Value:
        if tensor.is_complex():
            raise Refused("it computes with complex numbers")
        rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim else tensor.reshape(1, 1)
        numbers = rows.double()
        first = numbers[0, 0].item() if numbers.numel() else 0.0
        if bool((numbers == first).all()) or (math.isnan(first) and bool(numbers.isnan().all())):
            return self._constant(first, tensor.dtype == torch.bool)
        if (
            self.axes.reduces
            and rows.shape[1] == self.axes.whole[-1]
            and bool((numbers == numbers[:1]).all())
        ):
            table = ", ".join(repr(v) for v in numbers[0].tolist())
            return self._define(f"Math::table(i, {{{table}}})", self.dtype, True, False)
        raise Refused(f"it has a constant tensor of shape {tuple(tensor.shape)}")

    def _define(self, expression: str, dtype: torch.dtype, whole: bool, mask: bool) -> Value:
        text = f"{'m' if mask else 'v'}{len(self.statements)}"
        value = Value(text, mask, whole, dtype)
        self.statements.append(Statement(value, expression))
        return value

    def _refuse_other_kinds(self, name: str, node: Node, value: Value) -> None:
        made = node.meta["val"]
        shapes = (self.axes.whole, *self.axes.single)
        if tuple(made.shape) not in shapes and made.numel() != 1:
            raise Refused(
                f"it mixes {self.axes.parts}: aten.{name} makes shape {tuple(made.shape)}"
            )
        if made.dtype in (self.dtype, torch.bool) or made.numel() == 1:
            return
        if not value.whole and (self.axes.any_single or not made.dtype.is_floating_point):
            return  # such as a count
        if name != "where":  # which takes what it finds, such as 1 or -1
            raise Refused(f"it computes in {made.dtype}: aten.{name}".replace("torch.", ""))

    def _translate(self, name: str, node: Node) -> Value:
        if node.target is operator.getitem:
            return self._reduction(WITH_PLACE[name][node.args[1]], node.args[0])  # type: ignore
        special: dict[str, Callable[[Node], Value]] = {
            "gather": self._gather,
            "index_put": self._put,
            "scatter": self._scatter,
            "scatter_add": self._scatter,
            "select": self._select,
            "select_copy": self._select,
            "std": self._variance,
            "var": self._variance,
        }
        if name in special:
            return special[name](node)
        if name in SAME or name == "copy":
            return self._same(node, int(name == "copy"))
        if name == "full_like":
            wanted = node.meta["val"].dtype
            rounded = torch.tensor(_arguments(node)[1], dtype=wanted).item()
            return self._constant(float(rounded), wanted == torch.bool)
        if name in REDUCTIONS:
            return self._reduction(name, node)
        return self._elementwise(name, node)

    def _elementwise(self, name: str, node: Node) -> Value:
        made = node.meta["val"].dtype
        operands = [self._values[a] for a in node.all_input_nodes if a in self._values]
        whole = any(operand.whole for operand in operands)
        dtype = made
        if made == torch.bool:
            types = [o.dtype for o in operands if not o.mask and o.constant is None]
            dtype = torch.float64 if torch.float64 in types else torch.float32
        writer = _Writer(self, whole, self.space(whole, dtype))
        expression = writer.expression(name, node)
        return self._define(expression, made, whole, made == torch.bool)

    def _same(self, node: Node, which: int = 0) -> Value:
        source, made = self._value(_arguments(node)[which]), node.meta["val"]
        boolean = made.dtype == torch.bool
        if source.constant is not None:
            rounded = torch.tensor(source.constant, dtype=made.dtype).item()
            return self._constant(float(rounded), boolean)
        if boolean == source.mask and (made.dtype == source.dtype or boolean):
            return source
        space = self.space(source.whole, made.dtype)
        text = self.mask if boolean else self.number
        return self._define(text(source, source.whole, space), made.dtype, source.whole, boolean)

    # ---- over the last axis ------------------------------------------------------------------

    def _refuse_axis(self, name: str, tensor: Tensor, axes: Any) -> None:
        if not self.axes.reduces:
            raise Refused(f"it mixes {self.axes.parts}: aten.{name} reduces over them")
        given = axes if isinstance(axes, list | tuple) else [axes]
        last = {axis % tensor.ndim if isinstance(axis, int) else axis for axis in given}
        if last != {tensor.ndim - 1} or tuple(tensor.shape) != self.axes.whole:
            raise Refused(
                f"it mixes {self.axes.parts}: aten.{name} over another axis than the last"
            )

    def _array(self, value: Value) -> str:
        """Return the variable of a whole value, as Numbers."""
        if value.whole and not value.mask:
            return value.text
        return self._define(self.number(value), self.dtype, True, False).text

    def _reduction(self, name: str, node: Node) -> Value:
        source, *rest = _arguments(node)
        axes = rest[0] if rest else node.kwargs.get("dim")
        self._refuse_axis(_name(node), source.meta["val"], axes)
        array = self._array(self._values[source])
        expression = REDUCTIONS[name].format(array, count=self.axes.whole[-1])
        return self._define(expression, self.dtype, False, name in ("any", "all"))

    def _variance(self, node: Node) -> Value:
        source, axes = _arguments(node)[:2]
        self._refuse_axis(_name(node), source.meta["val"], axes)
        correction: Any = node.kwargs.get("correction", 1)
        array, count = self._array(self._values[source]), self.axes.whole[-1]
        mean = self._define(
            f"Math::sum({array}) / Math::constant({count})", self.dtype, False, False
        )
        centred = self._define(
            f"{self.number(Value(array, whole=True))} - {mean.text}", self.dtype, True, False
        )
        there = self.number(centred)
        squares = self._define(f"Math::product({there}, {there})", self.dtype, True, False)
        variance = f"Math::sum({squares.text}) / Math::constant({count - correction})"
        if _name(node) == "std":
            variance = f"Math::sqrt({variance})"
        return self._define(variance, self.dtype, False, False)

    def _select(self, node: Node) -> Value:
        source, axis, place = _arguments(node)
        if tuple(source.meta["val"].shape) == self.axes.single[1] and axis in (1, -1):
            return self._values[source]
        self._refuse_axis("select", source.meta["val"], axis)
        array, place = self._array(self._values[source]), place % self.axes.whole[-1]
        return self._define(f"Math::at({array}, {place})", self.dtype, False, False)

    def _gather(self, node: Node) -> Value:
        source, axis, place = _arguments(node)
        self._refuse_axis("gather", source.meta["val"], axis)
        if self._values[place].whole:
            raise Refused("aten.gather of several places has no translation")
        array = self._array(self._values[source])
        index = self.number(self._values[place], False)
        return self._define(f"Math::at({array}, {index})", self.dtype, False, False)

    def _scatter(self, node: Node) -> Value:
        source, axis, place, new = _arguments(node)
        self._refuse_axis("scatter", node.meta["val"], axis)
        index = self._values[place]
        if index.whole or node.kwargs:
            raise Refused("aten.scatter to several places has no translation")
        old, added = (self.number(self._value(v)) for v in (source, new))
        if _name(node) == "scatter_add":
            added = f"{old} + {added}"
        expression = f"Math::is(i, {self.number(index, False)}) ? {added} : {old}"
        return self._define(expression, self.dtype, True, False)

    def _put(self, node: Node) -> Value:
        text, places, value, *accumulate = _arguments(node)
        if len(places) != 1 or places[0].meta["val"].dtype != torch.bool or any(accumulate):
            raise Refused(f"it mixes {self.axes.parts}: aten.index_put")
        if value.meta["val"].numel() != 1:
            raise Refused("aten.index_put of more than one value has no translation")
        where, new, old = (self._value(v) for v in (places[0], value, text))
        expression = f"{self.mask(where)} ? {self.number(new)} : {self.number(old)}"
        return self._define(expression, self.dtype, True, False)


class _Writer:
    """The expressions of elementwise operations, in a namespace, of a whole or a single."""

    def __init__(self, translation: Translation, whole: bool, space: str):
        self._translation = translation
        self._whole = whole
        self._space = space

    def expression(self, name: str, node: Node) -> str:
        arguments = _arguments(node)
        special: dict[str, Callable[[Node], str]] = {
            "add": self._sum,
            "sub": self._sum,
            "clamp": self._clamp,
            "pow": self._power,
            "where": self._where,
        }
        if name in special:
            return special[name](node)
        if name in COMPARISONS:
            first, second = map(self._number, arguments)
            return f"{first} {COMPARISONS[name]} {second}"
        if name in TESTS:
            return self._format(TESTS[name], map(self._number, arguments))
        if name in LOGIC:
            return self._format(LOGIC[name], map(self._mask, arguments))
        if name in NUMBERS:
            if node.kwargs.get("value", 1) != 1 or node.kwargs.get("rounding_mode"):
                raise Refused(f"aten.{name} with {dict(node.kwargs)} has no translation")
            return self._format(NUMBERS[name], map(self._number, arguments))
        parts, reduces = self._translation.axes.parts, self._translation.axes.reduces
        if not reduces and name.strip("_").removeprefix("log_") in REDUCING:
            raise Refused(f"it mixes {parts}: aten.{name} reduces over them")
        raise Refused(f"aten.{name} has no translation")

    def _number(self, argument: Any) -> str:
        value = self._translation._value(argument)
        return self._translation.number(value, self._whole, self._space)

    def _mask(self, argument: Any) -> str:
        value = self._translation._value(argument)
        return self._translation.mask(value, self._whole, self._space)

    def _format(self, template: str, operands: Iterable[str]) -> str:
        return template.replace("Math::", f"{self._space}::").format(*operands)

    def _sum(self, node: Node) -> str:
        first, second = map(self._number, _arguments(node)[:2])
        alpha: Any = node.kwargs.get("alpha", 1)
        if alpha != 1:
            second = self._format("Math::product({0}, {1})", (self._number(alpha), second))
        sign = "-" if _name(node) == "sub" else "+"
        return f"{first} {sign} {second}"

    def _clamp(self, node: Node) -> str:
        text = self._number(_arguments(node)[0])
        bounds = dict(zip(("min", "max"), _arguments(node)[1:], strict=False)) | dict(node.kwargs)
        if bounds.get("min") is not None:
            text = self._format("Math::maximum({0}, {1})", (text, self._number(bounds["min"])))
        if bounds.get("max") is not None:
            text = self._format("Math::minimum({0}, {1})", (text, self._number(bounds["max"])))
        return text

    def _power(self, node: Node) -> str:
        base, exponent = _arguments(node)
        known = {
            0.5: "Math::sqrt({0})",
            -0.5: "Math::constant(1) / Math::sqrt({0})",
            -1: "Math::constant(1) / {0}",
            -2: "Math::constant(1) / Math::product({0}, {0})",
            0: "Math::constant(1)",
            1: "{0}",
            2: "Math::product({0}, {0})",
            3: "Math::product(Math::product({0}, {0}), {0})",
        }
        if isinstance(exponent, int | float) and exponent in known:
            return self._format(known[exponent], [self._number(base)])
        return self._format("Math::pow({0}, {1})", map(self._number, (base, exponent)))

    def _where(self, node: Node) -> str:
        condition, yes, no = _arguments(node)
        return f"{self._mask(condition)} ? {self._number(yes)} : {self._number(no)}"


def _needed(output: Node) -> set[Node]:
    """Return the nodes on which a graph's outputs depend."""
    found: set[Node] = set()
    waiting = list(output.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _flat(outputs: Any) -> list[Any]:
    return (
        [part for each in outputs for part in _flat(each)]
        if (isinstance(outputs, list | tuple))
        else [outputs]
    )


def _name(node: Node) -> str:
    """Return the name of an ATen operation; where one has several results, of what made them."""
    if node.target is operator.getitem:
        return _name(_arguments(node)[0])
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


def _arguments(node: Node) -> Any:
    """Return the arguments of an operation, whose kinds depend on the operation."""
    return node.args
