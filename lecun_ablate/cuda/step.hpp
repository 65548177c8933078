// The 1989 network and one step of on-line gradient descent, for a team of threads that share one
// network in fast memory: a thread block on a GPU.
//
//     image   1 plane  16x16   padded by 2
//     H1     12 planes  8x8    5x5 convolution with stride 2; padded by 2
//     H2     12 planes  4x4    5x5 convolution with stride 2, over the H1 planes that each sees
//     H3     30 units          dense, over the 192 units of H2
//     output 10 units          dense
//
// A step is a sequence of phases. A phase is a number of tasks, `team.each(count, task)`, that any
// thread may take in any order, and ends with `team.barrier()`: no task reads what another task of
// its phase writes. A sum belongs to one task, or to a fixed number of tasks whose partial sums are
// added in a fixed order; so the results do not depend on the number of threads, and with a team
// of one this is an ordinary C++ function.
//
// A team has smaller ones: `team.narrow(body)` calls body(one warp), whose barriers cost less, and
// `team.beside()` is all other threads. `team.from(n)` gives the first task to thread n, so that two
// rows of tasks in one phase go to different threads. In `each_shared` two neighbouring threads
// share a task.
//
// A GPU's multiprocessor does 128 multiply-adds per clock but loads only 32 words from shared
// memory, so loads are what limits it. A task therefore computes a tile of results in registers and
// uses every value that it loads several times. Strides are chosen so that the threads of a warp
// rarely need different words of one bank; docs/cuda.md counts both.
#pragma once

#include "elementary.hpp"

namespace lecun_ablate {

constexpr int kPlanes = 12, kKernel = 5, kStride = 2, kPad = 2, kTaps = kKernel * kKernel;
constexpr int kImage = 16, kPixels = kImage * kImage, kPaddedImage = kImage + kPad + 1;
constexpr int kH1 = 8, kH1Row = kH1 + 2 * kPad, kH1Units = kPlanes * kH1 * kH1;
constexpr int kH2 = 4, kH2Map = kH2 * kH2, kH2Units = kPlanes * kH2Map;
constexpr int kH3 = 30;
constexpr int kMostPairs = kPlanes * kPlanes;  // of a plane of H2 and a plane of H1 that it sees

// A network in global memory: the layout of initial.SHAPES, tensor after tensor.
constexpr int kH1Parameters = kPlanes * kTaps + kH1Units;
constexpr int kH2Weights = kMostPairs * kTaps;  // [H2 plane][H1 plane]; 0 where unconnected
constexpr int kDenseParameters = kH2Units + kH2Units * kH3 + kH3 + kH3 * kOutputs + kOutputs;
constexpr int kParameters = kH1Parameters + kH2Weights + kDenseParameters;
static_assert(kParameters == 10960, "one number per trainable tensor element, no gaps");

// The same network in fast memory. Only connected pairs of planes have weights there, so this is
// cut off after the last pair.
template <class T>
struct Weights {
    T h1_weight[kPlanes][kTaps];
    T h1_bias[kH1Units];  // in the order of h1_place
    T h2_bias[kH2Units];
    T h3_weight[kH2Units][kH3];
    T h3_bias[kH3];
    T out_weight[kH3][kOutputs];
    T out_bias[kOutputs];
    T h2_weight[kMostPairs][kTaps];  // [pair]
};

// Which planes of H2 see which of H1, as a list of pairs sorted by the plane of H1.
struct Connections {
    unsigned char h1_of[kMostPairs], h2_of[kMostPairs];  // [pair]
    unsigned char by_h2[kMostPairs];  // the pairs, sorted by the plane of H2
    unsigned char first_of_h1[kPlanes + 1], first_of_h2[kPlanes + 1];  // the last: all pairs

    LECUN_FORMULA int pairs() const { return first_of_h1[kPlanes]; }
};

// What a run is told, beside its weights: read from global memory.
template <class T>
struct Settings {
    double targets[10][kOutputs];  // [label][output]
    T learning_rate, momentum, padding;
    T leak, output_leak;  // the slopes of leaky_relu below 0
    Connections connections;
};

// Where the units of half a row of H1 are, four neighbours. Even rows come before odd ones, and from
// plane to plane and row to row things move on, so that tasks for all rows, and tasks for the even
// or the odd rows of several planes, find them in different banks.
LECUN_FORMULA int h1_place(int plane, int y, int half) {
    constexpr int quads = kH1 * kH1 / 4;
    const int quad = 2 * (y / 2 + y % 2 * (kH1 / 2)) + (half ^ (y & 1));
    return (plane * quads + (quad + plane) % quads) * 4;
}

// Neighbouring numbers that are loaded or stored at once. They start at a multiple of n.
template <int n, class T>
struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Pack {
    T at[n];

    LECUN_FORMULA static Pack load(const T* from) { return *reinterpret_cast<const Pack*>(from); }
    LECUN_FORMULA void store(T* to) const { *reinterpret_cast<Pack*>(to) = *this; }
};

// One row of a padded plane of H1, in registers.
template <class T>
LECUN_FORMULA void load_h1_row(const T* from, T (&row)[kH1Row]) {
#pragma unroll
    for (int x = 0; x < kH1Row; x += 4) {
        const auto pack = Pack<4, T>::load(from + x);
#pragma unroll
        for (int i = 0; i < 4; ++i) row[x + i] = pack.at[i];
    }
}

constexpr int kH1Group = 2;   // planes of H1 computed together
constexpr int kH2Slices = 4;  // of the planes that a plane of H2 sees: one partial sum each
constexpr int kH3Slices = 12, kSliceUnits = kH2Units / kH3Slices;
constexpr int kOutSlices = 3, kSliceH3 = kH3 / kOutSlices;

// The fast memory of a forward pass. What a step needs of the next one is double: the image.
template <class T>
struct ForwardMemory {
    // Padded planes one below the other; the padding below a plane is that above the next. Four
    // more numbers between planes put neighbouring planes into different banks.
    static constexpr int kH1Plane = (kH1 + kPad) * kH1Row + 4;
    // A row of zeros above each plane of deltas, and one below the last.
    static constexpr int kH2Plane = (kH2 + 1) * kH2;

