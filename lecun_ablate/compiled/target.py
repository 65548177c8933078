"""What a kernel needs its functions compiled for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """The instruction set of a kernel."""

    instruction_set: str
    vector_bytes: int  # of its longest vectors
    options: tuple[str, ...]  # of the compiler
