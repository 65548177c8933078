"""A recipe: every choice that defines a training run, except the seed.

A component is written as its name, with any parameters that differ from the defaults:
`leaky_relu(slope=0.2)`, or as a mapping `{leaky_relu: {slope: 0.2}}`. A parameter also has its own
key, `activation.slope`, which may be used wherever a recipe's fields are set, and overrides that
parameter of the field's component.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lecun_ablate.errors import ConfigError, nearest
from lecun_ablate.parameters import Value
from lecun_ablate.registry import Component, registry


def registered(kind: str) -> BeforeValidator:
    """Return the validator of a field that names a registered component of `kind`."""

    def known(value: Any) -> Any:
        if not isinstance(value, str | Mapping):
            return value  # the field's own validator reports it
        try:
            return registry.canonical(kind, value)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(known)


Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Real = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class Recipe(BaseModel):
    """The choices of one arm. The defaults are the notebook's 1989 net, in float32.

    `init_seed` and `order_seed` fix the seed of the weights (with a random connectivity) or of the
    orders (with shifts and dropout masks), while the run's own seed governs the rest; None: the
    run's seed.

    A step uses the mean gradient of `batch_size` patterns, plus `weight_decay` times the weights,
    including biases. `dropout` is the probability that an input of H3 is 0 during training; the
    others are divided by 1 - `dropout`. `label_smoothing` s trains with the targets (1 - s) t + s
    mean(t). An `average` a > 0 keeps a running mean of the weights, mean <- a mean + (1 - a)
    weights after every step, with which the network is scored. Scores never use dropout, smoothing
    or augmentation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    activation: Annotated[str, registered("activation")] = "tanh"
    output_activation: Annotated[str, registered("activation")] = "tanh"
    init: Annotated[str, registered("init")] = "sqrt_fan_in"
    connectivity: Annotated[str, registered("connectivity")] = "blocks"
    loss: Annotated[str, registered("loss")] = "mse"
    target: Annotated[str, registered("target")] = "one_hot"
    optimizer: Annotated[str, registered("optimizer")] = "sgd"
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    order: Annotated[str, registered("order")] = "fixed"
    lr: Annotated[Real, Field(gt=0)] = 0.03
    epochs: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 23
    dtype: Literal["float32", "float64"] = "float32"
    padding: Real = -1.0
    output_bias: Real = -1.0
    init_seed: Seed | None = None
    order_seed: Seed | None = None
    schedule: Annotated[str, registered("schedule")] = "constant"
    schedule_per: Literal["epoch", "step"] = "epoch"
    batch_size: Annotated[int, Field(strict=True, ge=1)] = 1
    augmentation: Annotated[str, registered("augmentation")] = "none"
    dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[Real, Field(ge=0)] = 0.0
    label_smoothing: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    average: Annotated[Real, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _put_parameters_in_place(cls, fields: Any) -> Any:
        """Merge parameters' own keys, such as `optimizer.mu`, into their components."""
        if not isinstance(fields, dict):
            return fields
        single = {key: value for key, value in fields.items() if is_parameter(key)}
        plain = {key: value for key, value in fields.items() if key not in single}
        for key, value in single.items():
            field, parameter = key.split(".", 1)
            named = plain.get(field, cls.model_fields[field].default)
            try:
                component = registry.get(
                    COMPONENT_FIELDS[field], registry.canonical(COMPONENT_FIELDS[field], named)
                )
                values = dict(component.changed) | {parameter: value}
                plain[field] = component.given(values).spelling
            except (ConfigError, TypeError) as error:
                raise ValueError(f"{key}: {error}") from None
        return plain

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        named = {field: self.component(field).name for field in ("loss", "target")}
        if named == {"loss": "cross_entropy", "target": "bipolar"}:
            raise ValueError(
                "target bipolar does not go with loss cross_entropy: a cross-entropy needs "
                "probabilities, so use target one_hot"
            )
        optimizer = self.component("optimizer")
        if self.momentum and optimizer.arity < MOMENTUM_ARITY:
            raise ValueError(
                f"optimizer {optimizer.name} takes no momentum, got momentum {self.momentum}"
            )
        return self

    @property
    def stored(self) -> dict[str, Any]:
        """The fields as plain values, in the form used in run keys."""
        return stored_form(self.model_dump())

    def component(self, field: str) -> Component:
        """Return the component named by a field of this recipe."""
        return registry.get(COMPONENT_FIELDS[field], getattr(self, field))

    def value(self, key: str) -> Any:
        """Return the value of a field, or of a component's parameter such as `optimizer.mu`.

        None for a parameter that this recipe's component does not have.
        """
        if not is_parameter(key):
            return getattr(self, key)
        field, parameter = key.split(".", 1)
        return self.component(field).values.get(parameter)

    def without(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the fields as plain values, without `keys`.

        If a component's parameter is among `keys`, the component is written without it.
        """
        fields, keys = self.model_dump(), list(keys)
        for key in keys:
            if is_parameter(key):
                field, parameter = key.split(".", 1)
                if field not in keys:
                    component = registry.get(COMPONENT_FIELDS[field], fields[field])
                    kept = {k: v for k, v in component.changed.items() if k != parameter}
                    fields[field] = component.given(kept).spelling
        return {field: value for field, value in fields.items() if field not in keys}

    @property
    def user_components(self) -> list[Component]:
        """The components of this recipe that are not part of the package."""
        components = (self.component(field) for field in COMPONENT_FIELDS)
        return [component for component in components if not component.builtin]


# the recipe's component fields, with the kind of each
COMPONENT_FIELDS = {
    "activation": "activation",
    "output_activation": "activation",
    "init": "init",
    "connectivity": "connectivity",
    "loss": "loss",
    "target": "target",
    "optimizer": "optimizer",
    "order": "order",
    "schedule": "schedule",
    "augmentation": "augmentation",
}
MOMENTUM_ARITY = 5  # of an optimizer that takes momentum

# Fields added later. Run keys omit them at their defaults, so old keys stay valid.
ADDED = (
    "schedule",
    "schedule_per",
    "batch_size",
    "augmentation",
    "dropout",
    "weight_decay",
    "label_smoothing",
    "average",
)


def stored_form(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's fields, or some of them, in the form used in run keys."""
    return {
        field: value
        for field, value in fields.items()
        if field not in ADDED or value != Recipe.model_fields[field].default
    }


def is_parameter(key: Any) -> bool:
    """Return whether a key is that of a component's parameter, such as `optimizer.mu`."""
    return isinstance(key, str) and "." in key and key.split(".", 1)[0] in COMPONENT_FIELDS


def is_numeric(key: str, whole: bool = False) -> bool:
    """Return whether the values of a field or parameter are numbers, or only `whole` ones."""
    types = (int,) if whole else (int, float)
    if not is_parameter(key):
        return Recipe.model_fields[key].annotation in types
    field, parameter = key.split(".", 1)
    having = registry.with_parameter(COMPONENT_FIELDS[field], parameter)
    return all(component.parameters[parameter].type in types for component in having)


def check_parameter(key: str, value: Any) -> Value:
    """Return a value for a parameter's key, validated by the components of its field.

    Raises ConfigError if no component of the field has the parameter or accepts the value.
    """
    kind, parameter = COMPONENT_FIELDS[key.split(".", 1)[0]], key.split(".", 1)[1]
    having = registry.with_parameter(kind, parameter)
    if not having:
        known = {p for name in registry.names(kind) for p in registry.get(kind, name).parameters}
        raise ConfigError(f"no {kind} has a parameter {parameter!r}: {nearest(parameter, known)}")
    problems = []
    for component in having:
        try:
            return component.parameters[parameter].validate(value)
        except ValueError as error:
            problems.append(str(error))
    raise ConfigError(problems[0])


def merged(fields: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return recipe fields with some replaced.

    If a component is replaced, its parameters' own keys are dropped.
    """
    kept = {
        key: value
        for key, value in fields.items()
        if not (is_parameter(key) and key.split(".", 1)[0] in overrides)
    }
    return kept | dict(overrides)
