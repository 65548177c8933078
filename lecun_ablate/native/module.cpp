// The Python module: it checks the arguments, releases the GIL, and calls the kernel.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernel.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace lecun_ablate;

namespace {

template <class T, class... Options>
using Array = nb::ndarray<T, nb::numpy, nb::c_contig, nb::device::cpu, Options...>;
template <class T>
using Vector = Array<T, nb::ndim<1>>;
template <class T>
using Images = Array<const T, nb::shape<-1, 16, 16>>;
using Indices = Vector<const std::int64_t>;

// In the order of the enums.
#define LECUN_NAME(name) #name,
const std::vector<std::string> kActivations = {LECUN_ACTIVATIONS(LECUN_NAME)};
const std::vector<std::string> kOptimizers = {LECUN_OPTIMIZERS(LECUN_NAME)};
const std::vector<std::string> kLosses = {LECUN_LOSSES(LECUN_NAME)};

void expect(bool condition, const std::string& what) {
    if (!condition) throw std::invalid_argument(what);
}

template <class Enum>
Enum parse(const std::vector<std::string>& names, const std::string& name) {
    const auto found = std::find(names.begin(), names.end(), name);
    expect(found != names.end(), "the kernel does not know " + name);
    return Enum(found - names.begin());
}

// The kernels that this CPU can run, fastest first.
std::vector<const Kernel*> usable_kernels() {
#if defined(LECUN_EVERY_LAYOUT)
    return {&avx512_kernel, &avx2_kernel, &baseline_kernel};
#elif defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512) return {&avx512_kernel, &avx2_kernel, &baseline_kernel};
    if (avx2) return {&avx2_kernel, &baseline_kernel};
    return {&baseline_kernel};
#elif defined(__aarch64__)
    return {&neon_kernel};
#else
    return {&baseline_kernel};
#endif
}

template <class T>
const Functions<T>& functions(const std::string& instruction_set) {
    for (const Kernel* kernel : usable_kernels())
        if (kernel->instruction_set == instruction_set) {
            if constexpr (sizeof(T) == sizeof(float))
                return kernel->float32;
            else
                return kernel->float64;
        }
    throw std::invalid_argument("this CPU or this build has no instruction set " + instruction_set);
}

// The addresses of the two functions of a user's compiled activation or loss: see Compiled.
using Addresses = std::pair<std::uintptr_t, std::uintptr_t>;

Compiled compiled(const std::optional<Addresses>& at) {
    if (!at) return {nullptr, nullptr};
    expect(at->first && at->second, "the addresses of two functions");
    return {reinterpret_cast<const void*>(at->first), reinterpret_cast<const void*>(at->second)};
}

Choices make_choices(const std::string& activation, const std::string& output_activation,
                     const std::optional<Addresses>& own, const std::optional<Addresses>& own_output,
                     const std::optional<Addresses>& own_loss, const std::string& loss, double lr, double momentum, double padding, double leak,
                     double output_leak, Array<const double, nb::shape<10, kOutputs>> targets,
                     Array<const bool, nb::shape<12, 12>> connected) {
    Choices choices = {own ? Activation::identity : parse<Activation>(kActivations, activation),
                       own_output ? Activation::identity
                                  : parse<Activation>(kActivations, output_activation),
                       compiled(own), compiled(own_output),
                       own_loss ? Loss::own : parse<Loss>(kLosses, loss), compiled(own_loss), lr,
                       momentum, padding, leak, output_leak, {}, {}};
    std::copy_n(targets.data(), targets.size(), choices.targets);
    std::copy_n(connected.data(), connected.size(), choices.connected);
    return choices;
}

template <class T>
Patterns<T> make_patterns(const Images<T>& images, const Indices& labels) {
    expect(images.shape(0) == labels.shape(0), "as many labels as images");
    const auto* begin = labels.data();
    expect(std::all_of(begin, begin + labels.size(), [](auto x) { return 0 <= x && x <= 9; }),
           "labels from 0 to 9");
    return {images.data(), begin, std::ptrdiff_t(labels.size())};
}

template <class T>
void train(const std::string& instruction_set, const Choices& choices, Vector<T> parameters,
           std::optional<Vector<T>> velocity, Images<T> images, Indices labels, Indices order) {
    const auto& kernel = functions<T>(instruction_set);
    const auto patterns = make_patterns<T>(images, labels);
    const auto* begin = order.data();
    expect(std::all_of(begin, begin + order.size(),
                       [&](auto i) { return 0 <= i && i < patterns.count; }),
           "an order within the patterns");
    expect(parameters.size() == kParameters, "all the parameters, flat");
    expect(!velocity || velocity->size() == kParameters, "as many velocities as parameters");
    T* moving = velocity ? velocity->data() : nullptr;
    nb::gil_scoped_release release;
    kernel.train(choices, parameters.data(), moving, patterns, begin, order.size());
}

template <class T>
T* optional_tensor(const std::optional<Vector<T>>& tensor) {
    expect(!tensor || tensor->size() == kParameters, "tensors as long as the parameters");
    return tensor ? tensor->data() : nullptr;
}

template <class T>
void train_by(const std::string& instruction_set, const Choices& choices, const Method& method,
              Vector<T> parameters, std::optional<Vector<T>> first,
              std::optional<Vector<T>> second, std::optional<Vector<T>> curvature,
              std::optional<Vector<T>> average, std::optional<Vector<double>> powers,
              Images<T> images, Indices labels, Indices order, std::ptrdiff_t batch,
              Vector<const double> rates,
              std::optional<Array<const std::uint8_t, nb::shape<-1, 192>>> kept,
              const std::vector<Vector<T>>& own, std::optional<Vector<double>> numbers, bool fresh) {
    const auto& kernel = functions<T>(instruction_set);
    const auto patterns = make_patterns<T>(images, labels);
    const auto* begin = order.data();
    expect(std::all_of(begin, begin + order.size(),
                       [&](auto i) { return 0 <= i && i < patterns.count; }),
           "an order within the patterns");
    expect(parameters.size() == kParameters, "all the parameters, flat");
    expect(batch > 0 && rates.size() == (order.size() + batch - 1) / batch, "a rate for each step");
    expect(!kept || std::ptrdiff_t(kept->shape(0)) == patterns.count, "a mask for each pattern");
    expect(!powers || powers->size() == 2, "two powers");
    const bool adam = method.optimizer == Optimizer::adam || method.optimizer == Optimizer::adamw;
    expect(!adam || (first && second && powers), "the moments of adam");
    expect(method.optimizer != Optimizer::rmsprop || second, "the mean squares of rmsprop");
    expect(method.optimizer != Optimizer::lion || first, "the mean of lion");
    expect(method.optimizer != Optimizer::sdlm || curvature, "the curvature of sdlm");
    expect(method.own || method.momentum == 0 || first, "a velocity, with momentum");
    expect(method.average == 0 || average, "an average of the weights");
    expect(!method.own || numbers, "the numbers of an optimizer");
    std::vector<T*> places;
    for (const auto& tensor : own) places.push_back(optional_tensor<T>(tensor));
    const Tensors<T> tensors = {parameters.data(),       optional_tensor(first),
                                optional_tensor(second), optional_tensor(curvature),
                                optional_tensor(average), powers ? powers->data() : nullptr,
                                places.data(),            int(places.size()),
                                numbers ? numbers->data() : nullptr, fresh};
    const Epoch epoch = {begin, std::ptrdiff_t(order.size()), batch, rates.data(),
                         kept ? kept->data() : nullptr};
    nb::gil_scoped_release release;
    kernel.train_by(choices, method, tensors, patterns, epoch);
}

template <class T>
void curvature(const std::string& instruction_set, const Choices& choices,
               Vector<const T> parameters, Images<T> images, Indices labels, Vector<T> h) {
    const auto& kernel = functions<T>(instruction_set);
    const auto patterns = make_patterns<T>(images, labels);
    expect(parameters.size() == kParameters && h.size() == kParameters, "flat parameters and h");
    expect(patterns.count > 0, "one pattern at least");
    nb::gil_scoped_release release;
    kernel.curvature(choices, parameters.data(), patterns, h.data());
}

template <class T>
double evaluate(const std::string& instruction_set, const Choices& choices,
                Vector<const T> parameters, Images<T> images, Indices labels,
                Array<T, nb::shape<-1, kOutputs>> outputs) {
    const auto& kernel = functions<T>(instruction_set);
    const auto patterns = make_patterns<T>(images, labels);
    expect(parameters.size() == kParameters, "all the parameters, flat");
    expect(outputs.shape(0) == labels.shape(0), "as many outputs as images");
    nb::gil_scoped_release release;
    return kernel.evaluate(choices, parameters.data(), patterns, outputs.data());
}

template <class T>
void activate_all(const std::string& instruction_set, const std::string& activation,
                  Vector<const T> x, Vector<T> values, Vector<T> slopes, double leak) {
    expect(values.size() == x.size() && slopes.size() == x.size(), "arrays of one length");
    functions<T>(instruction_set)
        .activate(parse<Activation>(kActivations, activation), T(leak), x.data(), values.data(),
                  slopes.data(), x.size());
}

template <class T>
T loss(const std::string& instruction_set, const std::string& loss,
       Array<const T, nb::shape<kOutputs>> outputs, Array<const T, nb::shape<kOutputs>> targets,
       Array<T, nb::shape<kOutputs>> gradient) {
    return functions<T>(instruction_set)
        .loss(parse<Loss>(kLosses, loss), outputs.data(), targets.data(), gradient.data());
}

template <class T>
void bind(nb::module_& m) {
    m.def("train", &train<T>, "instruction_set"_a, "choices"_a, "parameters"_a.noconvert(),
          "velocity"_a.noconvert().none(), "images"_a.noconvert(), "labels"_a.noconvert(),
          "order"_a.noconvert(),
          "Advance one network by one update per entry of `order`, in place. `velocity` is None "
          "without momentum.");
    m.def("train_by", &train_by<T>, "instruction_set"_a, "choices"_a, "method"_a,
          "parameters"_a.noconvert(), "first"_a.noconvert().none(), "second"_a.noconvert().none(),
          "curvature"_a.noconvert().none(), "average"_a.noconvert().none(),
          "powers"_a.noconvert().none(), "images"_a.noconvert(), "labels"_a.noconvert(),
          "order"_a.noconvert(), "batch"_a, "rates"_a.noconvert(), "kept"_a.noconvert().none(),
          "own"_a.noconvert() = nb::list(), "numbers"_a.noconvert() = nb::none(),
          "fresh"_a = true,
          "Advance one network in place by any method, by one step per batch of `order`.");
    m.def("curvature", &curvature<T>, "instruction_set"_a, "choices"_a,
          "parameters"_a.noconvert(), "images"_a.noconvert(), "labels"_a.noconvert(),
          "h"_a.noconvert(), "Write the mean curvature of one network over the images.");
    m.def("evaluate", &evaluate<T>, "instruction_set"_a, "choices"_a, "parameters"_a.noconvert(),
          "images"_a.noconvert(), "labels"_a.noconvert(), "outputs"_a.noconvert(),
          "Write the outputs, (n, 10), of one network and return its mean loss.");
    m.def("activate", &activate_all<T>, "instruction_set"_a, "activation"_a, "x"_a.noconvert(),
          "values"_a.noconvert(), "slopes"_a.noconvert(), "leak"_a = 0.01,
          "Write f(x) and f'(x) as the network computes them.");
    m.def("loss", &loss<T>, "instruction_set"_a, "loss"_a, "outputs"_a.noconvert(),
          "targets"_a.noconvert(), "gradient"_a.noconvert(),
          "Return the loss of one pattern and write its derivative by each output.");
    m.def(sizeof(T) == sizeof(float) ? "multiply_adds_float32" : "multiply_adds_float64",
          [](const std::string& instruction_set, std::ptrdiff_t rounds) {
              return functions<T>(instruction_set).multiply_adds(rounds);
          },
          "instruction_set"_a, "rounds"_a,
          "Do nothing but multiply-adds; return how many floating-point operations that was.");
}

}  // namespace

