// The 1989 network and one step of on-line gradient descent, for one replica on one core.
//
//     image   1 plane  16x16   padded by 2
//     H1     12 planes  8x8    5x5 convolution with stride 2; padded by 2
//     H2     12 planes  4x4    5x5 convolution with stride 2, over some of the H1 planes
//     H3     30 units          fully connected to the 192 units of H2
//     output 10 units          fully connected
//
// Vectors run over the planes of H1 (layout.hpp), so that one pixel, or one delta of H2, multiplies
// all planes at once.
//
// H2 reads H1 through windows. A window is one vector of adjacent planes. A group of H2 planes
// opens as few windows as cover all planes that the group sees. Planes that an H2 plane does not
// see are masked out of its updates, so that their weights stay 0. This one code path serves every
// connectivity.
//
// Padding costs nothing. If the padding value p is subtracted from the input of a convolution, the
// padding becomes 0 and can be skipped: conv(x) = conv(x - p) + p * (sum of the weights). Likewise
// the gradient of a weight is the one for x - p, plus p times the sum of the deltas.
//
// The inner loops keep every sum in a register. Two FMA units with a latency of 4 cycles need 8
// independent sums, and each loaded value should be used in several of them.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kernel.hpp"
#include "layout.hpp"

namespace lecun_ablate {
namespace {

constexpr int divide_up(int n, int by) { return (n + by - 1) / by; }

// The largest divisor of n that is at most `most`.
constexpr int divisor(int n, int most) {
    for (int d = most; d > 1; --d)
        if (n % d == 0) return d;
    return 1;
}

// `lanes` is the length of the vectors of planes, `widest` that of the CPU's longest vectors.
template <class T, int lanes, int widest, int registers>
class Network {
public:
    explicit Network(const Choices& choices)
        : learning_rate_(T(choices.learning_rate)),
          momentum_(T(choices.momentum)),
          padding_(T(choices.padding)),
          leak_(T(choices.leak)),
          output_leak_(T(choices.output_leak)),
          loss_(choices.loss),
          own_loss_((LossGradient)choices.own_loss.with_slope),
          hidden_(activation<false>(choices.hidden, choices.own_hidden)),
          hidden_with_slopes_(activation<true>(choices.hidden, choices.own_hidden)),
          output_(activation<false>(choices.output, choices.own_output)),
          output_with_slopes_(activation<true>(choices.output, choices.own_output)) {
        for (int i = 0; i < 10 * kOutputs; ++i) targets_[i] = T(choices.targets[i]);
        open_windows(choices.connected);
    }

    void load(const T* parameters, const T* velocity) {
        visit(weights_, [&](T& lane, int i) { lane = parameters[i]; });
        if (velocity) visit(velocity_, [&](T& lane, int i) { lane = velocity[i]; });
        weigh_padding();
    }

    void store(T* parameters, T* velocity) {
        visit(weights_, [&](T& lane, int i) { parameters[i] = lane; });
        if (velocity) visit(velocity_, [&](T& lane, int i) { velocity[i] = lane; });
    }

    // image: (16, 16). Returns the outputs, (10,).
    const T* evaluate(const T* image) {
        forward(image, hidden_, output_);
        return scalars(out_);
    }

    // One pattern: forward, backward, update. kept: (192,) as in Epoch, or null.
    template <bool momentum>
    void train(const T* image, int label, const std::uint8_t* kept = nullptr) {
        forward(image, hidden_with_slopes_, output_with_slopes_, kept);
        output_delta(label, momentum ? T(1) : -learning_rate_);
        backward(Update<momentum>{-learning_rate_, momentum_}, weights_, velocity_);
        weigh_padding();
    }

    void set_learning_rate(double rate) { learning_rate_ = T(rate); }
    void set_dropout(double rate) { kept_scale_ = T(1 / (1 - rate)); }

    // ---- training by a method, in two parts: the gradient of a batch, then a step with it

    void load(const Tensors<T>& from) {
        load(from.parameters, nullptr);
        copy_in(velocity_, from.first);
        copy_in(more_->second, from.second);
        copy_in(more_->curvature, from.curvature);
        copy_in(more_->average, from.average);
        if (from.powers) beta1_power_ = from.powers[0], beta2_power_ = from.powers[1];
        more_->own = std::make_unique<Parameters[]>(from.own_count);
        for (int k = 0; k < from.own_count; ++k) {
            copy_in(more_->own[k], from.own[k]);
            more_->own_places.push_back(&more_->own[k]);
        }
        numbers_ = from.numbers;
        fresh_ = from.fresh;
        find_unused();
    }

