"""A GPU that runs the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lecun_ablate.cuda.compiler import PAIRS, THREADS, Choices, compile_kernels, first_line
from lecun_ablate.errors import LecunAblateError

DRIVER = 13_000  # the least that a driver must be made for: CUDA 13.0


def availability() -> str | None:
    """Return why the kernels cannot be compiled or run here, or None if they can."""
    if not torch.cuda.is_available():
        return "this PyTorch finds no CUDA device"
    try:
        from cuda.bindings import driver, nvrtc
        from cuda.core import Device  # noqa: F401

        nvrtc.nvrtcVersion()
        _, version = driver.cuDriverGetVersion()
    except (ImportError, RuntimeError) as error:
        return (
            "NVIDIA's compiler is not installed: pip install 'lecun-ablate[cuda]' "
            f"({first_line(error)})"
        )
    if version < DRIVER:
        return (
            f"it needs a driver for CUDA {_named(DRIVER)} or later, and this one is for "
            f"{_named(version)}"
        )
    try:
        Gpu()
    except LecunAblateError as error:
        return str(error)
    return None


def _named(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


class Gpu:
    """One CUDA device. PyTorch holds its memory and streams; cuda.core loads and launches.

    Raises LecunAblateError where the device cannot be used.
    """

    def __init__(self, index: int = 0):
        from cuda.core import Device

        self.torch_device = torch.device("cuda", index)
        try:
            torch.cuda.init()
            self._device = Device(index)
            self._device.set_current()
            major, minor = self._device.compute_capability
        except Exception as error:  # cuda.core has no public name for its own
            raise LecunAblateError(f"the GPU cannot be used: {first_line(error)}") from error
        self.instruction_set = f"sm_{major}{minor}"
        self._modules: dict[Choices, Kernels] = {}

    def kernels(self, choices: Choices, pairs: int) -> Kernels:
        """Return the kernels for some choices, compiled on first use.

        `pairs` is for how many connected pairs of planes a block needs room; see PAIRS. Raises
        LecunAblateError where the kernels cannot be compiled or loaded, or where a network takes
        more shared memory than a block of this GPU may have.
        """
        most = self._device.properties.max_shared_memory_per_block_optin
        if choices.training_bytes(pairs) > most:
            raise LecunAblateError(
                f"a network in {choices.dtype}{' with momentum' * choices.momentum}"
                f"{f' with {choices.method}' if choices.method else ''} takes "
                f"{choices.training_bytes(pairs):,} bytes of shared memory; {self._device.name} "
                f"has {most:,} for a block"
            )
        if choices not in self._modules:
            self._modules[choices] = self._load(choices)
        return self._modules[choices]

    def _load(self, choices: Choices) -> Kernels:
        for fresh in (False, True):  # what was kept may be damaged
            code = compile_kernels(choices, self.instruction_set, fresh=fresh)
            try:
                return Kernels(self._device, code, choices)
            except LecunAblateError:
                raise
            except Exception as error:
                failure = error
        raise LecunAblateError(
            f"{self._device.name} does not load the CUDA kernels: {first_line(failure)}"
        ) from failure


class Kernels:
    """The two kernels for some choices, launched on PyTorch's current stream."""

    def __init__(self, device: Any, code: Any, choices: Choices):
        self._device = device
        self._train = code.get_kernel(choices.kernel)
        self._evaluate = code.get_kernel("evaluate")
        self._choices = choices
        self._prepare(self._train, choices.training_bytes(PAIRS[-1]))
        self._prepare(self._evaluate, choices.evaluation_bytes(PAIRS[-1]))

    def _prepare(self, kernel: Any, shared: int) -> None:
        """Let a kernel have more shared memory than the 48 KB that any may have."""
        from cuda.bindings import driver

        shared = min(shared, self._device.properties.max_shared_memory_per_block_optin)
        attributes = driver.CUfunction_attribute
        most = attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        status = self._set(kernel, most, shared)
        if status != driver.CUresult.CUDA_SUCCESS:
            raise LecunAblateError(
                f"{self._device.name} does not give a block {shared:,} bytes of shared memory: "
                f"{status.name}"
            )
        # A hint, so whatever comes of it is right: all that L1 and shared memory have in common
        # to shared memory, since the number of resident blocks depends on it.
        self._set(kernel, attributes.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100)

    def _set(self, kernel: Any, attribute: Any, value: int) -> Any:
        from cuda.bindings import driver

        (status,) = driver.cuKernelSetAttribute(
            attribute, value, kernel.handle, self._device.device_id
        )
        return status

    def resident(self, pairs: int) -> int:
        """Return how many networks the GPU trains at a time."""
        per_sm = self._train.occupancy.max_active_blocks_per_multiprocessor(
            THREADS, self._choices.training_bytes(pairs)
        )
        return int(per_sm * self._device.properties.multiprocessor_count)

    def train(self, networks: int, pairs: int, *arguments: torch.Tensor | int) -> None:
        """Launch the kernel that trains (see kernels.cu) on one block per network."""
        self._launch(self._train, networks, self._choices.training_bytes(pairs), arguments)

    def evaluate(self, blocks: int, pairs: int, *arguments: torch.Tensor | int) -> None:
        """Launch `evaluate` (see kernels.cu) on one block per network and chunk of images."""
        self._launch(self._evaluate, blocks, self._choices.evaluation_bytes(pairs), arguments)

    def _launch(self, kernel: Any, blocks: int, shared: int, arguments: Any) -> None:
        from cuda.core import LaunchConfig, Stream, launch

        self._device.set_current()  # for this thread
        config = LaunchConfig(grid=blocks, block=THREADS, shmem_size=shared)
        plain = [a.data_ptr() if isinstance(a, torch.Tensor) else np.int32(a) for a in arguments]
        # by its handle: PyTorch's streams can be handed over themselves from 2.10 on only
        stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
        launch(stream, config, kernel, *plain)