    alignas(16) T h1[kPlanes * kH1Plane + kPad * kH1Row];
    alignas(16) T h2_sums[kH2Slices][kH2Units];  // in the order of Network::h2_sum
    alignas(16) T h2[kH2Units];
    alignas(16) T h3[kH3];
    T out[kOutputs];
    T targets[10][kOutputs];
    T images[2][kPaddedImage][kPaddedImage];
    int labels[2];
    Connections connections;

    LECUN_FORMULA T (*h3_sums())[kH3] { return reinterpret_cast<T(*)[kH3]>(h2_sums[0]); }
    LECUN_FORMULA T (*out_sums())[kOutputs] {
        return reinterpret_cast<T(*)[kOutputs]>(h2_sums[2]);
    }
    LECUN_FORMULA T* h1_row(int plane, int y) { return h1 + plane * kH1Plane + y * kH1Row; }
};
static_assert(kH3Slices * kH3 <= 2 * kH2Units, "the sums of H3 end before those of the outputs");

// The deltas: derivatives of the loss by the units' weighted inputs. The forward pass leaves the
// slopes of the activations in their places.
template <class T>
struct TrainingMemory : ForwardMemory<T> {
    static constexpr bool kTraining = true;
    using Forward = ForwardMemory<T>;

    alignas(16) T h1_delta[kH1Units];  // in the order of h1_place
    alignas(16) T h2_delta[kPlanes * Forward::kH2Plane + kH2];
    alignas(16) T h3_delta[kH3];
    alignas(16) T out_delta[kOutputs];
    alignas(16) Weights<T> weights;  // at the end, since it may be cut off

    // The row of units; -1 and 4 are zeros.
    LECUN_FORMULA T* h2_delta_row(int plane, int y) {
        return h2_delta + plane * Forward::kH2Plane + (y + 1) * kH2;
    }
};

constexpr int kImagesPerBlock = 32;  // that one team evaluates

template <class T>
struct EvaluationMemory : ForwardMemory<T> {
    static constexpr bool kTraining = false;

    alignas(16) double outputs[kImagesPerBlock][kOutputs];
    double losses[kImagesPerBlock];  // always computed in double precision
    alignas(16) Weights<T> weights;
};

// What a step by method.hpp has behind the weights: the sums over the patterns of its batch, and
// which units of H2 the dropout keeps for each of the two images.
template <class T>
struct Batch {
    T* sums;         // of gradients or of curvatures, laid out as Weights
    unsigned* kept;  // [place][kH2Units / 4]: four units in each, a byte of 0 or 1 for each
    int place = 0;
    bool begins = true;   // with this pattern
    bool drops = false;   // some units of H2 in this pattern
    T kept_scale = 1;     // of those that are kept

    LECUN_FORMULA Batch(T* weights, int pairs)
        : sums(weights + room(pairs)), kept(reinterpret_cast<unsigned*>(sums + room(pairs))) {}

    // Numbers that the weights take, up to a whole number of packs.
    LECUN_FORMULA static int room(int pairs) {
        return (kH1Parameters + kDenseParameters + pairs * kTaps + 3) / 4 * 4;
    }

    template <int n>
    LECUN_FORMULA void add(long long at, Pack<n, T> gradient) const {
        if (!begins) {
            const auto before = Pack<n, T>::load(sums + at);
#pragma unroll
            for (int i = 0; i < n; ++i) gradient.at[i] += before.at[i];
        }
        gradient.store(sums + at);
    }

    LECUN_FORMULA T factor(int unit) const {
        if (!drops) return 1;
        return reinterpret_cast<const unsigned char*>(kept)[place * kH2Units + unit] ? kept_scale : 0;
    }
};
constexpr int kKeptWords = kH2Units / 4;  // of a pattern

constexpr int kMostSingles = 16;

// Components of the user's, where there are none. lecun_ablate/compiled writes a struct with the same
// functions; Choices::Own is either of them.
template <class T>
struct NoOwn {
    LECUN_FORMULA static Activated<T> hidden(T x) { return {x, 1}; }
    LECUN_FORMULA static Activated<T> output(T x) { return {x, 1}; }
    // outputs, targets, slopes: (10,); the slopes are those of the loss by the outputs
    LECUN_FORMULA static double loss(const double*, const double*) { return 0; }
    LECUN_FORMULA static void loss_slopes(const T*, const T*, T*) {}

