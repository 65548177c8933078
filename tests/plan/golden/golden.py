from lecun_ablate import register


@register("activation")
def golden(x):
    """x / 2."""
    return x / 2
