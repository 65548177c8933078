// The scalar formulas of the network: activations and losses with their derivatives.
//
// They are templates over `Math`, which provides a number type and its elementary functions, so
// that one source serves SIMD vectors on a CPU and single values on a GPU:
//
//     struct Math {
//         using Scalar = float;              // or double
//         using Number = Scalar;             // or a vector of Scalars
//         static Number exp(Number);       // NaN stays NaN, overflow gives infinity
//         static Number tanh(Number);
//         static Number at_most(Number, Scalar bound);  // NaN stays NaN
//         static Number polynomial(Number, const Scalar (&coefficients)[n]);  // constant first
//         static Scalar exp_one(Scalar);   // of one value, for the losses
//         static Scalar log_one(Scalar);
//     };
//
// The definitions are those of lecun_ablate/components, which cite the literature. Comparisons are
// written so that NaN propagates, since a network that has diverged must show it.
#pragma once

#include "names.hpp"

#if defined(__CUDACC__)
#define LECUN_FORMULA __host__ __device__ inline
#else
#define LECUN_FORMULA inline __attribute__((always_inline))
#endif

namespace lecun_ablate {

constexpr int kOutputs = 10;

// (1 + erf(x / sqrt 2)) / 2, from erfc(z) = exp(-z^2) p(s) / (1 + 2z), s = (z - 3) / (z + 3):
// Shepherd and Laframboise 1981, Mathematics of Computation 36. p is a Chebyshev interpolant with
// an error of 2^-52 (double) or 2^-24 (float).
template <class Math>
LECUN_FORMULA typename Math::Number normal_cdf(typename Math::Number x) {
    using T = typename Math::Scalar;
    using Number = typename Math::Number;
    constexpr T bound = 40;  // far beyond the point where the tail underflows to 0
    const Number z = Math::at_most(T(0.70710678118654752440) * (x < Number{} ? -x : x), bound);
    const Number s = (z - T(3)) / (z + T(3));
    Number p;
    if constexpr (sizeof(T) == 8) {
        constexpr T c[] = {
            1.25300805826972964, -0.135621106124580685, -0.0475622943534463728,
            0.129645158702705516, -0.119273663415528533, 0.0683080273458045873,
            -0.0237705149142336714, 0.00252939178827044538, 0.0018886903120037819,
            -0.00077983203796111149, -0.000105159490337759744, 0.000125098151748643215,
            4.94814787557653947e-6, -0.0000200966308759539524, -7.27587574666718295e-7,
            3.46399753235290422e-6, 3.48991978897442946e-7, -6.05004862393350368e-7,
            -1.31116613753645882e-7, 9.18624302614384661e-8, 3.29163439676632021e-8,
            -8.50011950211530655e-9, -4.21010497511919487e-9};
        p = Math::polynomial(s, c);
    } else {
        constexpr T c[] = {1.253008081f,   -0.1356209858f,   -0.04756398125f, 0.1296416953f,
                           -0.1192538743f, 0.06833775691f,   -0.02385143506f, 0.0024204604f,
                           0.002022646218f, -0.0005971178565f, -0.0001796113463f};
        p = Math::polynomial(s, c);
    }
    const Number tail = T(0.5) * Math::exp(-z * z) * p / (T(2) * z + T(1));
    return x > Number{} ? T(1) - tail : tail;
}

// f(x) and f'(x). If only the value is used, the compiler removes the arithmetic of the slope.
template <class Number>
struct Activated {
    Number value, slope;
};

// `leak` is the slope of leaky_relu below 0.
template <class Math>
LECUN_FORMULA Activated<typename Math::Number> activate(Activation kind, typename Math::Number x,
                                                        typename Math::Scalar leak) {
    using Scalar = typename Math::Scalar;
    using Number = typename Math::Number;
    const Number zero = {};
    const Number one = zero + Scalar(1);
    switch (kind) {
        case Activation::tanh: {
            const Number y = Math::tanh(x);
            return {y, one - y * y};
        }
        case Activation::scaled_tanh: {
            constexpr Scalar height = Scalar(1.7159), steepness = Scalar(2.0 / 3.0);
            const Number y = Math::tanh(steepness * x);
            return {height * y, height * steepness * (one - y * y)};
        }
        case Activation::lisht: {
            const Number y = Math::tanh(x);
            return {x * y, y + x * (one - y * y)};
        }
        case Activation::sigmoid: {
            const Number y = one / (one + Math::exp(-x));
            return {y, y * (one - y)};
        }
        case Activation::relu:
            return {x <= zero ? zero : x, x > zero ? one : zero};
        case Activation::leaky_relu: {
            const Number below = zero + leak;
            return {x > zero ? x : below * x, x > zero ? one : below};
        }
        case Activation::softsign: {
            const Number shrink = one / (one + (x < zero ? -x : x));
            return {x * shrink, shrink * shrink};
        }
        case Activation::gelu: {
            constexpr Scalar peak = Scalar(0.39894228040143267794);  // 1 / sqrt(2 pi)
            const Number cdf = normal_cdf<Math>(x);
            const Number density = peak * Math::exp(Scalar(-0.5) * x * x);
            return {x * cdf, cdf + x * density};
        }
        case Activation::silu: {
            const Number gate = one / (one + Math::exp(-x));
            return {x * gate, gate * (one + x * (one - gate))};
        }
        case Activation::identity:
        case Activation::own:  // of which there is nothing here
            break;
    }
    return {x, one};
}

// max(outputs) and the sum of exp(outputs - max), which give a softmax without overflow.
template <class Scalar>
struct SoftmaxTerms {
    Scalar max, sum;
};

template <class Math>
LECUN_FORMULA SoftmaxTerms<typename Math::Scalar> softmax_terms(
    const typename Math::Scalar* outputs) {
    SoftmaxTerms<typename Math::Scalar> terms = {outputs[0], 0};
    for (int i = 1; i < kOutputs; ++i)
        if (outputs[i] > terms.max) terms.max = outputs[i];
    for (int i = 0; i < kOutputs; ++i) terms.sum += Math::exp_one(outputs[i] - terms.max);
    return terms;
}

// The loss of one pattern. outputs, targets: (10,)
template <class Math>
LECUN_FORMULA typename Math::Scalar loss_value(Loss kind, const typename Math::Scalar* outputs,
                                               const typename Math::Scalar* targets) {
    using Scalar = typename Math::Scalar;
    Scalar sum = 0;
    if (kind == Loss::cross_entropy) {
        const auto terms = softmax_terms<Math>(outputs);
        const Scalar log_sum = Math::log_one(terms.sum);
        for (int i = 0; i < kOutputs; ++i)
            sum += targets[i] * (log_sum - (outputs[i] - terms.max));
        return sum;
    }
    for (int i = 0; i < kOutputs; ++i) {
        const Scalar error = outputs[i] - targets[i];
        sum += error * error;
    }
    return kind == Loss::mse ? sum / kOutputs : sum / 2;
}

// The derivatives of the loss by one output, with the terms that depend on all ten.
template <class Math>
struct LossSlope {
    using Scalar = typename Math::Scalar;