    // What an optimizer keeps: states of every weight, at most kMostStates, and numbers. `singles`,
    // at most kMostSingles, are what the weights need of the numbers in a step.
    static constexpr int kMostStates = 1;
    LECUN_FORMULA static int states() { return 0; }
    LECUN_FORMULA static int numbers() { return 0; }
    // once per step; `first`: the first step of a run
    LECUN_FORMULA static void before(bool, const double*, T, double* /* next */,
                                     double* /* singles */) {}
    // of one weight
    LECUN_FORMULA static void change(bool, const double* /* singles */, T /* gradient */,
                                     T& /* weight */, T* /* state */) {}
};

// `Choices` holds what a kernel is compiled for: the type Scalar, and the values hidden, output
// (Activation), loss (Loss) and momentum (bool). Own holds the functions of those that are `own`. Where `general` is true, a pattern does not change
// the weights: its gradient, or with `train<true>` its curvature, is added to those of a batch, for
// the steps of method.hpp.
template <class Choices, class Team, class Memory>
class Network {
    using T = typename Choices::Scalar;
    using Math = ElementaryMath<T>;

public:
    Batch<T> batch;  // used where Choices::general is true

    LECUN_FORMULA Network(Team team, Memory& memory, const Settings<T>& settings)
        : batch(flat(memory.weights), settings.connections.pairs()),
          team_(team),
          m_(memory),
          // behind the weights, where these are cut off
          velocity_(flat(memory.weights) + kH1Parameters + kDenseParameters +
                    settings.connections.pairs() * kTaps),
          rate_(-settings.learning_rate),
          momentum_(settings.momentum),
          leak_(settings.leak),
          output_leak_(settings.output_leak) {}

    // Fills the memory that every step finds as it is: weights, connections, targets, padding.
    LECUN_FORMULA void load(const T* parameters, const T* velocity, const Settings<T>& settings) {
        each_parameter(settings.connections, [=, this](int fast, int global) {
            flat(m_.weights)[fast] = parameters[global];
            if constexpr (Memory::kTraining)
                if (Choices::momentum) velocity_[fast] = velocity[global];
        });
        team_.each(sizeof(Connections), [=, this, &settings](int i) {
            reinterpret_cast<unsigned char*>(&m_.connections)[i] =
                reinterpret_cast<const unsigned char*>(&settings.connections)[i];
        });
        team_.each(10 * kOutputs, [=, this, &settings](int i) {
            m_.targets[i / kOutputs][i % kOutputs] = T(settings.targets[i / kOutputs][i % kOutputs]);
        });
        const T padding = settings.padding;
        team_.each(sizeof m_.images / sizeof(T),
                   [=, this](int i) { flat(m_.images)[i] = padding; });
        team_.each(sizeof m_.h1 / sizeof(T), [=, this](int i) { m_.h1[i] = padding; });
        if constexpr (Memory::kTraining)
            team_.each(sizeof m_.h2_delta / sizeof(T), [=, this](int i) { m_.h2_delta[i] = 0; });
        team_.barrier();
    }

    LECUN_FORMULA void store(T* parameters, T* velocity) {
        each_parameter(m_.connections, [=, this](int fast, int global) {
            parameters[global] = flat(m_.weights)[fast];
            if (Choices::momentum) velocity[global] = velocity_[fast];
        });
        team_.barrier();
    }

    // Starts to copy a pattern into one of the two places for images. It is there after
    // `team.copied()` and a barrier.
    template <class Some>
    LECUN_FORMULA void fetch(Some some, int place, const T* image, const int* label) {
        some.each(kPixels, [=, this](int i) {
            some.copy(&m_.images[place][i / kImage + kPad][i % kImage + kPad], image + i);
        });
        some.each(1, [=, this](int) { some.copy(&m_.labels[place], label); });
    }

    // The same for which units of H2 a pattern keeps, kKeptWords of them.
    template <class Some>
    LECUN_FORMULA void fetch_kept(Some some, int place, const unsigned* kept) {
        some.each(kKeptWords, [=, this](int i) {
            some.copy(&batch.kept[place * kKeptWords + i], kept + i);
        });
    }

    LECUN_FORMULA T* weights() { return flat(m_.weights); }

    // From H1 to what H3 and the outputs are made of.
    LECUN_FORMULA void forward() {
        h2_partial_sums();
        team_.barrier();
        team_.each(kH2Units, [=, this](int i) {
            constexpr int half = kH2Map / 2;
            T sum = m_.weights.h2_bias[i];
#pragma unroll
            for (int slice = 0; slice < kH2Slices; ++slice)
                sum += h2_sum(slice, i / kH2Map, i / half % 2)[i % half * 2 * kPlanes];
            auto unit = hidden_unit(sum);
            if constexpr (Choices::general && Memory::kTraining) {
                const T factor = batch.factor(i);  // what is left has slopes of its own
                unit.value *= factor, unit.slope *= factor;
            }
            m_.h2[i] = unit.value;
            if constexpr (Memory::kTraining) *h2_delta_of(i) = unit.slope;
        });
        team_.barrier();
        h3_partial_sums();
        team_.barrier();
    }

