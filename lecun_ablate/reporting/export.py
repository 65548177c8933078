"""Results for other programs: tidy CSV and Parquet."""

from __future__ import annotations

import io

import pandas as pd


def csv(frame: pd.DataFrame) -> bytes:
    """Return a row per run and epoch as CSV; floats are read back exactly."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text.encode()


def parquet(frame: pd.DataFrame) -> bytes:
    """Return the same as Parquet."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