    Loss kind;
    SoftmaxTerms<Scalar> terms = {};
    Scalar mass = 0;  // of the targets: 1 if they are probabilities

    // outputs, targets: (10,)
    LECUN_FORMULA LossSlope(Loss loss, const Scalar* outputs, const Scalar* targets) : kind(loss) {
        if (kind != Loss::cross_entropy) return;
        terms = softmax_terms<Math>(outputs);
        for (int i = 0; i < kOutputs; ++i) mass += targets[i];
    }

    LECUN_FORMULA Scalar operator()(Scalar output, Scalar target) const {
        if (kind == Loss::cross_entropy)
            return Math::exp_one(output - terms.max) / terms.sum * mass - target;
        const Scalar scale = kind == Loss::mse ? Scalar(2) / kOutputs : Scalar(1);
        return scale * (output - target);
    }

    // the second derivative
    LECUN_FORMULA Scalar curvature(Scalar output) const {
        if (kind == Loss::cross_entropy) {
            const Scalar p = Math::exp_one(output - terms.max) / terms.sum;
            return mass * p * (1 - p);
        }
        return kind == Loss::mse ? Scalar(2) / kOutputs : Scalar(1);
    }
};

// The derivative of the loss by each output. outputs, targets, gradient: (10,)
template <class Math>
LECUN_FORMULA void loss_gradient(Loss kind, const typename Math::Scalar* outputs,
                                 const typename Math::Scalar* targets,
                                 typename Math::Scalar* gradient) {
    const LossSlope<Math> slope(kind, outputs, targets);
    for (int i = 0; i < kOutputs; ++i) gradient[i] = slope(outputs[i], targets[i]);
}

// The second derivative of the loss by each output alone. outputs, targets, second: (10,)
template <class Math>
LECUN_FORMULA void loss_curvature(Loss kind, const typename Math::Scalar* outputs,
                                  const typename Math::Scalar* targets,
                                  typename Math::Scalar* second) {
    const LossSlope<Math> slope(kind, outputs, targets);
    for (int i = 0; i < kOutputs; ++i) second[i] = slope.curvature(outputs[i]);
}

}  // namespace lecun_ablate
