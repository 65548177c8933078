// The source of the CUDA kernels as a CPU library: the same templates, with teams of other kinds.
//
//     schedule  0      one thread, every phase's tasks in order
//     schedule  1      the same, every phase's tasks in reverse
//     schedule  n > 1  the same, every phase's tasks shuffled with seed n
//     schedule -n      n threads and real barriers
//
// The choices that a kernel is compiled for are variables here, and the functions of a user's components
// pointers into another library (own_on_cpu.cpp): one call at a time.
#include <algorithm>
#include <barrier>
#include <cstddef>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "method.hpp"

using namespace lecun_ablate;

namespace {

struct Named {
    int hidden, output, loss, momentum, optimizer;
};

// What own_on_cpu.cpp exports, for one scalar type.
template <class T>
struct OwnFunctions {
    Activated<T> (*hidden)(T);
    Activated<T> (*output)(T);
    double (*loss)(const double*, const double*);
    void (*loss_slopes)(const T*, const T*, T*);
    void (*before)(bool, const double*, T, double*, double*);
    void (*change)(bool, const double*, T, T*, T*);
    int states, numbers;
};

template <class T>
struct Own {
    static inline OwnFunctions<T> from;
    static constexpr int kMostStates = 8;

    static Activated<T> hidden(T x) { return from.hidden(x); }
    static Activated<T> output(T x) { return from.output(x); }
    static double loss(const double* outputs, const double* targets) {
        return from.loss(outputs, targets);
    }
    static void loss_slopes(const T* outputs, const T* targets, T* slopes) {
        from.loss_slopes(outputs, targets, slopes);
    }
    static int states() { return from.states; }
    static int numbers() { return from.numbers; }
    static void before(bool first, const double* numbers, T rate, double* next, double* singles) {
        from.before(first, numbers, rate, next, singles);
    }
    static void change(bool first, const double* singles, T gradient, T& weight, T* state) {
        from.change(first, singles, gradient, &weight, state);
    }
};

template <class Number, bool by_method>
struct Choices {
    using Scalar = Number;
    using Own = ::Own<Number>;
    static constexpr bool general = by_method, curved = by_method;
    static inline Activation hidden, output;
    static inline Loss loss;
    static inline bool momentum;
    static inline Optimizer optimizer;

    static void set(const Named& named) {
        hidden = Activation(named.hidden);
        output = Activation(named.output);
        loss = Loss(named.loss);
        momentum = named.momentum;
        optimizer = Optimizer(named.optimizer);
    }
};

// What all teams here have in common; `Own` is the team itself.
template <class Own>
struct Team {
    using Beside = Own;

    template <int n, class Scalar, class Wanted, class Sum, class Finish>
    void each_shared(int count, Wanted wanted, Sum sum, Finish finish) const {
        own().each(count, [=](int task) {
            if (!wanted(task)) return;
            Scalar sums[2][n] = {};
            for (int part = 0; part < 2; ++part) sum(task, part, sums[part]);
            for (int part = 0; part < 2; ++part) {
                Scalar total[n / 2];
                for (int k = 0; k < n / 2; ++k)
                    total[k] = sums[0][part * n / 2 + k] + sums[1][part * n / 2 + k];
                finish(task, part, total);
            }
        });
    }
    template <class Value>
    void copy(Value* to, const Value* from) const {
        *to = *from;
    }
    void copied() const {}
    Own beside() const { return own(); }
    unsigned again(unsigned value) const { return value; }
    Own from(int) const { return own(); }

private:
    const Own& own() const { return static_cast<const Own&>(*this); }
};

struct Ordered : Team<Ordered> {
    using Narrow = Ordered;

    template <class Task>
    void each(int count, Task task) const {
        for (int i = 0; i < count; ++i) task(i);
    }
    void barrier() const {}
    template <class Body>
    void narrow(Body body) const {
        body(*this);
    }
};

// A barrier that is left out, but for the very first, and after how many it comes again; -1: none.
int left_out = -1, period = 1;

// Collects the tasks between two barriers and runs them in another order.
struct Disordered : Team<Disordered> {
    using Narrow = Disordered;

