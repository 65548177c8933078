"""Compiles the kernels at run time, with NVRTC: no CUDA toolkit and no GPU is needed for it."""

from __future__ import annotations

import io
import re
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lecun_ablate.cuda.kept import Kept
from lecun_ablate.errors import LecunAblateError
from lecun_ablate.network.initial import PARAMETERS

HERE = Path(__file__).parent
NAMES = HERE.parent / "native" / "names.hpp"
SOURCES = (
    NAMES,
    HERE.parent / "native" / "formulas.hpp",
    HERE / "elementary.hpp",
    HERE / "step.hpp",
    HERE / "method.hpp",
    HERE / "kernels.cu",
)
THREADS = 192  # per block: as many as most phases of a step have tasks
TAPS = 25  # weights of a pair of connected planes
PAIRS = (
    96,
    144,
)  # of connected planes, for which a block may have room: as the paper has it, or all
SCALARS = {"float32": "float", "float64": "double"}
# shared memory of a block in bytes, with room for all pairs and without velocities; kernels.cu
# checks it
TRAINING_BYTES = {"float32": 61_872, "float64": 123_248}
MASK_BYTES = 384  # for two patterns
EVALUATION_BYTES = {"float32": 60_464, "float64": 117_648}


def _names(of: str) -> tuple[str, ...]:
    """Return the names of components for which the kernels have code, from their one list."""
    listed = re.search(rf"#define {of}\(X\)((?:\s|\\|X\(\w+\))+)", NAMES.read_text())
    assert listed, of
    return tuple(re.findall(r"X\((\w+)\)", listed.group(1)))


ACTIVATIONS = _names("LECUN_ACTIVATIONS")
LOSSES = _names("LECUN_LOSSES")
OPTIMIZERS = _names("LECUN_OPTIMIZERS")
OWN = "own"  # in the place of a name: a component of the user's


@dataclass(frozen=True)
class Choices:
    """What a kernel is compiled for; all else is data to it."""

    dtype: str  # "float32" or "float64"
    activation: str
    output_activation: str
    loss: str
    momentum: bool  # whether there is any
    # by whose steps of method.hpp; None: plain gradient descent, pattern by pattern
    method: str | None = None
    own: str = ""  # C++ of the components named OWN, from compiled/device.py

    @property
    def kernel(self) -> str:
        """The name of the kernel that trains."""
        return "train" if self.method is None else "train_by"

    def training_bytes(self, pairs: int) -> int:
        """Return the shared memory that a network in training takes.

        Velocities are in it, too; in a method's steps, the sums of a batch and masks of dropout.
        """
        left_out = (PAIRS[-1] - pairs) * TAPS
        masks = 0 if self.method is None else MASK_BYTES
        second = self.momentum or self.method is not None
        more = second * (PARAMETERS - left_out) - left_out
        return TRAINING_BYTES[self.dtype] + more * self._scalar_bytes + masks

    def evaluation_bytes(self, pairs: int) -> int:
        """Return the shared memory that a network in evaluation takes."""
        left_out = (PAIRS[-1] - pairs) * TAPS
        return EVALUATION_BYTES[self.dtype] - left_out * self._scalar_bytes

    @property
    def _scalar_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize


def compile_kernels(
    choices: Choices, architecture: str, log: io.StringIO | None = None, fresh: bool = False
) -> Any:
    """Return the kernels, `evaluate` and that which trains, as a cuda.core.ObjectCode.

    `architecture` is such as "sm_90". The kernel that trains is `choices.kernel`. The result is
    kept in the user's cache folder. With `log`, where the compiler writes the registers and memory
    that the kernels take, or with `fresh`, the compiler runs in any case. Raises LecunAblateError
    where it fails.
    """
    from cuda.core import Program, ProgramOptions

    macros = {
        "SCALAR": SCALARS[choices.dtype],
        "HIDDEN": choices.activation,
        "OUTPUT": choices.output_activation,
        "LOSS": choices.loss,
        "MOMENTUM": str(choices.momentum).lower(),
        "GENERAL": str(choices.method is not None).lower(),
        "OPTIMIZER": choices.method or "sgd",
        "OWN": str(int(bool(choices.own))),
        "THREADS": str(THREADS),
        "TRAINING_BYTES": str(TRAINING_BYTES[choices.dtype]),
        "EVALUATION_BYTES": str(EVALUATION_BYTES[choices.dtype]),
    }
    options = ProgramOptions(
        arch=architecture,
        std="c++20",
        fma=False,  # fused only where the source says so: the same bits as on a CPU
        define_macro=list(macros.items()),
        ptxas_options=["-v"] if log else None,
    )
    try:
        text = source(choices.own)
        kept = Kept(text, options)
        code = None if log or fresh else kept.read()
        if code is None:
            code = Program(text, "c++", options).compile("cubin", logs=log)
            kept.write(code)
        return code
    except Exception as error:  # NVRTC's own errors, and those of a wrong installation
        what = ", ".join(map(str, astuple(choices)[:-1]))
        line = re.search(r"error: .*", str(error))
        raise LecunAblateError(
            f"the CUDA kernels ({what}) cannot be compiled for {architecture}: "
            f"{line.group() if line else first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@cache
def source(own: str = "") -> str:
    """Return the kernels' source as one text, the project's own headers written out.

    `own` is C++ of components of the user's.
    """
    included = re.compile(r'^#(include ".*"|pragma once)\n', re.MULTILINE)
    *headers, kernels = (file.read_text(encoding="utf-8") for file in SOURCES)
    parts = [*headers, own, kernels] if own else [*headers, kernels]
    return "\n".join(included.sub("", part) for part in parts)


def compiler() -> str:
    """Return the name and version of the compiler."""
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    return f"NVRTC {major}.{minor}"