NB_MODULE(_native, m) {
    nb::class_<Choices>(m, "Choices", "What of a recipe the kernel needs to know.")
        .def("__init__",
             [](Choices* self, const std::string& activation, const std::string& output_activation,
                const std::string& loss, double lr, double momentum, double padding, double leak,
                double output_leak, Array<const double, nb::shape<10, kOutputs>> targets,
                Array<const bool, nb::shape<12, 12>> connected,
                const std::optional<Addresses>& own, const std::optional<Addresses>& own_output,
                const std::optional<Addresses>& own_loss) {
                 new (self) Choices(make_choices(activation, output_activation, own, own_output,
                                                 own_loss, loss, lr, momentum, padding, leak, output_leak,
                                                 targets, connected));
             },
             "activation"_a, "output_activation"_a, "loss"_a, "lr"_a, "momentum"_a, "padding"_a,
             "leak"_a, "output_leak"_a, "targets"_a, "connected"_a,
             "own"_a = nb::none(), "own_output"_a = nb::none(), "own_loss"_a = nb::none());
    nb::class_<Method>(m, "Method", "What a step does with the gradient of a batch.")
        .def("__init__",
             [](Method* self, const std::string& optimizer, double momentum, double beta1,
                double beta2, double eps, double decay, double mu, double gamma, bool running,
                double weight_decay, double average, double dropout, std::uintptr_t own) {
                 new (self) Method{own ? Optimizer::own : parse<Optimizer>(kOptimizers, optimizer),
                                   momentum, beta1, beta2, eps, decay, mu, gamma, running,
                                   weight_decay, average, dropout,
                                   reinterpret_cast<CompiledStep>(own)};
             },
             "optimizer"_a, nb::kw_only(), "momentum"_a, "beta1"_a, "beta2"_a, "eps"_a, "decay"_a,
             "mu"_a, "gamma"_a, "running"_a, "weight_decay"_a, "average"_a, "dropout"_a, "own"_a = 0);
    std::vector<std::string> instruction_sets;
    nb::dict vector_bytes, options;
    for (const Kernel* kernel : usable_kernels()) {
        instruction_sets.push_back(kernel->instruction_set);
        vector_bytes[kernel->instruction_set] = kernel->vector_bytes;
        options[kernel->instruction_set] = kernel->options;
    }
    m.attr("VECTOR_BYTES") = vector_bytes;
    m.attr("OPTIONS") = options;  // of the compiler
    m.attr("INSTRUCTION_SETS") = nb::cast(instruction_sets);
#if defined(__clang__)
    m.attr("COMPILER") = __VERSION__;
#else
    m.attr("COMPILER") = "GCC " __VERSION__;
#endif
    m.attr("ACTIVATIONS") = nb::cast(kActivations);
    m.attr("LOSSES") = nb::cast(kLosses);
    m.attr("OPTIMIZERS") = nb::cast(kOptimizers);
    bind<float>(m);
    bind<double>(m);
}
