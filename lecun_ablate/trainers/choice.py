"""Trainers: what advances runs. `base` holds the seam, one file each holds an implementation."""

from __future__ import annotations

from collections.abc import Mapping

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.errors import ConfigError, nearest
from lecun_ablate.trainers.base import Trainer
from lecun_ablate.trainers.names import DeviceChoice, TrainerChoice

FASTEST = {"cpu": "native", "cuda": "cuda"}  # by device


def choose(
    recipes: Mapping[str, Recipe], trainer: str = "auto", device: str = "auto"
) -> tuple[dict[str, Trainer], list[str]]:
    """Return the trainer of each arm, and notices for the user.

    "auto" takes the fastest trainer that supports every arm, so that all arms are compared on the
    same one; "mixed" takes the fastest for each arm. Raises ConfigError where a trainer or device
    is not to be had, or does not support an arm.
    """
    for option, name, valid in (
        ("--trainer", trainer, TrainerChoice),
        ("--device", device, DeviceChoice),
    ):
        if name not in list(valid):
            raise ConfigError(f"{option} {name}: {nearest(name, valid)}")
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
    if trainer in FASTEST.values() and (trainer != fastest or absent):
        wrong_device = f"it does not run on device {device}"
        reason = wrong_device if trainer != fastest else absent
        valid = ["auto", "torch"]
        for place in FASTEST if asked == "auto" else (asked,):
            valid += [] if module[FASTEST[place]].availability() else [FASTEST[place]]
        raise ConfigError(f"--trainer {trainer}: {reason}; valid here: {', '.join(valid)}")

    fallback = TorchTrainer(device)
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
    fast = native.NativeTrainer() if fastest == "native" else cuda.CudaTrainer()
    reasons = {arm: reason for arm, r in recipes.items() if (reason := fast.unsupported(r))}
    if trainer == fastest and reasons:
        raise ConfigError(
            [f"--trainer {trainer}: arm {arm!r}: {reason}" for arm, reason in reasons.items()]
        )
    if not reasons:
        return dict.fromkeys(recipes, fast), []
    words = "; ".join(f"{arm}: {reason}" for arm, reason in reasons.items())
    if trainer == "mixed":
        chosen = {arm: fallback if arm in reasons else fast for arm in recipes}
        return chosen, [f"Some arms run on the torch trainer ({words})."]
    return dict.fromkeys(recipes, fallback), [
        f"All arms run on the torch trainer, so that they are compared on the same one ({words})."
    ]