    // One pattern: forward, backward, update. A layer's deltas are taken with the weights above it
    // before these change. `fetch_next(some)` starts to copy the next pattern. What is `squared` is
    // the curvature (lecun_ablate/network/curvature.py): the gradient of a network whose weights,
    // inputs and slopes are squared.
    template <bool squared = false, class Fetch>
    LECUN_FORMULA void train(int place, Fetch fetch_next) {
        h1_forward(team_, place);
        team_.barrier();
        forward();
        team_.narrow([=, this](typename Team::Narrow narrow) {
            h3_and_outputs(narrow);
            output_deltas<squared>(narrow, m_.labels[place]);
            narrow.barrier();
            narrow.each(kH3, [=, this](int i) {
                m_.h3_delta[i] =
                    dense_backward<squared>(m_.out_delta, m_.weights.out_weight[i], m_.h3[i],
                                            m_.h3_delta[i], m_.weights.h3_bias[i]);
            });
        });
        fetch_next(team_.beside());
        team_.barrier();
        team_.each(kH2Units, [=, this](int i) {
            T* delta = h2_delta_of(i);
            *delta = dense_backward<squared>(m_.h3_delta, m_.weights.h3_weight[i], m_.h2[i], *delta,
                                             m_.weights.h2_bias[i]);
        });
        team_.barrier();
        h1_deltas<squared>();
        team_.barrier();
        update_kernels<squared>(place);
        team_.copied();
        team_.barrier();
    }

    // A task: half a row of two planes. The threads of a warp have different rows or planes.
    template <class Some>
    LECUN_FORMULA void h1_forward(Some some, int place) {
        constexpr int tile = 4, halves = kH1 / tile, group = kH1Group;
        constexpr int inputs = kStride * (tile - 1) + kKernel;
        some.each(halves * kPlanes / group * kH1, [=, this](int task) {
            const int half = task / (kPlanes / group * kH1), y = task % kH1;
            const int first = task / kH1 % (kPlanes / group) * group;
            T sum[group][tile] = {};
#pragma unroll
            for (int ky = 0; ky < kKernel; ++ky) {
                T row[inputs];
#pragma unroll
                for (int x = 0; x < inputs; ++x)
                    row[x] = m_.images[place][kStride * y + ky][kStride * tile * half + x];
#pragma unroll
                for (int plane = 0; plane < group; ++plane)
#pragma unroll
                    for (int kx = 0; kx < kKernel; ++kx) {
                        const T w = m_.weights.h1_weight[first + plane][ky * kKernel + kx];
#pragma unroll
                        for (int x = 0; x < tile; ++x)
                            sum[plane][x] = fused(row[kStride * x + kx], w, sum[plane][x]);
                    }
            }
#pragma unroll
            for (int plane = 0; plane < group; ++plane) {
                const auto bias = Pack<tile, T>::load(m_.weights.h1_bias + h1_place(first + plane, y, half));
                Pack<tile, T> slope;
                Pack<2, T> value[tile / 2];
#pragma unroll
                for (int x = 0; x < tile; ++x) {
                    const auto unit = hidden_unit(sum[plane][x] + bias.at[x]);
                    value[x / 2].at[x % 2] = unit.value;
                    slope.at[x] = unit.slope;
                }
#pragma unroll
                for (int x = 0; x < tile; x += 2)
                    value[x / 2].store(m_.h1_row(first + plane, y + kPad) + kPad + tile * half + x);
                if constexpr (Memory::kTraining)
                    slope.store(m_.h1_delta + h1_place(first + plane, y, half));
            }
        });
    }

    // H3 and the outputs are little work in many phases.
    template <class Narrow>
    LECUN_FORMULA void h3_and_outputs(Narrow narrow) {
        narrow.each(kH3, [=, this](int i) {
            T sum = m_.weights.h3_bias[i];
#pragma unroll
            for (int slice = 0; slice < kH3Slices; ++slice) sum += m_.h3_sums()[slice][i];
            const auto unit = hidden_unit(sum);
            m_.h3[i] = unit.value;
            if constexpr (Memory::kTraining) m_.h3_delta[i] = unit.slope;
        });
        narrow.barrier();
        narrow.each(kOutSlices * kOutputs, [=, this](int task) {
            const int slice = task / kOutputs, i = task % kOutputs;
            T sum = 0;
#pragma unroll
            for (int j = slice * kSliceH3, n = 0; n < kSliceH3; ++j, ++n)
                sum = fused(m_.h3[j], m_.weights.out_weight[j][i], sum);
            m_.out_sums()[slice][i] = sum;
        });
        narrow.barrier();
        narrow.each(kOutputs, [=, this](int i) {
            T sum = m_.weights.out_bias[i];
#pragma unroll
            for (int slice = 0; slice < kOutSlices; ++slice) sum += m_.out_sums()[slice][i];
            const auto unit = Choices::output == Activation::own
                                  ? Choices::Own::output(sum)
                                  : activate<Math>(Choices::output, sum, output_leak_);
            m_.out[i] = unit.value;
            if constexpr (Memory::kTraining) m_.out_delta[i] = unit.slope;
        });
        narrow.barrier();
    }

