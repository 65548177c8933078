"""The files of runs: finding, reading and writing them."""

from __future__ import annotations

import io
import math
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from pyarrow import parquet

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system import disk
from lecun_ablate.tracking.address import artifact_folder, folder_path
from lecun_ablate.tracking.connection import Connection
from lecun_ablate.tracking.names import ANSWERS, MODULES, WEIGHTS
from lecun_ablate.tracking.patient import until_answered


class Files:
    """The files of the runs in a store.

    MLflow stores absolute locations. The files of a database are beside it, in mlruns/, even after
    both have been moved or copied, so that is where they are looked for first.
    """

    def __init__(self, connection: Connection):
        self._connection = connection
        self._answers: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # those that have been read

    def text(self, run_id: str, artifact: str) -> str:
        """Return a text artifact."""
        return self.read(run_id, artifact).decode()

    def read(self, run_id: str, artifact: str) -> bytes:
        """Return an artifact's bytes; raises LecunAblateError if it is gone."""
        place = self.place(run_id)
        try:
            if not urlsplit(place).scheme:  # MLflow's downloader is many times slower
                return Path(place, artifact).read_bytes()
            with tempfile.TemporaryDirectory() as folder:
                remote = self._remote(place)
                path = until_answered(
                    lambda _: remote.download_artifacts(artifact, folder), self._connection.where
                )
                return Path(path).read_bytes()
        except (MlflowException, OSError) as error:
            raise LecunAblateError(
                f"run {run_id}: its file {artifact} cannot be read: {error} (run its "
                "experiment again: that trains the runs that have lost their files)"
            ) from error

    def _remote(self, place: str) -> ArtifactRepository:
        """Return what reads and lists files of a run that are elsewhere.

        MLflow's client would say of every failure that the path is wrong, or list nothing.
        """
        return get_artifact_repository(place, tracking_uri=self._connection.uri)

    def predictions(self, run_id: str) -> np.ndarray:
        """Return a seed run's answers on the test split after its last epoch, (n,) uint8."""
        return self._predictions_and_labels(run_id)[0]

    def labels(self, run_id: str) -> np.ndarray:
        """Return the labels of the test split that a seed run was scored on, (n,) uint8."""
        return self._predictions_and_labels(run_id)[1]

    def _predictions_and_labels(self, run_id: str) -> tuple[np.ndarray, np.ndarray]:
        if run_id not in self._answers:
            try:
                self._answers[run_id] = _predictions_and_labels(self.read(run_id, ANSWERS))
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                raise _damaged(run_id, ANSWERS, error) from error
        return self._answers[run_id]

    def weights(self, run_id: str) -> dict[str, np.ndarray]:
        """Return a seed run's final weights, by the names of initial.SHAPES."""
        try:
            return _weights(self.read(run_id, WEIGHTS))
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise _damaged(run_id, WEIGHTS, error) from error

    def component_files(self, run_id: str, folder: Path) -> list[Path]:
        """Copy the files of components that a seed run was trained with; return the copies.

        The modules that they import are copied as well, to the folder MODULES beside them.
        """
        files = []
        for name in self._names(run_id, "components"):
            files.append(folder / Path(name).name)
            files[-1].write_bytes(self.read(run_id, name))
        for name in self._names(run_id, MODULES):
            copy = folder / name
            if not copy.resolve().is_relative_to(folder.resolve()):
                continue  # a name with '..' of somebody else's
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(self.read(run_id, name))
        return files

    def _names(self, run_id: str, folder: str) -> list[str]:
        """Return the names of a run's artifacts below a folder."""
        place = self.place(run_id)
        if not urlsplit(place).scheme:
            paths = [path for path in Path(place, folder).rglob("*") if path.is_file()]
            return sorted(path.relative_to(place).as_posix() for path in paths)
        names = []
        remote = self._remote(place)
        for entry in until_answered(
            lambda _: remote.list_artifacts(folder), self._connection.where
        ):
            names += self._names(run_id, entry.path) if entry.is_dir else [entry.path]
        return sorted(names)

    def put(
        self, run_id: str, artifacts: Mapping[str, bytes | str | Path], durable: bool = True
    ) -> None:
        """Write artifacts: name -> bytes, text, or a file to copy.

        If `durable`, they are on the disk when this returns; a server answers for its own.
        """
        if not artifacts:
            return
        place = self._own_place(run_id)
        if not urlsplit(place).scheme:  # a folder: MLflow's uploader is many times slower
            _write_files(Path(place), artifacts, durable)
            return
        until_answered(lambda _: self.upload(place, artifacts), self._connection.where)

    def upload(self, place: str, artifacts: Mapping[str, bytes | str | Path]) -> None:
        """Write artifacts to a place of MLflow's, in one try: with an address, or a folder."""
        if not urlsplit(place).scheme:
            _write_files(Path(place), artifacts, durable=True)
            return
        with tempfile.TemporaryDirectory() as folder:
            _write_files(Path(folder), artifacts, durable=False)
            self._remote(place).log_artifacts(folder)

    def has_files(self, run_id: str) -> bool:
        """Tell whether a seed run still has its files, with a beginning and an end.

        That is what a power cut takes; `damage` reads all of them. Assumed for a remote place.
        """
        place = self.place(run_id)
        if urlsplit(place).scheme:
            return True
        return all(_has_ends(Path(place, name)) for name in (WEIGHTS, ANSWERS))

    def damage(self, run_id: str, misses: int, error: float) -> str | None:
        """Read all of a seed run's files and return what is wrong with them, or None.

        `misses` and `error` as in `contradiction`.
        """
        self._answers.pop(run_id, None)
        try:
            self.weights(run_id)
        except LecunAblateError as damaged:
            return str(damaged).removeprefix(f"run {run_id}: ")
        return self.contradiction(run_id, misses, error)

    def contradiction(self, run_id: str, misses: int, error: float) -> str | None:
        """Return how a seed run's answers contradict its metrics, or None.

        `misses` and `error` are test_misses and test_error after its last epoch.
        """
        try:
            answers, labels = self._predictions_and_labels(run_id)
        except LecunAblateError as damaged:
            return str(damaged).removeprefix(f"run {run_id}: ")
        missed = int((answers != labels).sum())
        if missed != misses:
            return f"{ANSWERS} and the metric test_misses disagree"
        if not math.isclose(missed / len(labels), error, rel_tol=1e-9):
            return f"{ANSWERS} and the metric test_error disagree"
        return None

    def place(self, run_id: str) -> str:
        """Return where a run's files are: a path, or the address of a remote place."""
        stored = folder_path(self._connection.info(run_id).artifact_uri)
        moved = self._own_place(run_id)
        # a database that was copied without its files finds them where they stayed
        return stored if Path(stored).is_dir() and not Path(moved).is_dir() else moved

    def _own_place(self, run_id: str) -> str:
        """Return the same, but never a folder that belongs to another copy of the database."""
        info = self._connection.info(run_id)
        stored = folder_path(info.artifact_uri)
        if self._connection.database is None or urlsplit(stored).scheme:
            return stored
        beside = artifact_folder(self._connection.database)
        if Path(stored).is_relative_to(beside):
            return stored
        return str(beside / info.experiment_id / run_id / "artifacts")


