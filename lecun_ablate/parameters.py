"""Parameters of components: what a signature declares, and how a recipe writes their values.

A keyword-only argument with a default is a parameter:

    @register("activation")
    def leaky_relu(x, *, slope: Annotated[float, Field(ge=0)] = 0.01): ...

A recipe gives it a value as `leaky_relu(slope=0.2)`. The annotation gives its type and range;
without an annotation, its type is that of the default.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from lecun_ablate.errors import ConfigError, nearest

Value = bool | int | float | str
_WORDS: dict[type, str] = {float: "a number", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a component, with its default and its annotation."""

    name: str
    default: Value
    annotation: (
        Any  # float, int, bool, str or a Literal of strings, possibly Annotated with a range
    )

    @property
    def type(self) -> type:
        """The type of its values; str for a Literal."""
        plain = self.annotation
        if get_origin(plain) is Annotated:
            plain = get_args(plain)[0]
        return str if get_origin(plain) is Literal else plain

    def validate(self, value: Any) -> Value:
        """Return a value as the parameter's type, or raise ValueError with what was expected."""
        from pydantic import TypeAdapter, ValidationError

        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {value}")
        try:
            valid: Value = TypeAdapter(self.annotation).validate_python(value, strict=True)
            return valid
        except ValidationError as error:
            words = error.errors()[0]["msg"].replace("Input should be", "expected")
            raise ValueError(f"{words}, got {value!r}") from None

    def __str__(self) -> str:
        plain = self.annotation
        bounds: list[str] = []
        if get_origin(plain) is Annotated:
            signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
            plain, *notes = get_args(plain)
            found = [m for note in notes for m in getattr(note, "metadata", [note])]
            bounds = [
                f"{sign} {getattr(m, bound):g}"
                for bound, sign in signs.items()
                for m in found
                if hasattr(m, bound)
            ]
        if get_origin(plain) is Literal:
            words = " or ".join(map(str, get_args(plain)))
        else:
            words = " ".join([_WORDS.get(plain, "a string"), " and ".join(bounds)]).strip()
        return f"{self.name} ({words}; default {_text(self.default)})"


def declared(function: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the parameters that a function, or a callable object, declares.

    Raises ValueError if one of them has a type that a recipe cannot write, or a bad default.
    """
    try:
        signature = inspect.signature(function).parameters.values()
    except ValueError:  # a C function without a signature, such as torch.tanh
        return {}
    own = [p for p in signature if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
    if not own:
        return {}
    plain = inspect.isfunction(function) or inspect.ismethod(function)
    try:
        hints = get_type_hints(function if plain else type(function).__call__, include_extras=True)
    except (NameError, TypeError) as error:
        raise ValueError(f"its annotations cannot be read: {error}") from None
    parameters = {}
    for p in own:
        parameter = Parameter(p.name, p.default, hints.get(p.name, type(p.default)))
        if parameter.type not in (bool, int, float, str):
            raise ValueError(
                f"parameter {p.name!r}: expected a number, a bool, a string or a Literal of "
                f"strings, got {p.annotation if p.name in hints else type(p.default).__name__}"
            )
        try:
            parameter.validate(p.default)
        except ValueError as error:
            raise ValueError(f"the default of parameter {p.name!r}: {error}") from None
        parameters[p.name] = parameter
    return parameters


def check(
    whose: str, parameters: Mapping[str, Parameter], given: Mapping[str, Any]
) -> dict[str, Value]:
    """Return the given values that differ from their defaults, in the order of the signature.

    `whose` names the component in errors. Raises ConfigError for an unknown parameter, with the
    valid ones, and for a value of the wrong type or out of range.
    """
    for name in given:
        if name not in parameters:
            if not parameters:
                raise ConfigError(f"{whose} has no parameters, got {name!r}")
            each = ", ".join(map(str, parameters.values()))
            hint = nearest(name, parameters).split("valid:")[0]
            raise ConfigError(f"{whose} has no parameter {name!r}: {hint}valid: {each}")
    values: dict[str, Value] = {}
    for name, parameter in parameters.items():
        if name in given:
            try:
                value = parameter.validate(given[name])
            except ValueError as error:
                raise ConfigError(f"{whose}: parameter {name}: {error}") from None
            if value != parameter.default:
                values[name] = value
    return values


# ---- `sdlm(mu=0.02)`


def spell(name: str, values: Mapping[str, Value]) -> str:
    """Return a component with these values for its parameters, as a recipe writes it."""
    each = ", ".join(f"{key}={_text(value)}" for key, value in values.items())
    return f"{name}({each})" if each else name


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Parse a component as a recipe writes it: its name and the given parameters.

    Raises ConfigError if it is neither NAME nor NAME(PARAMETER=VALUE, ...).
    """
    problem = f"{text!r}: expected NAME or NAME(PARAMETER=VALUE, ...)"
    match = re.fullmatch(r"\s*([^()\s]+)\s*(?:\((.*)\)\s*)?", text, re.DOTALL)
    if not match:
        raise ConfigError(problem)
    name, inside = match[1], (match[2] or "").strip()
    try:
        call = ast.parse(f"_({inside})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(problem) from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ConfigError(problem)
    given: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in given:
            raise ConfigError(problem)
        given[keyword.arg] = _value(keyword.value, problem)
    return name, given


def from_mapping(value: Mapping[Any, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name and the given parameters of {NAME: {PARAMETER: VALUE}}."""
    if len(value) == 1:
        ((name, given),) = value.items()
        if given is None:
            given = {}
        if isinstance(name, str) and isinstance(given, Mapping):
            return name, dict(given)
    raise ConfigError(f"expected {{NAME: {{PARAMETER: VALUE}}}}, got {dict(value)!r}")


def _value(node: ast.expr, problem: str) -> Any:
    if isinstance(node, ast.Name):  # a word without quotes
        return {"true": True, "false": False}.get(node.id, node.id)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ConfigError(problem) from None


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        bare = value.isidentifier() and value.lower() not in ("true", "false", "none")
        return value if bare else repr(value)
    return repr(value)