    // Calls visit(its place in Weights, its place in global memory) for every parameter.
    template <class Visit>
    LECUN_FORMULA void each_parameter(const Connections& connections, Visit visit) {
        team_.each(kPlanes * kTaps, [=](int i) { visit(i, i); });
        team_.each(kH1Units, [=](int i) {
            const int plane = i / (kH1 * kH1), y = i / kH1 % kH1, x = i % kH1;
            const int place = h1_place(plane, y, x / 4) + x % 4;
            visit(kPlanes * kTaps + place, kPlanes * kTaps + i);
        });
        team_.each(kDenseParameters,
                   [=](int i) { visit(kH1Parameters + i, kH1Parameters + kH2Weights + i); });
        team_.each(connections.pairs() * kTaps, [=, &connections](int i) {
            const int pair = i / kTaps, tap = i % kTaps;
            const int dense = connections.h2_of[pair] * kPlanes + connections.h1_of[pair];
            visit(kH1Parameters + kDenseParameters + i, kH1Parameters + dense * kTaps + tap);
        });
    }

private:
    LECUN_FORMULA Activated<T> hidden_unit(T sum) const {
        if (Choices::hidden == Activation::own) return Choices::Own::hidden(sum);
        return activate<Math>(Choices::hidden, sum, leak_);
    }

    template <class Struct>
    LECUN_FORMULA static T* flat(Struct& tensors) {
        return reinterpret_cast<T*>(&tensors);
    }

    // The first unit of half a plane; the next are 2 kPlanes apart, for all planes lie between.
    LECUN_FORMULA T* h2_sum(int slice, int plane, int half) {
        return m_.h2_sums[slice] + half * kPlanes + plane;
    }

    LECUN_FORMULA T* h2_delta_of(int unit) {
        return m_.h2_delta_row(unit / kH2Map, 0) + unit % kH2Map;
    }

    template <bool squared>
    LECUN_FORMULA static T power(T x) {
        return squared ? x * x : x;
    }

    // w -= lr v with v = momentum v + gradient
    LECUN_FORMULA void update(T& weight, T gradient) {
        update(&weight, Pack<1, T>{weight}, Pack<1, T>{gradient});
    }

    // The same for neighbours, which have been loaded from `place`.
    template <int n>
    LECUN_FORMULA void update(T* place, Pack<n, T> weight, Pack<n, T> gradient) {
        if constexpr (Choices::general) {
            batch.add(place - flat(m_.weights), gradient);
            return;
        }
        if (Choices::momentum) {
            T* velocities = velocity_ + (place - flat(m_.weights));
            auto velocity = Pack<n, T>::load(velocities);
#pragma unroll
            for (int i = 0; i < n; ++i)
                velocity.at[i] = fused(momentum_, velocity.at[i], gradient.at[i]);
            velocity.store(velocities);
            gradient = velocity;
        }
#pragma unroll
        for (int i = 0; i < n; ++i) weight.at[i] = fused(rate_, gradient.at[i], weight.at[i]);
        weight.store(place);
    }

    // A task: two rows of one plane, over a quarter of the planes of H1 that it sees. Planes of H2
    // that see the same planes are neighbours in a warp, in the paper's scheme, and load the same.
    LECUN_FORMULA void h2_partial_sums() {
        constexpr int tile = 2, halves = kH2 / tile, rows = kStride * (tile - 1) + kKernel;
        team_.each(kPlanes * kH2Slices * halves, [=, this](int task) {
            const int half = task % halves, plane = task / halves % kPlanes;
            const int slice = task / (halves * kPlanes);
            const int begin = m_.connections.first_of_h2[plane];
            const int seen = m_.connections.first_of_h2[plane + 1] - begin;
            T sum[tile][kH2] = {};
#pragma unroll 1
            for (int k = seen * slice / kH2Slices; k < seen * (slice + 1) / kH2Slices; ++k) {
                const int pair = m_.connections.by_h2[begin + k];
                const T* inputs = m_.h1_row(m_.connections.h1_of[pair], kStride * tile * half);
                T weight[kTaps];
#pragma unroll
                for (int tap = 0; tap < kTaps; ++tap) weight[tap] = m_.weights.h2_weight[pair][tap];
#pragma unroll
                for (int r = 0; r < rows; ++r) {
                    T row[kH1Row];
                    load_h1_row(inputs + r * kH1Row, row);
#pragma unroll
                    for (int y = 0; y < tile; ++y) {
                        const int ky = r - kStride * y;
                        if (ky < 0 || ky >= kKernel) continue;
#pragma unroll
                        for (int kx = 0; kx < kKernel; ++kx)
#pragma unroll
                            for (int x = 0; x < kH2; ++x)
                                sum[y][x] = fused(row[kStride * x + kx], weight[ky * kKernel + kx],
                                                  sum[y][x]);
                    }
                }
            }
#pragma unroll
            for (int y = 0; y < tile; ++y)
#pragma unroll
                for (int x = 0; x < kH2; ++x)
                    h2_sum(slice, plane, half)[(y * kH2 + x) * 2 * kPlanes] = sum[y][x];
        });
    }

