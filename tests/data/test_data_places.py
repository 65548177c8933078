"""The survey of what is found where, and the contact sheet."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from data_fixtures import random_digits, write_folder
from PIL import Image

from lecun_ablate.data import PLACE_VARIABLE, contact_sheet, load, survey
from lecun_ablate.data.sheet import _mosaic
from lecun_ablate.data.usps import FILES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("usps"))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """An empty cache, no network, no place named."""
    monkeypatch.delenv(PLACE_VARIABLE, raising=False)
    monkeypatch.setattr("lecun_ablate.data.usps.cached_files", lambda: None)
    monkeypatch.setattr("lecun_ablate.data.usps.unreachable", lambda: "no network today")


def places(data_dir=None):
    found = survey(data_dir)
    json.dumps([asdict(record) for record in found])  # plain values only
    return {
        record.place if record.data == "usps" else record.data: record
        for record in found
        if record.data in ("usps", "digits")  # whatever others there are
    }


def test_nothing_but_the_embedded_digits():
    found = places()
    assert list(found) == ["--data-dir", "LECUN_ABLATE_DATA", "Hub cache", "Hub", "digits"]
    assert [record.problem for record in found.values()] == [
        "not set",
        "not set",
        "does not hold flwrlabs/usps",
        "no network today",
        None,
    ]
    assert [name for name, record in found.items() if record.taken] == ["Hub", "digits"]
    digits = load("digits")
    assert found["digits"].digest == digits.digest
    assert (found["digits"].train, found["digits"].test) == (
        digits.train.class_counts,
        digits.test.class_counts,
    )


def test_a_named_folder_is_taken_and_counted(folder, monkeypatch):
    monkeypatch.setenv(PLACE_VARIABLE, str(folder))
    found = places()
    assert [name for name, record in found.items() if record.taken] == [
        "LECUN_ABLATE_DATA",
        "digits",
    ]
    here = found["LECUN_ABLATE_DATA"]
    assert (here.where, here.problem) == (str(folder), None)
    assert (sum(here.train), sum(here.test)) == (7291, 2007)
    digits = load("usps")
    assert (here.train, here.test, here.digest) == (
        digits.train.class_counts,
        digits.test.class_counts,
        digits.digest,
    )


def test_a_bad_named_folder_is_taken_too_and_its_problem_told(folder, monkeypatch, tmp_path):
    monkeypatch.setenv(PLACE_VARIABLE, str(folder))
    found = places(tmp_path)
    assert [name for name, record in found.items() if record.taken] == ["--data-dir", "digits"]
    assert found["--data-dir"].problem.startswith(f"{tmp_path / FILES['train']}: cannot be read")
    assert found["--data-dir"].train is None
    assert found["LECUN_ABLATE_DATA"].problem is None


def test_the_cache_is_taken_before_the_hub(folder, monkeypatch):
    files = {split: folder / name for split, name in FILES.items()}
    monkeypatch.setattr("lecun_ablate.data.usps.cached_files", lambda: files)
    monkeypatch.setattr("lecun_ablate.data.usps.unreachable", lambda: None)
    found = places()
    assert [name for name, record in found.items() if record.taken] == ["Hub cache", "digits"]
    assert sum(found["Hub cache"].train) == 7291
    assert found["Hub"].problem is None


def test_contact_sheet_is_a_picture(tmp_path):
    contact_sheet(load("digits"), tmp_path / "sheet.png", per_class=8)
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("L"))
    assert sheet.format == "PNG" and min(sheet.size) > 500
    for half in np.array_split(pixels, 2, axis=1):  # ink and paper in both splits
        assert (half < 64).mean() > 0.02 and (half > 192).mean() > 0.3


def test_mosaic_has_a_row_of_images_for_each_label():
    split = random_digits(train=35, test=1).train  # labels 5..9 have three images only
    mosaic = _mosaic(split, 4)
    assert mosaic.shape == (170, 68)
    tiles = mosaic.reshape(10, 17, 4, 17).transpose(0, 2, 1, 3)[:, :, :16, :16]
    for label in range(10):
        own = split.images[split.labels == label]
        assert (tiles[label, : len(own)] == own).all()
        assert np.isnan(tiles[label, len(own) :]).all()
