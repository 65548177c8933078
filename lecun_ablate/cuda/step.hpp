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
// On a GPU the loads from shared memory are what costs most, so a task computes a small tile of
// results in registers and uses every value that it loads several times.
#pragma once

#include "elementary.hpp"

namespace lecun_ablate {

constexpr int kPlanes = 12, kKernel = 5, kStride = 2, kPad = 2;
constexpr int kImage = 16, kPixels = kImage * kImage;
constexpr int kH1 = 8;
constexpr int kH2 = 4, kH2Map = kH2 * kH2, kH2Units = kPlanes * kH2Map;
constexpr int kH3 = 30;
constexpr int kTile = 4;                                     // units of a row computed together
constexpr int kTileInputs = kStride * (kTile - 1) + kKernel;  // what they see of an input row

// The layout of initial.SHAPES, tensor after tensor.
template <class T>
struct Parameters {
    T h1_weight[kPlanes][kKernel][kKernel];
    T h1_bias[kPlanes][kH1][kH1];
    T h2_weight[kPlanes][kPlanes][kKernel][kKernel];  // [H2 plane][H1 plane]; 0 where unconnected
    T h2_bias[kH2Units];
    T h3_weight[kH2Units][kH3];
    T h3_bias[kH3];
    T out_weight[kH3][kOutputs];
    T out_bias[kOutputs];
};

template <class T>
constexpr int kParameters = sizeof(Parameters<T>) / sizeof(T);
static_assert(kParameters<float> == 10960, "one number per trainable tensor element, no gaps");

// What a run is told, beside its weights: read from global memory.
template <class T>
struct Settings {
    double targets[10][kOutputs];  // [label][output]
    T learning_rate, momentum, padding;
    bool connected[kPlanes][kPlanes];  // [H2 plane][H1 plane]
};

constexpr int kH2Slices = 3, kSlicePlanes = kPlanes / kH2Slices;  // H1 planes of one partial sum
constexpr int kH3Slices = 6, kSliceUnits = kH2Units / kH3Slices;

// The fast memory of a forward pass.
template <class T>
struct alignas(16) ForwardMemory {
    Parameters<T> weights;
    T image[kImage + kPad + 1][kImage + 2 * kPad];
    // Padded planes one below the other; the padding below a plane is the padding above the next.
    T h1[kPlanes * (kH1 + kPad) + 1][kH1 + 2 * kPad];
    T h2_sums[kH2Slices][kH2Units];  // the units' partial sums, then in the first row their values
    T h3[kH3];
    T out[kOutputs];
    bool connected[kPlanes][kPlanes];

    LECUN_FORMULA T* h2() { return h2_sums[0]; }
    LECUN_FORMULA T* h3_sums() { return h2_sums[2]; }  // free again by then
    LECUN_FORMULA T (*h1_plane(int plane))[kH1 + 2 * kPad] { return h1 + plane * (kH1 + kPad); }
};

// The deltas: derivatives of the loss by the units' weighted inputs. The forward pass leaves the
// slopes of the activations in their places.
template <class T>
struct TrainingMemory : ForwardMemory<T> {
    static constexpr bool kTraining = true;
    T h1_delta[kPlanes][kH1][kH1];
    T h3_delta[kH3];
    T out_delta[kOutputs];

    LECUN_FORMULA T* h2_delta() { return this->h2_sums[1]; }
};

constexpr int kImagesPerBlock = 32;  // that one team evaluates

template <class T>
struct EvaluationMemory : ForwardMemory<T> {
    static constexpr bool kTraining = false;
    double outputs[kImagesPerBlock][kOutputs];
    double losses[kImagesPerBlock];  // always computed in double precision
};

// `Choices` holds what a kernel is compiled for: the type Scalar, and the values hidden, output
// (Activation), loss (Loss) and momentum (bool).
template <class Choices, class Team, class Memory>
class Network {
    using T = typename Choices::Scalar;
    using Math = ElementaryMath<T>;

public:
    LECUN_FORMULA Network(Team team, Memory& memory, T* velocity, const Settings<T>& settings)
        : team_(team),
          m_(memory),
          velocity_(velocity),
          settings_(settings),
          rate_(-settings.learning_rate),
          momentum_(settings.momentum) {}

