"""What a place does: it answers probes and trains groups of runs.

Functions here are called on other machines. What goes wrong with the work is part of the answer, so
that an answer that fails to come always means that the place has died.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from lecun_ablate.cluster.admission import Probe, Probed
    from lecun_ablate.cluster.travel import Data, Kit, Source, Trained
    from lecun_ablate.data.digits import Split
    from lecun_ablate.trainers.base import Run, Trainer

DATA_KEPT = 4  # sets of splits that a place keeps unpacked


class Worker:
    """A process on a node. Nothing heavy has been imported before it sets the environment."""

    def __init__(self, environment: Mapping[str, str]):
        os.environ.update(environment)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of this module."""
        return function(*arguments)


def greet() -> str:
    """Import what training needs, and return this package's version."""
    import lecun_ablate.trainers.native  # noqa: F401  # with PyTorch, which takes seconds

    return version("lecun_ablate")


def probe(kit: Kit, asked: Probe) -> Probed:
    """Return what training a few patterns gives here."""
    from lecun_ablate.cluster import admission

    try:
        trainer = _trainer(kit)
        return admission.probed(trainer, asked)
    except Exception as error:
        return admission.refused(error)


def train(kit: Kit, data: Data, runs: Sequence[Run], whole: bool) -> Trained:
    """Train runs, and return their reports; `whole` ones with the tensors of every epoch."""
    from lecun_ablate.cluster.travel import Failed, Trained, slim
    from lecun_ablate.errors import ConfigError
    from lecun_ablate.system.provenance import environment
    from lecun_ablate.trainers.base import EpochReport

    reports: list[list[EpochReport]] = [[] for _ in runs]
    failed = None
    try:
        trainer, (fit, evaluate) = _trainer(kit), _unpacked(data)
        for report in trainer.train(runs, fit, evaluate):
            reports[report.index].append(report if whole or report.last else slim(report))
    except (MemoryError, OSError):
        raise  # of this machine: another may do better
    except Exception as error:
        words = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        failed = Failed(words, isinstance(error, ConfigError))
        reports = [each if each and each[-1].last else [] for each in reports]
    return Trained(reports, failed, environment())


_trainers: dict[bytes, Trainer] = {}
_data: dict[str, tuple[Split, dict[str, Split]]] = {}


def _trainer(kit: Kit) -> Trainer:
    """Return the trainer of a kit, once its components have been loaded."""
    import pickle

    for source in kit.sources:
        _load(source)
    if kit.trainer not in _trainers:
        _trainers[kit.trainer] = pickle.loads(kit.trainer)
    return _trainers[kit.trainer]


def _unpacked(data: Data) -> tuple[Split, dict[str, Split]]:
    if data.key not in _data:
        while len(_data) >= DATA_KEPT:
            del _data[next(iter(_data))]
        _data[data.key] = data.unpacked()
    return _data[data.key]


def _load(source: Source) -> None:
    """Load a file of components from a folder that has its digest as its name."""
    from lecun_ablate.errors import ConfigError
    from lecun_ablate.registry import registry

    if all(
        name in registry.names(kind) and registry.get(kind, name).digest == source.digest
        for kind, name in source.components
    ):
        return
    folder = _placed(source)
    sys.path.insert(0, str(folder))
    try:
        registry.load(folder / source.name)
    finally:
        sys.path.remove(str(folder))
    for kind, name in source.components:
        if (found := registry.get(kind, name).digest) != source.digest:
            raise ConfigError(
                f"{kind} {name!r} of {source.name}: expected digest {source.digest[:16]}, got "
                f"{str(found)[:16]}: a module that it imports is another one on this machine"
            )


def _placed(source: Source) -> Path:
    """Write a file of components, with its modules, where it is not yet."""
    import tempfile
    from pathlib import Path

    from lecun_ablate.compiled import cache
    from lecun_ablate.system import disk

    kept = cache.folder()
    above = kept.with_name("components") if kept else Path(tempfile.mkdtemp())
    folder = above / source.digest
    for path, content in {source.name: source.content, **source.modules}.items():
        file = folder / path
        if not file.is_file() or file.read_bytes() != content:
            disk.write(file, content, durable=False)
    return folder
