// Vectors with a fixed number of lanes, based on the vector extensions of GCC and Clang, and the
// elementary functions of such vectors that the network needs.
//
// Everything here has internal linkage. The file is compiled into one library several times, once
// per instruction set, and the linker must not replace one copy by another.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#ifndef ALWAYS_INLINE  // empty under sanitizers: instrumented unrolled code exhausts the memory
#define ALWAYS_INLINE __attribute__((always_inline))
#endif

namespace lecun_ablate {
namespace {

template <class T>
struct Float;
template <>
struct Float<float> {
    using Int = std::int32_t;
    static constexpr int kMantissaBits = 23, kBias = 127;
};
template <>
struct Float<double> {
    using Int = std::int64_t;
    static constexpr int kMantissaBits = 52, kBias = 1023;
};

template <class T, int lanes>
struct VectorTypes {
    using Int = typename Float<T>::Int;
    typedef T Vector __attribute__((vector_size(lanes * sizeof(T))));
    typedef Int Mask __attribute__((vector_size(lanes * sizeof(T))));
    // a vector that may start at any element of an array
    typedef T Unaligned __attribute__((vector_size(lanes * sizeof(T)), aligned(sizeof(T)),
                                       may_alias));
};

// unroll<n>(f) calls f(0), ..., f(n - 1). Each index is a compile-time constant, so that arrays of
// vectors that are indexed by it stay in registers.
template <class F, int... i>
ALWAYS_INLINE inline void unroll(F&& f, std::integer_sequence<int, i...>) {
    (f(std::integral_constant<int, i>{}), ...);
}
template <int n, class F>
ALWAYS_INLINE inline void unroll(F&& f) {
    unroll(f, std::make_integer_sequence<int, n>{});
}

// One step of the transposition in sum_lanes: merges two vectors that are `stride` apart.
template <int stride, class V, int... lane>
ALWAYS_INLINE inline V fold(V a, V b, std::integer_sequence<int, lane...>) {
    constexpr int n = sizeof...(lane);
    return __builtin_shufflevector(a, b, (lane & stride ? n + lane : lane)...) +
           __builtin_shufflevector(a, b, ((lane & stride ? n + lane : lane) ^ stride)...);
}

// Lane i of the result is the sum of the lanes of rows[i]. There are as many rows as lanes.
template <int lanes, class V>
ALWAYS_INLINE inline V sum_lanes(const V* rows) {
    V a[lanes];
    unroll<lanes>([&](auto i) ALWAYS_INLINE { a[i] = rows[i]; });
    const auto step = [&](auto stride) ALWAYS_INLINE {
        unroll<stride>([&](auto i) ALWAYS_INLINE {
            a[i] = fold<stride>(a[i], a[i + stride], std::make_integer_sequence<int, lanes>{});
        });
    };
    if constexpr (lanes >= 16) step(std::integral_constant<int, 8>{});
    if constexpr (lanes >= 8) step(std::integral_constant<int, 4>{});
    if constexpr (lanes >= 4) step(std::integral_constant<int, 2>{});
    step(std::integral_constant<int, 1>{});
    return a[0];
}

// Hides from GCC that a value is constant. Otherwise GCC would not compile a comparison and a
// selection to a single min or max instruction.
template <class V>
ALWAYS_INLINE inline V hide(V constant) {
#if defined(__AVX512F__)
    constexpr unsigned register_bytes = 64;
#elif defined(__AVX__)
    constexpr unsigned register_bytes = 32;
#elif defined(__SSE2__)
    constexpr unsigned register_bytes = 16;
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(V) <= register_bytes) asm("" : "+v"(constant));
#endif
    return constant;
}

// Elementary functions of all lanes at once, without branches, accurate to a few units in the last
// place.
template <class T, int lanes>
struct VectorMath {
    using Scalar = T;
    using Number = typename VectorTypes<T, lanes>::Vector;
    using Mask = typename VectorTypes<T, lanes>::Mask;
    using Int = typename Float<T>::Int;
    static constexpr bool kDouble = sizeof(T) == 8;

    // min(x, bound) and max(x, bound), except that NaN stays NaN
    ALWAYS_INLINE static Number at_most(Number x, T bound) {
        const Number limit = hide(Number{} + bound);
        return limit < x ? limit : x;
    }
    ALWAYS_INLINE static Number at_least(Number x, T bound) {
        const Number limit = hide(Number{} + bound);
        return limit > x ? limit : x;
    }

    // Horner's rule in two interleaved chains, which halves the latency.
    template <int n>
    ALWAYS_INLINE static Number polynomial(Number x, const T (&coefficients)[n]) {
        const Number square = x * x;
        Number chain[2] = {Number{} + coefficients[n - 1], Number{} + coefficients[n - 2]};
        unroll<n - 2>([&](auto k) ALWAYS_INLINE {
            chain[k % 2] = chain[k % 2] * square + coefficients[n - 3 - k];
        });
        return n % 2 ? chain[1] * x + chain[0] : chain[0] * x + chain[1];
    }

    ALWAYS_INLINE static Number exp(Number x) {
        constexpr T bound = kDouble ? 746 : 105;  // beyond it, the result is 0 or infinity
        const Reduced r = reduce(at_most(at_least(x, -bound), bound));
        // two factors, since 2^n alone can be out of range where the product is not
        const Number half = round(r.n * T(0.5));
        return (expm1_reduced(r.rest) + T(1)) * power_of_two(half) * power_of_two(r.n - half);
    }

