"""Trainers: what advances runs. `base` holds the seam, one file each holds an implementation."""

from __future__ import annotations

from collections.abc import Mapping

from lecun_ablate.errors import ConfigError
from lecun_ablate.recipe import Recipe
from lecun_ablate.trainers.base import Trainer

CHOICES = ("auto", "native", "torch", "mixed")
DEVICES = ("auto", "cpu", "cuda")


def choose(
    recipes: Mapping[str, Recipe], trainer: str = "auto", device: str = "auto"
) -> tuple[dict[str, Trainer], list[str]]:
    """Return the trainer of each arm, and notices for the user.

    "auto" takes the fastest trainer that supports every arm, so that all arms are compared on the
    same one; "mixed" takes the fastest for each arm. Raises ConfigError where a trainer or device
    is not to be had, or does not support an arm.
    """
    import torch

    from lecun_ablate.trainers import native
    from lecun_ablate.trainers.torch_trainer import TorchTrainer

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this PyTorch finds no CUDA device; valid: auto, cpu")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() and trainer != "native" else "cpu"
    absent = native.availability()
    if trainer == "native" and (absent or device == "cuda"):
        reason = absent or "it runs on the CPU only"
        raise ConfigError(f"--trainer native: {reason}; valid here: auto, torch")

    fallback = TorchTrainer(device)
    if trainer == "torch" or device == "cuda":
        return dict.fromkeys(recipes, fallback), []
    if absent:
        return dict.fromkeys(recipes, fallback), [
            f"The native trainer is not available ({absent}): training with the torch trainer, "
            "which is many times slower."
        ]
    fast = native.NativeTrainer()
    reasons = {arm: reason for arm, r in recipes.items() if (reason := fast.unsupported(r))}
    if trainer == "native" and reasons:
        raise ConfigError(
            [f"--trainer native: arm {arm!r}: {reason}" for arm, reason in reasons.items()]
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
