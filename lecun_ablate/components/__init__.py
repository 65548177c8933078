"""The built-in components, one file per kind. Importing this package registers them all."""

from lecun_ablate.components import (
    activations,
    augmentations,
    connectivities,
    inits,
    losses,
    optimizers,
    orders,
    schedules,
    targets,
)

__all__ = [
    "activations",
    "augmentations",
    "connectivities",
    "inits",
    "losses",
    "optimizers",
    "orders",
    "schedules",
    "targets",
]