def data_of(content: bytes | str | Path) -> bytes:
    """Return the bytes of a file that is to be written; a path is a file to copy."""
    if isinstance(content, Path):
        return content.read_bytes()
    return content.encode() if isinstance(content, str) else content


def _write_files(folder: Path, contents: Mapping[str, bytes | str | Path], durable: bool) -> None:
    for name, content in contents.items():
        disk.write(folder / name, data_of(content), durable)


def _predictions_and_labels(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    source = parquet.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    table = source.read(["prediction", "label"], use_threads=False)
    return table["prediction"].to_numpy(), table["label"].to_numpy()


def _weights(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return dict(archive)


ENDS = {  # how a file begins, and what stands how far before its end
    WEIGHTS: (b"PK\x03\x04", b"PK\x05\x06", 22),
    ANSWERS: (b"PAR1", b"PAR1", 4),
}


def _has_ends(file: Path) -> bool:
    """Tell whether a file is there and begins and ends as it should."""
    beginning, end, distance = ENDS[file.name]
    try:
        with open(file, "rb") as opened:
            if opened.read(len(beginning)) != beginning:
                return False
            opened.seek(-distance, io.SEEK_END)
            return opened.read(len(end)) == end
    except OSError:
        return False


def _damaged(run_id: str, artifact: str, error: Exception) -> LecunAblateError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return LecunAblateError(
        f"run {run_id}: its file {artifact} is damaged: {reason} (run its experiment again: that "
        "trains the runs whose files are damaged)"
    )
