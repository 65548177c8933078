"""The C++ of a user's components for the CUDA kernels: the struct Own that step.hpp describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lecun_ablate.compiled.library import Compiled
from lecun_ablate.compiled.source import SCALARS
from lecun_ablate.compiled.target import Target

# The same text for a CPU, on which it is checked: nothing is fused that the text does not fuse
ON_CPU = Target("scalar", 0, ("-O1", "-ffp-contract=off", "-fno-math-errno"))

_ACTIVATION = """
    LECUN_FORMULA static Activated<T> {field}(T x) {{
        return own_{field}::Activation_{dtype}<Scalars<T>>::at(x);
    }}
"""
_LOSS = """
    LECUN_CALL static double loss(const double* outputs, const double* targets) {{
        return of<own_loss::Loss_float64<Scalars<double>>>(outputs, targets, nullptr);
    }}
    LECUN_CALL static void loss_slopes(const T* outputs, const T* targets, T* slopes) {{
        of<own_loss::Loss_{dtype}<Scalars<T>>>(outputs, targets, slopes);
    }}
    template <class Loss>
    LECUN_FORMULA static typename Loss::T of(const typename Loss::T* outputs,
                                             const typename Loss::T* targets,
                                             typename Loss::T* gradient) {{
        using Math = typename Loss::Math;
        typename Loss::T y[kOutputs], t[kOutputs], slopes[kOutputs];
        Math::load(outputs, y);
        Math::load(targets, t);
        const auto value = Loss::at(y, t, slopes);
        if (gradient) Math::store(slopes, gradient);
        return value;
    }}
"""
_OPTIMIZER = """
    using First = own_optimizer::First_{dtype}<Scalars<T>>;
    using Later = own_optimizer::Later_{dtype}<Scalars<T>>;
    static constexpr int kMostStates = First::kStates + 1;
    LECUN_FORMULA static int states() {{ return First::kStates; }}
    LECUN_FORMULA static int numbers() {{ return First::kNumbers; }}
    static_assert(First::kSingles <= kMostSingles && Later::kSingles <= kMostSingles);
    LECUN_FORMULA static void before(bool first, const double* numbers, T rate, double* next,
                                     double* singles) {{
        if (first)
            First::before(numbers, rate, next, singles);
        else
            Later::before(numbers, rate, next, singles);
    }}
    LECUN_FORMULA static void change(bool first, const double* singles, T gradient, T& weight,
                                     T* state) {{
        if (first)
            First::change(singles, gradient, weight, state);
        else
            Later::change(singles, gradient, weight, state);
    }}
"""
_MEMBERS = {
    "hidden": _ACTIVATION,
    "output": _ACTIVATION,
    "loss": _LOSS,
    "optimizer": _OPTIMIZER,
}


def device_source(components: Mapping[str, Compiled | None], dtype: str) -> str:
    """Return C++ for the components that are the user's; "" where there is none.

    `components` are by the names of _MEMBERS.
    """
    own = {field: made for field, made in components.items() if made is not None}
    if not own:
        return ""
    scalars = (Path(__file__).parent / "scalars.hpp").read_text()
    parts = [scalars, "\n#if !defined(LECUN_UNROLL)\n#define LECUN_UNROLL\n#endif\n"]
    parts.append("namespace lecun_ablate {\n")
    members = []
    for field, made in own.items():
        dtypes = dict.fromkeys([dtype, "float64"]) if field == "loss" else [dtype]
        structs = "".join(made.structs[each] for each in dtypes)
        parts.append(f"namespace own_{field} {{\n{structs}\n}}\n")
        members.append(_MEMBERS[field].format(field=field, dtype=dtype))
    scalar = SCALARS[dtype][0]
    parts.append(f"struct Own : NoOwn<{scalar}> {{\n    using T = {scalar};\n")
    parts += [*members, "};\n}  // namespace lecun_ablate\n"]
    return "".join(parts)
