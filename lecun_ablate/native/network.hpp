// The 1989 network and one step of on-line gradient descent, for one replica on one core.
//
//     image   1 plane  16x16   padded by 2
//     H1     12 planes  8x8    5x5 convolution with stride 2; padded by 2
//     H2     12 planes  4x4    5x5 convolution with stride 2, over the H1 planes that each sees
//     H3     30 units          dense, over the 192 units of H2
//     output 10 units          dense
//
// Vectors run over the planes of H1. The H1 values of one position stand side by side in memory, a
// row of 12 planes, so that one pixel, or one H2 delta, multiplies all planes at once. Where a
// vector has 8 lanes, the row ends with its first 4 planes again (0..11, 0..3): any 8 planes from
// plane 0, 4 or 8 on are then one vector, the last of them wrapping around.
//
// H2 sees H1 through windows; a window is one vector's worth of neighbouring planes. A group of H2
// planes opens as few windows as show all that its planes see; what a plane does not see is masked
// out of its updates, so that those weights stay 0. Every connectivity is the same code.
//
// In the inner loops every sum lives in a register: two FMA units with a latency of 4 cycles need
// 8 independent sums, and each value that is loaded should serve several of them.
#pragma once

#include "kernel.hpp"
#include "simd.hpp"

namespace lecun_ablate {
namespace {

constexpr int kPlanes = 12, kKernel = 5, kTaps = kKernel * kKernel, kStride = 2, kPad = 2;
constexpr int kImage = 16, kImagePadded = kImage + 2 * kPad;
constexpr int kH1 = 8, kH1Padded = 11;  // the last padding row and column are never read
constexpr int kH2 = 4, kH2Map = kH2 * kH2, kH2Units = kPlanes * kH2Map;
constexpr int kH3 = 30;

constexpr int divide_up(int n, int by) { return (n + by - 1) / by; }

// The largest divisor of n that is at most `most`.
constexpr int divisor(int n, int most) {
    for (int d = most; d > 1; --d)
        if (n % d == 0) return d;
    return 1;
}

template <class T, int lanes, int registers>
class Network {
public:
    explicit Network(const Choices& choices)
        : learning_rate_(T(choices.learning_rate)),
          momentum_(T(choices.momentum)),
          loss_(choices.loss),
          hidden_(activation<false>(choices.hidden)),
          hidden_with_slopes_(activation<true>(choices.hidden)),
          output_(activation<false>(choices.output)),
          output_with_slopes_(activation<true>(choices.output)) {
        for (int i = 0; i < 10 * kOutputs; ++i) targets_[i] = T(choices.targets[i]);
        for (T& x : image_) x = T(choices.padding);
        for (T& x : h1_) x = T(choices.padding);
        open_windows(choices.connected);
    }

    void load(const T* parameters, const T* velocity) {
        visit(weights_, [&](T& lane, int i) { lane = parameters[i]; });
        if (velocity) visit(velocity_, [&](T& lane, int i) { lane = velocity[i]; });
    }

    void store(T* parameters, T* velocity) {
        visit(weights_, [&](T& lane, int i) { parameters[i] = lane; });
        if (velocity) visit(velocity_, [&](T& lane, int i) { velocity[i] = lane; });
    }

    // Prepares for evaluate(), after which there is no more training. What the padding adds to a
    // unit does not depend on the image: it is what the unit gets where all else is 0. Adding it to
    // the bias, once, saves a seventh of H1's and a quarter of H2's arithmetic for every image.
    void fold_padding() {
        for (int y = kPad; y < kPad + kImage; ++y)
            for (int x = kPad; x < kPad + kImage; ++x) image_[y * kImagePadded + x] = 0;
        h1_forward<true>();
        for (int y = 0; y < kH1; ++y) {
            T* row = h1_at(y + kPad, kPad);
            std::memcpy(weights_.h1_bias + y * kH1 * kRowVectors, row, kH1 * kRow * sizeof(T));
            std::memset(row, 0, kH1 * kRow * sizeof(T));
        }
        h2_forward<true>();
        std::memcpy(weights_.h2_bias, h2_, sizeof h2_);
    }

