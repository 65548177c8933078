"""Runs the CUDA kernels on the CPU: a launcher for trainers.cuda, see cuda_on_cpu.cpp."""

import ctypes
import fcntl
import hashlib
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

import torch

from lecun_ablate.cuda.compiler import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    OWN,
    SOURCES,
    Choices,
)

HERE = Path(__file__).parent
SOURCE = HERE / "cuda_on_cpu.cpp"
FLAGS = ["-std=c++20", "-O1", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror",
         "-Wno-unknown-pragmas", "-shared", "-fPIC", "-pthread"]  # fmt: skip
COMPILER = shutil.which("g++") or shutil.which("clang++")
C_NAMES = {"float32": "float", "float64": "double"}
_one_at_a_time = threading.Lock()  # the library keeps a call's choices in global variables


@cache
def library(*more_flags: str) -> ctypes.CDLL:
    """Return the kernels, compiled unless that has been done before on this machine."""
    flags = [*FLAGS, *_fused_instructions(), *more_flags]
    text = b"".join(path.read_bytes() for path in (*SOURCES, SOURCE))
    return _compiled(text, SOURCE, flags)


def _compiled(text: bytes, source: Path, flags: list[str], *more: str) -> ctypes.CDLL:
    """Return the library of a source file; `text` is all of it, `more` are folders of headers."""
    name = hashlib.sha256(text + repr((COMPILER, flags)).encode()).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"lecun_ablate-kernels-{name}.so"
    with open(place.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other processes of the test run wait for the first
        if not place.exists():
            folders = [f"-I{folder}" for folder in (*sorted({p.parent for p in SOURCES}), *more)]
            made = place.with_suffix(".part")
            subprocess.run([COMPILER, *flags, *folders, str(source), "-o", str(made)], check=True)
            made.replace(place)
    return ctypes.CDLL(str(place))


OWN_SOURCE = HERE / "own_on_cpu.cpp"
FUNCTIONS = ("hidden", "output", "loss", "loss_slopes", "before", "change")


class OwnFunctions(ctypes.Structure):
    """Pointers to the functions of a user's components, as cuda_on_cpu.cpp takes them."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in FUNCTIONS),
        ("states", ctypes.c_int),
        ("numbers", ctypes.c_int),
    ]


@cache
def own_functions(text: str) -> OwnFunctions:
    """Return the functions that a C++ text of compiled/device.py defines."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "own.hpp").write_text('#include "step.hpp"\n' + text)
        content = b"".join(path.read_bytes() for path in (*SOURCES, OWN_SOURCE)) + text.encode()
        own = _compiled(content, OWN_SOURCE, [*FLAGS, *_fused_instructions(), "-w"], folder)
    pointers = [ctypes.cast(getattr(own, name), ctypes.c_void_p) for name in FUNCTIONS]
    found = OwnFunctions(*pointers, own.states(), own.numbers())
    found.library = own  # lives as long as the pointers
    return found


def _fused_instructions() -> list[str]:
    """Return the option for hardware multiply-adds, without which they take a function call."""
    cpu = Path("/proc/cpuinfo")
    return ["-mfma"] if cpu.exists() and " fma " in cpu.read_text() else []


class Named(ctypes.Structure):
    """The choices, as cuda_on_cpu.cpp takes them."""

    _fields_ = [
        (name, ctypes.c_int) for name in ("hidden", "output", "loss", "momentum", "optimizer")
    ]


class Cpu:
    """A launcher; `schedule` is how the tasks of a phase are run, as in cuda_on_cpu.cpp."""

    torch_device = torch.device("cpu")
    instruction_set = "cpu"
    compiler = "a C++ compiler"

    def __init__(self, schedule: int = 0, resident: int = 8):
        self.schedule = schedule
        self.resident = resident

    def kernels(self, choices: Choices, pairs: int) -> "Kernels":
        return Kernels(choices, self.schedule, self.resident)


class Kernels:
    def __init__(self, choices: Choices, schedule: int, resident: int):
        self._resident = resident
        self._kernel = choices.kernel
        self._type = C_NAMES[choices.dtype]
        self._first = (
            Named(
                _number(ACTIVATIONS, choices.activation),
                _number(ACTIVATIONS, choices.output_activation),
                _number(LOSSES, choices.loss),
                choices.momentum,
                _number(OPTIMIZERS, choices.method or "sgd"),
            ),
            schedule,
        )
        self._own = own_functions(choices.own) if choices.own else None

    def resident(self, pairs):
        return self._resident

    def train(self, networks, pairs, *arguments):
        self._call(self._kernel, networks, arguments)

    def evaluate(self, blocks, pairs, *arguments):
        self._call("evaluate", blocks, arguments)

    def _call(self, name, blocks, arguments):
        plain = [
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else ctypes.c_int(a)
            for a in arguments
        ]
        with _one_at_a_time:
            if self._own:
                getattr(library(), f"use_{self._type}")(ctypes.byref(self._own))
            getattr(library(), f"{name}_{self._type}")(*self._first, ctypes.c_int(blocks), *plain)


def _number(names: tuple[str, ...], name: str) -> int:
    """Return a choice as a number; those of the user's come last."""
    return len(names) if name == OWN else names.index(name)
