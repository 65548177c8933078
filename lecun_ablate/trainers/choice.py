"""Choosing the trainer of every arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.errors import ConfigError, nearest
from lecun_ablate.trainers.base import Spread, Trainer
from lecun_ablate.trainers.names import DeviceChoice, TrainerChoice

FASTEST = {"cpu": "native", "cuda": "cuda"}  # by device

Chosen = tuple[dict[str, Trainer], list[str]]  # by arm, and notices for the user


def choose(recipes: Mapping[str, Recipe], trainer: str = "auto", device: str = "auto") -> Chosen:
    """Return the trainer of each arm, and notices for the user.

    "auto" takes the fastest trainer that supports every arm, so that all arms are compared on the
    same one; "mixed" takes the fastest for each arm. Raises ConfigError if a trainer or device is
    not available, or does not support an arm.
    """
    if trainer not in list(TrainerChoice):
        raise ConfigError(f"--trainer {trainer}: {nearest(trainer, TrainerChoice)}")
    if device not in list(DeviceChoice):
        raise ConfigError(f"--device {device}: {nearest(device, DeviceChoice)}")
    import torch

    from lecun_ablate.trainers import cuda, native
    from lecun_ablate.trainers.torch_trainer import TorchTrainer

    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise ConfigError("--device cuda: this PyTorch finds no CUDA device; valid: auto, cpu")
    asked = device
    if device == "auto":
        device = "cuda" if (has_cuda and trainer != "native") or trainer == "cuda" else "cpu"
    fastest = FASTEST[device]
    module = {"native": native, "cuda": cuda}
    absent = module[fastest].availability()
    if trainer in module and (trainer != fastest or absent):
        reason = absent if trainer == fastest else f"it does not run on device {device}"
        there = [FASTEST[place] for place in (FASTEST if asked == "auto" else (asked,))]
        valid = ["auto", "torch", *(name for name in there if not module[name].availability())]
        raise ConfigError(f"--trainer {trainer}: {reason}; valid here: {', '.join(valid)}")

    fallback: Trainer = TorchTrainer(device)
    if trainer == "torch":
        return dict.fromkeys(recipes, fallback), []
    if absent:
        notice = (
            f"The {fastest} trainer is not available ({absent}): training with the torch trainer, "
            "which is many times slower."
        )
        if device == "cuda" and not native.availability():
            notice += " For a small experiment, the native trainer may be faster: --device cpu."
        return dict.fromkeys(recipes, fallback), [notice]
    fast: list[Trainer] = (
        [native.NativeTrainer(), native.NativeTrainer(own_components=True)]
        if fastest == "native"
        else [cuda.CudaTrainer(), cuda.CudaTrainer(own_components=True)]
    )
    return _supported(recipes, trainer, fast, fallback)


def _supported(
    recipes: Mapping[str, Recipe], trainer: str, fast: Sequence[Trainer], fallback: Trainer
) -> Chosen:
    """Return the first of the fast trainers that supports each arm.

    Where none does, return what `trainer` asks for then. The fast ones have one name: they differ
    in whether they compile components of the user's own.
    """
    chosen: dict[str, Trainer] = {}
    reasons: dict[str, str] = {}
    for arm, recipe in recipes.items():
        for one in fast:
            if not (reason := one.unsupported(recipe)):
                chosen[arm] = one
                break
        else:
            reasons[arm] = reason or ""
    if not reasons:
        return chosen, []
    if trainer == fast[0].name:
        raise ConfigError(
            [f"--trainer {trainer}: arm {arm!r}: {reason}" for arm, reason in reasons.items()]
        )
    words = "; ".join(f"{arm}: {reason}" for arm, reason in reasons.items())
    if trainer == "mixed":
        chosen |= dict.fromkeys(reasons, fallback)
        return chosen, [f"Some arms run on the torch trainer ({words})."]
    return dict.fromkeys(recipes, fallback), [
        f"All arms run on the torch trainer, so that they are compared on the same one ({words})."
    ]


def spread_out(
    trainers: Mapping[str, Trainer], recipes: Mapping[str, Sequence[Recipe]], spread: Spread
) -> dict[str, Trainer]:
    """Return trainers, each spread with all recipes that are its own; both are by arm."""
    own: dict[int, list[Recipe]] = {}
    for arm, trainer in trainers.items():
        own.setdefault(id(trainer), []).extend(recipes[arm])
    different = {id(trainer): trainer for trainer in trainers.values()}
    done = {key: spread(trainer, own[key]) for key, trainer in different.items()}
    return {arm: done[id(trainer)] for arm, trainer in trainers.items()}
