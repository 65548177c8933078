"""What the tests share."""

import gc
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from lecun_ablate.system.cores import usable_cores

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def pytest_xdist_auto_num_workers(config):
    """One worker more than there are cores: tests also wait, for processes and servers."""
    return usable_cores() + 1


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Skip what needs USPS where it is not, and what needs a GPU where there is none.

    Here, not by a mark on each: the summary then has one line per reason.
    """
    import torch

    if "usps" in item.keywords and "LECUN_ABLATE_DATA" not in os.environ:
        pytest.skip("LECUN_ABLATE_DATA names no folder with the USPS files")
    if "gpu" in item.keywords and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The workers share the cores: PyTorch's threads would spin while they wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def imports_are_not_collected():
    """The libraries are two million objects: each full collection among them takes 0.6 s."""
    gc.freeze()


@pytest.fixture
def plain_reports(monkeypatch):
    """For tests of other things: drawing the figures takes half of a small experiment's time."""
    from lecun_ablate.reporting import figures

    arms = ("learning_curves", "differences", "spread", "by_value", "ladder")
    for drawing in (*arms, "connectivity_matrix"):
        monkeypatch.setattr(figures, drawing, lambda *_: None)
    monkeypatch.setattr(figures, "svg", lambda *_: "<svg></svg>")
    monkeypatch.setattr(figures, "png", lambda _: b"")


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch):
    """Forget components that a test registers."""
    from lecun_ablate.registry import KINDS, registry

    for kind in KINDS:
        registry.names(kind)  # registers what is built in

    copy = {kind: dict(components) for kind, components in registry._components.items()}
    monkeypatch.setattr(registry, "_components", copy)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """The file of an empty MLflow store: creating one takes seconds, copying it does not."""
    from lecun_ablate.tracking.new_store import create

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    create(database)
    return database


@pytest.fixture
def workplace(tmp_path, monkeypatch, empty_store):
    """A working directory of its own with an empty store, and no data set named."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LECUN_ABLATE_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def command(capsys):
    """The real command line in this process: returns (exit status, stdout, stderr)."""
    from lecun_ablate.cli import _main

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = _main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return status, captured.out, captured.err

    return call


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """Compiled components are kept for all workers' tests, but not in the user's folder."""
    from lecun_ablate.compiled import component

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    component._outcome.cache_clear()


@pytest.fixture
def tiny():
    """A registered data set of 60 + 20 easy images, for tests that train for seconds at most."""
    from tiny_digits import register_tiny

    register_tiny()


@pytest.fixture(scope="session")
def finished_folders():
    """Folders in which an experiment has been run, by the text of its file."""
    return {}


@pytest.fixture
def finish(workplace, tiny, tmp_path_factory, finished_folders):
    """Run the experiment `pair` of a text here, or copy what an earlier test got with the same."""
    import lecun_ablate
    from lecun_ablate.tracking.writer import Writer

    def results(text):
        Path("pair.yaml").write_text(text)
        if text in finished_folders:
            shutil.copytree(finished_folders[text], workplace, dirs_exist_ok=True)
            frame = lecun_ablate.load_results("pair")
            with Writer.opened():
                pass  # it corrects the locations of what was copied, and closes the database
            return frame
        frame = lecun_ablate.run("pair.yaml", trainer="torch", device="cpu")
        finished_folders[text] = tmp_path_factory.mktemp("finished")
        shutil.copytree(workplace, finished_folders[text], dirs_exist_ok=True)
        return frame

    return results


@pytest.fixture(scope="session")
def spawner():
    """A server that forks processes which have everything imported and nothing open."""
    import multiprocessing
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "study_world",
            "lecun_ablate.studies.runner",
            "alembic.command",
            "mlflow.store.tracking.sqlalchemy_store",
        ]
    )
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        forkserver.ensure_running()
    return context


@pytest.fixture
def postgres():
    """The address of a database on a throw-away PostgreSQL server, of scripts/postgres.sh."""
    yield from _postgres()


@pytest.fixture(scope="module")
def one_postgres():
    """The same, for all tests of a module."""
    yield from _postgres()


def _postgres():
    pytest.importorskip("psycopg", reason="pip install lecun-ablate[postgres]")
    script = Path(__file__).parents[1] / "scripts" / "postgres.sh"
    folder = tempfile.mkdtemp(prefix="postgres")  # where the server's own user may go
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = subprocess.run(
        [script, "start", folder, str(port)], capture_output=True, text=True, check=False
    )
    if "is not installed" in started.stderr:
        shutil.rmtree(folder)
        pytest.skip(started.stderr.strip())
    try:
        assert started.returncode == 0, started.stderr
        yield started.stdout.split()[0]
    finally:
        subprocess.run([script, "stop", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)