    // image: (16, 16). Returns the outputs, (10,).
    const T* evaluate(const T* image) {
        forward<false>(image, hidden_, output_);
        return scalars(out_);
    }

    // One pattern: forward, backward, update.
    template <bool momentum>
    void train(const T* image, int label) {
        forward<true>(image, hidden_with_slopes_, output_with_slopes_);
        const Update<momentum> update = {-learning_rate_, momentum_};
        output_delta(label, momentum ? T(1) : -learning_rate_);
        // a layer's deltas are taken with the weights of the one above before these change
        dense_backward(update, scalars(h3_), weights_.out_weight, velocity_.out_weight, out_delta_,
                       h3_slope_, h3_delta_);
        dense_backward(update, scalars(h2_), weights_.h3_weight, velocity_.h3_weight, h3_delta_,
                       h2_slope_, h2_delta_);
        h1_backward();
        update_h1_weights(update);
        update_h2_weights(update);
        update_biases(update, weights_.h1_bias, velocity_.h1_bias, h1_delta_);
        update_biases(update, weights_.h2_bias, velocity_.h2_bias, h2_delta_);
        update_biases(update, weights_.h3_bias, velocity_.h3_bias, h3_delta_);
        update_biases(update, weights_.out_bias, velocity_.out_bias, out_delta_);
    }

private:
    using V = typename VectorTypes<T, lanes>::Vector;
    using Unaligned = typename VectorTypes<T, lanes>::Unaligned;
    using Mask = typename VectorTypes<T, lanes>::Mask;

    static constexpr bool kWraps = lanes == 8;
    static constexpr int kRow = lanes >= 8 ? 16 : kPlanes;  // H1 values of one position
    static constexpr int kRowVectors = kRow / lanes;
    static constexpr int kGroup = registers >= 32 ? 4 : 2;  // H2 planes computed together
    static constexpr int kGroups = kPlanes / kGroup;
    static constexpr int kWindowStep = lanes < 4 ? lanes : 4;  // places between windows
    static constexpr int kWindows = (kRow - lanes) / kWindowStep + 1;
    static constexpr int kH2Vectors = kH2Units / lanes;
    static constexpr int kH3Vectors = divide_up(kH3, lanes);
    static constexpr int kOutVectors = divide_up(kOutputs, lanes);
    static constexpr int kSums = registers >= 32 ? 24 : 10;  // that fit into registers

    struct Parameters {
        V h1_weight[kTaps][kRowVectors];
        V h1_bias[kH1 * kH1 * kRowVectors];  // one per unit
        V h2_weight[kGroups][kWindows][kTaps][kGroup];  // of open windows only
        V h2_bias[kH2Vectors];  // one per unit
        V h3_weight[kH2Units][kH3Vectors];
        V h3_bias[kH3Vectors];
        V out_weight[kH3Vectors * lanes][kOutVectors];  // rows past kH3 stay 0
        V out_bias[kOutVectors];
    };

    // How weights move. Without momentum the deltas carry the factor -lr already, and the updates
    // are summed into the weight itself; with momentum they are summed into the velocity.
    template <bool momentum>
    struct Update {
        T rate, decay;
        ALWAYS_INLINE V begin(V weight, V velocity) const {
            return momentum ? decay * velocity : weight;
        }
        ALWAYS_INLINE void end(V& weight, V& velocity, V sum) const {
            if constexpr (momentum) {
                velocity = sum;
                weight += rate * sum;
            } else {
                weight = sum;
            }
        }
    };

    ALWAYS_INLINE static V broadcast(T x) { return x - V{}; }
    ALWAYS_INLINE static V at(const T* x) { return *(const Unaligned*)x; }
    static T* scalars(V* x) { return (T*)x; }

