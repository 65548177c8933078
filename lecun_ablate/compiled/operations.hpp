// What a translated function is made of, for vectors: the kernel's functions of vectors, and those of
// the C++ library lane by lane. NaN propagates as it does in PyTorch. scalars.hpp has the same for
// single numbers.
//
// A row is what a pattern has at its ten outputs: kRow vectors, whose lanes past the tenth hold
// anything.
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
    static constexpr int kRow = (kOutputs + lanes - 1) / lanes;

    ALWAYS_INLINE static Number constant(double x) { return T(x) - Number{}; }  // + would lose -0
    ALWAYS_INLINE static Number number(Number x) { return x; }
    ALWAYS_INLINE static Number number(Mask x) { return x ? constant(1) : Number{}; }
    ALWAYS_INLINE static Number infinity() { return constant(__builtin_inf()); }
    ALWAYS_INLINE static Number nan() { return constant(__builtin_nan("")); }
    ALWAYS_INLINE static Mask none(Mask x) { return ~x; }

    ALWAYS_INLINE static Number abs(Number x) {
        return (Number)((Mask)x & ~(Mask)constant(-0.0));
    }
    // x * y, rounded before anything is added to it, as in PyTorch; so a seam stays in its place
    ALWAYS_INLINE static Number product(Number x, Number y) {
        Number z = x * y;
#if defined(__aarch64__)
        asm("" : "+w"(z));
#endif
        return hide(z);
    }
    ALWAYS_INLINE static Number sign(Number x) {
        const Mask above = x > Number{}, below = x < Number{};  // Clang has other types for them
        return number(above) - number(below);
    }
    ALWAYS_INLINE static Number maximum(Number x, Number y) {
        return (x > y) | (x != x) ? x : y;
    }
    ALWAYS_INLINE static Number minimum(Number x, Number y) {
        return (x < y) | (x != x) ? x : y;
    }
    ALWAYS_INLINE static Number sigmoid(Number x) {
        return constant(1) / (constant(1) + Base::exp(-x));
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
        const Mask large = abs(x) > constant(Base::kDouble ? 1e5 : 4096);
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

    // ---- rows: what has one value for a pattern has it in all lanes ---------------------------

    ALWAYS_INLINE static void load(const T* from, Number (&row)[kRow]) {
        T values[kRow * lanes] = {};
        std::memcpy(values, from, kOutputs * sizeof(T));
        std::memcpy(row, values, sizeof row);
    }
    ALWAYS_INLINE static void store(const Number (&row)[kRow], T* to) {
        std::memcpy(to, row, kOutputs * sizeof(T));
    }
    ALWAYS_INLINE static T first(Number x) { return x[0]; }

    // vector i of a row with these values
    ALWAYS_INLINE static Number table(int i, const double (&values)[kOutputs]) {
        Number x = {};
        for (int k = 0; k < lanes; ++k)
            if (i * lanes + k < kOutputs) x[k] = T(values[i * lanes + k]);
        return x;
    }
    // where in vector i the place is `place`
    ALWAYS_INLINE static Mask is(int i, Number place) {
        Number own = {};
        for (int k = 0; k < lanes; ++k) own[k] = T(i * lanes + k);
        return own == place;
    }
    ALWAYS_INLINE static Number at(const Number (&row)[kRow], int place) {
        return constant(row[place / lanes][place % lanes]);
    }
    ALWAYS_INLINE static Number at(const Number (&row)[kRow], Number place) {
        T values[kOutputs];
        store(row, values);
        return constant(values[int(place[0])]);
    }

    // In one order on every instruction set, in chains that a CPU works on at once.
    template <class F>
    ALWAYS_INLINE static T folded(const Number (&row)[kRow], F f) {
        T x[kOutputs];
        store(row, x);
        constexpr int half = kOutputs / 2;
        for (int i = 0; i < half; ++i) x[i] = f(x[i], x[i + half]);
        return f(f(f(x[0], x[1]), f(x[2], x[3])), x[4]);
    }
    ALWAYS_INLINE static Number sum(const Number (&row)[kRow]) {
        return constant(folded(row, [](T a, T b) ALWAYS_INLINE { return a + b; }));
    }
    ALWAYS_INLINE static Number largest(const Number (&row)[kRow]) {
        return constant(
            folded(row, [](T a, T b) ALWAYS_INLINE { return (a > b) | (a != a) ? a : b; }));
    }
    ALWAYS_INLINE static Number smallest(const Number (&row)[kRow]) {
        return constant(
            folded(row, [](T a, T b) ALWAYS_INLINE { return (a < b) | (a != a) ? a : b; }));
    }
    ALWAYS_INLINE static Number largest_at(const Number (&row)[kRow]) {
        return place_of(row, largest(row)[0]);
    }
    ALWAYS_INLINE static Number smallest_at(const Number (&row)[kRow]) {
        return place_of(row, smallest(row)[0]);
    }

private:
    // the first place of a value, which may be NaN
    ALWAYS_INLINE static Number place_of(const Number (&row)[kRow], T value) {
        T x[kOutputs];
        store(row, x);
        int place = kOutputs - 1;
        for (int i = kOutputs - 1; i >= 0; --i)
            if (x[i] == value || (x[i] != x[i] && value != value)) place = i;
        return constant(place);
    }
};