    // A task: two units, over a slice of the units of H2. Each half of a warp has a slice.
    LECUN_FORMULA void h3_partial_sums() {
        constexpr int tile = 2, tiles = kH3 / tile, half_warp = 16;
        team_.each(kH3Slices * half_warp, [=, this](int task) {
            if (task % half_warp >= tiles) return;
            const int slice = task / half_warp, first = slice * kSliceUnits;
            const int unit = task % half_warp * tile;
            T sum[tile] = {};
#pragma unroll
            for (int i = 0; i < kSliceUnits; i += 4) {
                const auto value = Pack<4, T>::load(m_.h2 + first + i);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const auto weight =
                        Pack<tile, T>::load(&m_.weights.h3_weight[first + i + j][unit]);
#pragma unroll
                    for (int k = 0; k < tile; ++k)
                        sum[k] = fused(value.at[j], weight.at[k], sum[k]);
                }
            }
            Pack<tile, T>{sum[0], sum[1]}.store(&m_.h3_sums()[slice][unit]);
        });
    }

    template <bool squared, class Narrow>
    LECUN_FORMULA void output_deltas(Narrow narrow, int label) {
        narrow.each(kOutputs, [=, this](int i) {
            const T* targets = m_.targets[label];
            if (Choices::loss == Loss::own) {  // never squared
                T slopes[kOutputs];
                Choices::Own::loss_slopes(m_.out, targets, slopes);
                m_.out_delta[i] *= slopes[i];
            } else {
                const LossSlope<Math> slope(Choices::loss, m_.out, targets);
                if constexpr (squared)
                    m_.out_delta[i] *= m_.out_delta[i] * slope.curvature(m_.out[i]);
                else
                    m_.out_delta[i] *= slope(m_.out[i], targets[i]);
            }
            update(m_.weights.out_bias[i], m_.out_delta[i]);
        });
    }

