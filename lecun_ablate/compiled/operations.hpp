// What a translated activation is made of: the kernel's vector functions, and those of the C++
// library lane by lane. NaN propagates as it does in PyTorch.
#pragma once

#include <cmath>
#include <cstring>

#include "formulas.hpp"
#include "simd.hpp"

namespace lecun_ablate {
namespace {

template <class Base>
struct Operations : Base {
    using T = typename Base::Scalar;
    using Number = typename Base::Number;
    using Mask = typename Base::Mask;
    static constexpr int lanes = sizeof(Number) / sizeof(T);

    ALWAYS_INLINE static Number number(T x) { return x - Number{}; }  // keeps -0, as + would not
    ALWAYS_INLINE static Number number(Number x) { return x; }
    ALWAYS_INLINE static Number number(Mask x) { return x ? number(T(1)) : Number{}; }

    ALWAYS_INLINE static Number abs(Number x) {
        return (Number)((Mask)x & ~(Mask)number(T(-0.0)));
    }
    // x * y, rounded before anything is added to it, as in PyTorch; so a seam stays in its place
    ALWAYS_INLINE static Number product(Number x, Number y) {
        Number z = x * y;
#if defined(__aarch64__)
        asm("" : "+w"(z));
#endif
        return hide(z);
    }
    ALWAYS_INLINE static Number sign(Number x) { return number(x > Number{}) - number(x < Number{}); }
    ALWAYS_INLINE static Number maximum(Number x, Number y) {
        return (x > y) | (x != x) ? x : y;
    }
    ALWAYS_INLINE static Number minimum(Number x, Number y) {
        return (x < y) | (x != x) ? x : y;
    }
    ALWAYS_INLINE static Number sigmoid(Number x) {
        return number(T(1)) / (number(T(1)) + Base::exp(-x));
    }

    // f(x) of each lane; a loop over an array, which compilers turn into vector instructions where
    // there are any, as for sqrt and floor
    template <class F>
    ALWAYS_INLINE static Number each(Number x, F f) {
        T values[lanes];
        std::memcpy(values, &x, sizeof x);
        for (int i = 0; i < lanes; ++i) values[i] = f(values[i]);
        std::memcpy(&x, values, sizeof x);
        return x;
    }

#define LECUN_EACH(name, function) \
    ALWAYS_INLINE static Number name(Number x) { \
        return each(x, [](T value) ALWAYS_INLINE { return T(std::function(value)); }); \
    }
    LECUN_EACH(acos, acos)
    LECUN_EACH(acosh, acosh)
    LECUN_EACH(asin, asin)
    LECUN_EACH(asinh, asinh)
    LECUN_EACH(atan, atan)
    LECUN_EACH(atanh, atanh)
    LECUN_EACH(ceil, ceil)
    LECUN_EACH(cos, cos)
    LECUN_EACH(cosh, cosh)
    LECUN_EACH(erf, erf)
    LECUN_EACH(erfc, erfc)
    LECUN_EACH(exp2, exp2)
    LECUN_EACH(floor, floor)
    LECUN_EACH(log10, log10)
    LECUN_EACH(log2, log2)
    LECUN_EACH(nearest, nearbyint)
    LECUN_EACH(sin, sin)
    LECUN_EACH(sinh, sinh)
    LECUN_EACH(sqrt, sqrt)
    LECUN_EACH(tan, tan)
    LECUN_EACH(trunc, trunc)
#undef LECUN_EACH

    static Number pow(Number x, Number y) {
        for (int i = 0; i < lanes; ++i) x[i] = std::pow(x[i], y[i]);
        return x;
    }
    static Number atan2(Number y, Number x) {
        for (int i = 0; i < lanes; ++i) y[i] = std::atan2(y[i], x[i]);
        return y;
    }
};

// What the kernel calls: f(values) in place, and f'(values) into `slopes` if wanted.
template <class Formula, bool wanted>
void activate_all(void* values, void* slopes, int count) {
    using Number = typename Formula::Number;
    for (int i = 0; i < count; ++i) {
        const auto y = Formula::at(static_cast<Number*>(values)[i]);
        static_cast<Number*>(values)[i] = y.value;
        if constexpr (wanted) static_cast<Number*>(slopes)[i] = y.slope;
    }
}

}  // namespace
}  // namespace lecun_ablate