    std::vector<std::function<void()>>* tasks;
    std::mt19937* random;  // null: in reverse
    int* barriers;         // how many there have been

    template <class Task>
    void each(int count, Task task) const {
        for (int i = 0; i < count; ++i) tasks->push_back([=] { task(i); });
    }
    void barrier() const {
        const int number = (*barriers)++;
        if (number > 0 && number % period == left_out) return;
        flush();
    }
    void flush() const {
        if (random)
            std::shuffle(tasks->begin(), tasks->end(), *random);
        else
            std::reverse(tasks->begin(), tasks->end());
        for (const auto& task : *tasks) task();
        tasks->clear();
    }
    template <class Body>
    void narrow(Body body) const {
        body(*this);
    }
};

struct Threads : Team<Threads> {
    using Narrow = Ordered;

    int thread, threads;
    std::barrier<>* all;

    template <class Task>
    void each(int count, Task task) const {
        for (int i = thread; i < count; i += threads) task(i);
    }
    void barrier() const { all->arrive_and_wait(); }
    template <class Body>
    void narrow(Body body) const {
        if (thread == 0) body(Ordered());
    }
};

// Calls body(team) as `schedule` says.
template <class Body>
void with_team(int schedule, Body body) {
    if (schedule == 0) {
        body(Ordered());
    } else if (schedule > 0) {
        std::vector<std::function<void()>> tasks;
        std::mt19937 random(schedule);
        int barriers = 0;
        const Disordered team = {{}, &tasks, schedule > 1 ? &random : nullptr, &barriers};
        body(team);
        team.flush();
    } else {
        const int threads = -schedule;
        std::barrier<> all(threads);
        std::vector<std::jthread> running;
        for (int i = 0; i < threads; ++i)
            running.emplace_back([&, i] { body(Threads{{}, i, threads, &all}); });
    }
}

// A block's memory, of exactly the bytes that a launch gives it: the weights are cut off after the
// last pair of planes, and velocities follow, or what a method has there.
template <class Memory, class T>
class BlockMemory {
public:
    BlockMemory(const Settings<T>& settings, bool momentum, bool by_method) {
        const int pairs = settings.connections.pairs(), room = Batch<T>::room(pairs);
        const int weights = sizeof(Weights<T>) / sizeof(T) - (kMostPairs - pairs) * kTaps;
        const int cut_off = (kMostPairs - pairs) * kTaps * sizeof(T);
        int bytes = sizeof(Memory) - cut_off + momentum * weights * sizeof(T);
        if (by_method) bytes += (room - weights + room) * sizeof(T) + 2 * kH2Units;
        bytes_ = std::make_unique<std::byte[]>(bytes);  // aligned as `new` aligns: 16
    }
    Memory& operator*() { return *reinterpret_cast<Memory*>(bytes_.get()); }

private:
    std::unique_ptr<std::byte[]> bytes_;
};

template <class T>
void train(Named named, int schedule, int networks, T* parameters, T* velocity,
           const Settings<T>* settings, const T* images, const int* labels, const int* orders,
           const int* order_rows, int steps, int image_stride) {
    using Plain = Choices<T, false>;
    Plain::set(named);
    for (int network = 0; network < networks; ++network) {
        BlockMemory<TrainingMemory<T>, T> memory(settings[network], named.momentum, false);
        with_team(schedule, [&](auto team) {
            train_network<Plain>(team, network, *memory, parameters, velocity, settings, images,
                                 labels, orders, order_rows, steps, image_stride);
        });
    }
}

template <class T>
void train_by(Named named, int schedule, int networks, T* parameters, States<T> states, T* scratch,
              double* own_numbers, const Settings<T>* settings, const Method<T>* methods,
              const Rate<T>* rates, const int* rate_rows, const T* images, const int* labels,
              const unsigned* kept, const int* orders, const int* order_rows, int patterns,
              int image_stride) {
    using General = Choices<T, true>;
    General::set(named);
    for (int network = 0; network < networks; ++network) {
        BlockMemory<TrainingMemory<T>, T> memory(settings[network], false, true);
        with_team(schedule, [&](auto team) {
            train_network_by<General>(team, network, *memory, parameters, states, scratch,
                                      own_numbers, settings, methods, rates, rate_rows, images, labels, kept, orders,
                                      order_rows, patterns, image_stride);
        });
    }
}

template <class T>
void evaluate(Named named, int schedule, int blocks, const T* parameters,
              const Settings<T>* settings, const T* images, const int* labels, int patterns,
              const int* order_rows, unsigned char* predictions, double* losses) {
    using Plain = Choices<T, false>;
    Plain::set(named);
    const int chunks = (patterns + kImagesPerBlock - 1) / kImagesPerBlock;
    for (int block = 0; block < blocks; ++block) {
        BlockMemory<EvaluationMemory<T>, T> memory(settings[block / chunks], false, false);
        with_team(schedule, [&](auto team) {
            evaluate_network<Plain>(team, block, *memory, parameters, settings, images, labels,
                                    patterns, order_rows, predictions, losses);
        });
    }
}

template <class T>
void functions(int count, const T* x, T* exponential, T* hyperbolic, T* normal, T* logarithm) {
    using Math = ElementaryMath<T>;
    for (int i = 0; i < count; ++i) {
        exponential[i] = Math::exp(x[i]);
        hyperbolic[i] = Math::tanh(x[i]);
        normal[i] = normal_cdf<Math>(x[i]);
        logarithm[i] = Math::log_one(x[i]);
    }
}

}  // namespace