// ---- what the kernel calls ---------------------------------------------------------------------

// f(values) in place, and f'(values) into `slopes` if wanted
template <class Activation, bool wanted>
void activate_all(void* values, void* slopes, int count) {
    using Number = typename Activation::Number;
    for (int i = 0; i < count; ++i) {
        const auto y = Activation::at(static_cast<Number*>(values)[i]);
        static_cast<Number*>(values)[i] = y.value;
        if constexpr (wanted) static_cast<Number*>(slopes)[i] = y.slope;
    }
}

// the loss of a pattern, or its derivatives by the outputs; (10,) each
template <class Loss>
typename Loss::T loss_of(const typename Loss::T* outputs, const typename Loss::T* targets,
                         typename Loss::T* gradient) {
    using Math = typename Loss::Math;
    typename Loss::Number y[Math::kRow], t[Math::kRow], slopes[Math::kRow];
    Math::load(outputs, y);
    Math::load(targets, t);
    const auto value = Loss::at(y, t, slopes);
    if (gradient) Math::store(slopes, gradient);
    return Math::first(value);
}

// A step of an optimizer: w and s[0], s[1], ... from the gradient g, at [ranges[2 r],
// ranges[2 r + 1]) for each of `count` ranges, which begin and end with whole vectors.
template <class Step>
ALWAYS_INLINE inline void step_all(void* w, const void* g, void* const* s, double* numbers,
                                   double rate, const int* ranges, int count) {
    using T = typename Step::T;
    using Number = typename Step::Number;
    constexpr int lanes = Step::Math::lanes, states = Step::kStates;
    double next[Step::kNumbers + 1], singles[Step::kSingles + 1];
    Step::before(numbers, T(rate), next, singles);
    T* own[states + 1];
    for (int k = 0; k < states; ++k) own[k] = static_cast<T*>(s[k]);
    for (int r = 0; r < count; ++r)
        for (int i = ranges[2 * r]; i < ranges[2 * r + 1]; i += lanes) {
            Number* const place = reinterpret_cast<Number*>(static_cast<T*>(w) + i);
            Number weight = *place, state[states + 1];
            for (int k = 0; k < states; ++k) state[k] = *reinterpret_cast<Number*>(own[k] + i);
            const auto gradient = *reinterpret_cast<const Number*>(static_cast<const T*>(g) + i);
            Step::change(singles, gradient, weight, state);
            *place = weight;
            for (int k = 0; k < states; ++k) *reinterpret_cast<Number*>(own[k] + i) = state[k];
        }
    for (int k = 0; k < Step::kNumbers; ++k) numbers[k] = next[k];
}

}  // namespace
}  // namespace lecun_ablate