    // Fills the memory that every step finds as it is: weights, connections, padding.
    LECUN_FORMULA void load(const T* parameters, const T* velocity) {
        team_.each(kParameters<T>, [=, this](int i) {
            flat(m_.weights)[i] = parameters[i];
            if (Choices::momentum && Memory::kTraining) velocity_[i] = velocity[i];
        });
        team_.each(kPlanes * kPlanes, [=, this](int i) {
            const int out = i / kPlanes, in = i % kPlanes;
            m_.connected[out][in] = settings_.connected[out][in];
        });
        team_.each(sizeof m_.image / sizeof(T),
                   [=, this](int i) { flat(m_.image)[i] = settings_.padding; });
        team_.each(sizeof m_.h1 / sizeof(T),
                   [=, this](int i) { flat(m_.h1)[i] = settings_.padding; });
        team_.barrier();
    }

    LECUN_FORMULA void store(T* parameters, T* velocity) {
        team_.each(kParameters<T>, [=, this](int i) {
            parameters[i] = flat(m_.weights)[i];
            if (Choices::momentum) velocity[i] = velocity_[i];
        });
        team_.barrier();
    }

    // image: (16, 16)
    LECUN_FORMULA void forward(const T* image) {
        team_.each(kPixels, [=, this](int i) {
            m_.image[i / kImage + kPad][i % kImage + kPad] = image[i];
        });
        team_.barrier();
        h1_forward();
        team_.barrier();
        h2_partial_sums();
        team_.barrier();
        team_.each(kH2Units, [=, this](int i) {
            T sum = m_.weights.h2_bias[i];
#pragma unroll
            for (int slice = 0; slice < kH2Slices; ++slice) sum += m_.h2_sums[slice][i];
            const auto unit = activate<Math>(Choices::hidden, sum);
            m_.h2()[i] = unit.value;
            if constexpr (Memory::kTraining) m_.h2_delta()[i] = unit.slope;
        });
        team_.barrier();
        team_.each(kH3Slices * kH3, [=, this](int task) {
            const int first = task / kH3 * kSliceUnits, unit = task % kH3;
            T sum = 0;
#pragma unroll 8
            for (int i = 0; i < kSliceUnits; ++i)
                sum = fused(m_.h2()[first + i], m_.weights.h3_weight[first + i][unit], sum);
            m_.h3_sums()[task] = sum;
        });
        team_.barrier();
        team_.each(kH3, [=, this](int i) {
            T sum = m_.weights.h3_bias[i];
#pragma unroll
            for (int slice = 0; slice < kH3Slices; ++slice) sum += m_.h3_sums()[slice * kH3 + i];
            const auto unit = activate<Math>(Choices::hidden, sum);
            m_.h3[i] = unit.value;
            if constexpr (Memory::kTraining) m_.h3_delta[i] = unit.slope;
        });
        team_.barrier();
        team_.each(kOutputs, [=, this](int i) {
            T sum = m_.weights.out_bias[i];
#pragma unroll 10
            for (int j = 0; j < kH3; ++j) sum = fused(m_.h3[j], m_.weights.out_weight[j][i], sum);
            const auto unit = activate<Math>(Choices::output, sum);
            m_.out[i] = unit.value;
            if constexpr (Memory::kTraining) m_.out_delta[i] = unit.slope;
        });
        team_.barrier();
    }

