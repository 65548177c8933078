// The built-in components that the compiled trainers have code for: the one list of their names,
// which are those of lecun_ablate/components. lecun_ablate/cuda/compiler.py reads it, too.
#pragma once

#define LECUN_ACTIVATIONS(X)                                                            \
    X(tanh) X(scaled_tanh) X(lisht) X(sigmoid) X(relu) X(leaky_relu) X(softsign) X(gelu) \
    X(silu) X(identity)
#define LECUN_LOSSES(X) X(mse) X(half_sum_squares) X(cross_entropy)
#define LECUN_OPTIMIZERS(X) X(sgd) X(nesterov) X(adam) X(adamw) X(rmsprop) X(lion) X(sdlm)

#define LECUN_ITEM(name) name,

namespace lecun_ablate {

// `own` is the user's, from lecun_ablate/compiled
enum class Activation { LECUN_ACTIVATIONS(LECUN_ITEM) own };
enum class Loss { LECUN_LOSSES(LECUN_ITEM) own };
enum class Optimizer { LECUN_OPTIMIZERS(LECUN_ITEM) own };

}  // namespace lecun_ablate