    // Updates the weights from one unit, of value `value`, to the layer above, whose deltas are
    // known, and the unit's bias. Returns the unit's delta.
    template <bool squared, int above>
    LECUN_FORMULA T dense_backward(const T* above_delta, T (&weights)[above], T value, T slope,
                                   T& bias) {
        using Pair = Pack<2, T>;
        constexpr int chunk = above % 15 ? 5 : 15;  // pairs
        Pair sum = {};  // of the even and of the odd units above
#pragma unroll 1
        for (int first = 0; first < above; first += 2 * chunk) {
            // All are loaded before the first is stored: for all the compiler knows, a stored
            // weight could change any of them.
            Pair weight[chunk], gradient[chunk];
#pragma unroll
            for (int k = 0; k < chunk; ++k) {
                weight[k] = Pair::load(weights + first + 2 * k);
                const Pair delta = Pair::load(above_delta + first + 2 * k);
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    sum.at[i] = fused(power<squared>(weight[k].at[i]), delta.at[i], sum.at[i]);
                    gradient[k].at[i] = power<squared>(value) * delta.at[i];
                }
            }
#pragma unroll
            for (int k = 0; k < chunk; ++k)
                update(weights + first + 2 * k, weight[k], gradient[k]);
        }
        const T delta = power<squared>(slope) * (sum.at[0] + sum.at[1]);
        update(bias, delta);
        return delta;
    }

    // The unit of H1 at (y, x) reaches the units of H2 at (v, u) through the tap
    // (y + 2 - 2 v, x + 2 - 2 u): even rows through even ky alone, odd rows through odd ky. A task:
    // the two even or the two odd rows in half a plane; of its two threads, each sums over half of
    // the planes of H2 and ends one row. Even and odd rows are different code, so warps have either.
    template <bool squared>
    LECUN_FORMULA void h1_deltas() {
        constexpr int tasks = 2 * kPlanes, apart = 32;
        team_.template each_shared<2 * kH1, T>(
            apart + tasks, [=](int task) { return task % apart < tasks; },
            [=, this](int task, int part, T (&sum)[2 * kH1]) {
                const int plane = task % apart / 2, half = task % 2;
                if (task < apart)
                    sum_h1_delta<0, squared>(plane, half, part, sum);
                else
                    sum_h1_delta<1, squared>(plane, half, part, sum);
            },
            [=, this](int task, int part, const T (&sum)[kH1]) {
                const int plane = task % apart / 2, half = task % 2;
                end_h1_delta<squared>(plane, 2 * (2 * half + part) + task / apart, sum);
            });
    }

    // sum: (2, 8), the two rows
    template <int odd, bool squared>
    LECUN_FORMULA void sum_h1_delta(int plane, int half, int part, T (&sum)[2 * kH1]) {
        constexpr int tile = 2;  // rows, which see tile + 2 rows of H2, or one less from odd ky
        const int first = m_.connections.first_of_h1[plane];
        const int seen_by = m_.connections.first_of_h1[plane + 1] - first;
#pragma unroll 1
        for (int pair = first + seen_by * part / 2; pair < first + seen_by * (part + 1) / 2; ++pair) {
            const int out = m_.connections.h2_of[pair];
            Pack<kH2, T> delta[tile + 2];
#pragma unroll
            for (int v = odd; v < tile + 2; ++v)
                delta[v] = Pack<kH2, T>::load(m_.h2_delta_row(out, half * tile - 1 + v));
#pragma unroll
            for (int near = odd; near < 3; ++near) {
                const int ky = 4 + odd - 2 * near;
#pragma unroll
                for (int kx = 0; kx < kKernel; ++kx) {
                    const T w = power<squared>(m_.weights.h2_weight[pair][ky * kKernel + kx]);
#pragma unroll
                    for (int u = 0; u < kH2; ++u) {
                        const int x = 2 * u + kx - kPad;
                        if (x < 0 || x >= kH1) continue;
#pragma unroll
                        for (int y = 0; y < tile; ++y)
                            sum[y * kH1 + x] =
                                fused(w, delta[y + near].at[u], sum[y * kH1 + x]);
                    }
                }
            }
        }
    }

    // From what reaches a row of H1 to its deltas and the updates of its biases.
    template <bool squared>
    LECUN_FORMULA void end_h1_delta(int plane, int y, const T (&sum)[kH1]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            T* place = m_.h1_delta + h1_place(plane, y, half);
            T* bias = m_.weights.h1_bias + h1_place(plane, y, half);
            auto delta = Pack<4, T>::load(place);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                delta.at[i] = power<squared>(delta.at[i]) * sum[4 * half + i];
            delta.store(place);
            update(bias, Pack<4, T>::load(bias), delta);
        }
    }

    // Updates the weights of both convolutions. A task: the kernel between a plane of H2 and one of
    // H1; or one row of the kernels of two planes of H1, where each of two threads sums over half of
    // the rows of units and updates one plane.
    template <bool squared>
    LECUN_FORMULA void update_kernels(int place) {
        constexpr int warp = 32;
        const int pairs = m_.connections.pairs();
        team_.each(pairs, [=, this](int pair) { update_h2_kernel<squared>(pair); });
        team_.from((pairs + warp - 1) / warp * warp).template each_shared<2 * kKernel, T>(
            kPlanes / 2 * kKernel, [](int) { return true; },
            [=, this](int task, int part, T (&sum)[2 * kKernel]) {
                sum_h1_kernels<squared>(place, task / kKernel * 2, task % kKernel, part, sum);
            },
            [=, this](int task, int part, const T (&sum)[kKernel]) {
                T* weights = m_.weights.h1_weight[task / kKernel * 2 + part];
#pragma unroll
                for (int kx = 0; kx < kKernel; ++kx)
                    update(weights[task % kKernel * kKernel + kx], sum[kx]);
            });
    }

    template <bool squared>
    LECUN_FORMULA void update_h2_kernel(int pair) {
        constexpr int rows = kStride * (kH2 - 1) + kKernel;
        const T* inputs = m_.h1_row(m_.connections.h1_of[pair], 0);
        Pack<kH2, T> delta[kH2];
#pragma unroll
        for (int y = 0; y < kH2; ++y)
            delta[y] = Pack<kH2, T>::load(m_.h2_delta_row(m_.connections.h2_of[pair], y));
        // Even rows of inputs meet even rows of the kernel alone. One after the other takes fewer
        // registers.
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
            T sum[kTaps] = {};
#pragma unroll
            for (int r = odd; r < rows; r += kStride) {
                T row[kH1Row];
                load_h1_row(inputs + r * kH1Row, row);
#pragma unroll
                for (int x = 0; x < kH1Row; ++x) row[x] = power<squared>(row[x]);
#pragma unroll
                for (int y = 0; y < kH2; ++y) {
                    const int ky = r - kStride * y;
                    if (ky < 0 || ky >= kKernel) continue;
#pragma unroll
                    for (int x = 0; x < kH2; ++x)
#pragma unroll
                        for (int kx = 0; kx < kKernel; ++kx) {
                            T& tap = sum[ky * kKernel + kx];
                            tap = fused(row[kStride * x + kx], delta[y].at[x], tap);
                        }
                }
            }
#pragma unroll
            for (int ky = odd; ky < kKernel; ky += kStride)
#pragma unroll
                for (int kx = 0; kx < kKernel; ++kx) {
                    const int tap = ky * kKernel + kx;
                    update(m_.weights.h2_weight[pair][tap], sum[tap]);
                }
        }
    }

    // sum: (2, 5), a row of the kernels of planes `first` and `first` + 1
    template <bool squared>
    LECUN_FORMULA void sum_h1_kernels(int place, int first, int ky, int part,
                                      T (&sum)[2 * kKernel]) {
        constexpr int rows = kH1 / 2;
#pragma unroll 1
        for (int y = part * rows; y < (part + 1) * rows; ++y) {
            const T* row = m_.images[place][kStride * y + ky];
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int plane = 0; plane < 2; ++plane) {
                    const auto delta =
                        Pack<4, T>::load(m_.h1_delta + h1_place(first + plane, y, half));
#pragma unroll
                    for (int i = 0; i < 4; ++i)
#pragma unroll
                        for (int kx = 0; kx < kKernel; ++kx) {
                            T& tap = sum[plane * kKernel + kx];
                            const T pixel = power<squared>(row[kStride * (4 * half + i) + kx]);
                            tap = fused(pixel, delta.at[i], tap);
                        }
                }
        }
    }

    Team team_;
    Memory& m_;
    T* velocity_;  // laid out as Weights; there only with momentum
    const T rate_, momentum_, leak_, output_leak_;
};

