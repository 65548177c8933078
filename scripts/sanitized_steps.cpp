// Steps and evaluations of the CUDA kernels' source on the CPU, for the sanitizers of
// scripts/compute_sanitizer.sh: every choice that a kernel can be compiled for, with one thread and
// with four that meet at real barriers. Both must give the same bits, and leave alone a network
// that rests.
#include "../tests/cuda_on_cpu.cpp"

#include <cmath>
#include <cstdio>

namespace {

// What one call of each kernel leaves behind.
template <class T>
struct Result {
    std::vector<T> parameters, velocity, second, curvature, average;
    std::vector<unsigned char> predictions;
    std::vector<double> losses;

    bool operator==(const Result&) const = default;
};

// Two thirds of all pairs, as trainers/cuda.py lists them.
void connect(Connections& connections) {
    int pairs = 0;
    for (int in = 0; in < kPlanes; ++in) {
        for (int out = 0; out < kPlanes; ++out)
            if ((in + out) % 3 != 0) {
                connections.h1_of[pairs] = in;
                connections.h2_of[pairs++] = out;
            }
        connections.first_of_h1[in + 1] = pairs;
    }
    int listed = 0;
    for (int out = 0; out < kPlanes; ++out) {
        for (int pair = 0; pair < pairs; ++pair)
            if (connections.h2_of[pair] == out) connections.by_h2[listed++] = pair;
        connections.first_of_h2[out + 1] = listed;
    }
}

template <class T>
std::vector<Settings<T>> settings_of(int networks) {
    std::vector<Settings<T>> settings(networks);
    for (auto& own : settings) {
        for (int i = 0; i < 10; ++i) own.targets[i][i] = 1;
        own.learning_rate = T(0.01), own.momentum = T(0.5), own.padding = T(-1);
        own.leak = own.output_leak = T(0.01);
        connect(own.connections);
    }
    return settings;
}

template <class T>
Result<T> begin(int networks, int patterns, int chunks, std::mt19937& random) {
    std::uniform_real_distribution<double> uniform(-0.1, 0.1);
    Result<T> result;
    result.parameters.resize(networks * kParameters);
    for (T& x : result.parameters) x = T(uniform(random));
    for (auto* state : {&result.velocity, &result.second, &result.curvature, &result.average})
        state->resize(result.parameters.size());
    result.predictions.assign(networks * patterns, 77);
    result.losses.assign(networks * chunks, 77);
    return result;
}

// Of a batch of two patterns and one of one, with an estimate of the curvature from one.
template <class T>
Method<T> method_of(bool running) {
    Method<T> method = {};
    method.weight_decay = method.decay = T(0.1);
    method.beta1 = method.rest1 = method.beta2 = method.rest2 = T(0.5);
    method.average = method.rest_average = T(0.5);
    method.eps = method.mu = method.gamma = T(0.1);
    method.kept_scale = 2, method.batch = 2, method.estimated = 1, method.running = running;
    return method;
}

// Trains and scores two networks, the second of which rests. patterns: more than kImagesPerBlock
// for a second block of evaluation.
template <class T>
bool steps(Named named, int patterns, bool by_method = false, bool running = false) {
    const int networks = 2, steps = by_method ? 3 : 2;
    const int chunks = (patterns + kImagesPerBlock - 1) / kImagesPerBlock;
    std::mt19937 random(1);
    std::uniform_real_distribution<double> uniform(-1, 1);
    const Result<T> before = begin<T>(networks, patterns, chunks, random);
    std::vector<T> images(patterns * kPixels);
    for (T& x : images) x = T(uniform(random));
    const auto settings = settings_of<T>(networks);
    std::vector<int> labels(patterns), orders = {patterns - 1, 0}, order_rows = {0, -1};
    if (by_method) orders = {patterns - 1, 0, 1};
    const std::vector<Method<T>> methods(networks, method_of<T>(running));
    const std::vector<Rate<T>> rates(2, {T(0.01), T(0.02), T(1)});
    const std::vector<int> rate_rows(networks);
    std::vector<unsigned> kept(networks * steps * kKeptWords);
    for (std::size_t i = 0; i < kept.size(); ++i) kept[i] = i % 3 ? 0x01010001 : 0x00010100;
    std::vector<T> scratch(networks * 4 * kParameters);
    for (int i = 0; i < patterns; ++i) labels[i] = i % 10;

    std::vector<Result<T>> results;
    for (const int schedule : {0, -4}) {
        Result<T> r = before;
        if (by_method)
            train_by<T>(named, schedule, networks, r.parameters.data(),
                        States<T>{r.velocity.data(), r.second.data(), r.curvature.data(),
                                  r.average.data(), nullptr},
                        scratch.data(), nullptr, settings.data(), methods.data(), rates.data(),
                        rate_rows.data(), images.data(), labels.data(), kept.data(), orders.data(),
                        order_rows.data(), steps, 0);
        else
            train<T>(named, schedule, networks, r.parameters.data(), r.velocity.data(),
                     settings.data(), images.data(), labels.data(), orders.data(),
                     order_rows.data(), steps, 0);
        evaluate<T>(named, schedule, networks * chunks, r.parameters.data(), settings.data(),
                    images.data(), labels.data(), patterns, order_rows.data(),
                    r.predictions.data(), r.losses.data());
        results.push_back(r);
    }
    const auto rests = [&](const auto& now, const auto& then) {
        return std::equal(now.begin() + now.size() / networks, now.end(),
                          then.begin() + then.size() / networks);
    };
    const Result<T>& r = results[0];
    return r == results[1] && r.parameters != before.parameters && std::isfinite(r.losses[0]) &&
           rests(r.parameters, before.parameters) && rests(r.velocity, before.velocity) &&
           rests(r.second, before.second) && rests(r.curvature, before.curvature) &&
           rests(r.average, before.average) &&
           rests(r.predictions, before.predictions) && rests(r.losses, before.losses);
}

}  // namespace

int main() {
    int count = 0;
    for (int hidden = 0; hidden < 10; ++hidden)
        for (int output = 0; output < 10; ++output)
            for (int loss = 0; loss < 3; ++loss)
                for (int momentum = 0; momentum < 2; ++momentum) {
                    const Named named = {hidden, output, loss, momentum, 0};
                    const int patterns = hidden == output ? kImagesPerBlock + 1 : 2;
                    if (!steps<float>(named, patterns) || !steps<double>(named, patterns)) {
                        std::printf("wrong: activations %d and %d, loss %d, momentum %d\n", hidden,
                                    output, loss, momentum);
                        return 1;
                    }
                    count += 2;
                }
    for (int optimizer = 0; optimizer < 7; ++optimizer)
        for (int loss = 0; loss < 3; ++loss)
            for (int running = 0; running < 2; ++running) {
                const Named named = {0, 0, loss, 0, optimizer};
                if (!steps<float>(named, 3, true, running) || !steps<double>(named, 3, true, running)) {
                    std::printf("wrong: optimizer %d, loss %d, running %d\n", optimizer, loss, running);
                    return 1;
                }
                count += 2;
            }
    std::printf("%d combinations, no error found\n", count);
}