    ALWAYS_INLINE static Number tanh(Number x) {
        // expm1(2x) / (expm1(2x) + 2), which is accurate near 0, too
        constexpr T bound = kDouble ? 20 : 10;  // beyond it, the result is -1 or 1
        const Reduced r = reduce(T(2) * at_most(at_least(x, -bound), bound));
        const Number scale = power_of_two(r.n);
        const Number e = scale * expm1_reduced(r.rest) + (scale - T(1));
        return e / (e + T(2));
    }

    // exp(x) - 1, accurate near 0
    ALWAYS_INLINE static Number expm1(Number x) {
        const Reduced r = reduce(at_most(at_least(x, T(-40)), T(40)));
        const Number scale = power_of_two(r.n);
        const Number near = scale * expm1_reduced(r.rest) + (scale - T(1));
        return x > Number{} + T(40) ? exp(x) - T(1) : near;
    }

    // The natural logarithm: x = 2^n m, and log m = 2 atanh(s) by the polynomial of fdlibm's e_log.c.
    ALWAYS_INLINE static Number log(Number x) {
        constexpr int bits = Float<T>::kMantissaBits;
        constexpr T tiny = kDouble ? T(2.2250738585072014e-308) : T(1.17549435e-38f);
        constexpr T lift = T(Int(1) << (kDouble ? 54 : 25));
        const Number zero = {}, huge = zero + T(__builtin_inf());
        const Mask subnormal = x < zero + tiny;
        const Number lifted = subnormal ? x * lift : x;
        // subtracting the bits of sqrt(1/2) rounds the exponent so that m is in [0.707, 1.414)
        constexpr T half_root = T(0.70710678118654752440);
        const Mask offset = (Mask)(lifted) - (Mask)(zero + half_root);
        const Mask exponent = offset >> bits;  // arithmetic
        const Number m = (Number)((Mask)(lifted) - (exponent << bits));
        const Number n = __builtin_convertvector(exponent, Number) -
                         (subnormal ? zero + T(kDouble ? 54 : 25) : zero);
        const Number f = m - T(1), s = f / (f + T(2)), z = s * s;
        constexpr T c[] = {T(6.666666666666735130e-01), T(3.999999999940941908e-01),
                           T(2.857142874366239149e-01), T(2.222219843214978396e-01),
                           T(1.818357216161805012e-01), T(1.531383769920937332e-01),
                           T(1.479819860511658591e-01)};
        const Number square = T(0.5) * f * f;
        constexpr T high = kDouble ? T(6.93147180369123816490e-01) : T(0.693359375);
        constexpr T low = kDouble ? T(1.90821492927058770002e-10) : T(-2.12194440e-4);
        const Number log_m = f - (square - (s * (square + z * polynomial(z, c)) + n * low));
        const Number found = n * high + log_m;
        const Number special = x == zero ? -huge : (x < zero ? zero + T(__builtin_nan("")) : x);
        return (x > zero) & (x < huge) ? found : special;  // infinity and NaN stay
    }

    // log(1 + x), accurate near 0: Kahan's correction of what 1 + x rounds off
    ALWAYS_INLINE static Number log1p(Number x) {
        const Number u = hide(x + T(1)), kept = u - T(1);
        const Number corrected = log(u) + (x - kept) / u;
        const Mask plain = (kept == x) | (u == Number{}) | (x > Number{} + (kDouble ? T(1e300) : T(1e30)));
        return x == Number{} ? x : (plain ? log(u) : corrected);
    }

    static T exp_one(T x) { return exp(Number{} + x)[0]; }
    static T log_one(T x) { return T(__builtin_log(double(x))); }

private:
    struct Reduced {
        Number n, rest;  // x = n ln 2 + rest, with n an integer and |rest| <= ln(2) / 2
    };

    // 1.5 * 2^mantissa: adding it rounds to an integer, which is in the low bits
    static constexpr T kRounder = kDouble ? T(6755399441055744.0) : T(12582912.0);

    ALWAYS_INLINE static Number round(Number x) {
        Number shifted = x + kRounder;
        return shifted - kRounder;
    }

    ALWAYS_INLINE static Number power_of_two(Number whole) {
        const Mask bits = (Mask)(whole + (kRounder + T(Float<T>::kBias)));
        return (Number)(bits << Float<T>::kMantissaBits);
    }

    ALWAYS_INLINE static Reduced reduce(Number x) {
        const Number n = round(x * T(1.44269504088896340736));
        // ln 2 in two parts; the first is short enough that n * high is exact
        constexpr T high = kDouble ? T(6.93147180369123816490e-01) : T(0.693359375);
        constexpr T low = kDouble ? T(1.90821492927058770002e-10) : T(-2.12194440e-4);
        return {n, x - n * high - n * low};
    }

    // exp(r) - 1 for |r| <= ln(2) / 2: Chebyshev interpolation, relative error 4e-17 (float: 2e-8)
    ALWAYS_INLINE static Number expm1_reduced(Number r) {
        if constexpr (kDouble) {
            constexpr T c[] = {0.500000000000000102, 0.166666666666666675, 0.0416666666666241279,
                               0.00833333333333006183, 0.00138888889172137169,
                               0.000198412698630536169, 0.0000248015212959543751,
                               2.75572684599970648e-6, 2.76200884454097482e-7,
                               2.51003854955103191e-8};
            return r + r * r * polynomial(r, c);
        } else {
            constexpr T c[] = {0.5f, 0.1666657699f, 0.04166655462f, 0.008363179053f,
                               0.001392618359f};
            return r + r * r * polynomial(r, c);
        }
    }
};

}  // namespace
}  // namespace lecun_ablate