// Advances network `block` by one update per entry of its order. All arrays are of all networks.
//   parameters, velocity: (networks, 10960); settings: (networks,)
//   images: (patterns, 16, 16); labels: (patterns,)
//   images: those of network k begin k * image_stride images on
//   orders: (any, steps), the row order_rows[network] of it; a network with row -1 rests
template <class Choices, class Team>
LECUN_FORMULA void train_network(
    Team team, unsigned network, TrainingMemory<typename Choices::Scalar>& memory,
    typename Choices::Scalar* parameters, typename Choices::Scalar* velocity,
    const Settings<typename Choices::Scalar>* settings, const typename Choices::Scalar* images,
    const int* labels, const int* orders, const int* order_rows, int steps, int image_stride) {
    using T = typename Choices::Scalar;
    if (order_rows[network] < 0) return;
    images += (long long)network * image_stride * kPixels;
    const int* order = orders + (long long)order_rows[network] * steps;
    const long long offset = (long long)network * kParameters;
    T* own_velocity = Choices::momentum ? velocity + offset : nullptr;
    Network<Choices, Team, TrainingMemory<T>> net(team, memory, settings[network]);
    net.load(parameters + offset, own_velocity, settings[network]);
    const auto image_of = [=](int step) { return images + (long long)order[step] * kPixels; };
    net.fetch(team, 0, image_of(0), labels + order[0]);
    team.copied();
    team.barrier();
    for (int step = 0; step < steps; ++step)
        net.train(step % 2, [=, &net](typename Team::Beside beside) {
            const int next = step + 1;
            if (next < steps) net.fetch(beside, next % 2, image_of(next), labels + order[next]);
        });
    net.store(parameters + offset, own_velocity);
}

// A function of its own, for its many registers.
LECUN_CALL double image_loss(Loss kind, const double* outputs, const double* targets) {
    return loss_value<ElementaryMath<double>>(kind, outputs, targets);
}

// Scores one network on kImagesPerBlock images, or what is left of them: block = (network, chunk).
//   predictions: (networks, patterns), the digit of the largest output, 255 where one is not finite
//   losses: (networks, chunks), the sum over the chunk's images
template <class Choices, class Team>
LECUN_FORMULA void evaluate_network(
    Team team, unsigned block, EvaluationMemory<typename Choices::Scalar>& memory,
    const typename Choices::Scalar* parameters, const Settings<typename Choices::Scalar>* settings,
    const typename Choices::Scalar* images, const int* labels, int patterns,
    const int* order_rows, unsigned char* predictions, double* losses) {
    using T = typename Choices::Scalar;
    const unsigned chunks = (patterns + kImagesPerBlock - 1) / kImagesPerBlock;
    const unsigned network = block / chunks;
    const int first = int(block % chunks) * kImagesPerBlock;
    if (order_rows[network] < 0) return;
    const int count = patterns - first < kImagesPerBlock ? patterns - first : kImagesPerBlock;
    const Settings<T>& own = settings[network];
    Network<Choices, Team, EvaluationMemory<T>> net(team, memory, own);
    net.load(parameters + (long long)network * kParameters, nullptr, own);
    // The first layer of an image is computed beside the last ones of the image before.
    const T* chunk_images = images + (long long)first * kPixels;
    net.fetch(team, 0, chunk_images, labels + first);
    team.copied();
    team.barrier();
    net.h1_forward(team, 0);
    if (count > 1) net.fetch(team, 1, chunk_images + kPixels, labels + first + 1);
    team.copied();
    team.barrier();
    for (int image = 0; image < count; ++image) {
        net.forward();
        team.narrow([=, &net, &memory](typename Team::Narrow narrow) {
            net.h3_and_outputs(narrow);
            narrow.each(kOutputs,
                        [=, &memory](int i) { memory.outputs[image][i] = memory.out[i]; });
        });
        if (image + 1 < count) net.h1_forward(team.beside(), (image + 1) % 2);
        const int next = image + 2;
        if (next < count)
            net.fetch(team.beside(), next % 2, chunk_images + next * kPixels, labels + first + next);
        team.copied();
        team.barrier();
    }
    team.each(count, [=, &memory, &own](int image) {
        const double* out = memory.outputs[image];
        const double* wanted = own.targets[labels[first + image]];
        memory.losses[image] = Choices::loss == Loss::own ? Choices::Own::loss(out, wanted)
                                                          : image_loss(Choices::loss, out, wanted);
        int best = 0;
        bool finite = true;
        for (int k = 0; k < kOutputs; ++k) {
            finite = finite && out[k] - out[k] == 0;
            if (out[k] > out[best]) best = k;
        }
        predictions[(long long)network * patterns + first + image] = finite ? best : 255;
    });
    team.barrier();
    team.each(1, [=, &memory](int) {
        double sum = 0;
        for (int image = 0; image < count; ++image) sum += memory.losses[image];
        losses[block] = sum;
    });
    team.barrier();
}

}  // namespace lecun_ablate