#define LIBRARY(T)                                                                              \
    extern "C" void train_##T(Named named, int schedule, int networks, T* parameters,           \
                              T* velocity, const Settings<T>* settings, const T* images,        \
                              const int* labels, const int* orders, const int* order_rows,      \
                              int steps, int image_stride) {                                    \
        train(named, schedule, networks, parameters, velocity, settings, images, labels, orders, \
              order_rows, steps, image_stride);                                                 \
    }                                                                                           \
    extern "C" void train_by_##T(                                                               \
        Named named, int schedule, int networks, T* parameters, T* first, T* second, T* curvature, \
        T* average, T* own, T* scratch, double* own_numbers, const Settings<T>* settings,       \
        const Method<T>* methods,                                                               \
        const Rate<T>* rates, const int* rate_rows, const T* images, const int* labels,         \
        const unsigned* kept, const int* orders, const int* order_rows, int patterns,           \
        int image_stride) {                                                                     \
        train_by(named, schedule, networks, parameters,                                         \
                 States<T>{first, second, curvature, average, own}, scratch, own_numbers, settings, \
                 methods, rates, rate_rows, images, labels, kept, orders, order_rows, patterns, image_stride);  \
    }                                                                                           \
    extern "C" void evaluate_##T(Named named, int schedule, int blocks, const T* parameters,    \
                                 const Settings<T>* settings, const T* images, const int* labels, \
                                 int patterns, const int* order_rows,                           \
                                 unsigned char* predictions, double* losses) {                  \
        evaluate(named, schedule, blocks, parameters, settings, images, labels, patterns,       \
                 order_rows, predictions, losses);                                              \
    }                                                                                           \
    extern "C" void use_##T(const OwnFunctions<T>* functions) { Own<T>::from = *functions; }      \
    extern "C" void functions_##T(int count, const T* x, T* exponential, T* hyperbolic,         \
                                  T* normal, T* logarithm) {                                    \
        functions(count, x, exponential, hyperbolic, normal, logarithm);                        \
    }

LIBRARY(float)
LIBRARY(double)

extern "C" void leave_out_barrier(int which, int of) { left_out = which, period = of; }

// bytes of the structs that the host must know, in the order of its own list
extern "C" void sizes(int* bytes) {
    const int known[] = {
        sizeof(TrainingMemory<float>),    sizeof(TrainingMemory<double>),
        sizeof(EvaluationMemory<float>),  sizeof(EvaluationMemory<double>),
        sizeof(Settings<float>),          sizeof(Settings<double>),
        sizeof(Method<float>),            sizeof(Method<double>),
        2 * sizeof(unsigned) * kKeptWords,
        kParameters,                      kImagesPerBlock,
    };
    std::copy(std::begin(known), std::end(known), bytes);
}
