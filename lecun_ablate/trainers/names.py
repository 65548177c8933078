"""The trainers and devices that can be asked for, by name; light, for the command line's help."""

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
