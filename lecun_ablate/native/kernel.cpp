// The kernel for one instruction set. The build compiles this file once per instruction set. KERNEL
// is its name; VECTOR_BYTES and VECTOR_REGISTERS are the size and the number of its registers.
#include "kernel.hpp"
#include "network.hpp"

#include <memory>

namespace lecun_ablate {
namespace {

template <class T>
constexpr int kWidest = VECTOR_BYTES / sizeof(T);

// Vectors of planes have at most 32 bytes. In 64-byte vectors, half of the lanes would mostly be
// idle, and CPUs process as many lanes per cycle with the shorter vectors.
template <class T>
constexpr int kLanes = (VECTOR_BYTES < 32 ? VECTOR_BYTES : 32) / sizeof(T);

template <class T>
using Net = Network<T, kLanes<T>, kWidest<T>, VECTOR_REGISTERS>;

template <class T>
void train(const Choices& choices, T* parameters, T* velocity, Patterns<T> patterns,
           const std::int64_t* order, std::ptrdiff_t steps) {
    const auto net = std::make_unique<Net<T>>(choices);
    net->load(parameters, velocity);
    for (std::ptrdiff_t i = 0; i < steps; ++i) {
        const T* image = patterns.images + order[i] * kImage * kImage;
        const int label = int(patterns.labels[order[i]]);
        if (velocity)
            net->template train<true>(image, label);
        else
            net->template train<false>(image, label);
    }
    net->store(parameters, velocity);
}

// Lets subnormal numbers count as 0 until it goes out of scope.
class FlushSubnormals {
public:
#if defined(__SSE2__)
    FlushSubnormals() : before_(__builtin_ia32_stmxcsr()) {
        __builtin_ia32_ldmxcsr(before_ | 0x8040);  // results and operands
    }
    ~FlushSubnormals() { __builtin_ia32_ldmxcsr(before_); }

private:
    unsigned before_;
#elif defined(__aarch64__)
    FlushSubnormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" : : "r"(before_ | (std::uint64_t(1) << 24)));
    }
    ~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

private:
    std::uint64_t before_;
#endif
};

template <class T>
void train_by(const Choices& choices, const Method& method, const Tensors<T>& tensors,
              Patterns<T> patterns, const Epoch& epoch) {
    [[maybe_unused]] const FlushSubnormals flush;
    const auto net = std::make_unique<Net<T>>(choices);
    net->prepare_method();
    net->load(tensors);
    if (method.dropout != 0) net->set_dropout(method.dropout);
    // gradient descent step by step needs no gradient of its own
    const bool plain = method.optimizer == Optimizer::sgd && epoch.batch == 1 &&
                       method.weight_decay == 0 && method.average == 0;
    const bool scaled = method.optimizer == Optimizer::sdlm && !method.running &&
                        method.momentum == 0 && epoch.batch == 1 && method.weight_decay == 0 &&
                        method.average == 0;
    if (scaled) net->scale_by_curvature(method.mu);
    for (std::ptrdiff_t from = 0, step = 0; from < epoch.count; from += epoch.batch, ++step) {
        const std::ptrdiff_t left = epoch.count - from;
        const std::ptrdiff_t batch = left < epoch.batch ? left : epoch.batch;
        for (std::ptrdiff_t i = 0; i < batch; ++i) {
            const std::int64_t pattern = epoch.order[from + i];
            const T* image = patterns.images + pattern * kImage * kImage;
            const int label = int(patterns.labels[pattern]);
            const std::uint8_t* kept = epoch.kept ? epoch.kept + pattern * kH2Units : nullptr;
            if (plain) {
                net->set_learning_rate(epoch.rates[step]);
                if (tensors.first)
                    net->template train<true>(image, label, kept);
                else
                    net->template train<false>(image, label, kept);
            } else if (scaled) {
                net->train_scaled(image, label, kept, epoch.rates[step]);
            } else {
                net->add_pattern(image, label, kept, i == 0, method.running);
            }
        }
        if (!plain && !scaled) net->step(method, epoch.rates[step], batch, step == 0);
    }
    net->store(tensors);
}

template <class T>
void curvature(const Choices& choices, const T* parameters, Patterns<T> patterns, T* h) {
    const auto net = std::make_unique<Net<T>>(choices);
    net->prepare_method();
    net->load(parameters, nullptr);
    net->curvature(patterns, h);
}

template <class T>
double evaluate(const Choices& choices, const T* parameters, Patterns<T> patterns, T* outputs) {
    const auto net = std::make_unique<Net<T>>(choices);
    net->load(parameters, nullptr);
    const auto own = (double (*)(const double*, const double*))choices.own_loss.value;
    double sum = 0;
    for (std::ptrdiff_t i = 0; i < patterns.count; ++i) {
        const T* answer = net->evaluate(patterns.images + i * kImage * kImage);
        double wide[kOutputs];  // the loss is always computed in double precision
        for (int k = 0; k < kOutputs; ++k) wide[k] = outputs[i * kOutputs + k] = answer[k];
        const double* targets = choices.targets + patterns.labels[i] * kOutputs;
        sum += own ? own(wide, targets)
                   : loss_value<VectorMath<double, kWidest<double>>>(choices.loss, wide, targets);
    }
    return sum / double(patterns.count);
}

template <class T>
void activate_each(Activation kind, T leak, const T* x, T* value, T* slope, std::ptrdiff_t n) {
    using Math = VectorMath<T, kWidest<T>>;
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        const auto y = activate<Math>(kind, typename Math::Number{} + x[i], leak);
        value[i] = y.value[0];
        slope[i] = y.slope[0];
    }
}

template <class T>
T loss_with_gradient(Loss kind, const T* outputs, const T* targets, T* gradient) {
    loss_gradient<VectorMath<T, kWidest<T>>>(kind, outputs, targets, gradient);
    return loss_value<VectorMath<T, kWidest<T>>>(kind, outputs, targets);
}

template <class T>
double multiply_adds(std::ptrdiff_t rounds) {
    using V = typename VectorTypes<T, kWidest<T>>::Vector;
    constexpr int chains = 10;  // enough for two units with a latency of 4 or 5 cycles
    V sum[chains];
    // They must differ and be used, or the compiler would merge or remove them.
    unroll<chains>([&](auto c) ALWAYS_INLINE { sum[c] = V{} + T(c); });
    const V factor = hide(V{} + T(0.999)), term = hide(V{} + T(0.001));
    for (std::ptrdiff_t i = 0; i < rounds; ++i)
        unroll<chains>([&](auto c) ALWAYS_INLINE { sum[c] = hide(sum[c] * factor + term); });
    V total = {};
    unroll<chains>([&](auto c) ALWAYS_INLINE { total += sum[c]; });
    return total[0] > 0 ? 2.0 * chains * kWidest<T> * double(rounds) : 0;
}

template <class T>
constexpr Functions<T> kFunctions = {train<T>,         train_by<T>,           curvature<T>,
                                     evaluate<T>,      activate_each<T>,      loss_with_gradient<T>,
                                     multiply_adds<T>};

}  // namespace

#define NAME_OF(kernel) #kernel
#define EXPAND_NAME(kernel) NAME_OF(kernel)
#define SYMBOL_OF(kernel) kernel##_kernel
#define EXPAND_SYMBOL(kernel) SYMBOL_OF(kernel)

const Kernel EXPAND_SYMBOL(KERNEL) = {EXPAND_NAME(KERNEL), VECTOR_BYTES, OPTIONS,
                                      kFunctions<float>, kFunctions<double>};

}  // namespace lecun_ablate
