"""The names of trainers and devices. Imports nothing heavy: --help shows them."""

from __future__ import annotations

from enum import StrEnum


class TrainerChoice(StrEnum):
    """The trainers that --trainer takes."""

    auto = "auto"
    native = "native"
    torch = "torch"
    cuda = "cuda"
    mixed = "mixed"


class DeviceChoice(StrEnum):
    """The devices that --device takes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
