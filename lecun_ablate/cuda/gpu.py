"""A GPU that runs the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lecun_ablate.cuda.compiler import THREADS, Choices, compile_kernels
from lecun_ablate.errors import LecunAblateError


class Gpu:
    """One CUDA device. PyTorch holds its memory and streams; cuda.core loads and launches."""

    def __init__(self, index: int = 0):
        from cuda.core import Device

        self.torch_device = torch.device("cuda", index)
        torch.cuda.init()
        self._device = Device(index)
        self._device.set_current()
        major, minor = self._device.compute_capability
        self.instruction_set = f"sm_{major}{minor}"
        self._modules: dict[Choices, Kernels] = {}

    def kernels(self, choices: Choices) -> Kernels:
        """Return the kernels for some choices, compiled on first use.

        Raises LecunAblateError where they cannot be compiled, or take more shared memory than a
        block of this GPU may have.
        """
        most = self._device.properties.max_shared_memory_per_block_optin
        if choices.training_bytes > most:
            raise LecunAblateError(
                f"a network in {choices.dtype}{' with momentum' * choices.momentum} takes "
                f"{choices.training_bytes:,} bytes of shared memory; {self._device.name} has "
                f"{most:,} for a block"
            )
        if choices not in self._modules:
            code = compile_kernels(choices, self.instruction_set)
            self._modules[choices] = Kernels(self._device, code, choices)
        return self._modules[choices]


class Kernels:
    """The two kernels for some choices, launched on PyTorch's current stream."""

    def __init__(self, device: Any, code: Any, choices: Choices):
        self._device = device
        self._train = code.get_kernel("train")
        self._evaluate = code.get_kernel("evaluate")
        self._choices = choices
        self._allow(self._train, choices.training_bytes)
        self._allow(self._evaluate, choices.evaluation_bytes)

    def _allow(self, kernel: Any, shared: int) -> None:
        """Let a kernel have more shared memory than the 48 KB that any may have."""
        from cuda.bindings import driver

        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        (status,) = driver.cuKernelSetAttribute(
            attribute, shared, kernel.handle, self._device.device_id
        )
        if status != driver.CUresult.CUDA_SUCCESS:
            raise LecunAblateError(
                f"{self._device.name} does not give a block {shared:,} bytes of shared memory: "
                f"{status.name}"
            )

    @property
    def resident(self) -> int:
        """How many networks the GPU trains at a time."""
        per_sm = self._train.occupancy.max_active_blocks_per_multiprocessor(
            THREADS, self._choices.training_bytes
        )
        return per_sm * self._device.properties.multiprocessor_count

    def train(self, networks: int, *arguments: torch.Tensor | int) -> None:
        """Launch `train` (see kernels.cu) on one block per network."""
        self._launch(self._train, networks, self._choices.training_bytes, arguments)

    def evaluate(self, blocks: int, *arguments: torch.Tensor | int) -> None:
        """Launch `evaluate` (see kernels.cu) on one block per network and chunk of images."""
        self._launch(self._evaluate, blocks, self._choices.evaluation_bytes, arguments)

    def _launch(self, kernel: Any, blocks: int, shared: int, arguments: Any) -> None:
        from cuda.core import LaunchConfig, launch

        self._device.set_current()  # for this thread
        config = LaunchConfig(grid=blocks, block=THREADS, shmem_size=shared)
        plain = [a.data_ptr() if isinstance(a, torch.Tensor) else np.int32(a) for a in arguments]
        launch(torch.cuda.current_stream(), config, kernel, *plain)
