"""The C++ translation unit of a program in both dtypes, for the native kernel's vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lecun_ablate.compiled.program import Program

HERE = Path(__file__).parent
FOLDERS = (HERE, HERE.parent / "native")  # of the headers
SCALARS = {"float32": ("float", 4), "float64": ("double", 8)}
STEP_BYTES = 32  # at most, of the vectors in which the kernel's weights lie

_HEAD = """#include "operations.hpp"
#include "scalars.hpp"

#define LECUN_UNROLL _Pragma("GCC unroll 16")
#define EXPORT extern "C" __attribute__((visibility("default")))

namespace lecun_ablate {
namespace {
"""
_TAIL = """
}  // namespace
}  // namespace lecun_ablate

using namespace lecun_ablate;
"""
_ACTIVATION = """
EXPORT void value_{dtype}(void* values, void* slopes, int count, {scalar}) {{
    activate_all<Activation_{dtype}<{math}>, false>(values, slopes, count);
}}
EXPORT void with_slope_{dtype}(void* values, void* slopes, int count, {scalar}) {{
    activate_all<Activation_{dtype}<{math}>, true>(values, slopes, count);
}}
"""
_LOSS = """
EXPORT {scalar} value_{dtype}(const {scalar}* outputs, const {scalar}* targets) {{
    return loss_of<Loss_{dtype}<{math}>>(outputs, targets, nullptr);
}}
EXPORT void gradient_{dtype}(const {scalar}* outputs, const {scalar}* targets, {scalar}* slopes) {{
    loss_of<Loss_{dtype}<{math}>>(outputs, targets, slopes);
}}
"""
_OPTIMIZER = """
EXPORT void step_{dtype}(void* w, const void* g, void* const* states, double* numbers, double rate,
                         int first, const int* ranges, int count) {{
    if (first)
        step_all<First_{dtype}<{math}>>(w, g, states, numbers, rate, ranges, count);
    else
        step_all<Later_{dtype}<{math}>>(w, g, states, numbers, rate, ranges, count);
}}
"""
_ENTRIES = {"activation": _ACTIVATION, "loss": _LOSS, "optimizer": _OPTIMIZER}


def source(kind: str, programs: Mapping[str, Sequence[Program]], vector_bytes: int) -> str:
    """Return C++ that exports the functions of a component's kind; `programs` are by dtype.

    With 0 for `vector_bytes`, they work on single numbers.
    """
    if kind == "optimizer":
        vector_bytes = min(vector_bytes, STEP_BYTES)
    parts = [_HEAD, *(program.text for own in programs.values() for program in own), _TAIL]
    for dtype in programs:
        scalar, size = SCALARS[dtype]
        vector = f"Operations<VectorMath<{scalar}, {vector_bytes // size}>>"
        math = vector if vector_bytes else f"Scalars<{scalar}>"
        parts.append(_ENTRIES[kind].format(dtype=dtype, scalar=scalar, math=math))
    return "".join(parts)


def headers() -> str:
    """Return the text of every header that the C++ includes."""
    files = sorted(file for folder in FOLDERS for file in folder.glob("*.hpp"))
    wanted = ("formulas.hpp", "names.hpp", "operations.hpp", "scalars.hpp", "simd.hpp")
    return "\n".join(file.read_text() for file in files if file.name in wanted)