    T* h1_at(int y, int x) { return h1_ + (y * kH1Padded + x) * kRow; }  // padded coordinates

    // ---- layout ------------------------------------------------------------------------------

    // The H1 plane at a place of a row, or -1 where there is none.
    static constexpr int plane_at(int place) {
        return place < kPlanes ? place : kWraps ? place - kPlanes : -1;
    }

    // The H1 plane in a lane of a window, or -1.
    static constexpr int plane_in(int window, int lane) {
        return plane_at(window * kWindowStep + lane);
    }

    void open_windows(const bool* connected) {
        for (int group = 0; group < kGroups; ++group) {
            const bool* sees = connected + group * kGroup * kPlanes;  // (kGroup, kPlanes)
            bool missing[kPlanes] = {};
            for (int i = 0; i < kGroup * kPlanes; ++i) missing[i % kPlanes] |= sees[i];
            const auto gain = [&](int window) {
                int n = 0;
                for (int lane = 0; lane < lanes; ++lane) {
                    const int plane = plane_in(window, lane);
                    n += plane >= 0 && missing[plane];
                }
                return n;
            };
            for (;;) {
                int best = 0;
                for (int window = 1; window < kWindows; ++window)
                    if (gain(window) > gain(best)) best = window;
                if (gain(best) == 0) break;
                open_[group][best] = true;
                for (int lane = 0; lane < lanes; ++lane) {
                    const int plane = plane_in(best, lane);
                    if (plane < 0 || !missing[plane]) continue;
                    missing[plane] = false;
                    for (int o = 0; o < kGroup; ++o)
                        seen_[group][best][o][lane] = sees[o * kPlanes + plane] ? -1 : 0;
                }
            }
        }
    }

    // Calls visit(lane, i) for every lane that holds the parameter i of the flat order.
    template <class Visit>
    void visit(Parameters& p, Visit visit) {
        int start = 0;
        for (int place = 0; place < kRow; ++place)
            if (const int plane = plane_at(place); plane >= 0)
                for (int tap = 0; tap < kTaps; ++tap)
                    visit(scalars(p.h1_weight[tap])[place], plane * kTaps + tap);
        start += kPlanes * kTaps;
        for (int place = 0; place < kRow; ++place)
            if (const int plane = plane_at(place); plane >= 0)
                for (int unit = 0; unit < kH1 * kH1; ++unit)
                    visit(scalars(p.h1_bias)[unit * kRow + place],
                          start + plane * kH1 * kH1 + unit);
        start += kPlanes * kH1 * kH1;
        for (int group = 0; group < kGroups; ++group)
            for (int window = 0; window < kWindows; ++window)
                for (int o = 0; o < kGroup; ++o)
                    for (int lane = 0; lane < lanes; ++lane) {
                        if (!seen_[group][window][o][lane]) continue;
                        const int pair =
                            (group * kGroup + o) * kPlanes + plane_in(window, lane);
                        for (int tap = 0; tap < kTaps; ++tap)
                            visit(scalars(&p.h2_weight[group][window][tap][o])[lane],
                                  start + pair * kTaps + tap);
                    }
        start += kPlanes * kPlanes * kTaps;
        const auto row = [&](V* vectors, int width) {
            for (int i = 0; i < width; ++i) visit(scalars(vectors)[i], start + i);
            start += width;
        };
        row(p.h2_bias, kH2Units);
        for (int unit = 0; unit < kH2Units; ++unit) row(p.h3_weight[unit], kH3);
        row(p.h3_bias, kH3);
        for (int unit = 0; unit < kH3; ++unit) row(p.out_weight[unit], kOutputs);
        row(p.out_bias, kOutputs);
    }

    // ---- activations -------------------------------------------------------------------------

    // values -> f(values) in place; f'(values) -> slopes, where they are wanted.
    using Activate = void (*)(V* values, V* slopes, int count);

