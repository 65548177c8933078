"""The runs' answers on single digits: errors per class, confusions, and the hard images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lecun_ablate.evidence.weighing import Evidence
from lecun_ablate.network.reference import NO_DIGIT
from lecun_ablate.plan.results import RunStatus

CLASSES = 10
NONE = 10  # the column of runs that gave no answer


@dataclass(frozen=True)
class Answers:
    """How often each arm gave each answer to each test image, over its sound runs."""

    arms: list[str]  # arms with runs that neither diverged nor collapsed
    runs: list[int]  # of each arm
    labels: np.ndarray  # (images,)
    counts: np.ndarray  # (arms, images, 11) runs; the last answer is "none"

    @property
    def wrong(self) -> np.ndarray:
        """The share of an arm's runs that missed an image: (arms, images)."""
        right = self.counts[:, np.arange(len(self.labels)), self.labels]
        wrong: np.ndarray = 1 - right / np.array(self.runs)[:, None]
        return wrong

    @property
    def votes(self) -> np.ndarray:
        """The answer that most runs of an arm give: (arms, images); in a tie, the smaller one."""
        votes: np.ndarray = self.counts.argmax(axis=2)
        return votes

    def per_digit(self) -> np.ndarray:
        """Return the mean error on the images of each digit: (arms, 10), NaN for no images."""
        errors = np.full((len(self.arms), CLASSES), np.nan)
        for digit in np.unique(self.labels):
            errors[:, digit] = self.wrong[:, self.labels == digit].mean(axis=1)
        return errors

    def confusion(self) -> np.ndarray:
        """Return the mean number of images per run, by label and answer: (arms, 10, 11)."""
        per_label = [self.counts[:, self.labels == label].sum(axis=1) for label in range(CLASSES)]
        mean: np.ndarray = np.stack(per_label, axis=1) / np.array(self.runs)[:, None, None]
        return mean

    def hard(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the images that every arm gets wrong, and those that only some do, as rows.

        An arm gets an image wrong if most of its runs do. For a single arm, the second list has the
        images that only a minority of its runs miss. The first list is sorted by how many runs miss
        the image, the second by how much the arms differ on it.
        """
        wrong = self.wrong
        if not len(wrong):
            return np.array([], int), np.array([], int)
        missed = self.votes != self.labels
        every = np.flatnonzero(missed.all(axis=0))
        if len(self.arms) > 1:
            some, differ = missed.any(axis=0) & ~missed.all(axis=0), wrong.var(axis=0)
        else:
            some, differ = ~missed[0] & (wrong[0] > 0), wrong[0]
        some = np.flatnonzero(some)
        every = every[np.argsort(-wrong.mean(axis=0)[every], kind="stable")]
        return every, some[np.argsort(-differ[some], kind="stable")]


def count(evidence: Evidence) -> Answers:
    """Count the answers of the runs that neither diverged nor collapsed.

    None if each seed has its own test images.
    """
    if evidence.labels is None:
        return Answers([], [], np.array([], int), np.zeros((0, 0, CLASSES + 1), int))
    final = evidence.results.final
    names, runs, tables = [], [], []
    for arm, these in evidence.arms.items():
        good = final[(final.arm == arm) & (final.status == RunStatus.FINISHED)].seed
        assert these.predictions is not None
        answers = these.predictions[np.isin(these.seeds, good)]
        if not len(answers):
            continue
        answers = np.where(answers == NO_DIGIT, NONE, answers)
        names.append(arm)
        runs.append(len(answers))
        tables.append((answers[:, :, None] == np.arange(CLASSES + 1)).sum(axis=0))
    labels = evidence.labels.astype(np.int64)
    counts = np.array(tables) if tables else np.zeros((0, len(labels), CLASSES + 1), int)
    return Answers(names, runs, labels, counts)
