"""The C++ translation unit of an activation, for vectors of one size and both dtypes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from lecun_ablate.compiled.translate import Formula

HERE = Path(__file__).parent
FOLDERS = (HERE, HERE.parent / "native")  # of the headers
SCALARS = {"float32": ("float", 4), "float64": ("double", 8)}

_FORMULA = """
struct Formula_{dtype} {{
    using T = {scalar};
    using Math = Operations<VectorMath<T, {lanes}>>;
    using Number = Math::Number;
    using Mask = Math::Mask;
    ALWAYS_INLINE static Activated<Number> at(Number x) {{
{body}
    }}
}};
"""
_ENTRIES = """
EXPORT void value_{dtype}(void* values, void* slopes, int count, {scalar}) {{
    activate_all<Formula_{dtype}, false>(values, slopes, count);
}}
EXPORT void with_slope_{dtype}(void* values, void* slopes, int count, {scalar}) {{
    activate_all<Formula_{dtype}, true>(values, slopes, count);
}}
"""


def source(formulas: Mapping[str, Formula], vector_bytes: int) -> str:
    """Return C++ that exports value_DTYPE and with_slope_DTYPE; `formulas` is by dtype."""
    parts = ['#include "operations.hpp"\n', "namespace lecun_ablate {\nnamespace {"]
    for dtype, formula in formulas.items():
        scalar, size = SCALARS[dtype]
        body = textwrap.indent(formula.body, " " * 8)
        parts.append(
            _FORMULA.format(dtype=dtype, scalar=scalar, lanes=vector_bytes // size, body=body)
        )
    parts.append("}  // namespace\n}  // namespace lecun_ablate\n")
    parts.append("using namespace lecun_ablate;")
    parts.append('#define EXPORT extern "C" __attribute__((visibility("default")))')
    parts += [_ENTRIES.format(dtype=dtype, scalar=SCALARS[dtype][0]) for dtype in formulas]
    return "\n".join(parts)


def headers() -> str:
    """Return the text of every header that the C++ includes."""
    files = sorted(file for folder in FOLDERS for file in folder.glob("*.hpp"))
    wanted = ("formulas.hpp", "names.hpp", "operations.hpp", "simd.hpp")
    return "\n".join(file.read_text() for file in files if file.name in wanted)
