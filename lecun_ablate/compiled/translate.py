"""Translation: a graph of ATen operations as C++ in the formula language of the native kernel.

The result is over vectors: each tensor of the graph becomes a `Number`, each boolean one a `Mask`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node

from lecun_ablate.compiled.refused import Refused
from lecun_ablate.compiled.trace import SHAPE

# C++ by ATen operation; {0}, {1}, ... are its arguments as Numbers
NUMBERS = {
    "abs": "Math::abs({0})",
    "acos": "Math::acos({0})",
    "acosh": "Math::acosh({0})",
    "addcdiv": "{0} + {1} / {2}",
    "addcmul": "{0} + Math::product({1}, {2})",
    "asin": "Math::asin({0})",
    "asinh": "Math::asinh({0})",
    "atan": "Math::atan({0})",
    "atan2": "Math::atan2({0}, {1})",
    "atanh": "Math::atanh({0})",
    "ceil": "Math::ceil({0})",
    "cos": "Math::cos({0})",
    "cosh": "Math::cosh({0})",
    "div": "{0} / {1}",
    "erf": "Math::erf({0})",
    "erfc": "Math::erfc({0})",
    "exp": "Math::exp({0})",
    "exp2": "Math::exp2({0})",
    "expm1": "Math::expm1({0})",
    "floor": "Math::floor({0})",
    "log": "Math::log({0})",
    "log10": "Math::log10({0})",
    "log1p": "Math::log1p({0})",
    "log2": "Math::log2({0})",
    "maximum": "Math::maximum({0}, {1})",
    "minimum": "Math::minimum({0}, {1})",
    "mul": "Math::product({0}, {1})",
    "neg": "-{0}",
    "reciprocal": "Math::number(T(1)) / {0}",
    "relu": "Math::maximum({0}, Number{{}})",
    "round": "Math::nearest({0})",
    "rsqrt": "Math::number(T(1)) / Math::sqrt({0})",
    "sigmoid": "Math::sigmoid({0})",
    "sign": "Math::sign({0})",
    "sin": "Math::sin({0})",
    "sinh": "Math::sinh({0})",
    "sqrt": "Math::sqrt({0})",
    "tan": "Math::tan({0})",
    "tanh": "Math::tanh({0})",
    "trunc": "Math::trunc({0})",
}
COMPARISONS = {"eq": "==", "ge": ">=", "gt": ">", "le": "<=", "lt": "<", "ne": "!="}
LOGIC = {
    "bitwise_and": "{0} & {1}",
    "bitwise_not": "~{0}",
    "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
    "logical_and": "{0} & {1}",
    "logical_not": "~{0}",
    "logical_or": "{0} | {1}",
    "logical_xor": "{0} ^ {1}",
}
# the same tensor again, or one value for all elements
SAME = {
    "_to_copy",
    "alias",
    "alias_copy",
    "clone",
    "detach",
    "detach_copy",
    "expand",
    "expand_copy",
    "lift_fresh_copy",
    "view",
    "view_copy",
}
FILLED = {"full": 1, "full_like": 1, "scalar_tensor": 0}  # the place of the value
RANDOM = ("bernoulli", "dropout", "multinomial", "normal", "poisson", "rand", "rrelu", "uniform")
REDUCING = (
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "cumsum",
    "logsumexp",
    "max",
    "mean",
    "median",
    "min",
    "norm",
    "prod",
    "softmax",
    "std",
    "sum",
    "var",
)


@dataclass(frozen=True)
class Formula:
    """The body of a C++ function that returns {value, slope} at `x`."""

    body: str
    constants: frozenset[float] = field(default=frozenset())  # in it: its seams may lie there


def translate(graph: GraphModule, dtype: torch.dtype) -> Formula:
    """Return the C++ of a graph that `trace` made. Raises Refused at what has no translation."""
    return _Translation(graph, dtype).formula()


class _Translation:
    def __init__(self, graph: GraphModule, dtype: torch.dtype):
        self.graph = graph
        self.dtype = dtype
        self.lines: list[str] = []
        self.names: dict[Node, str] = {}
        self.masks: set[str] = set()
        self.constants: set[float] = set()

    def formula(self) -> Formula:
        for node in self.graph.graph.nodes:
            if getattr(node.meta.get("val"), "dtype", self.dtype).is_complex:
                raise Refused(f"it computes with complex numbers: aten.{_name(node)}")
        (output,) = (node for node in self.graph.graph.nodes if node.op == "output")
        value, slope = map(self._number, _arguments(output)[0])
        body = "\n".join([*self.lines, f"return {{{value}, {slope}}};"])
        return Formula(body, frozenset(self.constants))

    def _number(self, argument: Any) -> str:
        text = self._argument(argument)
        return f"Math::number({text})" if text in self.masks else text

    def _mask(self, argument: Any) -> str:
        text = self._argument(argument)
        return text if text in self.masks else f"({text} != Number{{}})"

    def _argument(self, argument: Any) -> str:
        if not isinstance(argument, Node):
            return self._constant(argument)
        if argument not in self.names:  # from the outputs back: what they do not need is left out
            self.names[argument] = self._node(argument)
        return self.names[argument]

    def _constant(self, value: Any) -> str:
        if isinstance(value, complex) or not isinstance(value, bool | int | float):
            raise Refused(f"it has a constant that is no real number: {value!r}")
        number = float(value)
        if math.isnan(number):
            return 'Math::number(T(__builtin_nan("")))'
        if math.isinf(number):
            return f"Math::number(T({'-' if number < 0 else ''}__builtin_inf()))"
        self.constants.add(number)
        return f"Math::number(T({number!r}))"

    def _node(self, node: Node) -> str:
        if node.op == "placeholder":
            return "x"
        if node.op == "get_attr":
            tensor = getattr(self.graph, str(node.target))
            if tensor.numel() != 1:
                raise Refused(f"it has a constant tensor of shape {tuple(tensor.shape)}")
            return self._constant(tensor.item())
        name = _name(node)
        expression = self._expression(name, node)
        self._refuse_other_kinds(name, node)
        is_mask = node.meta["val"].dtype == torch.bool
        kind = "Mask" if is_mask else "Number"
        own = f"{'m' if is_mask else 'v'}{len(self.lines)}"
        if is_mask:
            self.masks.add(own)
        self.lines.append(f"const {kind} {own} = {expression};")
        return own

    def _refuse_other_kinds(self, name: str, node: Node) -> None:
        made = node.meta["val"]
        if made.shape != SHAPE and made.numel() != 1:
            raise Refused(f"it mixes elements: aten.{name} makes shape {tuple(made.shape)}")
        if made.numel() != 1 and made.dtype not in (self.dtype, torch.bool):
            chosen = name == "where" or name in FILLED  # such as 1 or -1, which are exact
            if made.dtype.is_floating_point or not chosen:
                raise Refused(f"it computes in {made.dtype}: aten.{name}".replace("torch.", ""))

    def _expression(self, name: str, node: Node) -> str:
        arguments = _arguments(node)
        special: dict[str, Callable[[Node], str]] = {
            "add": self._sum,
            "sub": self._sum,
            "clamp": self._clamp,
            "index_put": self._put,
            "pow": self._power,
            "where": self._where,
        }
        if name in special:
            return special[name](node)
        if name in SAME:
            return self._same(node)
        if name in FILLED:
            wanted = node.meta["val"].dtype
            rounded = torch.tensor(arguments[FILLED[name]], dtype=wanted).item()
            constant = self._constant(rounded)
            return f"({constant} != Number{{}})" if wanted == torch.bool else constant
        if name in COMPARISONS:
            first, second = map(self._number, arguments)
            return f"{first} {COMPARISONS[name]} {second}"
        if name in LOGIC:
            return LOGIC[name].format(*map(self._mask, arguments))
        if name in NUMBERS:
            if node.kwargs.get("value", 1) != 1 or node.kwargs.get("rounding_mode"):
                raise Refused(f"aten.{name} with {dict(node.kwargs)} has no translation")
            return NUMBERS[name].format(*map(self._number, arguments))
        if name == "_local_scalar_dense":
            raise Refused("it reads a value out of a tensor, as `item()` does")
        if any(word in name for word in RANDOM):
            raise Refused(f"it draws random numbers: aten.{name}")
        if name.strip("_").removeprefix("log_") in REDUCING:
            raise Refused(f"it mixes elements: aten.{name} reduces over them")
        raise Refused(f"aten.{name} has no translation")

    def _same(self, node: Node) -> str:
        source, made = _arguments(node)[0], node.meta["val"]
        if isinstance(source, Node) and source.op != "get_attr":
            shape = source.meta["val"].shape
            if shape not in (made.shape, SHAPE) and shape.numel() != 1:
                raise Refused(f"it mixes elements: aten.{node.target} of shape {tuple(shape)}")
        return self._mask(source) if made.dtype == torch.bool else self._number(source)

    def _sum(self, node: Node) -> str:
        first, second = map(self._number, _arguments(node)[:2])
        alpha: Any = node.kwargs.get("alpha", 1)
        if alpha != 1:
            second = f"Math::product({self._constant(alpha)}, {second})"
        sign = "-" if _name(node) == "sub" else "+"
        return f"{first} {sign} {second}"

    def _clamp(self, node: Node) -> str:
        text = self._number(_arguments(node)[0])
        bounds = dict(zip(("min", "max"), _arguments(node)[1:], strict=False)) | dict(node.kwargs)
        if bounds.get("min") is not None:
            text = f"Math::maximum({text}, {self._number(bounds['min'])})"
        if bounds.get("max") is not None:
            text = f"Math::minimum({text}, {self._number(bounds['max'])})"
        return text

    def _power(self, node: Node) -> str:
        base, exponent = _arguments(node)
        text = self._number(base)
        known = {
            0.5: f"Math::sqrt({text})",
            -0.5: f"Math::number(T(1)) / Math::sqrt({text})",
            -1: f"Math::number(T(1)) / {text}",
            -2: f"Math::number(T(1)) / Math::product({text}, {text})",
            0: "Math::number(T(1))",
            1: text,
            2: f"Math::product({text}, {text})",
            3: f"Math::product(Math::product({text}, {text}), {text})",
        }
        if isinstance(exponent, int | float) and exponent in known:
            return known[exponent]
        return f"Math::pow({text}, {self._number(exponent)})"

    def _put(self, node: Node) -> str:
        text, places, value, *accumulate = _arguments(node)
        if len(places) != 1 or places[0].meta["val"].dtype != torch.bool or any(accumulate):
            raise Refused("it mixes elements: aten.index_put")
        if value.meta["val"].numel() != 1:
            raise Refused("aten.index_put of more than one value has no translation")
        return f"{self._mask(places[0])} ? {self._number(value)} : {self._number(text)}"

    def _where(self, node: Node) -> str:
        condition, yes, no = _arguments(node)
        return f"{self._mask(condition)} ? {self._number(yes)} : {self._number(no)}"


def _name(node: Node) -> str:
    """Return the name of an ATen operation; where one has several results, of what made them."""
    if node.target is operator.getitem:
        return _name(_arguments(node)[0])
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


def _arguments(node: Node) -> Any:
    """Return the arguments of an operation, whose kinds depend on the operation."""
    return node.args
