// Steps by any method: optimizers, batches, weight decay, a rate for each step, dropout, an average
// of the weights, curvature. The formulas are those of lecun_ablate/components/optimizers.py.
//
// The gradient of a batch gathers in fast memory, behind the weights (Batch in step.hpp). What an
// optimizer keeps stays in global memory, in the order of the weights in fast memory: a step goes
// through weights, sums and states once, side by side, whatever the optimizer.
#pragma once

#include "step.hpp"

namespace lecun_ablate {

// What a run is told of its method, read from global memory. What an optimizer has no use for is 0.
template <class T>
struct Method {
    T weight_decay;                        // times the weights is part of the gradient
    T beta1, rest1, beta2, rest2;          // rest: 1 - beta
    T eps, decay;                          // decay: that of adamw and lion
    T mu, gamma;                           // of the curvature
    T average, rest_average, kept_scale;   // kept_scale: 1 / (1 - dropout)
    int batch;      // patterns of a step
    int estimated;  // the first patterns, from which the curvature is estimated before an epoch
    int running;    // whether the curvature moves with every step
    int fresh;      // whether the epoch's first step is the first of the run
};

// What is kept of each weight beside it; null where the method has no use for it.
template <class T>
struct States {
    T *first, *second;  // velocity or mean; mean square
    T *curvature, *average;
    T* own;  // (Own::states(), 10960): what an optimizer of the user's keeps of each weight
};

// One pattern's turn in an epoch.
struct Turn {
    int pattern;
    int step;      // of the epoch
    int patterns;  // of the batch
    bool begins, ends;        // the batch
    bool curvature, dropout;  // whether the curvature is wanted, not the gradient
};

// An epoch: the patterns of the estimate; then, batch by batch, those of a step, before which they
// come once more if the curvature is running.
template <class T>
LECUN_FORMULA Turn turn_of(const Method<T>& method, const int* order, int patterns, int turn) {
    if (turn < method.estimated)
        return {turn, 0, method.estimated, turn == 0, turn + 1 == method.estimated, true, false};
    turn -= method.estimated;
    const int rounds = method.running ? 2 : 1, step = turn / (rounds * method.batch);
    const int first = step * method.batch, left = patterns - first;
    const int size = left < method.batch ? left : method.batch;
    const int within = turn - rounds * first, at = within % size;
    return {order[first + at], step, size, at == 0, at + 1 == size, within / size + 1 < rounds, true};
}

// The rate of a step, and what adam and adamw make of it: that divided by 1 - beta1^t, and
// 1 / sqrt(1 - beta2^t). For the others these are the rate itself and 1.
template <class T>
struct Rate {
    T plain, corrected, per_root;
};

// Changes a weight by the gradient of its batch.
template <class Choices, class T>
LECUN_FORMULA void change(const Method<T>& m, T momentum, const Rate<T>& rate, T gradient,
                          T curvature, T& weight, T& first, T& second) {
    const Optimizer kind = Choices::optimizer;
    if (kind == Optimizer::own) return;
    gradient = fused(m.weight_decay, weight, gradient);
    if (Choices::curved && kind == Optimizer::sdlm) gradient = gradient / (m.mu + curvature);
    if (kind == Optimizer::sgd || kind == Optimizer::nesterov || kind == Optimizer::sdlm) {
        if (momentum != 0) {
            first = fused(momentum, first, gradient);
            gradient = kind == Optimizer::nesterov ? fused(momentum, first, gradient) : first;
        }
        weight = fused(-rate.plain, gradient, weight);
    } else if (kind == Optimizer::lion) {
        const T mean = fused(m.beta1, first, m.rest1 * gradient);
        const T sign = mean > 0 ? T(1) : mean < 0 ? T(-1) : mean;  // NaN stays NaN
        weight = fused(-rate.plain, sign, (1 - rate.plain * m.decay) * weight);
        first = fused(m.beta2, first, m.rest2 * gradient);
    } else {
        second = fused(m.beta2, second, m.rest2 * gradient * gradient);
        if (kind != Optimizer::rmsprop)
            first = gradient = fused(m.beta1, first, m.rest1 * gradient);
        const T step = gradient / (square_root(second) * rate.per_root + m.eps);
        const T left = kind == Optimizer::adamw ? 1 - rate.plain * m.decay : T(1);
        weight = fused(-rate.corrected, step, left * weight);
    }
}

// Goes through all weights once: `count` of them, in packs. Several packs of each array are loaded
// before the first is stored, since global memory is far away.
template <class Choices, class Team, class T>
LECUN_FORMULA void take_step(Team team, const Method<T>& given, T momentum, const Rate<T>& rate,
                             T patterns, T* weights, const T* sums, const States<T>& states,
                             int count) {
    constexpr int n = 16 / sizeof(T), packs = 2;
    using Numbers = Pack<n, T>;
    const int apart = (count + n * packs - 1) / (n * packs);
    team.each(apart, [=](int task) {
        const Method<T> method = given;
        Numbers weight[packs], sum[packs], first[packs], second[packs], h[packs], mean[packs];
#pragma unroll
        for (int p = 0; p < packs; ++p) {
            const int at = (task + p * apart) * n;
            if (at >= count) continue;
            weight[p] = Numbers::load(weights + at);
            sum[p] = Numbers::load(sums + at);
            first[p] = states.first ? Numbers::load(states.first + at) : Numbers{};
            second[p] = states.second ? Numbers::load(states.second + at) : Numbers{};
            h[p] = Choices::curved && states.curvature ? Numbers::load(states.curvature + at) : Numbers{};
            mean[p] = states.average ? Numbers::load(states.average + at) : Numbers{};
        }
#pragma unroll
        for (int p = 0; p < packs; ++p) {
            const int at = (task + p * apart) * n;
            if (at >= count) continue;
#pragma unroll
            for (int i = 0; i < n; ++i) {
                T& w = weight[p].at[i];
                change<Choices>(method, momentum, rate, sum[p].at[i] / patterns, h[p].at[i], w,
                                first[p].at[i], second[p].at[i]);
                mean[p].at[i] = fused(method.average, mean[p].at[i], method.rest_average * w);
            }
            weight[p].store(weights + at);
            if (states.first) first[p].store(states.first + at);
            if (states.second) second[p].store(states.second + at);
            if (states.average) mean[p].store(states.average + at);
        }
    });
}

// The same with an optimizer of the user's. numbers: what it keeps, room for the next, singles.
template <class Choices, class Team, class T>
LECUN_FORMULA void take_own_step(Team team, const Method<T>& given, bool first, T rate, T patterns,
                                 double* numbers, T* weights, const T* sums,
                                 const States<T>& states, int count) {
    using Own = typename Choices::Own;
    double* const next = numbers + Own::numbers();
    double* const singles = next + Own::numbers();
    team.each(1, [=](int) { Own::before(first, numbers, rate, next, singles); });
    team.barrier();
    team.each(count, [=](int i) {
        const Method<T> method = given;
        T weight = weights[i], own[Own::kMostStates];
        for (int k = 0; k < Own::states(); ++k) own[k] = states.own[k * kParameters + i];
        Own::change(first, singles, fused(method.weight_decay, weight, sums[i] / patterns), weight,
                    own);
        for (int k = 0; k < Own::states(); ++k) states.own[k * kParameters + i] = own[k];
        weights[i] = weight;
        if (states.average)
            states.average[i] =
                fused(method.average, states.average[i], method.rest_average * weight);
    });
    team.each(Own::numbers(), [=](int k) { numbers[k] = next[k]; });
}

// Sets the curvature to the mean of a batch, or moves it by gamma towards that.
template <class Team, class T>
LECUN_FORMULA void take_curvature(Team team, bool moves, T gamma, T patterns, const T* sums,
                                  T* curvature, int count) {
    constexpr int n = 16 / sizeof(T);
    using Numbers = Pack<n, T>;
    team.each(count / n, [=](int task) {
        const auto sum = Numbers::load(sums + task * n);
        auto h = Numbers::load(curvature + task * n);
#pragma unroll
        for (int i = 0; i < n; ++i) {
            const T mean = sum.at[i] / patterns;
            h.at[i] = moves ? fused(gamma, mean - h.at[i], h.at[i]) : mean;
        }
        h.store(curvature + task * n);
    });
}

// A network's states in the order of the weights in fast memory.
template <class Choices, class T>
LECUN_FORMULA States<T> in_scratch(T* scratch, const States<T>& states, unsigned network) {
    const int first = states.first != nullptr, second = states.second != nullptr;
    const int curvature = states.curvature != nullptr, average = states.average != nullptr;
    const int others = first + second + curvature + average;
    const int all = others + (Choices::optimizer == Optimizer::own ? Choices::Own::states() : 0);
    T* near = scratch + (long long)network * all * kParameters;
    return {first ? near : nullptr, second ? near + first * kParameters : nullptr,
            curvature ? near + (first + second) * kParameters : nullptr,
            average ? near + (first + second + curvature) * kParameters : nullptr,
            near + others * kParameters};
}

// Copies all states of one weight that an optimizer of the user's keeps.
template <class Choices, class T>
LECUN_FORMULA void copy_own(T* to, long long to_at, const T* from, long long from_at) {
    if (Choices::optimizer != Optimizer::own) return;
    for (int k = 0; k < Choices::Own::states(); ++k)
        to[k * kParameters + to_at] = from[k * kParameters + from_at];
}

// What a network is shown; all of its own.
template <class T>
struct Shown {
    const T* images;
    const int* labels;
    const unsigned* kept;  // null: no dropout

