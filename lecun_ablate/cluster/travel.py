"""What travels between machines: data, recipes with the user's components, and reports."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import Component
from lecun_ablate.trainers.base import EpochReport, State, Trainer

LEVELS = 256  # that go into a byte

# ---- data


@dataclass(frozen=True)
class PackedSplit:
    """A split in as few bytes as hold it exactly."""

    images: np.ndarray  # (n, 16, 16): uint8, places in `levels`; or float32, or float64
    levels: np.ndarray | None  # (LEVELS,) float64: the grey level of each byte
    labels: np.ndarray  # (n,) uint8

    @classmethod
    def of(cls, split: Split) -> PackedSplit:
        """Pack a split."""
        images, labels = split.images, split.labels.astype(np.uint8)
        places = np.rint((images + 1) * (LEVELS - 1) / 2).clip(0, LEVELS - 1).astype(np.uint8)
        levels = np.zeros(LEVELS)
        levels[places.ravel()] = images.ravel()
        if np.array_equal(levels[places], images):
            return cls(places, levels, labels)
        short = images.astype(np.float32)
        exact = np.array_equal(short.astype(np.float64), images)
        return cls(short if exact else images, None, labels)

    def unpacked(self) -> Split:
        """Return the split, with the bits that it had."""
        images = self.images if self.levels is None else self.levels[self.images]
        return Split(images.astype(np.float64), self.labels.astype(np.int64))


@dataclass(frozen=True)
class Data:
    """The images that runs are trained on and scored on."""

    key: str  # a digest: equal keys, equal data
    splits: tuple[PackedSplit, ...]
    fit: int  # a place in `splits`
    evaluate: Mapping[str, int]

    @classmethod
    def of(cls, fit: Split, evaluate: Mapping[str, Split]) -> Data:
        """Pack splits, each once."""
        different = {id(split): split for split in (fit, *evaluate.values())}
        places = {identity: place for place, identity in enumerate(different)}
        splits = tuple(PackedSplit.of(split) for split in different.values())
        named = {name: places[id(split)] for name, split in evaluate.items()}
        sha = hashlib.sha256(repr((places[id(fit)], sorted(named.items()))).encode())
        for split in splits:
            for array in (split.images, split.levels, split.labels):
                if array is not None:
                    sha.update(np.ascontiguousarray(array).data)
        return cls(sha.hexdigest(), splits, places[id(fit)], named)

    def unpacked(self) -> tuple[Split, dict[str, Split]]:
        """Return the images to train on, and the splits to score on."""
        splits = [split.unpacked() for split in self.splits]
        return splits[self.fit], {name: splits[place] for name, place in self.evaluate.items()}


# ---- the trainer and the components that it needs


@dataclass(frozen=True)
class Source:
    """A file of components of the user's own, with the modules that it imports."""

    name: str  # of the file
    content: bytes
    modules: Mapping[str, bytes]  # path below the file's folder -> content
    digest: str
    components: tuple[tuple[str, str], ...]  # kind and name of those that are needed


@dataclass(frozen=True)
class Kit:
    """What a node needs before it trains runs."""

    trainer: bytes  # pickled: a node that cannot have it answers why
    sources: tuple[Source, ...]

    @classmethod
    def of(cls, trainer: Trainer, recipes: Iterable[Recipe]) -> Kit:
        """Pack a trainer with the components of the user's own that recipes name.

        Raises ConfigError for a component that has no file.
        """
        return cls(pickle.dumps(trainer), sources(recipes))


def sources(recipes: Iterable[Recipe]) -> tuple[Source, ...]:
    """Return the files of the components of the user's own that recipes name.

    Raises ConfigError for those that were defined in a session, a notebook or a script.
    """
    own = {(c.kind, c.name): c for recipe in recipes for c in recipe.user_components}
    if problems := [_without_file(c) for c in own.values() if c.file is None or c.source is None]:
        raise ConfigError(problems)
    by_digest: dict[str, list[Component]] = {}
    for component in own.values():
        by_digest.setdefault(component.digest or "", []).append(component)
    return tuple(
        Source(
            file.name,
            group[0].source or b"",
            dict(group[0].modules),
            digest,
            tuple((c.kind, c.name) for c in group),
        )
        for digest, group in by_digest.items()
        if (file := group[0].file)
    )


def _without_file(component: Component) -> str:
    return (
        f"{component.origin}: {component.kind} {component.name!r} cannot travel to other machines: "
        "expected a component of a file, got one of a session, a notebook or a script: put it into "
        "a file, and name that under `components` or with --components"
    )


# ---- reports

NO_ANSWERS = np.empty(0, np.uint8)


def slim(report: EpochReport) -> EpochReport:
    """Return a report without tensors and answers: of a run, the last alone is asked for them."""
    scores = {n: replace(score, predictions=NO_ANSWERS) for n, score in report.scores.items()}
    return replace(report, scores=scores, state=State(report.epoch, {}))


@dataclass(frozen=True)
class Failed:
    """Why a run could not be trained; trying again would not help."""

    words: str
    wrong: bool  # the configuration is: a ConfigError


@dataclass(frozen=True)
class Trained:
    """What has become of a group of runs."""

    reports: Sequence[list[EpochReport]]  # of each run; none if it has failed
    failed: Failed | None
    environment: Mapping[str, str]  # of the machine
