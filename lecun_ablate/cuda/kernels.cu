// The kernels that NVRTC compiles, for one combination of choices: SCALAR, HIDDEN, OUTPUT, LOSS,
// MOMENTUM, GENERAL, OPTIMIZER and THREADS (per block) are given as macros, and the bytes of shared
// memory that the launch reckons with. If OWN is 1, a struct Own with components of the user's comes
// before this. One thread block holds one network.
#include "method.hpp"

namespace lecun_ablate {

#if !OWN
using Own = NoOwn<SCALAR>;
#endif

struct Choices {
    using Scalar = SCALAR;
    using Own = lecun_ablate::Own;
    static constexpr Activation hidden = Activation::HIDDEN, output = Activation::OUTPUT;
    static constexpr Loss loss = Loss::LOSS;
    static constexpr bool momentum = MOMENTUM;
    static constexpr bool general = GENERAL;  // the steps of method.hpp
    static constexpr Optimizer optimizer = Optimizer::OPTIMIZER;
    static constexpr bool curved = optimizer == Optimizer::sdlm;
};

constexpr int kWarp = 32;

// Read afresh for every phase: else the compiler keeps the places of all phases' tasks in registers
// throughout, and has none left for the sums.
__device__ int thread_index() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

// `threads` threads of the block from `begin` on; the first task goes to their `first`. All three are
// whole warps.
template <int begin, int threads>
struct Group {
    int first = 0;

    template <class Task>
    __device__ void each(int count, Task task) const {
        const int start = place();
        if (start < 0) return;
#pragma unroll 1
        for (int i = start; i < count; i += threads) {
            __builtin_assume(i >= 0);  // or a division of it takes more instructions
            task(i);
        }
    }

    // Two neighbours share a task: each calls sum(task, part, its n sums), and finish(task, part,
    // the half of the totals that is its part). Tasks that are not `wanted` are left out.
    template <int n, class Scalar, class Wanted, class Sum, class Finish>
    __device__ void each_shared(int count, Wanted wanted, Sum sum, Finish finish) const {
        const int start = place();
        if (start < 0) return;
        // The threads of a warp stay together, since all of it takes part in a shuffle.
#pragma unroll 1
        for (int i = start; i / kWarp * kWarp < 2 * count; i += threads) {
            __builtin_assume(i >= 0);
            const int task = i / 2, part = i % 2;
            const bool active = task < count && wanted(task);
            Scalar own[n] = {}, total[n / 2];
            if (active) sum(task, part, own);
#pragma unroll
            for (int k = 0; k < n / 2; ++k) {
                const Scalar kept = part ? own[k + n / 2] : own[k];
                total[k] = kept + __shfl_xor_sync(~0u, part ? own[k] : own[k + n / 2], 1);
            }
            if (active) finish(task, part, total);
        }
    }

    // Starts to copy a value from global memory into shared memory; `copied` waits for this
    // thread's copies.
    template <class Value>
    __device__ void copy(Value* to, const Value* from) const {
#if __CUDA_ARCH__ >= 800
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(
                         unsigned(__cvta_generic_to_shared(to))),
                     "l"(__cvta_generic_to_global(from)), "n"(sizeof(Value))
                     : "memory");
#else
        *to = *from;
#endif
    }
    __device__ void copied() const {
#if __CUDA_ARCH__ >= 800
        asm volatile("cp.async.wait_all;" ::: "memory");
#endif
    }

private:
    // The number of this thread, counted from the first; -1 where it is not one of the group.
    __device__ int place() const {
        const int i = thread_index() - begin;
        if (i < 0 || i >= threads) return -1;
        return i < first ? i - first + threads : i - first;
    }
};

struct Warp : Group<0, kWarp> {
    __device__ void barrier() const { __syncwarp(); }
};

struct Block : Group<0, THREADS> {
    using Narrow = Warp;
    using Beside = Group<kWarp, THREADS - kWarp>;

    __device__ void barrier() const { __syncthreads(); }

    template <class Body>
    __device__ void narrow(Body body) const {
        if (thread_index() < kWarp) body(Warp());
    }
    __device__ Beside beside() const { return {}; }

    // A value of which the compiler knows nothing: what follows from it is not kept.
    __device__ unsigned again(unsigned value) const {
        asm volatile("mov.u32 %0, %1;" : "=r"(value) : "r"(value));
        return value;
    }
    __device__ Group<0, THREADS> from(int thread) const { return {thread % THREADS}; }
};

using T = Choices::Scalar;

// The launch bounds below name the blocks that the shared memory of a multiprocessor holds, so that
// the compiler leaves each of them enough registers: 228 KB from sm_90 to sm_10x, less elsewhere.
constexpr bool kMuchShared = __CUDA_ARCH__ / 100 == 9 || __CUDA_ARCH__ / 100 == 10;
constexpr bool kFloat = sizeof(T) == 4;

static_assert(sizeof(TrainingMemory<T>) == TRAINING_BYTES);
static_assert(sizeof(EvaluationMemory<T>) == EVALUATION_BYTES);

#if GENERAL
extern "C" __global__ void
__launch_bounds__(THREADS, kMuchShared && kFloat ? 2 : 1)
train_by(T* parameters, T* first, T* second, T* curvature, T* average, T* own, T* scratch,
         double* own_numbers, const Settings<T>* settings, const Method<T>* methods,
         const Rate<T>* rates, const int* rate_rows, const T* images, const int* labels, const unsigned* kept,
         const int* orders, const int* order_rows, int patterns, int image_stride) {
    extern __shared__ __align__(16) char shared[];
    auto& memory = *reinterpret_cast<TrainingMemory<T>*>(shared);
    train_network_by<Choices>(Block(), blockIdx.x, memory, parameters,
                              States<T>{first, second, curvature, average, own}, scratch,
                              own_numbers, settings, methods, rates, rate_rows, images, labels,
                              kept, orders, order_rows, patterns, image_stride);
}
#else
extern "C" __global__ void
__launch_bounds__(THREADS, kMuchShared && kFloat && !Choices::momentum ? 4 : 2)
train(T* parameters, T* velocity, const Settings<T>* settings, const T* images, const int* labels,
      const int* orders, const int* order_rows, int steps, int image_stride) {
    extern __shared__ __align__(16) char shared[];
    auto& memory = *reinterpret_cast<TrainingMemory<T>*>(shared);
    train_network<Choices>(Block(), blockIdx.x, memory, parameters, velocity, settings, images,
                           labels, orders, order_rows, steps, image_stride);
}
#endif

extern "C" __global__ void
__launch_bounds__(THREADS, kMuchShared && kFloat ? 4 : 2)
evaluate(const T* parameters, const Settings<T>* settings, const T* images, const int* labels,
         int patterns, const int* order_rows, unsigned char* predictions, double* losses) {
    extern __shared__ __align__(16) char shared[];
    auto& memory = *reinterpret_cast<EvaluationMemory<T>*>(shared);
    evaluate_network<Choices>(Block(), blockIdx.x, memory, parameters, settings, images, labels,
                              patterns, order_rows, predictions, losses);
}

}  // namespace lecun_ablate
