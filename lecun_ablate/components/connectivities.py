"""Which planes of H1 each plane of H2 sees: 12x12 boolean matrices, [H2 plane, H1 plane]."""

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
    """8 planes each, in three overlapping blocks: the notebook's guess at LeCun et al. 1989.

    H2 planes 0-3 see H1 planes 0-7, planes 4-7 see 4-11, planes 8-11 see 0-3 and 8-11.
    """
    blocks = [list(range(8)), list(range(4, 12)), [*range(4), *range(8, 12)]]
    return _from_lists([blocks[plane // 4] for plane in range(PLANES)])


@register("connectivity")
def cyclic() -> Tensor:
    """8 planes each: plane i sees i .. i+7 modulo 12. Cf. LeCun et al. 1989, which names none."""
    return _from_lists([[(plane + k) % PLANES for k in range(8)] for plane in range(PLANES)])


@register("connectivity")
def random_8(generator: torch.Generator) -> Tensor:
    """8 of 12 planes each, drawn afresh for every seed. LeCun et al. 1989 names no pattern."""
    return _from_lists(
        [torch.randperm(PLANES, generator=generator)[:8].tolist() for _ in range(PLANES)]
    )


@register("connectivity")
def lenet5_style() -> Tensor:
    """Contiguous runs of 6, split runs of 8, one of all 12. After LeCun et al. 1998, table I.

    LeNet-5 joins 6 planes to 16 by runs of 3, runs of 4, split runs of 4 and one plane that sees
    all. Here, with 12 planes on both sides: six runs of 6 (starting at every second plane), five
    pairs of runs of 4 (six apart), and one plane that sees all 12.
    """
    runs_of_6 = [[(2 * k + j) % PLANES for j in range(6)] for k in range(6)]
    split_8 = [[(k + j + gap) % PLANES for gap in (0, 6) for j in range(4)] for k in range(5)]
    return _from_lists([*runs_of_6, *split_8, list(range(PLANES))])


@register("connectivity")
def grouped() -> Tensor:
    """4 planes each, in three groups that never mix. Krizhevsky et al. 2012, NIPS 25."""
    return _from_lists([[plane // 4 * 4 + k for k in range(4)] for plane in range(PLANES)])


@register("connectivity")
def full() -> Tensor:
    """All 12 planes each, as convolutions are usually connected. LeCun et al. 1990, NIPS 2."""
    return torch.ones(PLANES, PLANES, dtype=torch.bool)