    void store(const Tensors<T>& to) {
        store(to.parameters, nullptr);
        copy_out(velocity_, to.first);
        copy_out(more_->second, to.second);
        copy_out(more_->curvature, to.curvature);
        copy_out(more_->average, to.average);
        if (to.powers) to.powers[0] = beta1_power_, to.powers[1] = beta2_power_;
        for (int k = 0; k < to.own_count; ++k) copy_out(more_->own[k], to.own[k]);
    }

    // Adds a pattern to the gradient of the batch, and to its curvature where that is `running`.
    void add_pattern(const T* image, int label, const std::uint8_t* kept, bool first,
                     bool running) {
        forward(image, hidden_with_slopes_, output_with_slopes_, kept);
        output_delta(label, T(1));
        gather(first, weights_, more_->gradient);
        if (running) {
            if (first) square_weights();
            add_curvature(label, first);
        }
    }

    // Takes a step with what the patterns of the batch have added up to. `begins`: it is the first one
    // since `load`.
    void step(const Method& method, double rate, std::ptrdiff_t patterns, bool begins) {
        T* __restrict w = values(weights_);
        T* __restrict g = values(more_->gradient);
        const T share = T(1) / T(patterns), decay = T(method.weight_decay);
        if (patterns > 1) each_value([&](int i) ALWAYS_INLINE { g[i] *= share; });
        if (method.weight_decay != 0) each_value([&](int i) ALWAYS_INLINE { g[i] += decay * w[i]; });
        if (method.running) {
            T* __restrict h = values(more_->curvature);
            const T* __restrict now = values(more_->pattern_curvature);
            const T gamma = T(method.gamma);
            each_value([&](int i) ALWAYS_INLINE { h[i] += gamma * (now[i] * share - h[i]); });
        }
        if (method.own)
            apply_own(method.own, rate, fresh_ && begins);
        else
            apply_optimizer(method, T(rate), w, g);
        if (method.average != 0) {
            T* __restrict mean = values(more_->average);
            const T keep = T(method.average), rest = T(1 - method.average);
            each_value([&](int i) ALWAYS_INLINE { mean[i] = keep * mean[i] + rest * w[i]; });
        }
        weigh_padding();
    }

    // One pattern of sdlm whose curvature stays: every weight has a rate of its own.
    void train_scaled(const T* image, int label, const std::uint8_t* kept, double rate) {
        forward(image, hidden_with_slopes_, output_with_slopes_, kept);
        output_delta(label, -T(rate));
        backward(Scaled{}, weights_, more_->second);
        weigh_padding();
    }

    // Makes the rates of train_scaled: 1 / (mu + h).
    void scale_by_curvature(double mu) {
        T* __restrict scale = values(more_->second);
        const T* __restrict h = values(more_->curvature);
        for (int i = 0; i < kValues; ++i) scale[i] = T(1) / (T(mu) + h[i]);
    }

    // Writes the mean curvature over the patterns.
    void curvature(Patterns<T> patterns, T* h) {
        square_weights();
        for (std::ptrdiff_t i = 0; i < patterns.count; ++i) {
            forward(patterns.images + i * kImage * kImage, hidden_with_slopes_,
                    output_with_slopes_);
            add_curvature(int(patterns.labels[i]), i == 0);
        }
        for (int i = 0; i < kParameters; ++i) h[i] = 0;  // unconnected weights too
        visit(more_->pattern_curvature,
              [&](T& lane, int i) { h[i] = lane / T(patterns.count); });
    }

    // Makes room for what a method needs.
    void prepare_method() { more_ = std::make_unique<More>(); }

private:
    using V = typename VectorTypes<T, lanes>::Vector;
    using Unaligned = typename VectorTypes<T, lanes>::Unaligned;
    using Mask = typename VectorTypes<T, lanes>::Mask;

    using Planes = Layout<T, lanes>;

    static constexpr int kTileVectors = Planes::kTileVectors;
    static constexpr int kRowTiles = kH1 / Planes::kTileUnits;  // tiles of a row of H1's map
    static constexpr int kH1Vectors = kH1 * kRowTiles * kTileVectors;
    static constexpr int kRow = Planes::kRow, kWindows = Planes::kWindows;
    static constexpr int kGroup = registers >= 32 ? 4 : 2;  // H2 planes that are computed together
    static constexpr int kGroups = kPlanes / kGroup;
    static constexpr int kH2Vectors = kH2Units / lanes;
    static constexpr int kH3Vectors = divide_up(kH3, widest) * (widest / lanes);
    static constexpr int kOutVectors = divide_up(kOutputs, widest) * (widest / lanes);
    static constexpr int kSums = registers >= 32 ? 24 : 10;  // sums that fit into registers

