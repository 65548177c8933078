// Elementary functions of one number, made of additions, multiplications, divisions and explicit
// fused multiply-adds. These are exactly rounded on every processor, and the compilers are told to
// fuse nothing else, so a GPU and a CPU compute the same bits.
#pragma once

#include "formulas.hpp"

#if defined(__CUDACC__)
#define LECUN_CALL __device__ __noinline__
#else
#include <math.h>

#include <cstring>
#define LECUN_CALL inline
#endif

namespace lecun_ablate {

// a b + c, rounded once
LECUN_FORMULA float fused(float a, float b, float c) { return fmaf(a, b, c); }
LECUN_FORMULA double fused(double a, double b, double c) { return fma(a, b, c); }

LECUN_FORMULA float square_root(float x) { return sqrtf(x); }
LECUN_FORMULA double square_root(double x) { return sqrt(x); }

template <class T>
struct ElementaryMath {
    using Scalar = T;
    using Number = T;

    LECUN_FORMULA static T exp(T x) {
        constexpr T bound = kDouble ? 746 : 105;  // beyond, the result is 0 or infinity
        const Reduced r = reduce(clamp(x, bound));
        // in two factors, since 2^n alone leaves the range before the product does
        const int half = r.n / 2;
        return (expm1_reduced(r.rest) + 1) * power_of_two(half) * power_of_two(r.n - half);
    }

    // expm1(2x) / (expm1(2x) + 2), which is good to the last bits near 0 as well
    LECUN_FORMULA static T tanh(T x) {
        constexpr T bound = kDouble ? 20 : 10;  // beyond, it is -1 or 1
        const Reduced r = reduce(2 * clamp(x, bound));
        const T scale = power_of_two(r.n);
        const T e = fused(scale, expm1_reduced(r.rest), scale - 1);
        return e / (e + 2);
    }

    LECUN_FORMULA static T at_most(T x, T bound) { return x > bound ? bound : x; }

    template <int n>
    LECUN_FORMULA static T polynomial(T x, const T (&coefficients)[n]) {
        T sum = coefficients[n - 1];
#pragma unroll
        for (int k = n - 2; k >= 0; --k) sum = fused(sum, x, coefficients[k]);
        return sum;
    }

    // A softmax calls it 20 times: no copy for each, or it takes all the registers.
    LECUN_CALL static T exp_one(T x) { return exp(x); }

    // log x = n log 2 + 2 atanh((m - 1) / (m + 1)) with m = x / 2^n near 1. x: 1 to 16
    LECUN_FORMULA static T log_one(T x) {
        int n = 0;
        T m = x;
        for (; n < 4 && m > T(1.4142135623730951); ++n) m *= T(0.5);
        const T s = (m - 1) / (m + 1), square = s * s;
        T series = 0;
#pragma unroll
        for (int k = kDouble ? 21 : 9; k >= 1; k -= 2) series = fused(series, square, T(1.0 / k));
        return fused(T(n), T(0.69314718055994530942), 2 * s * series);
    }

private:
    static constexpr bool kDouble = sizeof(T) == 8;

    struct Reduced {
        int n;
        T rest;  // x = n log 2 + rest with |rest| <= log(2) / 2
    };

    // x within [-bound, bound]; NaN stays NaN
    LECUN_FORMULA static T clamp(T x, T bound) {
        return x < -bound ? -bound : x > bound ? bound : x;
    }

    LECUN_FORMULA static Reduced reduce(T x) {
        // adding 1.5 * 2^mantissa rounds to a whole number
        constexpr T rounder = kDouble ? T(6755399441055744.0) : T(12582912.0);
        const T shifted = fused(x, T(1.44269504088896340736), rounder);
        const T n = shifted - rounder;
        // log 2 in two parts, the first with room for n's bits
        constexpr T high = kDouble ? T(6.93147180369123816490e-01) : T(0.693359375);
        constexpr T low = kDouble ? T(1.90821492927058770002e-10) : T(-2.12194440e-4);
        const T rest = fused(-n, low, fused(-n, high, x));
        return {rest == rest ? int(n) : 0, rest};
    }

    // exp(r) - 1 by its Taylor series, for |r| <= log(2) / 2
    LECUN_FORMULA static T expm1_reduced(T r) {
        if constexpr (kDouble) {
            constexpr T inverse_factorials[] = {
                1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320,
                1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
                1.0 / 87178291200};
            return r * polynomial(r, inverse_factorials);
        } else {
            constexpr T inverse_factorials[] = {1.0f,        1.0f / 2,   1.0f / 6,    1.0f / 24,
                                                1.0f / 120, 1.0f / 720, 1.0f / 5040, 1.0f / 40320};
            return r * polynomial(r, inverse_factorials);
        }
    }

    // 2^n for n in the range of normal numbers
    LECUN_FORMULA static T power_of_two(int n) {
        if constexpr (kDouble) {
            return from_bits<double>((long long)(n + 1023) << 52);
        } else {
            return from_bits<float>((n + 127) << 23);
        }
    }

    template <class To, class Bits>
    LECUN_FORMULA static To from_bits(Bits bits) {
        static_assert(sizeof(To) == sizeof(Bits));
#if defined(__CUDACC__)
        if constexpr (sizeof(To) == 8) return __longlong_as_double(bits);
        else return __int_as_float(bits);
#else
        To value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
#endif
    }
};

}  // namespace lecun_ablate
