"""Loading by name: the registry, the places, the fallback, scikit-learn's digits."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import random_digits, write_folder
from PIL import Image

from lecun_ablate import data
from lecun_ablate.data import Digits, Split, Unavailable, load
from lecun_ablate.data.sklearn_digits import enlarge
from lecun_ablate.errors import ConfigError, DataError
from lecun_ablate.registry import register


@pytest.fixture(autouse=True)
def no_place_named(monkeypatch):
    monkeypatch.delenv(data.PLACE_VARIABLE, raising=False)


@pytest.fixture
def no_hub(monkeypatch):
    """USPS is nowhere to be had, unless a folder is named."""
    monkeypatch.setattr("lecun_ablate.data.usps.cached_files", lambda: None)
    monkeypatch.setattr("lecun_ablate.data.usps.unreachable", lambda: "no network today")


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("full-size"))


def test_importing_the_package_imports_no_library():
    heavy = "{'torch', 'pandas', 'pyarrow', 'sklearn', 'PIL', 'huggingface_hub', 'matplotlib'}"
    code = f"import sys, lecun_ablate.data; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert answer.stdout.strip() == "[]", answer.stderr


def test_digits_are_what_the_docstring_says(digits):
    assert digits.name == "digits" and digits.notice is None
    for split, n in ((digits.train, 1397), (digits.test, 400)):
        assert split.images.shape == (n, 16, 16) and split.images.dtype == np.float64
        assert split.images.min() == -1 and split.images.max() <= 1
        assert split.labels.dtype == np.int64
    everything = np.add(digits.train.class_counts, digits.test.class_counts)
    # the class counts of the UCI repository's optdigits.names for its test part
    assert everything.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (np.abs(everything * 400 / 1797 - digits.test.class_counts) < 1).all()


def test_digits_keep_scikit_learns_images(digits):
    from sklearn.datasets import load_digits

    # a 2x2 block's mean undoes the enlargement but for a blur, so the nearest original is its own
    originals = load_digits()
    small = digits.test.images.reshape(-1, 8, 2, 8, 2).mean(axis=(2, 4))
    distance = ((small[:50, None] - (originals.images / 8 - 1)[None]) ** 2).sum(axis=(2, 3))
    nearest = distance.argmin(axis=1)
    assert len(set(nearest)) == 50 and (np.diff(nearest) > 0).all()
    assert (originals.target[nearest] == digits.test.labels[:50]).all()


def test_digits_are_the_same_everywhere(digits):
    # exact arithmetic and a promised random stream: this holds on any platform and version
    assert digits.digest == "e1410472b09958fc"
    assert [len(split) for split in digits.holdout()] == [1205, 192]


def test_enlarging_is_pillows_bilinear_interpolation():
    images = np.random.default_rng(0).integers(0, 17, (5, 8, 6)).astype(np.float64)
    for image, large in zip(images, enlarge(images), strict=True):
        pillow = Image.fromarray(image.astype(np.float32)).resize((12, 16), Image.BILINEAR)
        np.testing.assert_allclose(large, np.asarray(pillow), atol=1e-5)


def test_unknown_names_are_configuration_errors():
    with pytest.raises(ConfigError, match=r"'usp': did you mean 'usps'\? valid: .*digits.*usps"):
        load("usp")
    with pytest.raises(ConfigError, match="'digit': did you mean 'digits'"):
        load("digits", fallback="digit")


def test_a_folder_for_a_data_set_that_reads_none_is_refused(tmp_path, monkeypatch, digits):
    with pytest.raises(ConfigError, match="'digits' reads no folder: leave out --data-dir"):
        load("digits", data_dir=tmp_path)
    monkeypatch.setenv(data.PLACE_VARIABLE, str(tmp_path))  # may stand there for other data sets
    assert load("digits").digest == digits.digest


def test_the_named_folder_comes_before_the_variable(full_size, monkeypatch):
    monkeypatch.setenv(data.PLACE_VARIABLE, "does-not-exist")
    assert load("usps", data_dir=full_size).source == str(full_size)


def test_the_variable_comes_before_the_cache_and_the_hub(full_size, monkeypatch):
    def forbidden():
        raise AssertionError("asked although a place is named")

    monkeypatch.setattr("lecun_ablate.data.usps.cached_files", forbidden)
    monkeypatch.setattr("lecun_ablate.data.usps.unreachable", forbidden)
    monkeypatch.setenv(data.PLACE_VARIABLE, str(full_size))
    assert load("usps", fallback="digits").source == str(full_size)


def test_an_empty_variable_names_no_place(monkeypatch, no_hub):
    monkeypatch.setenv(data.PLACE_VARIABLE, "")
    with pytest.raises(Unavailable):
        load("usps")


def test_a_fallback_is_taken_with_a_notice(no_hub, digits):
    stand_in = load("usps", fallback="digits")
    assert (stand_in.name, stand_in.digest) == ("digits", digits.digest)
    first, *rest = stand_in.notice.splitlines()
    assert "'digits' (bundled with scikit-learn), NOT 'usps'" in first
    assert "no network today" in " ".join(rest)


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_no_fallback_where_a_place_is_named(tmp_path, monkeypatch, how, no_hub):
    folder = tmp_path / "missing"
    monkeypatch.setenv(data.PLACE_VARIABLE, str(folder) if how == "variable" else "")
    with pytest.raises(DataError, match="missing: does not exist: expected a folder with data/"):
        load("usps", fallback="digits", data_dir=folder if how == "argument" else None)


def test_no_fallback_where_a_place_is_named_whatever_the_loader_says(tmp_path):
    def nowhere(folder):
        raise Unavailable(f"nothing in {folder}")

    register("data", "nowhere")(nowhere)
    assert load("nowhere", fallback="digits").name == "digits"
    with pytest.raises(Unavailable, match=f"nothing in {tmp_path}"):
        load("nowhere", fallback="digits", data_dir=tmp_path)


def test_no_fallback_for_data_that_are_there_but_wrong(tmp_path, monkeypatch):
    rows = {"train": 12, "test": 2007}
    files = {split: write_folder(tmp_path, rows) / f for split, f in data.usps.FILES.items()}
    monkeypatch.setattr("lecun_ablate.data.usps.cached_files", lambda: files)
    with pytest.raises(DataError, match=r"expected 7291 rows, got 12$"):
        load("usps", fallback="digits")


def test_a_users_data_set_is_one_decorated_loader(monkeypatch):
    register("data", "noise")(noise)
    assert load("noise").digest == random_digits().digest
    seen = []

    def from_folder(folder):
        seen.append(folder)
        return random_digits(name="files")

    register("data", "files")(from_folder)
    monkeypatch.setenv(data.PLACE_VARIABLE, "somewhere")
    load("files", data_dir=Path("here"))
    load("files")
    assert seen == [Path("here"), Path("somewhere")]


def noise():
    return random_digits()


def broken(**parts):
    good = random_digits()
    images, labels = good.train.images, good.train.labels
    return Digits(
        "mine",
        Split(parts.get("images", images), parts.get("labels", labels)),
        good.test,
        "made up",
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"images": np.zeros((40, 8, 8))}, r"train split: .*got \(40, 8, 8\) and \(40,\)"),
        ({"labels": np.arange(39) % 10}, r"got \(40, 16, 16\) and \(39,\)"),
        ({"images": np.zeros((0, 16, 16)), "labels": np.arange(0)}, r"got \(0, 16, 16\)"),
        ({"images": np.zeros((40, 16, 16), np.float32)}, "got float32 and int64"),
        ({"labels": np.zeros(40)}, "got float64 and float64"),
        (
            {"images": np.where(np.arange(40) == 7, 1.01, 0)[:, None, None] + np.zeros((16, 16))},
            r"row 7: expected pixels in \[-1, 1\]",
        ),
        (
            {"images": np.where(np.arange(40) == 8, -1.01, 0)[:, None, None] + np.zeros((16, 16))},
            r"row 8: expected pixels in \[-1, 1\]",
        ),
        (
            {"images": np.where(np.arange(40) == 9, np.nan, 0)[:, None, None] + np.zeros((16, 16))},
            r"row 9: expected pixels in \[-1, 1\]",
        ),
        ({"labels": np.arange(40) % 11}, "row 10: expected a label from 0 to 9, got 10"),
        ({"labels": -np.arange(40)}, "row 1: expected a label from 0 to 9, got -1"),
    ],
)
def test_a_users_data_set_that_breaks_its_contract_is_refused(parts, message):
    register("data", "mine")(lambda: broken(**parts))
    with pytest.raises(DataError, match=f"data set 'mine' .made up.: .*{message}"):
        load("mine")


def test_a_users_loader_that_fails_or_returns_something_else_is_a_data_error():
    register("data", "fails")(lambda: {}["key"])
    register("data", "empty")(lambda: None)
    register("data", "renamed")(noise)
    with pytest.raises(DataError, match="'fails' cannot be loaded: KeyError: 'key'"):
        load("fails")
    with pytest.raises(DataError, match="'empty': expected Digits of that name, got None"):
        load("empty")
    with pytest.raises(DataError, match="expected Digits of that name, got Digits named 'noise'"):
        load("renamed")
