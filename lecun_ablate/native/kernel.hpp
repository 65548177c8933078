// The interface of the kernel. There is one kernel per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formulas.hpp"

namespace lecun_ablate {

// Two functions of a component of the user's, from lecun_ablate/compiled, for the vectors and the dtype
// of the kernel that calls them. Both null for a built-in.
//   activation: void (T* values, T* slopes, int vectors, T unused), in place; the second with slopes
//   loss: double (const double* outputs, const double* targets), the loss of one pattern;
//         void (const T* outputs, const T* targets, T* gradient)
struct Compiled {
    const void *value, *with_slope;
};

// The same for an optimizer; see step_all in lecun_ablate/compiled/operations.hpp.
using CompiledStep = void (*)(void* weights, const void* gradient, void* const* states,
                              double* numbers, double rate, int first, const int* ranges,
                              int count);

// The parts of a recipe that the kernel needs.
struct Choices {
    Activation hidden, output;
    Compiled own_hidden, own_output;  // instead of `hidden` and `output`, if not null
    Loss loss;
    Compiled own_loss;  // instead of `loss`, if not null
    double learning_rate, momentum, padding;
    double leak, output_leak;       // the slopes of leaky_relu below 0
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

// What a step does with the mean gradient of a batch. The formulas and the defaults are those of
// lecun_ablate/components/optimizers.py; an optimizer ignores what it has no use for.
struct Method {
    Optimizer optimizer;
    double momentum, beta1, beta2, eps, decay;  // decay: that of adamw and lion
    double mu, gamma;
    bool running;  // whether the curvature moves with every step
    double weight_decay, average, dropout;
    CompiledStep own;  // instead of `optimizer`, if not null
};

// A network that is trained; everything flat. What the method has no use for may be null.
template <class T>
struct Tensors {
    T *parameters, *first, *second;  // first: velocity or mean; second: mean square
    T *curvature, *average;
    double* powers;  // (2,): beta1^t and beta2^t
    // What an optimizer of the user's keeps: tensors, and numbers. `fresh`: nothing yet.
    T* const* own;
    int own_count;
    double* numbers;
    bool fresh;
};

// What one call presents.
struct Epoch {
    const std::int64_t* order;  // (steps of a batch each, the last perhaps of fewer)
    std::ptrdiff_t count, batch;
    const double* rates;       // (steps,)
    const std::uint8_t* kept;  // (n, 192): which inputs of H3 a pattern keeps; null without dropout
};

template <class T>
struct Functions {
    // Advances one network in place, by one update per entry of `order`. Without momentum,
    // `velocity` is not used and may be null.
    void (*train)(const Choices&, T* parameters, T* velocity, Patterns<T>,
                  const std::int64_t* order, std::ptrdiff_t steps);
    // The same by any method, with a rate per step, batches and dropout. Subnormal numbers count as
    // 0 here, or moments that decay would slow a CPU down many times.
    void (*train_by)(const Choices&, const Method&, const Tensors<T>&, Patterns<T>, const Epoch&);
    // Writes the mean curvature over all patterns; see lecun_ablate/network/curvature.py.
    void (*curvature)(const Choices&, const T* parameters, Patterns<T>, T* h);
    // Writes the outputs (n, 10) of one network and returns the mean loss.
    double (*evaluate)(const Choices&, const T* parameters, Patterns<T>, T* outputs);
    // The formulas by themselves, as the network computes them: f(x) and f'(x) of n values, and the
    // loss of one pattern with its derivative by each output.
    void (*activate)(Activation, T leak, const T* x, T* value, T* slope, std::ptrdiff_t n);
    T (*loss)(Loss, const T* outputs, const T* targets, T* gradient);
    // Runs `rounds` rounds of multiply-adds as fast as this CPU can, and returns the number of
    // floating-point operations. For benchmarks.
    double (*multiply_adds)(std::ptrdiff_t rounds);
};

struct Kernel {
    const char* instruction_set;
    int vector_bytes;      // of the longest vectors
    const char* options;   // of the compiler, separated by spaces
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
