"""A recipe: every choice that defines one training run, the seed left out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import Component, registry


def registered(kind: str) -> AfterValidator:
    """Return the validator of a field that names a registered component of `kind`."""

    def known(name: str) -> str:
        try:
            return registry.get(kind, name).name
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(known)


Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Real = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class Recipe(BaseModel):
    """The choices of one arm. The defaults are the notebook's 1989 net, in float32.

    `init_seed` and `order_seed` pin the draws of the weights (with the random connectivity) or of
    the orders to one seed, while the run's own seed governs the rest; None: the run's seed.
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

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.loss == "cross_entropy" and self.target == "bipolar":
            raise ValueError(
                "target bipolar does not go with loss cross_entropy: a cross-entropy needs "
                "probabilities, so use target one_hot"
            )
        return self

    def component(self, field: str) -> Component:
        """Return the component that a field of this recipe names."""
        return registry.get(COMPONENT_FIELDS[field], getattr(self, field))

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
}