    // One pattern: forward, backward, update. A layer's deltas are taken with the weights above it
    // before these change.
    LECUN_FORMULA void train(const T* image, int label) {
        forward(image);
        output_deltas(label);
        team_.barrier();
        dense_backward(m_.out_delta, m_.weights.out_weight, m_.h3, m_.h3_delta, m_.weights.h3_bias);
        team_.barrier();
        dense_backward(m_.h3_delta, m_.weights.h3_weight, m_.h2(), m_.h2_delta(),
                       m_.weights.h2_bias);
        team_.barrier();
        h1_deltas();
        team_.barrier();
        update_kernels();
        team_.barrier();
    }

private:
    template <class Struct>
    LECUN_FORMULA static T* flat(Struct& tensors) {
        return reinterpret_cast<T*>(&tensors);
    }

    // w -= lr v with v = momentum v + gradient
    LECUN_FORMULA void update(T& weight, T gradient) {
        if (Choices::momentum) {
            T& velocity = velocity_[&weight - flat(m_.weights)];
            velocity = fused(momentum_, velocity, gradient);
            gradient = velocity;
        }
        weight = fused(rate_, gradient, weight);
    }

    // Adds to each sum[x] what one row of a kernel makes of one row of inputs, from 2 x on.
    LECUN_FORMULA static void convolve_row(T (&sum)[kTile], const T* row, const T* weight) {
        T in[kTileInputs];
#pragma unroll
        for (int x = 0; x < kTileInputs; ++x) in[x] = row[x];
#pragma unroll
        for (int kx = 0; kx < kKernel; ++kx) {
            const T w = weight[kx];
#pragma unroll
            for (int x = 0; x < kTile; ++x) sum[x] = fused(in[kStride * x + kx], w, sum[x]);
        }
    }

    // A task: half a row of one plane.
    LECUN_FORMULA void h1_forward() {
        constexpr int halves = kH1 / kTile;
        team_.each(kPlanes * kH1 * halves, [=, this](int task) {
            const int plane = task / (kH1 * halves), y = task / halves % kH1;
            const int x0 = task % halves * kTile;
            T sum[kTile] = {};
#pragma unroll
            for (int ky = 0; ky < kKernel; ++ky)
                convolve_row(sum, m_.image[kStride * y + ky] + kStride * x0,
                             m_.weights.h1_weight[plane][ky]);
#pragma unroll
            for (int x = 0; x < kTile; ++x) {
                const T input = sum[x] + m_.weights.h1_bias[plane][y][x0 + x];
                const auto unit = activate<Math>(Choices::hidden, input);
                m_.h1_plane(plane)[y + kPad][x0 + x + kPad] = unit.value;
                if constexpr (Memory::kTraining) m_.h1_delta[plane][y][x0 + x] = unit.slope;
            }
        });
    }

    // A task: a row of one plane, over a third of the planes of H1.
    LECUN_FORMULA void h2_partial_sums() {
        team_.each(kH2Slices * kPlanes * kH2, [=, this](int task) {
            const int slice = task / (kPlanes * kH2), plane = task / kH2 % kPlanes, y = task % kH2;
            T sum[kTile] = {};
#pragma unroll 1
            for (int in = slice * kSlicePlanes; in < (slice + 1) * kSlicePlanes; ++in) {
                if (!m_.connected[plane][in]) continue;
#pragma unroll
                for (int ky = 0; ky < kKernel; ++ky)
                    convolve_row(sum, m_.h1_plane(in)[kStride * y + ky],
                                 m_.weights.h2_weight[plane][in][ky]);
            }
#pragma unroll
            for (int x = 0; x < kTile; ++x)
                m_.h2_sums[slice][plane * kH2Map + y * kH2 + x] = sum[x];
        });
    }

    LECUN_FORMULA void output_deltas(int label) {
        team_.each(kOutputs, [=, this](int i) {
            T targets[kOutputs], gradient[kOutputs];
#pragma unroll
            for (int k = 0; k < kOutputs; ++k) targets[k] = T(settings_.targets[label][k]);
            loss_gradient<Math>(Choices::loss, m_.out, targets, gradient);
            T own = 0;
#pragma unroll
            for (int k = 0; k < kOutputs; ++k)  // gradient[i], but kept in registers
                if (k == i) own = gradient[k];
            m_.out_delta[i] *= own;
            update(m_.weights.out_bias[i], m_.out_delta[i]);
        });
    }

