"""Data files of other forms, of other contents, and such as are meant to fill the memory."""

import struct
import tracemalloc
import zlib

import numpy as np
import pyarrow as pa
import pytest
from data_fixtures import IMAGE, cells, png, random_pixels, write_folder, write_parquet
from pyarrow import parquet

from lecun_ablate.data import usps
from lecun_ablate.data.usps import read_split
from lecun_ablate.errors import DataError

N = 12
PIXELS = random_pixels(N)
LABELS = [i % 10 for i in range(N)]
LARGE = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])


def table(images=None, labels=None, image=IMAGE, label=None):
    return pa.table(
        {
            "image": pa.array(cells(PIXELS) if images is None else images, image),
            "label": pa.array(LABELS if labels is None else labels, label or pa.int64()),
        }
    )


FORMS = {
    "zstd": (table(), {"compression": "zstd"}),
    "gzip": (table(), {"compression": "gzip"}),
    "not compressed": (table(), {"compression": "none"}),
    "row groups": (table(), {"row_group_size": 5}),
    "version 1": (table(), {"version": "1.0"}),
    "large types": (table(image=LARGE), {}),
    "int8": (table(label=pa.int8()), {}),
    "uint64": (table(label=pa.uint64()), {}),
    "more columns": (table().append_column("split", pa.array(["train"] * N)), {}),
    "another order of columns": (table().select(["label", "image"]), {}),
    "labels in a dictionary": (
        table().set_column(1, "label", pa.array(LABELS, pa.int64()).dictionary_encode()),
        {},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_legal_form_gives_the_same_digits(tmp_path, form):
    content, options = FORMS[form]
    parquet.write_table(content, tmp_path / "x.parquet", **options)
    found = read_split(tmp_path / "x.parquet", N)
    assert np.array_equal(found.images, PIXELS / 127.5 - 1)
    assert found.labels.tolist() == LABELS


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA", "LA", "1", "I;16"])
def test_pictures_of_other_modes_are_refused_with_their_row(tmp_path, mode):
    from PIL import Image

    images = cells(PIXELS)
    gray = Image.fromarray(PIXELS[3])
    wide = PIXELS[3].astype(np.uint16) * 257
    other = Image.fromarray(wide) if mode == "I;16" else gray.convert(mode)
    images[3] = {"bytes": png(other), "path": None}
    file = write_parquet(tmp_path / "x.parquet", images, LABELS)
    with pytest.raises(DataError, match=r"x\.parquet: row 3: image: expected 16x16 .* got 16x16"):
        read_split(file, N)


@pytest.mark.parametrize("format", ["JPEG", "BMP", "GIF", "TIFF"])
def test_pictures_of_other_formats_are_refused_with_their_row(tmp_path, format):
    images = cells(PIXELS)
    images[5] = {"bytes": png(PIXELS[5], format), "path": None}
    file = write_parquet(tmp_path / "x.parquet", images, LABELS)
    with pytest.raises(DataError, match=r"x\.parquet: row 5: image cannot be decoded as PNG"):
        read_split(file, N)


def test_a_pointer_of_git_lfs_says_so(tmp_path):
    file = tmp_path / "x.parquet"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 508493\n")
    with pytest.raises(DataError, match=r"is a pointer of Git LFS.*git lfs pull"):
        read_split(file, N)


# ---- what unpacks to more than there is


def refused(file) -> str:
    """Return why a file is refused, which must take little memory."""
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError) as error:
        read_split(file, N)
    used = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert used < 50_000_000
    return str(error.value)


def test_millions_of_rows_are_counted_before_they_are_read(tmp_path):
    rows = 3_000_000
    nothing = pa.nulls(rows, IMAGE)
    content = pa.table({"image": nothing, "label": pa.array(np.zeros(rows, np.int8))})
    parquet.write_table(content, tmp_path / "x.parquet", compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    assert "expected 12 rows, got 3000000" in refused(tmp_path / "x.parquet")


def test_gigabytes_in_few_rows_are_refused_before_they_are_unpacked(tmp_path):
    images = [{"bytes": bytes(20_000_000) + bytes([i]), "path": None} for i in range(N)]
    content = table(images)
    parquet.write_table(content, tmp_path / "x.parquet", compression="zstd")
    del content, images
    assert (tmp_path / "x.parquet").stat().st_size < 1_000_000
    assert "when unpacked" in refused(tmp_path / "x.parquet")


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    with open(tmp_path / "x.parquet", "wb") as file:
        file.truncate(5_000_000_000)
    assert "expected at most 100,000,000 bytes, got 5,000,000,000" in refused(
        tmp_path / "x.parquet"
    )


def test_a_picture_that_claims_to_be_huge_is_not_decoded(tmp_path):
    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(30_001) * 100)
    huge = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)
    images = cells(PIXELS)
    images[2] = {"bytes": huge + chunk(b"IEND", b""), "path": None}
    file = write_parquet(tmp_path / "x.parquet", images, LABELS)
    assert "row 2: image" in refused(file)


# ---- valid files of other digits


def test_digits_that_are_not_the_usual_ones_are_said_to_be_others(tmp_path):
    write_folder(tmp_path)
    notice = usps.usps(tmp_path).notice
    assert "not the usual USPS digits" in notice and usps.DIGEST in notice
    assert str(tmp_path) in notice


@pytest.mark.usps
def test_the_usual_ones_have_no_notice():
    import os
    from pathlib import Path

    found = usps.usps(Path(os.environ["LECUN_ABLATE_DATA"]))
    assert found.digest == usps.DIGEST and found.notice is None
