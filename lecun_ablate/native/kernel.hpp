// The interface of the kernel. There is one kernel per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formulas.hpp"

namespace lecun_ablate {

// The parts of a recipe that the kernel needs.
struct Choices {
    Activation hidden, output;
    Loss loss;
    double learning_rate, momentum, padding;
    double targets[10 * kOutputs];  // [label, output]
    bool connected[12 * 12];        // [H2 plane, H1 plane]
};

template <class T>
struct Patterns {
    const T* images;             // (n, 16, 16)
    const std::int64_t* labels;  // (n,)
    std::ptrdiff_t count;
};

// `parameters` and `velocity` are flat: all tensors of the network one after the other, in the
// order of initial.SHAPES, each in row-major order.
constexpr int kParameters = 10960;

template <class T>
struct Functions {
    // Advances one network in place, by one update per entry of `order`. Without momentum,
    // `velocity` is not used and may be null.
    void (*train)(const Choices&, T* parameters, T* velocity, Patterns<T>,
                  const std::int64_t* order, std::ptrdiff_t steps);
    // Writes the outputs (n, 10) of one network and returns the mean loss.
    double (*evaluate)(const Choices&, const T* parameters, Patterns<T>, T* outputs);
    // The formulas by themselves, as the network computes them: f(x) and f'(x) of n values, and the
    // loss of one pattern with its derivative by each output.
    void (*activate)(Activation, const T* x, T* value, T* slope, std::ptrdiff_t n);
    T (*loss)(Loss, const T* outputs, const T* targets, T* gradient);
    // Runs `rounds` rounds of multiply-adds as fast as this CPU can, and returns the number of
    // floating-point operations. For benchmarks.
    double (*multiply_adds)(std::ptrdiff_t rounds);
};

struct Kernel {
    const char* instruction_set;
    Functions<float> float32;
    Functions<double> float64;
};

// Defined in kernel.cpp, which is compiled once for each.
#if defined(__x86_64__) || defined(LECUN_EVERY_LAYOUT)
extern const Kernel baseline_kernel, avx2_kernel, avx512_kernel;
#elif defined(__aarch64__)
extern const Kernel neon_kernel;
#else
extern const Kernel baseline_kernel;
#endif

}  // namespace lecun_ablate
