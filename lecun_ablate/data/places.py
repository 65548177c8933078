"""Where data sets can be found: before a run, and for `python -m lecun_ablate data`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lecun_ablate.data import usps
from lecun_ablate.data.digits import Digits
from lecun_ablate.data.loading import PLACE_VARIABLE, Unavailable, load_from, named_folder
from lecun_ablate.errors import DataError
from lecun_ablate.registry import registry


@dataclass(frozen=True)
class Found:
    """A place where a data set may be, and what was found there."""

    data: str  # name of the data set
    place: str  # "--data-dir", "LECUN_ABLATE_DATA", "Hub cache", "Hub", "embedded", "folder"
    where: str  # path or address; empty if no place is named
    taken: bool  # whether load() would use this place (and fail if it is unusable)
    problem: str | None = None  # why the data set cannot be loaded from here
    train: list[int] | None = None  # number of images of each digit 0..9; None if not read
    test: list[int] | None = None
    digest: str | None = None


def seek(name: str, fallback: str | None, data_dir: Path | None) -> str | None:
    """Check that a data set can be found, without reading it. Takes at most 2 seconds.

    Returns why the fallback will be used, or None if it will not. Raises what load() would raise if
    the data set is not found.
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
    """Look for every registered data set in every place, in the order of load().

    Reads and checks every data set that is found, and tests whether the Hub can be reached, but
    downloads nothing. Problems are part of the result; nothing is raised.
    """
    found = _survey_usps(data_dir)
    for name in registry.names("data"):
        data_set = registry.get("data", name)
        if name == "usps":
            continue
        folder = named_folder(data_dir) if data_set.arity else None
        where = str(folder or data_set.file or "part of an installed package")
        place = "embedded" if folder is None else "folder"
        found.append(_read(name, place, where, True, partial(load_from, data_set, folder)))
    return found


def _survey_usps(data_dir: Path | None) -> list[Found]:
    from huggingface_hub import constants

    variable = os.environ.get(PLACE_VARIABLE)
    found = []
    for place, named in (("--data-dir", data_dir), (PLACE_VARIABLE, variable)):
        if named:
            folder = Path(named).expanduser()
            taken = folder == named_folder(data_dir)
            read = partial(usps.read_folder, folder)
            found.append(_read("usps", place, str(folder), taken, read))
        else:
            found.append(Found("usps", place, "", False, "not set"))
    elsewhere = named_folder(data_dir) is None

    cache, files = constants.HF_HUB_CACHE, usps.cached_files()
    if files:
        read = partial(usps.read_files, files, cache)
        found.append(_read("usps", "Hub cache", cache, elsewhere, read))
    else:
        found.append(Found("usps", "Hub cache", cache, False, f"does not hold {usps.REPO}"))

    hub = f"{constants.ENDPOINT}/datasets/{usps.REPO}"
    found.append(Found("usps", "Hub", hub, elsewhere and not files, usps.unreachable()))
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
