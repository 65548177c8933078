"""Small pictures for the page: digits, kernels, connectivities, as PNG data that CSS enlarges."""

from __future__ import annotations

import base64
import io

import numpy as np

POSITIVE, NEGATIVE, PLAIN = (0xD9, 0x74, 0x2B), (0x3B, 0x82, 0xC4), (0x7F, 0x8F, 0xA6)


def digit(image: np.ndarray) -> str:
    """Return an image (16, 16) in [-1, 1] as dark ink on a transparent ground."""
    return _ink(np.clip((image + 1) / 2, 0, 1), (0x20, 0x24, 0x2A))


def kernels(weights: np.ndarray) -> str:
    """Return 12 kernels (12, 5, 5) in two rows of six: orange where positive, blue where negative.

    The largest weight has the fullest colour; 0 is transparent.
    """
    weights = weights / max(float(np.abs(weights).max()), 1e-12)
    canvas = np.zeros((2 * 6 - 1, 6 * 6 - 1))
    for k, kernel in enumerate(weights):
        top, left = 6 * (k // 6), 6 * (k % 6)
        canvas[top : top + 5, left : left + 5] = kernel
    colours = np.where(canvas[..., None] > 0, POSITIVE, NEGATIVE)
    return _png(np.dstack([colours, np.rint(255 * np.abs(canvas))]))


def connectivity(seen: np.ndarray) -> str:
    """Return (12, 12) bool as squares with gaps: row = plane of H2, column = plane of H1."""
    cells = np.zeros((12, 4, 12, 4))
    cells[:, :3, :, :3] = np.where(seen, 1.0, 0.12)[:, None, :, None]
    return _ink(cells.reshape(48, 48)[:47, :47], PLAIN)


def _ink(strength: np.ndarray, colour: tuple[int, int, int]) -> str:
    colours = np.broadcast_to(np.array(colour), (*strength.shape, 3))
    return _png(np.dstack([colours, np.rint(255 * strength)]))


def _png(rgba: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgba.astype(np.uint8), "RGBA").save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
