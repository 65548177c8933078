"""Reading USPS from files, good and bad."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_fixtures import (
    cells,
    png,
    random_pixels,
    without_privileges,
    write_folder,
    write_parquet,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from lecun_ablate.data import load
from lecun_ablate.data.usps import FILES, read_folder, read_split
from lecun_ablate.errors import DataError

ROWS = {"train": 12, "test": 6}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "usps", ROWS)


@pytest.fixture
def train(folder):
    return folder / FILES["train"]


def problem(file: Path, rows: int = 12) -> str:
    """Read a bad file; return what is said about it after its name."""
    with pytest.raises(DataError) as caught:
        read_split(file, rows)
    assert caught.value.exit_status == 3
    name, _, words = str(caught.value).partition(": ")
    assert name == str(file)
    return words


@given(
    pixels=hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(16), st.just(16))),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_images_and_labels_come_back_as_they_were_written(tmp_path_factory, pixels, data):
    n = len(pixels)
    labels = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    file = write_parquet(tmp_path_factory.mktemp("split") / "file", cells(pixels), labels)
    split = read_split(file, n)
    assert split.images.dtype == np.float64 and split.labels.dtype == np.int64
    assert split.labels.tolist() == labels
    assert (split.images == pixels / 127.5 - 1).all()


def test_pixels_are_scaled_to_one_either_way(tmp_path):
    pixels = np.zeros((1, 16, 16), np.uint8)
    pixels[0, 0, :3] = 255, 51, 204
    image = read_split(write_parquet(tmp_path / "file", cells(pixels), [3]), 1).images[0]
    np.testing.assert_allclose(image[0, :4], [1, -0.6, 0.6, -1], rtol=1e-15)


def test_both_splits_are_read_from_the_hubs_layout(folder):
    digits = read_folder(folder, ROWS)
    assert (digits.name, digits.source, digits.notice) == ("usps", str(folder), None)
    assert (digits.train.images == random_pixels(12, 0) / 127.5 - 1).all()
    assert (digits.test.images == random_pixels(6, 1) / 127.5 - 1).all()
    assert digits.train.class_counts == [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]


def test_narrow_label_types_are_as_good(tmp_path):
    file = write_parquet(tmp_path / "file", cells(random_pixels(2)), [0, 9], label=pa.int8())
    assert read_split(file, 2).labels.tolist() == [0, 9]


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: does not exist: expected a folder with data/"):
        read_folder(tmp_path / "nowhere")


def test_file_where_the_folder_should_be(train):
    with pytest.raises(DataError, match=f"{train}: is not a folder: expected a folder with data/"):
        read_folder(train)


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_file(folder, split):
    (folder / FILES[split]).unlink()
    with pytest.raises(DataError, match=f"{folder / FILES[split]}: cannot be read: does not exist"):
        read_folder(folder, ROWS)


def test_folder_where_the_file_should_be(train):
    train.unlink()
    train.mkdir()
    assert problem(train) == "cannot be read: Is a directory"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are those of POSIX")
@pytest.mark.parametrize("locked", ["file", "folder"])
def test_file_that_may_not_be_read(train, locked):
    open_to_all = Path(tempfile.mkdtemp())  # tmp_path is closed to other users
    try:
        read_split(train, 12)  # what is needed for reading is imported while it can be
        inside = open_to_all / "inside"
        inside.mkdir()
        file = Path(shutil.copy(train, inside))
        open_to_all.chmod(0o755)
        (file if locked == "file" else inside).chmod(0)
        with without_privileges():
            assert problem(file) == "cannot be read: Permission denied"
            if locked == "folder":
                with pytest.raises(DataError, match="Permission denied"):
                    read_folder(inside / "usps")
    finally:
        inside.chmod(stat.S_IRWXU)
        shutil.rmtree(open_to_all)


def test_not_a_parquet_file(train):
    train.write_text("version 1 of something else\n")
    assert problem(train) == "not a parquet file: expected it to begin with b'PAR1', got b'vers'"


def test_pointer_of_git_lfs(train):
    train.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    assert problem(train) == (
        "is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`"
    )


def test_empty_file(train):
    train.write_bytes(b"")
    assert problem(train) == "not a parquet file: expected it to begin with b'PAR1', got b''"


@pytest.mark.parametrize("size", [4, 1000, -1])
def test_truncated_file(train, size):
    content = train.read_bytes()[:size]
    train.write_bytes(content)
    words = problem(train)
    if size == 4:  # the opening mark is the closing one as well
        assert words.startswith("damaged: the parquet file cannot be decoded")
    else:
        assert words == (
            f"truncated: the parquet file ends after {len(content)} bytes, without its footer"
        )


def test_damaged_page(train):
    content = bytearray(train.read_bytes())
    content[4:60] = bytes(56)
    train.write_bytes(content)
    assert problem(train).startswith("damaged: the parquet file cannot be decoded")


@pytest.mark.parametrize(("column", "position"), [("image", 0), ("label", 1)])
def test_missing_column(train, column, position):
    table = pa.parquet.read_table(train)
    names = ["image", "label"]
    names[position] = "other"
    pa.parquet.write_table(table.rename_columns(names), train)
    assert problem(train) == (
        f"column {column!r} is missing: expected the columns 'image' and "
        f"'label', got {', '.join(names)}"
    )


def test_image_column_without_bytes(train):
    write_parquet(train, [png(random_pixels(1)[0])] * 12, [0] * 12, image=pa.binary())
    assert problem(train) == "column 'image': expected a struct with the field 'bytes', got binary"


def test_unexpected_number_of_rows(folder):
    with pytest.raises(DataError, match=f"{folder / FILES['train']}: expected 7291 rows, got 12$"):
        load("usps", data_dir=folder)
    with pytest.raises(DataError, match=f"{folder / FILES['test']}: expected 2007 rows, got 6$"):
        read_folder(folder, {"train": 12, "test": 2007})


def with_image(cell) -> list:
    """Return twelve cells of the column `image`, the one in row 7 as given."""
    if isinstance(cell, bytes):
        cell = {"bytes": cell, "path": None}
    return [*cells(random_pixels(7)), cell, *cells(random_pixels(4))]


GRAY = Image.fromarray(random_pixels(1)[0])
LARGE_OR_SMALL = "image: expected 16x16 pixels of 8-bit grayscale (mode L), got "


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        pytest.param(b"", "image cannot be decoded as PNG", id="empty"),
        pytest.param(b"not a PNG at all", "image cannot be decoded as PNG", id="no PNG"),
        pytest.param(png(GRAY)[:100], "image cannot be decoded as PNG", id="truncated"),
        pytest.param(
            png(GRAY)[:60] + b"\xff" + png(GRAY)[61:],
            "image cannot be decoded as PNG",
            id="damaged",
        ),
        pytest.param(png(GRAY, "JPEG"), "image cannot be decoded as PNG", id="JPEG"),
        pytest.param(None, "image: expected the bytes of a PNG, got None", id="null"),
        pytest.param(
            {"bytes": None, "path": "7.png"},
            "image: expected the bytes of a PNG, got None",
            id="null bytes",
        ),
        pytest.param(png(GRAY.resize((8, 8))), LARGE_OR_SMALL + "8x8 of mode L", id="8x8"),
        pytest.param(png(GRAY.resize((28, 28))), LARGE_OR_SMALL + "28x28 of mode L", id="28x28"),
        pytest.param(png(GRAY.resize((16, 17))), LARGE_OR_SMALL + "16x17 of mode L", id="16x17"),
        pytest.param(png(GRAY.convert("RGB")), LARGE_OR_SMALL + "16x16 of mode RGB", id="RGB"),
        pytest.param(png(GRAY.convert("LA")), LARGE_OR_SMALL + "16x16 of mode LA", id="alpha"),
        pytest.param(png(GRAY.convert("P")), LARGE_OR_SMALL + "16x16 of mode P", id="palette"),
        pytest.param(png(GRAY.convert("1")), LARGE_OR_SMALL + "16x16 of mode 1", id="1 bit"),
        pytest.param(png(GRAY.convert("I;16")), LARGE_OR_SMALL + "16x16 of mode I;16", id="16 bit"),
    ],
)
def test_bad_image(train, cell, words):
    write_parquet(train, with_image(cell), [0] * 12)
    assert problem(train).startswith(f"row 7: {words}")


@pytest.mark.parametrize(
    ("label", "kind", "got"),
    [
        (10, pa.int64(), "10"),
        (-1, pa.int64(), "-1"),
        (None, pa.int64(), "None"),
        (3.5, pa.float64(), "0.0"),
        ("3", pa.string(), "'0'"),
        (True, pa.bool_(), "False"),
    ],
)
def test_bad_label(train, label, kind, got):
    whole = pa.types.is_integer(kind)
    others = [0 if whole else {"3": "0", True: False}.get(label, 0.0)] * 11
    write_parquet(train, cells(random_pixels(12)), [*others[:9], label, *others[9:]], label=kind)
    # in a column of another type, already the first label is wrong
    assert problem(train) == (
        f"row {9 if whole else 0}: label: expected an integer from 0 to 9, got {got}"
    )


def test_rows_are_printed_without_thousands_separators(tmp_path):
    cell = cells(random_pixels(1))[0]
    file = write_parquet(tmp_path / "file", [cell] * 1300, [0] * 1234 + [11] + [0] * 65)
    assert problem(file, 1300) == "row 1234: label: expected an integer from 0 to 9, got 11"


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_damaged_there_is_an_error_of_ours_or_valid_digits(tmp_path_factory, data):
    good = png(random_pixels(1)[0])
    mutate_png = data.draw(st.booleans())
    file = tmp_path_factory.mktemp("split") / "file"
    content = good
    if not mutate_png:
        content = write_parquet(file, cells(random_pixels(2)), [1, 2]).read_bytes()
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if mutate_png:
        write_parquet(file, [*cells(random_pixels(1)), {"bytes": bytes(content)}], [1, 2])
    else:
        file.write_bytes(content)
    try:
        split = read_split(file, 2)
    except DataError as error:
        assert str(error).startswith(f"{file}: ")
    else:
        assert split.images.shape == (2, 16, 16) and np.abs(split.images).max() <= 1
        assert all(0 <= label <= 9 for label in split.labels)


@pytest.fixture(scope="module")
def usps():
    return load("usps", data_dir=Path(os.environ["LECUN_ABLATE_DATA"]))


@pytest.mark.usps
class TestUsps:
    """The real digits. Their digest is not pinned: copies may differ by a grey level."""

    def test_class_counts(self, usps):
        assert usps.train.class_counts == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
        assert usps.test.class_counts == [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]

    def test_order_is_that_of_the_original_files(self, usps):
        # the labels that open zip.train and zip.test of "The Elements of Statistical Learning"
        assert usps.train.labels[:10].tolist() == [6, 5, 4, 7, 3, 6, 3, 1, 0, 1]
        assert usps.test.labels[:10].tolist() == [9, 6, 3, 6, 6, 0, 0, 0, 6, 9]

    def test_pixels(self, usps):
        for split, n in ((usps.train, 7291), (usps.test, 2007)):
            assert split.images.shape == (n, 16, 16) and split.images.dtype == np.float64
            assert split.images.min() == -1 and 0.9 < split.images.max() <= 1
            assert split.images[:, 0].mean() < split.images[:, 4:12].mean()  # ink is positive

    def test_holdout(self, usps):
        fit, validation = usps.holdout()
        assert (len(fit), len(validation)) == (6291, 1000)
        quota = np.array(usps.train.class_counts) * 1000 / 7291
        assert (np.abs(validation.class_counts - quota) < 1).all()
