"""Programs: a function of the user's as the text of a C++ struct, for one dtype."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}

_STRUCT = """
template <class Math_>
struct {name} {{
    using Math = Math_;
    using T = typename Math::Scalar;
    using Number = typename Math::Number;
    using Mask = typename Math::Mask;
{body}
}};
"""


@dataclass(frozen=True)
class Program:
    """A struct, a template over `Math`: operations.hpp for vectors or scalars.hpp."""

    name: str
    text: str
    graphs: tuple[GraphModule, ...] = field(compare=False)  # of which it was made
    constants: frozenset[float] = frozenset()  # in it: its seams may lie there


def struct(name: str, body: str) -> str:
    """Return a struct with what every program defines, and `body`."""
    return _STRUCT.format(name=name, body=textwrap.indent(body, "    "))