    // Updates the weights between a layer and the one above, whose deltas are known, and the
    // layer's own biases, and makes deltas of the layer's slopes. A task: a unit of the layer.
    template <int units, int above>
    LECUN_FORMULA void dense_backward(const T* above_delta, T (&weights)[units][above],
                                      const T* value, T* delta, T* bias) {
        T (*weight)[above] = weights;
        team_.each(units, [=, this](int i) {
            // Loaded once: for all the compiler knows, a stored weight could change any of them.
            const T own = value[i];
            T sum = 0;
#pragma unroll 10
            for (int k = 0; k < above; ++k) {
                const T delta_above = above_delta[k];
                sum = fused(weight[i][k], delta_above, sum);
                update(weight[i][k], own * delta_above);
            }
            delta[i] *= sum;
            update(bias[i], delta[i]);
        });
    }

    // The unit of H1 at (y, x) reaches the units of H2 at (v, u) through the tap
    // (y + 2 - 2 v, x + 2 - 2 u). A task: the units at y = 2 a, 2 a + 1 in half a row of a plane.
    LECUN_FORMULA void h1_deltas() {
        constexpr int halves = kH1 / kTile, pairs = kH1 / 2;
        constexpr int near = 3, wide = kTile / 2 + 2;  // the units of H2 in reach: 3 rows of 4
        team_.each(kPlanes * pairs * halves, [=, this](int task) {
            const int plane = task / (pairs * halves), a = task / halves % pairs;
            const int half = task % halves;
            T sum[2][kTile] = {};
#pragma unroll 1
            for (int out = 0; out < kPlanes; ++out) {
                if (!m_.connected[out][plane]) continue;
                T delta[near][wide];
#pragma unroll
                for (int p = 0; p < near; ++p)
#pragma unroll
                    for (int q = 0; q < wide; ++q) {
                        const int v = a - 1 + p, u = half * kTile / 2 - 1 + q;
                        const bool inside = 0 <= v && v < kH2 && 0 <= u && u < kH2;
                        delta[p][q] = inside ? m_.h2_delta()[out * kH2Map + v * kH2 + u] : T(0);
                    }
#pragma unroll
                for (int ky = 0; ky < kKernel; ++ky)
#pragma unroll
                    for (int kx = 0; kx < kKernel; ++kx) {
                        const T w = m_.weights.h2_weight[out][plane][ky][kx];
                        // even taps reach the even rows, odd taps the odd rows; so with columns
                        const int dy = ky % 2, p = (dy + 4 - ky) / 2;
#pragma unroll
                        for (int x = kx % 2; x < kTile; x += 2)
                            sum[dy][x] = fused(w, delta[p][(x + 4 - kx) / 2], sum[dy][x]);
                    }
            }
#pragma unroll
            for (int dy = 0; dy < 2; ++dy)
#pragma unroll
                for (int x = 0; x < kTile; ++x) {
                    const int row = 2 * a + dy, column = half * kTile + x;
                    T& delta = m_.h1_delta[plane][row][column];
                    delta *= sum[dy][x];
                    update(m_.weights.h1_bias[plane][row][column], delta);
                }
        });
    }

    // Updates the weights of both convolutions. A task: one row of the kernels between 4 planes of
    // H2 and one of H1, or one row of a kernel of H1.
    LECUN_FORMULA void update_kernels() {
        constexpr int group = 4, h2_tasks = kPlanes / group * kPlanes * kKernel;
        team_.each(h2_tasks + kPlanes * kKernel, [=, this](int task) {
            if (task < h2_tasks)
                update_h2_kernels<group>(task / (kPlanes * kKernel) * group,
                                         task / kKernel % kPlanes, task % kKernel);
            else
                update_h1_kernel((task - h2_tasks) / kKernel, task % kKernel);
        });
    }

