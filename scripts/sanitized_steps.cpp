// A few steps and evaluations of the CUDA kernels' source on the CPU, for the sanitizers of
// scripts/compute_sanitizer.sh: with one thread, and with four that meet at real barriers.
#include "../tests/cuda_on_cpu.cpp"

#include <cmath>
#include <cstdio>

namespace {

template <class T>
bool steps(Named named, int schedule) {
    constexpr int networks = 2, patterns = 35, steps = 4;  // patterns: two blocks of evaluation
    constexpr int chunks = (patterns + kImagesPerBlock - 1) / kImagesPerBlock;
    std::mt19937 random(1);
    std::uniform_real_distribution<double> uniform(-1, 1);
    std::vector<T> parameters(networks * kParameters<T>), velocity(parameters.size());
    std::vector<T> images(patterns * kPixels);
    for (T& x : parameters) x = T(0.1 * uniform(random));
    for (T& x : images) x = T(uniform(random));
    std::vector<int> labels(patterns), orders(steps), order_rows(networks, 0);
    for (int i = 0; i < patterns; ++i) labels[i] = i % 10;
    for (int i = 0; i < steps; ++i) orders[i] = 3 * i % patterns;
    std::vector<Settings<T>> settings(networks);
    for (auto& own : settings) {
        for (int i = 0; i < 10; ++i) own.targets[i][i] = 1;
        own.learning_rate = T(0.01), own.momentum = T(0.5), own.padding = T(-1);
        for (int i = 0; i < kPlanes; ++i)
            for (int j = 0; j < kPlanes; ++j) own.connected[i][j] = (i + j) % 3 != 0;
    }
    std::vector<unsigned char> predictions(networks * patterns);
    std::vector<double> losses(networks * chunks);
    train<T>(named, schedule, networks, parameters.data(), velocity.data(), settings.data(),
             images.data(), labels.data(), orders.data(), order_rows.data(), steps);
    evaluate<T>(named, schedule, networks * chunks, parameters.data(), settings.data(),
                images.data(), labels.data(), patterns, order_rows.data(), predictions.data(),
                losses.data());
    return std::all_of(losses.begin(), losses.end(), [](double x) { return std::isfinite(x); });
}

}  // namespace

int main() {
    int count = 0;
    for (int schedule : {0, -4})
        for (int activation = 0; activation < 10; ++activation)
            for (int loss = 0; loss < 3; ++loss)
                for (int momentum = 0; momentum < 2; ++momentum) {
                    const Named named = {activation, 9 - activation, loss, momentum};
                    if (!steps<float>(named, schedule) || !steps<double>(named, schedule)) {
                        std::printf("not finite: activation %d, loss %d\n", activation, loss);
                        return 1;
                    }
                    count += 2;
                }
    std::printf("%d combinations, no error found\n", count);
}
