"""Your own components: decorated PyTorch functions. Autograd computes the derivatives."""

from lecun_ablate import register


@register("activation")
def my_softsign(x):
    """x / (1 + |x|). Bergstra et al. 2009."""
    return x / (1 + x.abs())


@register("optimizer")
def my_sign_sgd(parameters, gradients, state, lr, momentum):
    """w -= lr sign(gradient). Bernstein et al. 2018."""
    parameters.sub_(lr * gradients.sign())