    template <Activation kind, bool wanted>
    static void activate_all(V* values, V* slopes, int count) {
        for (int i = 0; i < count; ++i) {
            const auto y = activate<VectorMath<T, lanes>>(kind, values[i]);
            values[i] = y.value;
            if constexpr (wanted) slopes[i] = y.slope;
        }
    }

    template <bool slopes>
    static Activate activation(Activation kind) {
        switch (kind) {
            case Activation::tanh: return activate_all<Activation::tanh, slopes>;
            case Activation::scaled_tanh: return activate_all<Activation::scaled_tanh, slopes>;
            case Activation::lisht: return activate_all<Activation::lisht, slopes>;
            case Activation::sigmoid: return activate_all<Activation::sigmoid, slopes>;
            case Activation::relu: return activate_all<Activation::relu, slopes>;
            case Activation::leaky_relu: return activate_all<Activation::leaky_relu, slopes>;
            case Activation::softsign: return activate_all<Activation::softsign, slopes>;
            case Activation::gelu: return activate_all<Activation::gelu, slopes>;
            case Activation::silu: return activate_all<Activation::silu, slopes>;
            case Activation::identity: break;
        }
        return activate_all<Activation::identity, slopes>;
    }

    // ---- forward -----------------------------------------------------------------------------

    // `padding` says whether the padding is still to be multiplied; see fold_padding.
    template <bool padding>
    void forward(const T* image, Activate hidden, Activate output) {
        for (int y = 0; y < kImage; ++y)
            std::memcpy(image_ + (y + kPad) * kImagePadded + kPad, image + y * kImage,
                        kImage * sizeof(T));
        h1_forward<padding>();
        for (int y = 0; y < kH1; ++y)
            hidden((V*)h1_at(y + kPad, kPad), h1_slope_ + y * kH1 * kRowVectors,
                   kH1 * kRowVectors);
        h2_forward<padding>();
        hidden(h2_, h2_slope_, kH2Vectors);
        dense_forward<kH2Units>(scalars(h2_), weights_.h3_weight, weights_.h3_bias, h3_);
        hidden(h3_, h3_slope_, kH3Vectors);
        for (int i = kH3; i < kH3Vectors * lanes; ++i) scalars(h3_)[i] = 0;
        dense_forward<kH3>(scalars(h3_), weights_.out_weight, weights_.out_bias, out_);
        output(out_, out_slope_, kOutVectors);
    }

    // Whether a padded coordinate lies in a map of `size`, not in its padding.
    static constexpr bool inside(int coordinate, int size) {
        return kPad <= coordinate && coordinate < kPad + size;
    }

    template <bool padding>
    void h1_forward() {
        constexpr int parts = divide_up(kH1 * kRowVectors, kSums);  // of a row of units
        constexpr int width = divide_up(kH1, parts);
        for (int y = 0; y < kH1; ++y)
            unroll<parts>([&](auto part) ALWAYS_INLINE {
                constexpr int x0 = part * width;
                constexpr int units = x0 + width <= kH1 ? width : kH1 - x0;
                const V* bias = weights_.h1_bias + (y * kH1 + x0) * kRowVectors;
                V sum[units][kRowVectors];
                unroll<units>([&](auto x) ALWAYS_INLINE {
                    unroll<kRowVectors>([&](auto v) ALWAYS_INLINE {
                        sum[x][v] = bias[x * kRowVectors + v];
                    });
                });
                for (int ky = 0; ky < kKernel; ++ky) {
                    if (!padding && !inside(kStride * y + ky, kImage)) continue;
                    const T* pixels = image_ + (kStride * y + ky) * kImagePadded + kStride * x0;
                    unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                        V weight[kRowVectors];
                        unroll<kRowVectors>([&](auto v) ALWAYS_INLINE {
                            weight[v] = weights_.h1_weight[ky * kKernel + kx][v];
                        });
                        unroll<units>([&](auto x) ALWAYS_INLINE {
                            constexpr int column = kStride * (x0 + x) + kx;
                            if constexpr (padding || inside(column, kImage)) {
                                const V pixel = broadcast(pixels[kStride * x + kx]);
                                unroll<kRowVectors>([&](auto v) ALWAYS_INLINE {
                                    sum[x][v] += weight[v] * pixel;
                                });
                            }
                        });
                    });
                }
                V* out = (V*)h1_at(y + kPad, x0 + kPad);
                unroll<units>([&](auto x) ALWAYS_INLINE {
                    unroll<kRowVectors>([&](auto v) ALWAYS_INLINE {
                        out[x * kRowVectors + v] = sum[x][v];
                    });
                });
            });
    }