    struct Parameters {
        V h1_weight[kTaps][kTileVectors];
        V h1_bias[kH1Vectors];  // one per unit
        V h2_weight[kGroups][kWindows][kTaps][kGroup];  // of open windows only
        V h2_bias[kH2Vectors];  // one per unit
        V h3_weight[kH2Units][kH3Vectors];
        V h3_bias[kH3Vectors];
        V out_weight[kH3Vectors * lanes][kOutVectors];  // rows past kH3 stay 0
        V out_bias[kOutVectors];
    };

    // The update rule of the weights. Without momentum, the deltas already include the factor -lr,
    // and updates are added to the weight itself. With momentum, they are added to the velocity.
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

    // A gradient by itself: summed up from 0, or added to what `velocity` has of the batch.
    template <bool first>
    struct Gather {
        ALWAYS_INLINE V begin(V, V gradient) const { return first ? V{} : gradient; }
        ALWAYS_INLINE void end(V&, V& gradient, V sum) const { gradient = sum; }
    };

    // A gradient times the rates of its weights, which `scale` holds.
    struct Scaled {
        ALWAYS_INLINE V begin(V, V) const { return V{}; }
        ALWAYS_INLINE void end(V& weight, V& scale, V sum) const { weight += scale * sum; }
    };

    // What only some methods need.
    struct More {
        Parameters gradient = {}, second = {}, average = {};
        Parameters curvature = {}, pattern_curvature = {}, squares = {};
        std::unique_ptr<Parameters[]> own;  // the states of an optimizer of the user's
        std::vector<void*> own_places;
        std::vector<int> ranges, unused;  // of places of values(); see find_unused
    };

    static constexpr int kValues = sizeof(Parameters) / sizeof(T);
    static T* values(Parameters& p) { return (T*)&p; }

    // Calls f(i) for each place of values() but those of windows that are not open.
    template <class F>
    ALWAYS_INLINE void each_value(F f) const {
        constexpr int window = kTaps * kGroup * lanes;
        constexpr int first = offsetof(Parameters, h2_weight) / sizeof(T);
        for (int i = 0; i < first; ++i) f(i);
        for (int group = 0; group < kGroups; ++group)
            for (int w = 0; w < kWindows; ++w) {
                if (!open_[group][w]) continue;
                const int begin = first + (group * kWindows + w) * window;
                for (int i = begin; i < begin + window; ++i) f(i);
            }
        for (int i = first + kGroups * kWindows * window; i < kValues; ++i) f(i);
    }

    // Lists the ranges of places that each_value visits, and the places in them of no parameter.
    void find_unused() {
        std::vector<bool> used(kValues);
        T* const begin = values(weights_);
        visit(weights_, [&](T& lane, int) { used[&lane - begin] = true; });
        auto& ranges = more_->ranges;
        each_value([&](int i) {
            if (ranges.empty() || ranges.back() != i) {
                ranges.push_back(i);
                ranges.push_back(i);
            }
            ranges.back() = i + 1;
            if (!used[i]) more_->unused.push_back(i);
        });
    }

    void copy_in(Parameters& to, const T* from) {
        if (from) visit(to, [&](T& lane, int i) { lane = from[i]; });
    }
    void copy_out(Parameters& from, T* to) {
        if (to) visit(from, [&](T& lane, int i) { to[i] = lane; });
    }

    ALWAYS_INLINE static V broadcast(T x) { return x - V{}; }
    ALWAYS_INLINE static V at(const T* x) { return *(const Unaligned*)x; }
    static T* scalars(V* x) { return (T*)x; }

    // in padded coordinates
    T* h1_at(int y, int x) { return h1_map_ + (y * kH1Padded + x) * kRow; }
    const T* window_at(int window, int y, int x) {
        return h1_at(y, x) + window * Planes::kWindowStep;
    }

    // ---- layout ------------------------------------------------------------------------------

    // The H1 plane in a lane of a window.
    static constexpr int plane_in(int window, int lane) {
        return Planes::plane_at(window * Planes::kWindowStep + lane);
    }

