"""Which of the fast trainers run a component, and why the others do not."""

from __future__ import annotations

from lecun_ablate.config.recipe import COMPONENT_FIELDS, Recipe
from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import Component
from lecun_ablate.trainers import cuda, native


def refusals(component: Component) -> dict[str, str | None]:
    """Return why each fast trainer cannot run a component; None where it can, at full speed.

    A component of the user's own is compiled to find out, for a GPU too, whether or not there is
    one. The torch trainer runs all of them.
    """
    if component.kind not in ("activation", "loss", "optimizer"):  # data to the kernels
        return {"native": native.availability(), "cuda": None}
    field = next(f for f, kind in COMPONENT_FIELDS.items() if kind == component.kind)
    try:
        recipe = Recipe.model_validate({field: component.spelling})
    except ConfigError as error:
        return dict.fromkeys(("native", "cuda"), str(error))
    reason = native.availability()
    if reason is None:
        reason = native.NativeTrainer(own_components=True).unsupported(recipe)
    return {"native": reason, "cuda": cuda.uncompilable_there(recipe)}
