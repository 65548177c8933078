// What a translated function is made of, for single numbers: on a GPU, and for what an optimizer
// computes once per step. The functions are those of operations.hpp.
#pragma once

#include "formulas.hpp"

#if !defined(__CUDACC__)
#include <math.h>
#endif

namespace lecun_ablate {

template <class Number_>
struct Scalars {
    using Scalar = Number_;
    using T = Number_;
    using Number = Number_;
    using Mask = bool;
    static constexpr int lanes = 1, kRow = kOutputs;

    LECUN_FORMULA static T constant(double x) { return T(x); }
    LECUN_FORMULA static T number(T x) { return x; }
    LECUN_FORMULA static T number(bool x) { return x ? T(1) : T(0); }
    LECUN_FORMULA static T infinity() { return T(1) / zero(); }
    LECUN_FORMULA static T nan() { return zero() / zero(); }
    LECUN_FORMULA static bool none(bool x) { return !x; }

#define LECUN_SCALAR(name, function)             \
    LECUN_FORMULA static T name(T x) {           \
        if constexpr (sizeof(T) == sizeof(float)) \
            return ::function##f(x);             \
        else                                     \
            return ::function(x);                \
    }
    LECUN_SCALAR(abs, fabs)
    LECUN_SCALAR(acos, acos)
    LECUN_SCALAR(acosh, acosh)
    LECUN_SCALAR(asin, asin)
    LECUN_SCALAR(asinh, asinh)
    LECUN_SCALAR(atan, atan)
    LECUN_SCALAR(atanh, atanh)
    LECUN_SCALAR(ceil, ceil)
    LECUN_SCALAR(cos, cos)
    LECUN_SCALAR(cosh, cosh)
    LECUN_SCALAR(erf, erf)
    LECUN_SCALAR(erfc, erfc)
    LECUN_SCALAR(exp, exp)
    LECUN_SCALAR(exp2, exp2)
    LECUN_SCALAR(expm1, expm1)
    LECUN_SCALAR(floor, floor)
    LECUN_SCALAR(log, log)
    LECUN_SCALAR(log10, log10)
    LECUN_SCALAR(log1p, log1p)
    LECUN_SCALAR(log2, log2)
    LECUN_SCALAR(nearest, rint)
    LECUN_SCALAR(sin, sin)
    LECUN_SCALAR(sinh, sinh)
    LECUN_SCALAR(sqrt, sqrt)
    LECUN_SCALAR(tan, tan)
    LECUN_SCALAR(tanh, tanh)
    LECUN_SCALAR(trunc, trunc)
#undef LECUN_SCALAR

    LECUN_FORMULA static T atan2(T y, T x) {
        if constexpr (sizeof(T) == sizeof(float))
            return ::atan2f(y, x);
        else
            return ::atan2(y, x);
    }
    LECUN_FORMULA static T pow(T x, T y) {
        if constexpr (sizeof(T) == sizeof(float))
            return ::powf(x, y);
        else
            return ::pow(x, y);
    }
    LECUN_FORMULA static T product(T x, T y) { return x * y; }
    LECUN_FORMULA static T sign(T x) { return number(x > 0) - number(x < 0); }
    LECUN_FORMULA static T maximum(T x, T y) { return x > y || x != x ? x : y; }
    LECUN_FORMULA static T minimum(T x, T y) { return x < y || x != x ? x : y; }
    LECUN_FORMULA static T sigmoid(T x) { return 1 / (1 + exp(-x)); }

    // ---- rows --------------------------------------------------------------------------------

    LECUN_FORMULA static void load(const T* from, T (&row)[kRow]) {
        for (int i = 0; i < kRow; ++i) row[i] = from[i];
    }
    LECUN_FORMULA static void store(const T (&row)[kRow], T* to) {
        for (int i = 0; i < kRow; ++i) to[i] = row[i];
    }
    LECUN_FORMULA static T first(T x) { return x; }
    LECUN_FORMULA static T table(int i, const double (&values)[kRow]) { return T(values[i]); }
    LECUN_FORMULA static bool is(int i, T place) { return i == place; }
    LECUN_FORMULA static T at(const T (&row)[kRow], T place) { return row[int(place)]; }
    LECUN_FORMULA static T sum(const T (&row)[kRow]) {
        T x[kRow / 2];
        for (int i = 0; i < kRow / 2; ++i) x[i] = row[i] + row[i + kRow / 2];
        return ((x[0] + x[1]) + (x[2] + x[3])) + x[4];
    }
    LECUN_FORMULA static T largest(const T (&row)[kRow]) {
        T found = row[0];
        for (int i = 1; i < kRow; ++i) found = maximum(found, row[i]);
        return found;
    }
    LECUN_FORMULA static T smallest(const T (&row)[kRow]) {
        T found = row[0];
        for (int i = 1; i < kRow; ++i) found = minimum(found, row[i]);
        return found;
    }
    LECUN_FORMULA static T largest_at(const T (&row)[kRow]) { return place_of(row, largest(row)); }
    LECUN_FORMULA static T smallest_at(const T (&row)[kRow]) {
        return place_of(row, smallest(row));
    }

private:
    LECUN_FORMULA static T zero() {  // unknown to the compiler, which would warn of what follows
        volatile T x = 0;
        return x;
    }
    // the first place of a value, which may be NaN
    LECUN_FORMULA static T place_of(const T (&row)[kRow], T value) {
        int place = kRow - 1;
        for (int i = kRow - 1; i >= 0; --i)
            if (row[i] == value || (row[i] != row[i] && value != value)) place = i;
        return T(place);
    }
};

}  // namespace lecun_ablate