    template <class Net, class Some>
    LECUN_FORMULA void fetch(Net& net, Some some, int place, int pattern) const {
        net.fetch(some, place, images + (long long)pattern * kPixels, labels + pattern);
        if (kept) net.fetch_kept(some, place, kept + (long long)pattern * kKeptWords);
    }
};

// As train_network, by a method.
//   states: (networks, 10960) each, or null
//   scratch: (networks, as many states as are not null, 10960)
//   methods: (networks,); rates: (any, steps), the row rate_rows[network] of it
//   own_numbers: (networks, 2 numbers() + kMostSingles) of an optimizer of the user's
//   kept: (networks, patterns, kKeptWords), or null without dropout
//   orders: (any, patterns), the row order_rows[network] of it; a network with row -1 rests
template <class Choices, class Team>
LECUN_FORMULA void train_network_by(
    Team team, unsigned network, TrainingMemory<typename Choices::Scalar>& memory,
    typename Choices::Scalar* parameters, States<typename Choices::Scalar> states,
    typename Choices::Scalar* scratch, double* own_numbers,
    const Settings<typename Choices::Scalar>* settings, const Method<typename Choices::Scalar>* methods, const Rate<typename Choices::Scalar>* rates,
    const int* rate_rows, const typename Choices::Scalar* images, const int* labels,
    const unsigned* kept, const int* orders, const int* order_rows, int patterns,
    int image_stride) {
    using T = typename Choices::Scalar;
    if (order_rows[network] < 0) return;
    const Settings<T>& own = settings[network];
    const Method<T>& method = methods[network];
    const int turns = method.estimated + (method.running ? 2 : 1) * patterns;
    const int* order = orders + (long long)order_rows[network] * patterns;
    const int steps = (patterns + method.batch - 1) / method.batch;
    rates += (long long)rate_rows[network] * steps;
    const Shown<T> shown = {images + (long long)network * image_stride * kPixels, labels,
                            kept ? kept + (long long)network * patterns * kKeptWords : nullptr};

    const long long offset = (long long)network * kParameters;
    const States<T> near = in_scratch<Choices>(scratch, states, network);
    T* const own_states = Choices::optimizer == Optimizer::own
                              ? states.own + offset * Choices::Own::states() : nullptr;
    Network<Choices, Team, TrainingMemory<T>> net(team, memory, own);
    net.load(parameters + offset, nullptr, own);
    net.each_parameter(own.connections, [=](int fast, int global) {
        if (states.first) near.first[fast] = states.first[offset + global];
        if (states.second) near.second[fast] = states.second[offset + global];
        if (states.curvature) near.curvature[fast] = states.curvature[offset + global];
        if (states.average) near.average[fast] = states.average[offset + global];
        copy_own<Choices>(near.own, fast, own_states, global);
    });
    net.batch.kept_scale = method.kept_scale;
    const int count = Batch<T>::room(own.connections.pairs());
    T *const weights = net.weights(), *const sums = net.batch.sums;
    const T momentum = own.momentum;
    shown.fetch(net, team, 0, turn_of(method, order, patterns, 0).pattern);
    team.copied();
    team.barrier();
    for (int i = 0; i < turns; ++i) {
        const Turn turn = turn_of(method, order, patterns, i);
        net.batch.place = i % 2;
        net.batch.begins = turn.begins;
        net.batch.drops = kept && turn.dropout;
        const auto fetch_next = [=, &net, &method](typename Team::Beside beside) {
            const int next = i + 1;
            if (next < turns)
                shown.fetch(net, beside, next % 2, turn_of(method, order, patterns, next).pattern);
        };
        if (Choices::curved && turn.curvature)
            net.template train<Choices::curved>(i % 2, fetch_next);
        else
            net.template train<false>(i % 2, fetch_next);
        if (!turn.ends) continue;
        // worked out anew, or the pointers would take registers throughout
        const States<T> near = in_scratch<Choices>(scratch, states, team.again(network));
        if (Choices::curved && turn.curvature)
            take_curvature(team, i >= method.estimated, method.gamma, T(turn.patterns), sums,
                           near.curvature, count);
        else if (Choices::optimizer == Optimizer::own)
            take_own_step<Choices>(
                team, method, method.fresh && turn.step == 0, rates[turn.step].plain,
                T(turn.patterns),
                own_numbers + network * (2 * Choices::Own::numbers() + kMostSingles),
                weights, sums, near, count);
        else
            take_step<Choices>(team, method, momentum, rates[turn.step], T(turn.patterns), weights,
                               sums, near, count);
        team.barrier();
    }
    net.store(parameters + offset, nullptr);
    net.each_parameter(own.connections, [=](int fast, int global) {
        if (states.first) states.first[offset + global] = near.first[fast];
        if (states.second) states.second[offset + global] = near.second[fast];
        if (states.curvature) states.curvature[offset + global] = near.curvature[fast];
        if (states.average) states.average[offset + global] = near.average[fast];
        copy_own<Choices>(own_states, global, near.own, fast);
    });
    team.barrier();
}

}  // namespace lecun_ablate
