"""Pinning the instruction set, as if this CPU had no newer one."""

from __future__ import annotations

import os

from lecun_ablate.errors import ConfigError, nearest

PINNED = "LECUN_ABLATE_INSTRUCTION_SET"  # read by the native trainer
OF_TORCH = {"avx512": "avx512", "avx2": "avx2", "baseline": "default"}


def pin(instruction_set: str) -> None:
    """Have the native trainer and PyTorch use an instruction set; call it before their import.

    Raises ConfigError if the native kernel does not have it here.
    """
    try:
        from lecun_ablate.trainers import _native as kernel  # type: ignore[attr-defined]
    except ImportError:
        raise ConfigError(
            "--instruction-set: expected the compiled native trainer, which is not installed"
        ) from None
    if instruction_set not in kernel.INSTRUCTION_SETS:
        hint = nearest(instruction_set, kernel.INSTRUCTION_SETS)
        raise ConfigError(f"--instruction-set {instruction_set}: {hint}")
    os.environ[PINNED] = instruction_set
    if instruction_set in OF_TORCH:
        os.environ["ATEN_CPU_CAPABILITY"] = OF_TORCH[instruction_set]
