"""The USPS zip-code digits: two parquet files in a folder, in the Hub's cache, or on the Hub."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from lecun_ablate.data.digits import Digits, Split
from lecun_ablate.data.loading import PLACE_VARIABLE, Unavailable
from lecun_ablate.errors import DataError
from lecun_ablate.registry import register

REPO = "flwrlabs/usps"
FILES = {
    "train": "data/train-00000-of-00001.parquet",
    "test": "data/test-00000-of-00001.parquet",
}
ROWS = {"train": 7291, "test": 2007}
DIGEST = "46fb686dd0d0aeee"  # of the digits, independent of the files
LARGEST = 100_000_000  # bytes of a file, compressed or not; USPS's have 0.5 and 1.8 million
PROBE_SECONDS = 1.5  # so that a command answers within 3 seconds, including Python's start
ASK_AGAIN_SECONDS = 30.0


@register("data")
def usps(folder: Path | None) -> Digits:
    """9,298 digits from zip codes on US mail: 7,291 for training, 2,007 for testing.

    Hull, "A Database for Handwritten Text Recognition Research", IEEE PAMI 16(5), 1994; the digits
    of LeCun et al., "Backpropagation Applied to Handwritten Zip Code Recognition", Neural
    Computation 1(4), 1989. Read from `folder` if given, otherwise from the Hub's local cache or the
    Hub (data set flwrlabs/usps). Pixels 0..255 are scaled by x / 127.5 - 1. The test split is hard:
    people misread about 2.5 % of it (Bromley and Sackinger 1991).

    Raises Unavailable if the files are not found, DataError if they are invalid.
    """
    if folder is not None:
        return _recognised(read_folder(folder))
    files = locate(folder) or download()
    return _recognised(read_files(files, f"Hugging Face Hub, data set {REPO}"))


def _recognised(digits: Digits) -> Digits:
    """Return the digits, with a notice if they are not those of the Hub's data set.

    Shuffled rows, inverted gray levels or other labels make valid files with other results.
    """
    if digits.digest == DIGEST:
        return digits
    return replace(
        digits,
        notice=f"These are not the usual USPS digits ({digits.source}): expected digest {DIGEST}, "
        f"got {digits.digest}. Their order, pixels or labels differ from those of the data set "
        f"{REPO}, so results cannot be compared with results on it.",
    )


def locate(folder: Path | None) -> dict[str, Path] | None:
    """Return the paths of the two files, without reading them; None if they are only on the Hub.

    Raises Unavailable within PROBE_SECONDS, or DataError if `folder` is not a folder.
    """
    if folder is not None:
        return _files_in(folder)
    files = cached_files()
    if files is None and (reason := unreachable()):
        raise _unavailable(reason)
    return files


def read_folder(folder: Path, rows: Mapping[str, int] = ROWS) -> Digits:
    """Read the two files from a folder with the layout of the Hub's data set."""
    return read_files(_files_in(folder), str(folder), rows)


def _files_in(folder: Path) -> dict[str, Path]:
    try:
        problem = "is not a folder" if folder.exists() else "does not exist"
        usable = folder.is_dir()
    except OSError as error:
        problem, usable = f"cannot be read: {error.strerror}", False
    if not usable:
        raise DataError(
            f"{folder}: {problem}: expected a folder with {' and '.join(FILES.values())}"
        )
    return {split: folder / file for split, file in FILES.items()}


def read_files(files: Mapping[str, Path], source: str, rows: Mapping[str, int] = ROWS) -> Digits:
    """Read and check both splits; `rows` gives the number of images that each must have."""
    train, test = (read_split(files[split], rows[split]) for split in ("train", "test"))
    return Digits(name="usps", train=train, test=test, source=source)


def read_split(file: Path, rows: int) -> Split:
    """Read one parquet file with `rows` 16x16 8-bit grayscale PNGs and labels 0..9.

    Raises DataError with the file, and the row (counted from 0) if the problem is in a row.
    """
    cells, labels = _columns(file, rows)
    pixels = np.empty((rows, 16, 16), dtype=np.uint8)
    for row, (cell, label) in enumerate(zip(cells, labels, strict=True)):
        try:
            pixels[row] = _pixels(cell)
            _check_label(label)
        except ValueError as error:
            raise DataError(f"{file}: row {row}: {error}") from error
    return Split(pixels / 127.5 - 1, np.array(labels, dtype=np.int64))