    void open_windows(const bool* connected) {
        for (int group = 0; group < kGroups; ++group) {
            const bool* sees = connected + group * kGroup * kPlanes;  // (kGroup, kPlanes)
            bool missing[kPlanes] = {};
            for (int i = 0; i < kGroup * kPlanes; ++i) missing[i % kPlanes] |= sees[i];
            const auto gain = [&](int window) {
                int n = 0;
                for (int lane = 0; lane < lanes; ++lane) n += missing[plane_in(window, lane)];
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
                    if (!missing[plane]) continue;
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
        for (int tap = 0; tap < kTaps; ++tap)
            for (int place = 0; place < kTileVectors * lanes; ++place)
                visit(scalars(p.h1_weight[tap])[place], place % kPlanes * kTaps + tap);
        start += kPlanes * kTaps;
        for (int unit = 0; unit < kH1Map; ++unit)
            for (int plane = 0; plane < kPlanes; ++plane)
                visit(scalars(p.h1_bias)[unit * kPlanes + plane], start + plane * kH1Map + unit);
        start += kPlanes * kH1Map;
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

    // Computes f(values) in place, and f'(values) into `slopes` if wanted. The arrays are dense, so
    // they use the longest vectors, even where the planes do not.
    using Wide = typename VectorTypes<T, widest>::Vector;
    using Activate = void (*)(Wide* values, Wide* slopes, int count, T leak);

    template <Activation kind, bool wanted>
    static void activate_all(Wide* values, Wide* slopes, int count, T leak) {
        for (int i = 0; i < count; ++i) {
            const auto y = activate<VectorMath<T, widest>>(kind, values[i], leak);
            values[i] = y.value;
            if constexpr (wanted) slopes[i] = y.slope;
        }
    }

    template <int n>
    ALWAYS_INLINE static void apply(Activate f, T leak, V (&values)[n], V (&slopes)[n]) {
        static_assert(n * lanes % widest == 0);
        f((Wide*)values, (Wide*)slopes, n * lanes / widest, leak);
    }

    template <bool slopes>
    static Activate activation(Activation kind, const Compiled& own) {
        if (own.value) return (Activate)(slopes ? own.with_slope : own.value);
#define LECUN_CASE(name) \
    case Activation::name: return activate_all<Activation::name, slopes>;
        switch (kind) {
            LECUN_ACTIVATIONS(LECUN_CASE)
            case Activation::own: break;
        }
#undef LECUN_CASE
        return activate_all<Activation::identity, slopes>;
    }

    // ---- forward -----------------------------------------------------------------------------

    void forward(const T* image, Activate hidden, Activate output,
                 const std::uint8_t* kept = nullptr) {
        for (int y = 0; y < kImage; ++y)
            for (int x = 0; x < kImage; ++x)
                image_[(y + kPad) * kImagePadded + kPad + x] = image[y * kImage + x] - padding_;
        h1_forward();
        apply(hidden, leak_, h1_, h1_slope_);
        lay_out_h1();
        h2_forward();
        apply(hidden, leak_, h2_, h2_slope_);
        if (kept) drop_out(kept);
        dense_forward<kH2Units>(scalars(h2_), weights_.h3_weight, weights_.h3_bias, h3_);
        apply(hidden, leak_, h3_, h3_slope_);
        for (int i = kH3; i < kH3Vectors * lanes; ++i) scalars(h3_)[i] = 0;
        dense_forward<kH3>(scalars(h3_), weights_.out_weight, weights_.out_bias, out_);
        apply(output, output_leak_, out_, out_slope_);
    }

    // Inverted dropout of H2's values; their slopes are those of what is left.
    void drop_out(const std::uint8_t* kept) {
        T* __restrict value = scalars(h2_);
        T* __restrict slope = scalars(h2_slope_);
        for (int i = 0; i < kH2Units; ++i) {
            const T factor = T(int(kept[i])) * kept_scale_;  // 0 or 1 times; without a branch
            value[i] *= factor;
            slope[i] *= factor;
        }
    }

    // What the padding adds to every unit of a plane: p * (sum of the weights). For H2, the sum
    // over the lanes is still to be taken.
    void weigh_padding() {
        V sum[kTileVectors] = {};
        for (const auto& weight : weights_.h1_weight)
            unroll<kTileVectors>([&](auto v) ALWAYS_INLINE { sum[v] += weight[v]; });
        unroll<kTileVectors>([&](auto v) ALWAYS_INLINE { h1_padding_[v] = padding_ * sum[v]; });
        for (int group = 0; group < kGroups; ++group) {
            V sum[kGroup] = {};
            for (int window = 0; window < kWindows; ++window)
                if (open_[group][window])
                    for (const auto& weight : weights_.h2_weight[group][window])
                        unroll<kGroup>([&](auto o) ALWAYS_INLINE { sum[o] += weight[o]; });
            unroll<kGroup>(
                [&](auto o) ALWAYS_INLINE { h2_padding_[group][o] = padding_ * sum[o]; });
        }
    }

    void h1_forward() {
        constexpr int tiles = divisor(kRowTiles, kSums / kTileVectors);  // whose sums fit
        constexpr int parts = kRowTiles / tiles;
        for (int y = 0; y < kH1; ++y)
            unroll<parts>([&](auto part) ALWAYS_INLINE {
                constexpr int x0 = part * tiles * Planes::kTileUnits;
                const int row = (y * kRowTiles + part * tiles) * kTileVectors;
                V sum[tiles][kTileVectors];
                unroll<tiles>([&](auto t) ALWAYS_INLINE {
                    unroll<kTileVectors>([&](auto v) ALWAYS_INLINE {
                        sum[t][v] = weights_.h1_bias[row + t * kTileVectors + v] + h1_padding_[v];
                    });
                });
                const Taps rows = taps_inside(y, kImage);
                for (int ky = rows.begin; ky < rows.end; ++ky) {
                    const T* pixels = image_ + (kStride * y + ky) * kImagePadded + kStride * x0;
                    const auto* weight = weights_.h1_weight + ky * kKernel;
                    unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                        unroll<tiles>([&](auto t) ALWAYS_INLINE {
                            constexpr int x = t * Planes::kTileUnits;
                            unroll<kTileVectors>([&](auto v) ALWAYS_INLINE {
                                if constexpr (any_inside(x0 + x, v, kx))
                                    sum[t][v] +=
                                        weight[kx][v] *
                                        Planes::template spread<v>(pixels + kStride * x + kx);
                            });
                        });
                    });
                }
                unroll<tiles>([&](auto t) ALWAYS_INLINE {
                    unroll<kTileVectors>([&](auto v) ALWAYS_INLINE {
                        h1_[row + t * kTileVectors + v] = sum[t][v];
                    });
                });
            });
    }

    // Whether a tap is inside the image for any unit in vector v of the tile starting at unit x.
    static constexpr bool any_inside(int x, int v, int tap) {
        return inside(x + v * lanes / kPlanes, tap, kImage) ||
               inside(x + (v * lanes + lanes - 1) / kPlanes, tap, kImage);
    }

    // Copies the values of H1 into the padded map that H2 reads.
    void lay_out_h1() {
        for (int y = 0; y < kH1; ++y)
            for (int tile = 0; tile < kRowTiles; ++tile) {
                const V* values = h1_ + (y * kRowTiles + tile) * kTileVectors;
                V units[kTileVectors];
                unroll<kTileVectors>(
                    [&](auto v) ALWAYS_INLINE { units[v] = values[v] - padding_; });
                Planes::to_rows(units, (V*)h1_at(y + kPad, tile * Planes::kTileUnits + kPad));
            }
    }

    void h2_forward() {
        V partial[kH2Units];  // the sum of each unit, before it is taken over the lanes
        for (int group = 0; group < kGroups; ++group)
            for (int y = 0; y < kH2; ++y) {
                V sum[kGroup][kH2];
                unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                    unroll<kH2>([&](auto x) ALWAYS_INLINE { sum[o][x] = h2_padding_[group][o]; });
                });
                const Taps rows = taps_inside(y, kH1);
                for (int window = 0; window < kWindows; ++window) {
                    if (!open_[group][window]) continue;
                    for (int ky = rows.begin; ky < rows.end; ++ky) {
                        const T* row = window_at(window, kStride * y + ky, 0);
                        const auto* weight = weights_.h2_weight[group][window] + ky * kKernel;
                        unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                            V in[kH2];
                            unroll<kH2>([&](auto x) ALWAYS_INLINE {
                                if constexpr (inside(x, kx, kH1))
                                    in[x] = at(row + (kStride * x + kx) * kRow);
                            });
                            unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                                const V w = weight[kx][o];
                                unroll<kH2>([&](auto x) ALWAYS_INLINE {
                                    if constexpr (inside(x, kx, kH1)) sum[o][x] += w * in[x];
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
        const T* targets = targets_ + label * kOutputs;
        if (own_loss_)
            own_loss_(scalars(out_), targets, gradient);
        else
            loss_gradient<VectorMath<T, lanes>>(loss_, scalars(out_), targets, gradient);
        for (int i = 0; i < kOutputs; ++i)
            scalars(out_delta_)[i] = gradient[i] * scalars(out_slope_)[i] * scale;
    }

    // Updates the weights between `in` and the layer of `delta`, and computes the deltas of `in`.
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

    // Updates `weights` from the deltas of the outputs; what moves them is kept in `moving`.
    template <class Rule>
    ALWAYS_INLINE void backward(Rule update, Parameters& weights, Parameters& moving) {
        // a layer's deltas are taken with the weights of the one above before these change
        dense_backward(update, scalars(h3_), weights.out_weight, moving.out_weight, out_delta_,
                       h3_slope_, h3_delta_);
        dense_backward(update, scalars(h2_), weights.h3_weight, moving.h3_weight, h3_delta_,
                       h2_slope_, h2_delta_);
        h1_backward(weights);
        update_h1_weights(update, weights, moving);
        update_h2_weights(update, weights, moving);
        update_biases(update, weights.h1_bias, moving.h1_bias, h1_delta_);
        update_biases(update, weights.h2_bias, moving.h2_bias, h2_delta_);
        update_biases(update, weights.h3_bias, moving.h3_bias, h3_delta_);
        update_biases(update, weights.out_bias, moving.out_bias, out_delta_);
    }

    void gather(bool first, Parameters& weights, Parameters& sums) {
        if (first)
            backward(Gather<true>{}, weights, sums);
        else
            backward(Gather<false>{}, weights, sums);
    }

    void h1_backward(const Parameters& weights) {
        // Row v of H2 covers rows 2 v - 2 to 2 v + 2 of H1. So row 2 j + r of H1 gets its deltas
        // from rows v = j + 1, j, j - 1 of H2, through the taps ky = r, r + 2, r + 4 (below 5).
        constexpr int rows = registers >= 32 ? 2 : 1;  // both r at once if the sums fit
        for (int window = 0; window < kWindows; ++window)
            for (int j = 0; j < kH2; ++j)
                unroll<2 / rows>([&](auto part) ALWAYS_INLINE {
                    V sum[rows][kH1] = {};
                    for (int group = 0; group < kGroups; ++group) {
                        if (!open_[group][window]) continue;
                        unroll<3>([&](auto i) ALWAYS_INLINE {
                            const int v = j + 1 - i;
                            if (v < 0 || v >= kH2) return;
                            const T* delta = scalars(h2_delta_) + group * kGroup * kH2Map + v * kH2;
                            const auto& weight = weights.h2_weight[group][window];
                            for (int o = 0; o < kGroup; ++o) {
                                V d[kH2];
                                unroll<kH2>([&](auto u) ALWAYS_INLINE {
                                    d[u] = broadcast(delta[o * kH2Map + u]);
                                });
                                unroll<rows * kKernel>([&](auto tap) ALWAYS_INLINE {
                                    constexpr int r = tap / kKernel, kx = tap % kKernel;
                                    constexpr int ky = part * rows + r + kStride * i;
                                    if constexpr (ky < kKernel) {
                                        const V w = weight[ky * kKernel + kx][o];
                                        unroll<kH2>([&](auto u) ALWAYS_INLINE {
                                            if constexpr (inside(u, kx, kH1))
                                                sum[r][kStride * u + kx - kPad] += w * d[u];
                                        });
                                    }
                                });
                            }
                        });
                    }
                    V* out = window_delta_[window] + (kStride * j + part * rows) * kH1;
                    unroll<rows * kH1>(
                        [&](auto x) ALWAYS_INLINE { out[x] = sum[x / kH1][x % kH1]; });
                });
        for (int tile = 0; tile < kH1 * kRowTiles; ++tile) {
            V* delta = h1_delta_ + tile * kTileVectors;
            const V* slope = h1_slope_ + tile * kTileVectors;
            Planes::to_units(window_delta_, tile * Planes::kTileUnits, delta);
            unroll<kTileVectors>([&](auto v) ALWAYS_INLINE { delta[v] *= slope[v]; });
        }
    }

    // ---- updates -----------------------------------------------------------------------------

    template <class Rule, int n>
    static void update_biases(Rule update, V (&bias)[n], V (&velocity)[n], const V (&delta)[n]) {
        for (int i = 0; i < n; ++i)
            update.end(bias[i], velocity[i], update.begin(bias[i], velocity[i]) + delta[i]);
    }

    template <class Rule>
    void update_h2_weights(Rule update, Parameters& weights, Parameters& moving) {
        for (int group = 0; group < kGroups; ++group) {
            V padding[kGroup];
            unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                const T* delta = scalars(h2_delta_) + (group * kGroup + o) * kH2Map;
                T sum = 0;
                for (int i = 0; i < kH2Map; ++i) sum += delta[i];
                padding[o] = broadcast(padding_ * sum);
            });
            for (int window = 0; window < kWindows; ++window) {
                if (!open_[group][window]) continue;
                for (int ky = 0; ky < kKernel; ++ky) {
                    auto* weight = weights.h2_weight[group][window] + ky * kKernel;
                    auto* velocity = moving.h2_weight[group][window] + ky * kKernel;
                    V sum[kKernel][kGroup];
                    unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                        unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                            sum[kx][o] =
                                update.begin(weight[kx][o], velocity[kx][o]) + padding[o];
                        });
                    });
                    for (int y = 0; y < kH2; ++y) {
                        if (!inside(y, ky, kH1)) continue;
                        const T* row = window_at(window, kStride * y + ky, 0);
                        const T* delta = scalars(h2_delta_) + group * kGroup * kH2Map + y * kH2;
                        unroll<kH2>([&](auto x) ALWAYS_INLINE {
                            V d[kGroup];
                            unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                                d[o] = broadcast(delta[o * kH2Map + x]);
                            });
                            unroll<kKernel>([&](auto kx) ALWAYS_INLINE {
                                if constexpr (inside(x, kx, kH1)) {
                                    const V in = at(row + (kStride * x + kx) * kRow);
                                    unroll<kGroup>([&](auto o) ALWAYS_INLINE {
                                        sum[kx][o] += d[o] * in;
                                    });
                                }
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
    }

    template <class Rule>
    void update_h1_weights(Rule update, Parameters& weights, Parameters& moving) {
        V padding[kTileVectors] = {};
        for (int tile = 0; tile < kH1 * kRowTiles; ++tile)
            unroll<kTileVectors>([&](auto v) ALWAYS_INLINE {
                padding[v] += h1_delta_[tile * kTileVectors + v];
            });
        unroll<kTileVectors>([&](auto v) ALWAYS_INLINE { padding[v] *= padding_; });
        constexpr int parts = divide_up(kKernel * kTileVectors, kSums);  // of a row of the kernel
        constexpr int width = divide_up(kKernel, parts);
        for (int ky = 0; ky < kKernel; ++ky)
            unroll<parts>([&](auto part) ALWAYS_INLINE {
                constexpr int kx0 = part * width;
                constexpr int taps = kx0 + width <= kKernel ? width : kKernel - kx0;
                V sum[taps][kTileVectors];
                unroll<taps>([&](auto kx) ALWAYS_INLINE {
                    unroll<kTileVectors>([&](auto v) ALWAYS_INLINE { sum[kx][v] = padding[v]; });
                });
                for (int y = 0; y < kH1; ++y) {
                    if (!inside(y, ky, kImage)) continue;
                    const T* pixels = image_ + (kStride * y + ky) * kImagePadded + kx0;
                    const V* delta = h1_delta_ + y * kRowTiles * kTileVectors;
                    for (int tile = 0; tile < kRowTiles; ++tile) {
                        unroll<taps>([&](auto kx) ALWAYS_INLINE {
                            unroll<kTileVectors>([&](auto v) ALWAYS_INLINE {
                                sum[kx][v] += delta[v] * Planes::template spread<v>(pixels + kx);
                            });
                        });
                        pixels += Planes::kTileUnits * kStride;
                        delta += kTileVectors;
                    }
                }
                unroll<taps>([&](auto kx) ALWAYS_INLINE {
                    V* weight = weights.h1_weight[ky * kKernel + kx0 + kx];
                    V* velocity = moving.h1_weight[ky * kKernel + kx0 + kx];
                    Planes::add_copies(sum[kx]);
                    unroll<kTileVectors>([&](auto v) ALWAYS_INLINE {
                        update.end(weight[v], velocity[v],
                                   update.begin(weight[v], velocity[v]) + sum[kx][v]);
                    });
                });
            });
    }

    // ---- state -------------------------------------------------------------------------------

    // ---- curvature: the gradient of a network whose weights, inputs and slopes are squared ------

    void square_weights() {
        const T* __restrict w = values(weights_);
        T* __restrict squares = values(more_->squares);
        each_value([&](int i) ALWAYS_INLINE { squares[i] = w[i] * w[i]; });
    }

    // Adds a pattern's curvature to that of the batch, after its forward pass. The values of the
    // network are squared in place, so the gradient comes first.
    void add_curvature(int label, bool first) {
        output_curvature(label);
        square(h1_slope_);
        square(h2_slope_);
        square(h3_slope_);
        square(h2_);
        square(h3_);
        // values less the padding p become squares less p^2
        const T padding = padding_;
        const auto shifted = [&](T* x, int n) {
            for (int i = 0; i < n; ++i) x[i] *= x[i] + 2 * padding;
        };
        shifted(image_, kImagePadded * kImagePadded);
        shifted(h1_map_, kH1Padded * kH1Padded * kRow);
        padding_ = padding * padding;
        gather(first, more_->squares, more_->pattern_curvature);
        padding_ = padding;
    }

    template <int n>
    static void square(V (&x)[n]) {
        for (V& each : x) each *= each;
    }

    // The second derivatives by the weighted sums of the outputs.
    void output_curvature(int label) {
        T c[kOutputs];
        loss_curvature<VectorMath<T, lanes>>(loss_, scalars(out_), targets_ + label * kOutputs, c);
        for (int i = 0; i < kOutputs; ++i) {
            const T slope = scalars(out_slope_)[i];
            scalars(out_delta_)[i] = c[i] * slope * slope;
        }
    }

    // ---- optimizers: lanes that hold no parameter are 0 and stay 0 ------------------------------

    void apply_optimizer(const Method& method, T rate, T* __restrict w, T* __restrict g) {
        T* __restrict first = values(velocity_);
        T* __restrict second = values(more_->second);
        const T* __restrict h = values(more_->curvature);
        const T momentum = T(method.momentum), eps = T(method.eps), mu = T(method.mu);
        const T beta1 = T(method.beta1), rest1 = T(1 - method.beta1);
        const T beta2 = T(method.beta2), rest2 = T(1 - method.beta2);
        const T shrink = T(1) - rate * T(method.decay);
        switch (method.optimizer) {
            case Optimizer::sdlm:
                each_value([&](int i) ALWAYS_INLINE { g[i] /= mu + h[i]; });
                [[fallthrough]];
            case Optimizer::sgd:
                if (method.momentum == 0)
                    return each_value([&](int i) ALWAYS_INLINE { w[i] -= rate * g[i]; });
                return each_value([&](int i) ALWAYS_INLINE {
                    first[i] = momentum * first[i] + g[i];
                    w[i] -= rate * first[i];
                });
            case Optimizer::nesterov:
                return each_value([&](int i) ALWAYS_INLINE {
                    first[i] = momentum * first[i] + g[i];
                    w[i] -= rate * (g[i] + momentum * first[i]);
                });
            case Optimizer::adam:
            case Optimizer::adamw: {
                beta1_power_ *= method.beta1;
                beta2_power_ *= method.beta2;
                const T scaled = T(double(rate) / (1 - beta1_power_));
                const T per_root = T(1 / __builtin_sqrt(1 - beta2_power_));
                const T left = method.optimizer == Optimizer::adamw ? shrink : T(1);
                return each_value([&](int i) ALWAYS_INLINE {
                    first[i] = beta1 * first[i] + rest1 * g[i];
                    second[i] = beta2 * second[i] + rest2 * g[i] * g[i];
                    w[i] = left * w[i] -
                           scaled * first[i] / (square_root(second[i]) * per_root + eps);
                });
            }
            case Optimizer::rmsprop:
                return each_value([&](int i) ALWAYS_INLINE {
                    second[i] = beta2 * second[i] + rest2 * g[i] * g[i];
                    w[i] -= rate * g[i] / (square_root(second[i]) + eps);
                });
            case Optimizer::lion:
                return each_value([&](int i) ALWAYS_INLINE {
                    const T mean = beta1 * first[i] + rest1 * g[i];
                    const T sign = mean > 0 ? T(1) : mean < 0 ? T(-1) : mean;  // NaN stays NaN
                    w[i] = shrink * w[i] - rate * sign;
                    first[i] = beta2 * first[i] + rest2 * g[i];
                });
            case Optimizer::own:
                return;
        }
    }

    // The user's optimizer knows nothing of places without a parameter, and may move their 0.
    void apply_own(CompiledStep own, double rate, bool first) {
        const auto& ranges = more_->ranges;
        own(&weights_, &more_->gradient, more_->own_places.data(), numbers_, rate, first,
            ranges.data(), int(ranges.size() / 2));
        T* const w = values(weights_);
        for (const int i : more_->unused) w[i] = 0;
    }

    ALWAYS_INLINE static float square_root(float x) { return __builtin_sqrtf(x); }
    ALWAYS_INLINE static double square_root(double x) { return __builtin_sqrt(x); }

    T learning_rate_, momentum_, padding_, leak_, output_leak_;
    Loss loss_;
    using LossGradient = void (*)(const T* outputs, const T* targets, T* gradient);
    LossGradient own_loss_;  // null for a built-in
    Activate hidden_, hidden_with_slopes_, output_, output_with_slopes_;
    T targets_[10 * kOutputs];  // [label, output]
    bool open_[kGroups][kWindows] = {};          // whether a group reads a window
    Mask seen_[kGroups][kWindows][kGroup] = {};  // the lanes that each plane of the group sees

    Parameters weights_ = {}, velocity_ = {};
    std::unique_ptr<More> more_;
    double beta1_power_ = 1, beta2_power_ = 1;
    double* numbers_ = nullptr;  // of an optimizer of the user's
    bool fresh_ = false;
    T kept_scale_ = 1;
    V h1_padding_[kTileVectors], h2_padding_[kGroups][kGroup];  // see weigh_padding

    // with the padding value subtracted, and therefore 0 in the padding
    alignas(64) T image_[kImagePadded * kImagePadded] = {};        // (y, x)
    alignas(64) T h1_map_[kH1Padded * kH1Padded * kRow] = {};  // (y, x, place)
    V window_delta_[kWindows][kH1Map] = {};                    // (window, y, x)

    alignas(64) V h1_[kH1Vectors];  // (y, x, plane)
    alignas(64) V h1_slope_[kH1Vectors];
    alignas(64) V h2_[kH2Vectors];  // (plane, y, x)
    alignas(64) V h2_slope_[kH2Vectors];
    alignas(64) V h3_[kH3Vectors];
    alignas(64) V h3_slope_[kH3Vectors];
    alignas(64) V out_[kOutVectors];
    alignas(64) V out_slope_[kOutVectors];
    V h1_delta_[kH1Vectors], h2_delta_[kH2Vectors], h3_delta_[kH3Vectors];
    V out_delta_[kOutVectors] = {};
};

}  // namespace
}  // namespace lecun_ablate
