"""What digits are found where: before a run, and for `python -m lecun_ablate data`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lecun_ablate.data import usps
from lecun_ablate.data.digits import Digits
from lecun_ablate.data.loading import PLACE_VARIABLE, Unavailable, load_from, named_folder
from lecun_ablate.errors import DataError
from lecun_ablate.registry import registry


@dataclass(frozen=True)
class Found:
    """A place where a data set may be, and what is there."""

    data: str  # name of the data set
    place: str  # "--data-dir", "LECUN_ABLATE_DATA", "Hub cache", "Hub", "embedded", "folder"
    where: str  # path or address; empty if no place is named
    taken: bool  # load() would take the data set from here, or fail here
    problem: str | None = None  # why there is nothing to be had from here
    train: list[int] | None = None  # images of each digit 0..9; None if not read
    test: list[int] | None = None
    digest: str | None = None


def seek(name: str, fallback: str | None, data_dir: Path | None) -> str | None:
    """Look for a data set without reading it: that takes 2 seconds at most, loading it many.

    Raises what load() would where the data set is nowhere to be had. Returns why the fallback will
    be taken, if it will.
    """
    folder = named_folder(data_dir)
    if name != "usps":
        return None
    try:
        usps.locate(folder)
    except Unavailable as error:
        if fallback is None or folder is not None:
            raise
        return str(error)
    return None


def survey(data_dir: Path | None = None) -> list[Found]:
    """Look for every registered data set in every place, in the order in which load() would.

    Reads and checks all that is there, and asks whether the Hub can be reached, but fetches
    nothing from it. Problems are part of the answer: nothing is raised.
    """
    found = _survey_usps(data_dir)
    for name in registry.names("data"):
        data_set = registry.get("data", name)
        if name == "usps":
            continue
        folder = named_folder(data_dir) if data_set.arity else None
        where = str(folder or data_set.file or "part of an installed package")
        place = "embedded" if folder is None else "folder"
        found.append(_read(name, place, where, True, lambda d=data_set, f=folder: load_from(d, f)))
    return found


def _survey_usps(data_dir: Path | None) -> list[Found]:
    from huggingface_hub import constants

    variable = os.environ.get(PLACE_VARIABLE)
    found = []
    for place, named in (("--data-dir", data_dir), (PLACE_VARIABLE, variable)):
        if named:
            folder = Path(named).expanduser()
            taken = folder == named_folder(data_dir)
            found.append(
                _read(
                    "usps",
                    place,
                    str(folder),
                    taken,
                    lambda folder=folder: usps.read_folder(folder),
                )
            )
        else:
            found.append(Found("usps", place, "", False, "not set"))
    named = named_folder(data_dir) is not None

    cache, files = constants.HF_HUB_CACHE, usps.cached_files()
    if files:
        found.append(
            _read("usps", "Hub cache", cache, not named, lambda: usps.read_files(files, cache))
        )
    else:
        found.append(Found("usps", "Hub cache", cache, False, f"does not hold {usps.REPO}"))

    hub = f"{constants.ENDPOINT}/datasets/{usps.REPO}"
    found.append(Found("usps", "Hub", hub, not named and not files, usps.unreachable()))
    return found


def _read(name: str, place: str, where: str, taken: bool, read: Callable[[], Digits]) -> Found:
    try:
        digits = read()
    except DataError as error:
        return Found(name, place, where, taken, str(error))
    return Found(
        name,
        place,
        where,
        taken,
        None,
        digits.train.class_counts,
        digits.test.class_counts,
        digits.digest,
    )
