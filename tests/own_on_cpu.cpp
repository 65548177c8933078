// A user's components as the CUDA kernels have them, for cuda_on_cpu.cpp. What compiled/device.py writes
// is in own.hpp.
#include "own.hpp"

using namespace lecun_ablate;
using T = Own::T;

extern "C" Activated<T> hidden(T x) { return Own::hidden(x); }
extern "C" Activated<T> output(T x) { return Own::output(x); }
extern "C" double loss(const double* outputs, const double* targets) {
    return Own::loss(outputs, targets);
}
extern "C" void loss_slopes(const T* outputs, const T* targets, T* slopes) {
    Own::loss_slopes(outputs, targets, slopes);
}
extern "C" void before(bool first, const double* numbers, T rate, double* next, double* singles) {
    Own::before(first, numbers, rate, next, singles);
}
extern "C" void change(bool first, const double* singles, T gradient, T* weight, T* state) {
    Own::change(first, singles, gradient, *weight, state);
}
extern "C" int states() { return Own::states(); }
extern "C" int numbers() { return Own::numbers(); }
