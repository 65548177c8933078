"""Finished runs on their way to a tracking server, kept on this machine's disk until it has them.

Each is a zip archive of its own: `run.json`, what the server is told of the run, and `files/`. It
appears under its name only when it is whole and on the disk, and goes only when the server has all
of it. So an outage, or the end of this process, loses nothing.
"""

from __future__ import annotations

import io
import re
import uuid
import zipfile
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag
from pydantic import BaseModel, ValidationError

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.system import disk
from lecun_ablate.system.passwords import without_user
from lecun_ablate.tracking.ended_run import EndedRun
from lecun_ablate.tracking.kept_run import KeptRun

FOLDER = Path("unsent")  # in the working directory, as reports/ and studies/ are
ENDING = ".zip"
REFUSED = ".refused"  # stands behind the name of a run that the server would not take


class SpooledData(BaseModel):
    """The data set of a run, as MLflow is told of it."""

    name: str
    digest: str
    source_type: str
    source: str
    tags: dict[str, str]


class SpooledRun(KeptRun):
    """The content of an archive's run.json."""

    experiment: str  # the package's own name: NAME/DATA
    data: SpooledData | None

    def ended_run(self, experiment_id: str) -> EndedRun:
        """Return the run, to be written to the MLflow experiment of an id."""
        return EndedRun(
            experiment_id,
            self.name,
            self.tags,
            self.values,
            self.history,
            _input(self.data) if self.data else None,
            self.seconds,
            self.ended,
        )


class Spool:
    """The runs that wait for one server."""

    def __init__(self, uri: str):
        self.folder = FOLDER / _file_name(without_user(uri))

    def put(self, experiment: str, run: EndedRun, contents: dict[str, bytes]) -> Path:
        """Write a run and its files to the disk; return the archive. Raises OSError.

        Its name begins with the time at which the run ended and ends with an id of its own.
        """
        data = _told(run.data) if run.data else None
        about = SpooledRun.of(run, experiment=experiment, data=data)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("run.json", about.model_dump_json())
            for name, content in contents.items():
                opened.writestr(f"files/{name}", content)
        path = self._place(experiment) / f"{run.ended}-{uuid.uuid4().hex}{ENDING}"
        disk.write(path, archive.getvalue())
        return path

    def waiting(self, experiment: str | None = None) -> list[Path]:
        """Return the archives of an experiment, or of all, the run that ended first at first."""
        places = [self._place(experiment)] if experiment else sorted(self.folder.glob("*"))
        return [path for place in places for path in sorted(place.glob(f"*{ENDING}"))]

    def _place(self, experiment: str) -> Path:
        return self.folder / _file_name(experiment)


def request_of(path: Path) -> str:
    """Return the id of a waiting run, which marks it on the server: it is created there once."""
    return path.stem.rpartition("-")[2]


def read(path: Path) -> tuple[SpooledRun, dict[str, bytes]]:
    """Return a waiting run with its files; LecunAblateError if the archive is damaged."""
    try:
        with zipfile.ZipFile(path) as opened:  # checks what it reads
            about = SpooledRun.model_validate_json(opened.read("run.json"))
            names = [name for name in opened.namelist() if name.startswith("files/")]
            return about, {name.removeprefix("files/"): opened.read(name) for name in names}
    except (zipfile.BadZipFile, KeyError, EOFError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise LecunAblateError(f"{path}: is damaged: {first}") from error


def set_aside(path: Path) -> Path:
    """Rename an archive that cannot be written to the server, so that it is not tried again."""
    return path.rename(path.with_name(path.name + REFUSED))


def _told(data: DatasetInput) -> SpooledData:
    which = data.dataset
    return SpooledData(
        name=which.name,
        digest=which.digest,
        source_type=which.source_type,
        source=which.source,
        tags={tag.key: tag.value for tag in data.tags},
    )


def _input(data: SpooledData) -> DatasetInput:
    dataset = Dataset(data.name, data.digest, data.source_type, data.source)
    return DatasetInput(dataset, [InputTag(key, value) for key, value in data.tags.items()])


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", ",", text).strip(",.")[:150]
