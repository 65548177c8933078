// For scripts/arm64.sh: runs a few steps and an evaluation of the native kernel for every
// activation and three connectivities, with and without momentum. Prints the losses and sums of the
// weights.
#include <cstdio>
#include <random>
#include <vector>

#include "../lecun_ablate/native/kernel.hpp"

using namespace lecun_ablate;

#if defined(__aarch64__)
#define THE_KERNEL neon_kernel
#else
#define THE_KERNEL baseline_kernel
#endif

template <class T>
void steps(const Functions<T>& kernel, int connectivity, int activation, bool momentum) {
    constexpr int count = 30, first_h2_weight = 12 * 25 + 12 * 64;
    Choices choices = {Activation(activation), Activation::tanh, Loss(activation % 3), 0.01,
                       momentum ? 0.3 : 0.0, -1, 0.01, 0.01, {}, {}};
    for (int digit = 0; digit < 10; ++digit) choices.targets[digit * kOutputs + digit] = 1;
    std::mt19937 random;
    std::uniform_real_distribution<double> uniform(-1, 1);
    std::vector<T> parameters(kParameters), velocity(kParameters), images(count * 256);
    for (T& x : parameters) x = T(0.1 * uniform(random));
    for (T& x : images) x = T(uniform(random));
    for (int pair = 0; pair < 144; ++pair) {
        const int h2 = pair / 12, h1 = pair % 12;
        const bool blocks = (h1 - h2 / 4 * 4 + 12) % 12 < 8;
        choices.connected[pair] = connectivity == 0 || (connectivity == 1 ? blocks : pair % 3 != 0);
        if (choices.connected[pair]) continue;
        for (int tap = 0; tap < 25; ++tap) parameters[first_h2_weight + pair * 25 + tap] = 0;
    }
    std::vector<std::int64_t> labels(count), order(count);
    for (int i = 0; i < count; ++i) labels[i] = i % 10, order[i] = 7 * i % count;
    std::vector<T> outputs(count * kOutputs);
    const Patterns<T> patterns = {images.data(), labels.data(), count};
    kernel.train(choices, parameters.data(), momentum ? velocity.data() : nullptr, patterns,
                 order.data(), count);
    const double loss = kernel.evaluate(choices, parameters.data(), patterns, outputs.data());
    double sum = 0, squares = 0;
    for (int i = 0; i < kParameters; ++i) {
        sum += double(parameters[i]) * (1 + i % 7);
        squares += double(parameters[i]) * parameters[i];
    }
    std::printf("%zu %.17g %.17g %.17g\n", sizeof(T), loss, sum, squares);
}

int main() {
    for (int connectivity = 0; connectivity < 3; ++connectivity)
        for (int activation = 0; activation < 10; ++activation)
            for (bool momentum : {false, true}) {
                steps(THE_KERNEL.float32, connectivity, activation, momentum);
                steps(THE_KERNEL.float64, connectivity, activation, momentum);
            }
}
