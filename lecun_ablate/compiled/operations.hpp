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
    LECUN_EACH(cos_each, cos)
    LECUN_EACH(cosh, cosh)
    LECUN_EACH(erf, erf)
    LECUN_EACH(erfc, erfc)
    LECUN_EACH(exp2, exp2)
    LECUN_EACH(floor, floor)
    LECUN_EACH(log10, log10)
    LECUN_EACH(log2, log2)
    LECUN_EACH(nearest, nearbyint)
    LECUN_EACH(sin_each, sin)
    LECUN_EACH(sinh, sinh)
    LECUN_EACH(sqrt, sqrt)
    LECUN_EACH(tan, tan)
    LECUN_EACH(trunc, trunc)
#undef LECUN_EACH

    ALWAYS_INLINE static Number sin(Number x) {
        return small(x) ? quadrant(x, T(0)) : sin_each(x);
    }
    ALWAYS_INLINE static Number cos(Number x) {
        return small(x) ? quadrant(x, T(1)) : cos_each(x);
    }

    // Whether all lanes are small enough to be reduced by pi / 2 in three parts; NaN is.
    ALWAYS_INLINE static bool small(Number x) {
        const Mask large = abs(x) > number(T(Base::kDouble ? 1e5 : 4096));
        typename Base::Int any = 0;
        for (int i = 0; i < lanes; ++i) any |= large[i];
        return !any;
    }

    // sin(x + shift pi / 2), by Cody and Waite's reduction and the polynomials of fdlibm's k_sin.c
    // and k_cos.c. The parts of pi / 2 are short enough that their products with n are exact.
    ALWAYS_INLINE static Number quadrant(Number x, T shift) {
        constexpr T rounder = Base::kDouble ? T(6755399441055744.0) : T(12582912.0);
        const Number shifted = hide(x * T(0.63661977236758134308) + rounder);
        const Number n = shifted - rounder;
        constexpr T high = Base::kDouble ? T(1.57079632673412561417e+00) : T(1.5703125);
        constexpr T middle = Base::kDouble ? T(6.07710050630396597660e-11)
                                           : T(4.837512969970703125e-4);
        constexpr T low = Base::kDouble ? T(2.02226624879595063154e-21) : T(7.54978995489188216e-8);
        const Number r = x - n * high - n * middle - n * low, z = r * r;
        constexpr T s[] = {T(-1.66666666666666324348e-01), T(8.33333333332248946124e-03),
                           T(-1.98412698298579493134e-04), T(2.75573137070700676789e-06),
                           T(-2.50507602534068634195e-08), T(1.58969099521155010221e-10)};
        constexpr T c[] = {T(4.16666666666666019037e-02),  T(-1.38888888888741095749e-03),
                           T(2.48015872894767294178e-05),  T(-2.75573143513906633035e-07),
                           T(2.08757232129817482790e-09),  T(-1.13596475577881948265e-11)};
        const Number sine = r + r * z * Base::polynomial(z, s);
        const Number cosine = T(1) - (T(0.5) * z - z * z * Base::polynomial(z, c));
        const Mask turn = (Mask)(shifted + shift);  // its low bits count the quarters
        const Number found = (turn & 1) != 0 ? cosine : sine;
        return (turn & 2) != 0 ? -found : found;
    }

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
