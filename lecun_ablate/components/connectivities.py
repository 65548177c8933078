"""Connectivities: which H1 planes each H2 plane sees.

A connectivity is a 12x12 boolean matrix, [H2 plane, H1 plane].
"""

import torch
from torch import Tensor

from lecun_ablate.registry import register

PLANES = 12


def _from_lists(seen: list[list[int]]) -> Tensor:
    """Return the matrix in which H2 plane i sees the H1 planes seen[i]."""
    matrix = torch.zeros(PLANES, PLANES, dtype=torch.bool)
    for plane, inputs in enumerate(seen):
        matrix[plane, inputs] = True
    return matrix


@register("connectivity")
def blocks() -> Tensor:
    """8 planes each, in three overlapping blocks: how the notebook reads LeCun et al. 1989.

    H2 planes 0-3 see H1 planes 0-7, planes 4-7 see 4-11, planes 8-11 see 0-3 and 8-11.
    """
    blocks = [list(range(8)), list(range(4, 12)), [*range(4), *range(8, 12)]]
    return _from_lists([blocks[plane // 4] for plane in range(PLANES)])


@register("connectivity")
def cyclic() -> Tensor:
    """8 planes each: plane i sees i .. i+7 modulo 12. LeCun et al. 1989 gives no pattern."""
    return _from_lists([[(plane + k) % PLANES for k in range(8)] for plane in range(PLANES)])


@register("connectivity")
def random_8(generator: torch.Generator) -> Tensor:
    """8 of 12 planes each, drawn separately for every seed. LeCun et al. 1989 gives no pattern."""
    return _from_lists(
        [torch.randperm(PLANES, generator=generator)[:8].tolist() for _ in range(PLANES)]
    )


@register("connectivity")
def lenet5_style() -> Tensor:
    """Runs of 6 planes, split runs of 8, and one of all 12. After LeCun et al. 1998, table I.

    In LeNet-5, which connects 6 planes to 16, a plane sees a run of 3, a run of 4, a split run of
    4, or all. Here, with 12 planes on both sides, six planes see a run of 6 (starting at every
    second plane), five see two runs of 4 (six apart), and one sees all 12.
    """
    runs_of_6 = [[(2 * k + j) % PLANES for j in range(6)] for k in range(6)]
    split_8 = [[(k + j + gap) % PLANES for gap in (0, 6) for j in range(4)] for k in range(5)]
    return _from_lists([*runs_of_6, *split_8, list(range(PLANES))])


@register("connectivity")
def grouped() -> Tensor:
    """4 planes each, in three separate groups. Krizhevsky et al. 2012, NIPS 25."""
    return _from_lists([[plane // 4 * 4 + k for k in range(4)] for plane in range(PLANES)])


@register("connectivity")
def full() -> Tensor:
    """All 12 planes each, as in a standard convolution. LeCun et al. 1990, NIPS 2."""
    return torch.ones(PLANES, PLANES, dtype=torch.bool)
