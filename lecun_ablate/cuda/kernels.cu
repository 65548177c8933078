// The kernels that NVRTC compiles, for one combination of choices: SCALAR, HIDDEN, OUTPUT, LOSS,
// MOMENTUM and THREADS (per block) are given as macros, and the bytes of shared memory that the
// launch reckons with. One thread block holds one network.
#include "step.hpp"

namespace lecun_ablate {

struct Choices {
    using Scalar = SCALAR;
    static constexpr Activation hidden = Activation::HIDDEN, output = Activation::OUTPUT;
    static constexpr Loss loss = Loss::LOSS;
    static constexpr bool momentum = MOMENTUM;
};

// Read afresh for every phase: else the compiler keeps the places of all phases' tasks in registers
// throughout, and has none left for the sums.
__device__ int thread_index() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

template <int threads, class Task>
__device__ void each_of(int count, Task task) {
#pragma unroll 1
    for (int i = thread_index(); i < count; i += threads) task(i);
}

struct Warp {
    template <class Task>
    __device__ void each(int count, Task task) const {
        each_of<32>(count, task);
    }
    __device__ void barrier() const { __syncwarp(); }
};

struct Block {
    using Narrow = Warp;

    template <class Task>
    __device__ void each(int count, Task task) const {
        each_of<THREADS>(count, task);
    }
    __device__ void barrier() const { __syncthreads(); }

    // Calls body(narrow) for one warp of the block.
    template <class Body>
    __device__ void narrow(Body body) const {
        if (thread_index() < 32) body(Warp());
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
};

using T = Choices::Scalar;

// The launch bounds below name the blocks that the shared memory of a multiprocessor holds, so that
// the compiler leaves each of them enough registers: 228 KB from sm_90 to sm_10x, less elsewhere.
constexpr bool kMuchShared = __CUDA_ARCH__ / 100 == 9 || __CUDA_ARCH__ / 100 == 10;
constexpr bool kFloat = sizeof(T) == 4;

static_assert(sizeof(TrainingMemory<T>) == TRAINING_BYTES);
static_assert(sizeof(EvaluationMemory<T>) == EVALUATION_BYTES);

extern "C" __global__ void
__launch_bounds__(THREADS, kMuchShared && kFloat && !Choices::momentum ? 4 : 2)
train(T* parameters, T* velocity, const Settings<T>* settings, const T* images, const int* labels,
      const int* orders, const int* order_rows, int steps) {
    extern __shared__ __align__(16) char shared[];
    auto& memory = *reinterpret_cast<TrainingMemory<T>*>(shared);
    train_network<Choices>(Block(), blockIdx.x, memory, parameters, velocity, settings, images,
                           labels, orders, order_rows, steps);
}

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
