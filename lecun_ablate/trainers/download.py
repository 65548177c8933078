"""Copies from the device to the host, with a single wait."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def download(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Return copies of tensors of one device, once its current stream has finished."""
    on_gpu = any(tensor.is_cuda for tensor in tensors)
    copies = [
        torch.empty(t.shape, dtype=t.dtype, pin_memory=on_gpu).copy_(t, non_blocking=on_gpu)
        for t in tensors
    ]
    if on_gpu:
        torch.cuda.current_stream().synchronize()
    return [copy.numpy() for copy in copies]
