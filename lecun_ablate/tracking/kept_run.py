"""What a run's row in the database says, kept beside its files: a lost row can be written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lecun_ablate.tracking.ended_run import EndedRun
from lecun_ablate.tracking.names import KEY, RUN_FILE


class KeptRun(BaseModel):
    """The content of RUN_FILE."""

    model_config = ConfigDict(extra="ignore", strict=True, ser_json_inf_nan="constants")

    name: str
    tags: dict[str, str]
    values: dict[str, str | float | int | bool | None]
    history: dict[str, list[float]]  # of every metric: a value per epoch, from 1
    seconds: float
    ended: int  # ms since 1970

    @classmethod
    def of(cls, run: EndedRun, **more: Any) -> Self:
        """Return what is kept of a run; `more` are the fields that a subclass adds."""
        return cls(
            name=run.name,
            tags=dict(run.tags),
            values=dict(run.values),
            history={name: list(values) for name, values in run.history.items()},
            seconds=run.seconds,
            ended=run.ended,
            **more,
        )

    @property
    def key(self) -> str | None:
        """The run key."""
        return self.tags.get(KEY)


def kept(run: EndedRun) -> bytes:
    """Return the content of RUN_FILE."""
    return KeptRun.of(run).model_dump_json().encode()


def read(folder: Path) -> KeptRun | None:
    """Return what a run's folder of artifacts says of it; None if it says nothing that is whole."""
    try:
        found = KeptRun.model_validate_json((folder / RUN_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    lengths = {len(values) for values in found.history.values()}
    return found if len(lengths) == 1 and lengths != {0} else None