def _columns(file: Path, rows: int) -> tuple[list[Any], list[Any]]:
    """Return the columns `image` and `label` of a parquet file as Python values.

    The sizes that the file declares are checked before anything is decompressed.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise DataError(f"{file}: expected at most {LARGEST:,} bytes, got {size:,}")
        content = file.read_bytes()
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
        raise DataError(f"{file}: cannot be read: {reason}") from error
    if content.startswith(b"version https://git-lfs"):
        raise DataError(
            f"{file}: is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`"
        )
    if not content.startswith(b"PAR1"):
        raise DataError(
            f"{file}: not a parquet file: expected it to begin with b'PAR1', got {content[:4]!r}"
        )
    if not content.endswith(b"PAR1"):
        raise DataError(
            f"{file}: truncated: the parquet file ends after {len(content)} "
            "bytes, without its footer"
        )
    try:
        source = parquet.ParquetFile(pa.BufferReader(content))
        schema = source.schema_arrow
        for name in ("image", "label"):
            if schema.names.count(name) != 1:
                raise DataError(
                    f"{file}: column {name!r} is missing: expected the columns "
                    f"'image' and 'label', got {', '.join(schema.names)}"
                )
        kind = schema.field("image").type
        if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            raise DataError(
                f"{file}: column 'image': expected a struct with the field 'bytes', got {kind}"
            )
        found = source.metadata.num_rows
        if found != rows:
            raise DataError(f"{file}: expected {rows} rows, got {found}")
        groups = [source.metadata.row_group(i) for i in range(source.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        if unpacked > LARGEST:
            raise DataError(
                f"{file}: expected at most {LARGEST:,} bytes when unpacked, got {unpacked:,}"
            )
        table = source.read(columns=["image", "label"])
        return table["image"].to_pylist(), table["label"].to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file}: damaged: the parquet file cannot be decoded: {reason}") from error


def _pixels(cell: Any) -> np.ndarray:
    """Decode a cell of the column `image` to pixels (16, 16) uint8; ValueError if it is invalid."""
    from PIL import Image

    encoded = cell and cell["bytes"]
    if not isinstance(encoded, bytes):
        raise ValueError(f"image: expected the bytes of a PNG, got {encoded!r}")
    try:
        image = Image.open(io.BytesIO(encoded), formats=["PNG"])
        if image.mode == "L" and image.size == (16, 16):
            return np.asarray(image)
    except Exception as error:  # Pillow raises many types for damaged files
        words = re.sub(r" <_io\.BytesIO object at \w+>", "", str(error))
        raise ValueError(f"image cannot be decoded as PNG: {words}") from error
    width, height = image.size
    raise ValueError(
        f"image: expected 16x16 pixels of 8-bit grayscale (mode L), "
        f"got {width}x{height} of mode {image.mode}"
    )


def _check_label(label: Any) -> None:
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label <= 9:
        raise ValueError(f"label: expected an integer from 0 to 9, got {label!r}")


def cached_files() -> dict[str, Path] | None:
    """Return the paths of the two files in the Hub's local cache; None if either is missing."""
    from huggingface_hub import try_to_load_from_cache

    files = {
        split: try_to_load_from_cache(REPO, file, repo_type="dataset")
        for split, file in FILES.items()
    }
    # neither None nor the marker for a file that is not on the Hub
    found = {split: Path(file) for split, file in files.items() if isinstance(file, str)}
    return found if len(found) == len(FILES) else None


def download() -> dict[str, Path]:
    """Download the two files from the Hub into its local cache, with the Hub's progress bar.

    Raises Unavailable.
    """
    from huggingface_hub import hf_hub_download

    try:
        return {
            split: Path(hf_hub_download(REPO, file, repo_type="dataset"))
            for split, file in FILES.items()
        }
    except Exception as error:  # the client also raises its HTTP library's errors
        raise _unavailable(_reason(error)) from error


def _unavailable(reason: str) -> Unavailable:
    from huggingface_hub import constants

    return Unavailable(
        f"USPS is not in the local cache {constants.HF_HUB_CACHE}, and cannot be downloaded from "
        f"the Hub ({constants.ENDPOINT}): {reason}\n"
        f"Expected {' and '.join(FILES.values())} of the data set {REPO}.\n"
        f"Give a folder with both files by --data-dir or the environment variable "
        f"{PLACE_VARIABLE}; or set HF_HOME to a folder whose Hub cache has them; or use the digits "
        "that come with scikit-learn: `data: digits`."
    )


_refusals: list[tuple[float, str]] = []  # when the Hub could not be reached, and why


def unreachable() -> str | None:
    """Return why the Hub cannot be reached, or None if it can. Takes at most PROBE_SECONDS.

    The Hub's own client retries for 20 seconds or more. A failure is remembered for a while,
    because a command looks for its data several times.
    """
    if _refusals and time.monotonic() - _refusals[-1][0] < ASK_AGAIN_SECONDS:
        return _refusals[-1][1]
    reason = _ask_hub()
    if reason is not None:
        _refusals.append((time.monotonic(), reason))
    return reason


def _ask_hub() -> str | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(REPO, FILES["train"], repo_type="dataset")
    answers: list[str | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(url, timeout=2 * PROBE_SECONDS)  # longer than the join below
            answers.append(None)
        except Exception as error:
            answers.append(_reason(error))

    # on a thread, because client timeouts do not cover a name server that does not answer
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answers[0] if answers else f"{url} did not answer within {PROBE_SECONDS:g} seconds"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