    template <bool padding>
    void h2_forward() {
        V partial[kH2Units];  // each unit's sum, still spread over the lanes
        for (int group = 0; group < kGroups; ++group)
            for (int y = 0; y < kH2; ++y) {
                V sum[kGroup][kH2] = {};
                for (int window = 0; window < kWindows; ++window) {
                    if (!open_[group][window]) continue;
                    for (int ky = 0; ky < kKernel; ++ky) {
                        if (!padding && !inside(kStride * y + ky, kH1)) continue;
                        const T* row = h1_at(kStride * y + ky, 0) + window * kWindowStep;
                        const auto* weight =
                            weights_.h2_weight[group][window] + ky * kKernel;
                        unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                            V in[kH2];
                            unroll<kH2>([&](auto x) ALWAYS_INLINE {
                                in[x] = at(row + (kStride * x + kx) * kRow);
                            });
                            unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                                const V w = weight[kx][o];
                                unroll<kH2>([&](auto x) ALWAYS_INLINE {
                                    if constexpr (padding || inside(kStride * x + kx, kH1))
                                        sum[o][x] += w * in[x];
                                });
                            });
                        });
                    }
                }
                unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                    V* map = partial + (group * kGroup + o) * kH2Map + y * kH2;
                    unroll<kH2>([&](auto x) ALWAYS_INLINE { map[x] = sum[o][x]; });
                });
            }
        for (int i = 0; i < kH2Vectors; ++i)
            h2_[i] = weights_.h2_bias[i] + sum_lanes<lanes>(partial + i * lanes);
    }

    // in: (rows,); weight: (rows, vectors) -> out: (vectors,)
    template <int rows, class Weight, int vectors>
    static void dense_forward(const T* in, const Weight* weight, const V (&bias)[vectors],
                              V (&out)[vectors]) {
        constexpr int chains = divisor(rows, kSums / vectors);  // independent sums of each vector
        V sum[chains][vectors] = {};
        for (int row = 0; row < rows; row += chains)
            unroll<chains>([&](auto c) ALWAYS_INLINE {
                const V x = broadcast(in[row + c]);
                unroll<vectors>([&](auto v) ALWAYS_INLINE { sum[c][v] += weight[row + c][v] * x; });
            });
        unroll<vectors>([&](auto v) ALWAYS_INLINE {
            V total = bias[v];
            unroll<chains>([&](auto c) ALWAYS_INLINE { total += sum[c][v]; });
            out[v] = total;
        });
    }

    // ---- backward: a delta is the derivative of the loss by a unit's weighted input ------------

    void output_delta(int label, T scale) {
        T gradient[kOutputs];
        loss_gradient<VectorMath<T, lanes>>(loss_, scalars(out_), targets_ + label * kOutputs,
                                            gradient);
        for (int i = 0; i < kOutputs; ++i)
            scalars(out_delta_)[i] = gradient[i] * scalars(out_slope_)[i] * scale;
    }

    // Updates the weights between `in` and the layer of `delta`, and returns in's own deltas.
    template <class Rule, int rows, int vectors, int blocks>
    static void dense_backward(Rule update, const T* in, V (&weight)[rows][vectors],
                               V (&velocity)[rows][vectors], const V (&delta)[vectors],
                               const V (&in_slope)[blocks], V (&in_delta)[blocks]) {
        V d[vectors];
        unroll<vectors>([&](auto v) ALWAYS_INLINE { d[v] = delta[v]; });
        for (int block = 0; block < blocks; ++block) {
            V partial[lanes];
            unroll<lanes>([&](auto lane) ALWAYS_INLINE {
                const int row = block * lanes + lane;
                const V x = broadcast(in[row]);
                V sum = {};
                unroll<vectors>([&](auto v) ALWAYS_INLINE {
                    V& w = weight[row][v];
                    sum += w * d[v];
                    update.end(w, velocity[row][v], update.begin(w, velocity[row][v]) + d[v] * x);
                });
                partial[lane] = sum;
            });
            in_delta[block] = sum_lanes<lanes>(partial) * in_slope[block];
        }
    }

    void h1_backward() {
        for (V& delta : h1_delta_) delta = V{};
        for (int window = 0; window < kWindows; ++window)
            for (int y = 0; y < kH1; ++y) {
                T* row = scalars(h1_delta_) + y * kH1 * kRow + window * kWindowStep;
                V sum[kH1];
                unroll<kH1>([&](auto x) ALWAYS_INLINE { sum[x] = at(row + x * kRow); });
                for (int group = 0; group < kGroups; ++group) {
                    if (!open_[group][window]) continue;
                    // the H2 rows v whose kernel covers row y: 2 v + ky = y + 2, 0 <= ky < 5
                    for (int v = (y - 1) / 2; v <= (y + kPad) / 2 && v < kH2; ++v) {
                        const auto* weight = weights_.h2_weight[group][window] +
                                             (y + kPad - kStride * v) * kKernel;
                        const T* delta =
                            scalars(h2_delta_) + group * kGroup * kH2Map + v * kH2;
                        unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                            V d[kH2];
                            unroll<kH2>([&](auto u) ALWAYS_INLINE {
                                d[u] = broadcast(delta[o * kH2Map + u]);
                            });
                            unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                                const V w = weight[kx][o];
                                unroll<kH2>([&](auto u) ALWAYS_INLINE {
                                    constexpr int x = kStride * u + kx - kPad;
                                    if constexpr (x >= 0 && x < kH1) sum[x] += w * d[u];
                                });
                            });
                        });
                    }
                }
                unroll<kH1>([&](auto x) ALWAYS_INLINE { *(Unaligned*)(row + x * kRow) = sum[x]; });
            }
        for (int unit = 0; unit < kH1 * kH1; ++unit) {
            V* delta = h1_delta_ + unit * kRowVectors;
            if constexpr (kWraps) {
                // the two copies of planes 0..3 are one: give both the sum of their deltas
                const V tail = __builtin_shufflevector(delta[1], V{}, 4, 5, 6, 7, 8, 8, 8, 8);
                delta[0] += tail;
                delta[1] = __builtin_shufflevector(delta[1], delta[0], 0, 1, 2, 3, 8, 9, 10, 11);
            }
            for (int v = 0; v < kRowVectors; ++v) delta[v] *= h1_slope_[unit * kRowVectors + v];
        }
    }

    // ---- updates -----------------------------------------------------------------------------

    template <class Rule, int n>
    static void update_biases(Rule update, V (&bias)[n], V (&velocity)[n], const V (&delta)[n]) {
        for (int i = 0; i < n; ++i)
            update.end(bias[i], velocity[i], update.begin(bias[i], velocity[i]) + delta[i]);
    }

    template <class Rule>
    void update_h2_weights(Rule update) {
        for (int group = 0; group < kGroups; ++group)
            for (int window = 0; window < kWindows; ++window) {
                if (!open_[group][window]) continue;
                for (int ky = 0; ky < kKernel; ++ky) {
                    auto* weight = weights_.h2_weight[group][window] + ky * kKernel;
                    auto* velocity = velocity_.h2_weight[group][window] + ky * kKernel;
                    V sum[kKernel][kGroup];
                    unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                        unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                            sum[kx][o] = update.begin(weight[kx][o], velocity[kx][o]);
                        });
                    });
                    for (int y = 0; y < kH2; ++y) {
                        const T* row = h1_at(kStride * y + ky, 0) + window * kWindowStep;
                        const T* delta = scalars(h2_delta_) + group * kGroup * kH2Map + y * kH2;
                        unroll<kH2>([&](auto x) ALWAYS_INLINE {
                            V d[kGroup];
                            unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                                d[o] = broadcast(delta[o * kH2Map + x]);
                            });
                            unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                                const V in = at(row + (kStride * x + kx) * kRow);
                                unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                                    sum[kx][o] += d[o] * in;
                                });
                            });
                        });
                    }
                    unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                        unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                            const V seen = (V)((Mask)sum[kx][o] & seen_[group][window][o]);
                            update.end(weight[kx][o], velocity[kx][o], seen);
                        });
                    });
                }
            }
    }

    template <class Rule>
    void update_h1_weights(Rule update) {
        constexpr int parts = divide_up(kKernel * kRowVectors, kSums);  // of a row of the kernel
        constexpr int width = divide_up(kKernel, parts);
        for (int ky = 0; ky < kKernel; ++ky)
            unroll<parts>([&](auto part) ALWAYS_INLINE {
                constexpr int kx0 = part * width;
                constexpr int taps = kx0 + width <= kKernel ? width : kKernel - kx0;
                auto* weight = weights_.h1_weight + ky * kKernel + kx0;
                auto* velocity = velocity_.h1_weight + ky * kKernel + kx0;
                V sum[taps][kRowVectors];
                unroll<taps>([&](auto kx) ALWAYS_INLINE {
                    unroll<kRowVectors>([&](auto v) ALWAYS_INLINE {
                        sum[kx][v] = update.begin(weight[kx][v], velocity[kx][v]);
                    });
                });
                for (int y = 0; y < kH1; ++y) {
                    const T* pixels = image_ + (kStride * y + ky) * kImagePadded + kx0;
                    const V* delta = h1_delta_ + y * kH1 * kRowVectors;
                    unroll<kH1>([&](auto x) ALWAYS_INLINE {
                        unroll<taps>([&](auto kx) ALWAYS_INLINE {
                            const V pixel = broadcast(pixels[kStride * x + kx]);
                            unroll<kRowVectors>([&](auto v) ALWAYS_INLINE {
                                sum[kx][v] += delta[x * kRowVectors + v] * pixel;
                            });
                        });
                    });
                }
                unroll<taps>([&](auto kx) ALWAYS_INLINE {
                    unroll<kRowVectors>([&](auto v) ALWAYS_INLINE {
                        update.end(weight[kx][v], velocity[kx][v], sum[kx][v]);
                    });
                });
            });
    }

    // ---- what a network consists of ----------------------------------------------------------

    T learning_rate_, momentum_;
    Loss loss_;
    Activate hidden_, hidden_with_slopes_, output_, output_with_slopes_;
    T targets_[10 * kOutputs];  // [label, output]
    bool open_[kGroups][kWindows] = {};          // whether a group looks through a window
    Mask seen_[kGroups][kWindows][kGroup] = {};  // what each of its planes sees there

    Parameters weights_ = {}, velocity_ = {};

    alignas(64) T image_[kImagePadded * kImagePadded];           // padded
    alignas(64) T h1_[kH1Padded * kH1Padded * kRow];             // padded; (y, x, place)
    V h1_slope_[kH1 * kH1 * kRowVectors], h1_delta_[kH1 * kH1 * kRowVectors];  // (y, x, place)
    V h2_[kH2Vectors], h2_slope_[kH2Vectors], h2_delta_[kH2Vectors];           // (plane, y, x)
    V h3_[kH3Vectors], h3_slope_[kH3Vectors], h3_delta_[kH3Vectors];
    V out_[kOutVectors], out_slope_[kOutVectors], out_delta_[kOutVectors] = {};
};

}  // namespace
}  // namespace lecun_ablate