    template <int group>
    LECUN_FORMULA void update_h2_kernels(int first, int in, int ky) {
        T sum[group][kKernel] = {};
#pragma unroll 1
        for (int y = 0; y < kH2; ++y) {
            T row[kTileInputs];
#pragma unroll
            for (int x = 0; x < kTileInputs; ++x) row[x] = m_.h1_plane(in)[kStride * y + ky][x];
#pragma unroll
            for (int out = 0; out < group; ++out)
#pragma unroll
                for (int x = 0; x < kH2; ++x) {
                    const T delta = m_.h2_delta()[(first + out) * kH2Map + y * kH2 + x];
#pragma unroll
                    for (int kx = 0; kx < kKernel; ++kx)
                        sum[out][kx] = fused(row[kStride * x + kx], delta, sum[out][kx]);
                }
        }
#pragma unroll
        for (int out = 0; out < group; ++out)
            if (m_.connected[first + out][in])
#pragma unroll
                for (int kx = 0; kx < kKernel; ++kx)
                    update(m_.weights.h2_weight[first + out][in][ky][kx], sum[out][kx]);
    }

    LECUN_FORMULA void update_h1_kernel(int plane, int ky) {
        T sum[kKernel] = {};
#pragma unroll 1
        for (int y = 0; y < kH1; ++y) {
            const T* row = m_.image[kStride * y + ky];
#pragma unroll
            for (int x = 0; x < kH1; ++x) {
                const T delta = m_.h1_delta[plane][y][x];
#pragma unroll
                for (int kx = 0; kx < kKernel; ++kx)
                    sum[kx] = fused(row[kStride * x + kx], delta, sum[kx]);
            }
        }
#pragma unroll
        for (int kx = 0; kx < kKernel; ++kx)
            update(m_.weights.h1_weight[plane][ky][kx], sum[kx]);
    }

    Team team_;
    Memory& m_;
    T* velocity_;
    const Settings<T>& settings_;
    const T rate_, momentum_;
};

// Advances network `block` by one update per entry of its order. All arrays are of all networks.
//   parameters, velocity: (networks, 10960); settings: (networks,)
//   images: (patterns, 16, 16); labels: (patterns,)
//   orders: (any, steps), the row order_rows[network] of it; a network with row -1 rests
template <class Choices, class Team>
LECUN_FORMULA void train_network(
    Team team, unsigned network, TrainingMemory<typename Choices::Scalar>& memory,
    typename Choices::Scalar* fast_velocity, typename Choices::Scalar* parameters,
    typename Choices::Scalar* velocity, const Settings<typename Choices::Scalar>* settings,
    const typename Choices::Scalar* images, const int* labels, const int* orders,
    const int* order_rows, int steps) {
    using T = typename Choices::Scalar;
    if (order_rows[network] < 0) return;
    const int* order = orders + (long long)order_rows[network] * steps;
    const long long offset = (long long)network * kParameters<T>;
    T* own_velocity = Choices::momentum ? velocity + offset : nullptr;
    Network<Choices, Team, TrainingMemory<T>> net(team, memory, fast_velocity, settings[network]);
    net.load(parameters + offset, own_velocity);
    for (int step = 0; step < steps; ++step) {
        const int next = order[step + 1 < steps ? step + 1 : step];
        team.prefetch(images + (long long)next * kPixels, kPixels);
        team.prefetch(labels + next, 1);
        const int pattern = order[step];
        net.train(images + (long long)pattern * kPixels, labels[pattern]);
    }
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
    Network<Choices, Team, EvaluationMemory<T>> net(team, memory, nullptr, own);
    net.load(parameters + (long long)network * kParameters<T>, nullptr);
    for (int image = 0; image < count; ++image) {
        net.forward(images + (long long)(first + image) * kPixels);
        team.each(kOutputs, [=, &memory](int i) { memory.outputs[image][i] = memory.out[i]; });
    }
    team.barrier();
    team.each(count, [=, &memory, &own](int image) {
        const double* out = memory.outputs[image];
        memory.losses[image] = image_loss(Choices::loss, out, own.targets[labels[first + image]]);
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
