"""The built-in components, one file per kind. Importing this package registers them all."""

from lecun_ablate.components import (
    activations,
    connectivities,
    inits,
    losses,
    optimizers,
    orders,
    targets,
)

__all__ = [
    "activations",
    "connectivities",
    "inits",
    "losses",
    "optimizers",
    "orders",
    "targets",
]
