"""Any statement of SQLite's may fail: it is explained in one line, whichever command made it."""

import contextlib
import sqlite3

import pytest
from mlflow.entities import Metric
from sqlalchemy import Engine, event

from lecun_ablate.errors import LecunAblateError
from lecun_ablate.tracking.names import Level
from lecun_ablate.tracking.writer import Writer

pytestmark = pytest.mark.usefixtures("plain_reports")
YAML = """
name: pair
data: tiny
recipe: {epochs: 1}
vary: {activation: [tanh, relu]}
seeds: 2
"""


@contextlib.contextmanager
def failing(n):
    """Let the n-th SQL statement fail; yields a list of those that were executed."""
    seen = []

    def execute(_cursor, statement, *_):
        seen.append(statement)
        if len(seen) == n:
            raise sqlite3.OperationalError("disk I/O error")

    event.listen(Engine, "do_execute", execute)
    try:
        yield seen
    finally:
        event.remove(Engine, "do_execute", execute)


READING = {
    "show": ("show", "pair"),
    "list": ("list",),
    "doctor": ("doctor",),
    "power": ("power", "pair", "--effect", "1"),
    "compare arms": ("compare", "pair:tanh", "pair:relu"),
    "compare runs": ("compare", "pair:tanh:0", "pair:tanh:1"),
    "export": ("export", "pair", "--csv"),
}


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("what", READING)
def test_a_command_that_reads(finish, command, what, step):
    finish(YAML)
    with failing(0) as every:
        assert command(*READING[what])[0] == 0
    assert len(every) > 10
    for n in range(1, len(every) + 1, step):
        with failing(n):
            status, _, error = command(*READING[what])
        assert status == 1, n
        assert "mlflow.db: cannot be" in error and "disk I/O error; the disk or" in error, n


def test_every_method_that_writes(workplace):
    with Writer.opened() as writer:
        place = writer.ensure_experiment("pair/tiny")
        run = writer.create(place, "tanh", Level.ARM, {})
        before = writer.client.get_run(run).to_dictionary()
        calls = [
            lambda: writer.ensure_experiment("new/tiny"),
            lambda: writer.describe_experiment(place, {"question": "which?"}),
            lambda: writer.create(place, "relu", Level.ARM, {}),
            lambda: writer.resume(run),
            lambda: writer.set_tags(run, {"seed": "1"}),
            lambda: writer.log_metrics(run, [Metric("arms", 2, 0, 0)]),
            lambda: writer.end([run]),
            lambda: writer.sweep(place),
            lambda: writer.delete([run]),
        ]
        for number, call in enumerate(calls):
            with failing(1), pytest.raises(LecunAblateError) as caught:
                call()
            assert "mlflow.db: cannot be" in str(caught.value), number
        assert writer.client.get_run(run).to_dictionary() == before
