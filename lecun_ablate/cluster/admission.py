"""Whether a node gives the bits of this machine: it trains a few patterns, and both are compared.

Instruction sets, compilers and libraries round in different ways. A run must not depend on the node
that it happens to be trained on, so a node that rounds in another way is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import numpy as np

from lecun_ablate.cluster.travel import PackedSplit
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.trainers import native
from lecun_ablate.trainers.base import EpochReport, Identity, Run, Trainer

PATTERNS = 64


@dataclass(frozen=True)
class Probe:
    """What a node is to train: one epoch of every recipe on a few patterns."""

    recipes: tuple[Recipe, ...]
    patterns: PackedSplit

    @classmethod
    def of(cls, recipes: Sequence[Recipe], fit: Split) -> Probe:
        """Return the probe of a plan; seeds and the number of epochs do not matter to it."""
        different = dict.fromkeys(recipes)
        few = fit.take(np.arange(min(PATTERNS, len(fit))))
        return cls(tuple(different), PackedSplit.of(few))


@dataclass(frozen=True)
class Probed:
    """What a machine makes of a probe."""

    refusal: str = ""  # why it cannot train at all
    identity: Identity | None = None
    bits: tuple[str, ...] = ()  # of each recipe: a hash of what it gives
    seconds: tuple[float, ...] = ()  # of each recipe: an epoch of the patterns
    instruction_sets: tuple[str, ...] = ()  # that the native kernel can use there
    versions: str = ""  # of the libraries


def probed(trainer: Trainer, probe: Probe) -> Probed:
    """Return what a trainer makes of a probe on this machine."""
    patterns = probe.patterns.unpacked()
    runs = [Run(recipe, 0, until=1) for recipe in probe.recipes]
    last = {r.index: r for r in trainer.train(runs, patterns, {"probe": patterns})}
    return replace(
        _machine(),
        identity=trainer.identity(),
        bits=tuple(_bits(last[k]) for k in range(len(runs))),
        seconds=tuple(last[k].seconds for k in range(len(runs))),
    )


def refused(error: Exception) -> Probed:
    """Return the answer of a machine on which a probe fails."""
    return replace(_machine(), refusal=f"{type(error).__name__}: {error}")


def _machine() -> Probed:
    versions = f"torch {version('torch')}, numpy {version('numpy')}"
    return Probed(instruction_sets=native.instruction_sets(), versions=versions)


def _bits(report: EpochReport) -> str:
    sha = hashlib.sha256()
    tensors = report.state.parameters | report.state.optimizer
    for name in sorted(tensors):
        sha.update(name.encode() + tensors[name].tobytes())
    scores = report.scores["probe"]
    sha.update(scores.predictions.tobytes() + np.float64(scores.loss).tobytes())
    return sha.hexdigest()


def objection(here: Probed, there: Probed) -> str | None:
    """Return why a node must not train, with the way out; None if it gives the bits of `here`."""
    wanted = here.identity
    assert wanted is not None
    if wanted.device == "cpu" and wanted.instruction_set not in _sets(there, wanted):
        return _pin(here, there, wanted)
    if there.refusal:
        return f"it cannot train there: {there.refusal}"
    got = there.identity
    if got != wanted:
        if got and got.compiler != wanted.compiler:
            return (
                f"components of your own are compiled by {got.compiler or 'no compiler'!r} there "
                f"and by {wanted.compiler or 'no compiler'!r} here: install the same compiler, or "
                "train with --trainer torch"
            )
        return f"its trainer is another one: {got}, numerics {got and got.numerics}"
    wrong = sum(a != b for a, b in zip(here.bits, there.bits, strict=True))
    if wrong:
        return (
            f"it gives other bits for {wrong} of {len(here.bits)} recipes, with {there.versions} "
            f"({here.versions} here): install the same versions, or pin an older instruction set, "
            "such as --instruction-set baseline"
        )
    return None


def _sets(there: Probed, wanted: Identity) -> tuple[str, ...]:
    """Return the instruction sets that a node can use with a trainer."""
    if wanted.name == "native":
        return there.instruction_sets
    return (there.identity.instruction_set,) if there.identity else (wanted.instruction_set,)


def _pin(here: Probed, there: Probed, wanted: Identity) -> str:
    common = [one for one in here.instruction_sets if one in there.instruction_sets]
    got = ", ".join(_sets(there, wanted)) or "no compiled kernel"
    if not common:
        return f"expected the instruction set {wanted.instruction_set}, got {got}"
    return (
        f"expected the instruction set {wanted.instruction_set}, got {got}: to use it, train "
        f"everything with one that all nodes have, --instruction-set {common[0]}"
    )
