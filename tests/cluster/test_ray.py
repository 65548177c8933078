"""The command line on a real Ray cluster: several nodes on this machine, which die and freeze.

Each process is real: a head, nodes (raylets) with their workers, and the command, which joins them.
"""

import contextlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from told import taken_back

import lecun_ablate
from lecun_ablate.cli import _main
from lecun_ablate.registry import KINDS, registry
from lecun_ablate.tracking.names import ANSWERS, WEIGHTS

ray = pytest.importorskip("ray", reason="pip install lecun-ablate[ray]")
import psutil  # noqa: E402  # Ray brings it

pytestmark = pytest.mark.nodes
ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(Path(lecun_ablate.__file__).parents[1])
DEADLINE = 8.0  # seconds
# The command, with that deadline and with groups that keep to it.
COMMAND = f"""
from lecun_ablate.cluster import dispatch, pace
from lecun_ablate.cli import main
dispatch.DEADLINE, pace.LONGEST = {DEADLINE}, {DEADLINE / 10}
main()
"""
EXPERIMENT = """
name: ways
data: digits
components: mine.py
vary: {activation: [tanh, relu, halved]}
recipe: {epochs: 8, schedule: waits}
seeds: 12
"""
RUNS = 3 * 12
# On the nodes, runs take their time without work for this machine's cores.
MINE = """
import os, time
from lecun_ablate import register

@register("activation")
def halved(x):
    return (0.5 * x).tanh()

@register("schedule")
def waits(progress):
    time.sleep(float(os.environ.get("TEST_SECONDS_PER_EPOCH", "0")))
    return 0 * progress + 1
"""
STUDY = """
name: pruned
data: digits
components: mine.py
arms: [{activation: tanh}, {activation: relu}]
recipe: {optimizer: adamw, average: 0.9, schedule: waits}
search: {lr: {low: 0.005, high: 0.2, log: true}}
trials: 6
batch: 3
seeds: 2
epochs: 6
sampler: {name: tpe, startup: 3}
pruner: {first: 2, factor: 2}
confirm: {trials: 1, seeds: 2}
"""
BOTH = "training on 2 nodes, 2 slots"
FINISHED = (
    "SELECT COUNT(*) FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid "
    "WHERE tags.key = 'lecun_ablate.level' AND tags.value = 'run' AND runs.status = 'FINISHED'"
)
MACHINES = "SELECT value FROM tags WHERE key = 'lecun_ablate.environment'"
# What Python imports first if PYTHONPATH names its folder: it hides an instruction set.
OLDER = """
import importlib.abc, importlib.util, sys

class Older(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "lecun_ablate.trainers.native":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def then(module):
            run(module)
            module.kernel.INSTRUCTION_SETS = module.kernel.INSTRUCTION_SETS[1:]
        spec.loader.exec_module = then
        return spec

sys.meta_path.insert(0, Older())
"""


class Nodes:
    """A head without cores, and nodes of one core each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.address = self.cluster.address

    def add(self, **options):
        return self.cluster.add_node(wait=False, num_cpus=1, **options)

    def remove(self, *nodes):
        for node in nodes:
            if node in self.cluster.worker_nodes:
                self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", PACKAGE)
        patch.setenv("TEST_SECONDS_PER_EPOCH", "0.1")
        found = Nodes()
        try:
            yield found
        finally:
            found.cluster.shutdown()


@pytest.fixture(scope="module")
def two(nodes):
    return nodes.add(), nodes.add()


def raylet(node) -> psutil.Process:
    (info,) = node.all_processes["raylet"]
    return psutil.Process(info.process.pid)


def workers(node) -> list[psutil.Process]:
    return [p for p in raylet(node).children(recursive=True) if "Worker" in " ".join(p.cmdline())]


class Driver:
    """The command, in a folder of its own, with what it writes."""

    def __init__(self, folder: Path, *arguments: str, **variables: str):
        self.folder = folder
        self.errors = folder / "stderr.txt"
        environment = {
            k: v
            for k, v in os.environ.items()
            if k not in ("LECUN_ABLATE_DATA", "MLFLOW_TRACKING_URI")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=folder,
            env=environment | {"PYTHONPATH": PACKAGE} | variables,
            stdout=subprocess.PIPE,
            stderr=self.errors.open("w"),
            text=True,
        )

    @property
    def said(self) -> str:
        return self.errors.read_text()

    def until(self, reached, seconds: float = 120):
        end = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, f"it has ended:\n{self.said}"
            assert time.monotonic() < end, f"it takes too long:\n{self.said}"
            time.sleep(0.02)

    def ends(self, seconds: float = 240) -> str:
        out, _ = self.process.communicate(timeout=seconds)
        assert "Traceback" not in self.said
        return out

    def finished(self) -> int:
        with contextlib.suppress(sqlite3.OperationalError):
            address = f"file:{self.folder / 'mlflow.db'}?mode=ro"
            with closing(sqlite3.connect(address, uri=True)) as connection:
                return connection.execute(FINISHED).fetchone()[0]
        return 0


def table(folder: Path, runs: int = RUNS):
    """Return the results in a folder, with the last bits of every run's weights and answers."""
    from lecun_ablate.tracking.store import Store

    store = Store(f"sqlite:///{folder / 'mlflow.db'}")
    frame = store.results(store.find("ways")).frame
    final = frame.drop_duplicates("run_id", keep="last")
    files = {(r.arm, r.seed): contents(folder, r.run_id) for r in final.itertuples()}
    assert len(files) == len(final) == runs
    return frame.drop(columns=["epoch_seconds", "run_id"]), files


def contents(folder: Path, run_id: str) -> list[bytes]:
    """Return a run's answers, weights and components; of the archive of weights, the arrays."""
    run = next(folder.glob(f"mlruns/*/{run_id}/artifacts"))
    files = [file.read_bytes() for file in (run / ANSWERS, *run.glob("components/*"))]
    with np.load(run / WEIGHTS) as arrays:
        return [*files, *(arrays[name].tobytes() for name in sorted(arrays.files))]


@pytest.fixture
def place(tmp_path, empty_store):
    return furnish(tmp_path, empty_store)


def furnish(folder: Path, empty_store: Path) -> Path:
    import shutil

    shutil.copy(empty_store, folder / "mlflow.db")
    for name, text in (("ways.yaml", EXPERIMENT), ("mine.py", MINE), ("pruned.yaml", STUDY)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory, empty_store):
    """What this machine trains by itself: the table, and the report of the study."""
    folder = furnish(tmp_path_factory.mktemp("local"), empty_store)
    out = io.StringIO()
    for kind in KINDS:
        registry.names(kind)  # registers what is built in
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(
            registry, "_components", {k: dict(v) for k, v in registry._components.items()}
        )
        assert _main(["--quiet", "run", "ways.yaml"]) == 0
        with contextlib.redirect_stdout(out):
            assert _main(["--quiet", "study", "pruned.yaml", "--json"]) == 0
    return table(folder), json.loads(out.getvalue())


def same(found, wanted) -> bool:
    return found[0].equals(wanted[0]) and found[1] == wanted[1]


def test_a_pruned_study_is_the_same(nodes, two, place, local):
    driver = Driver(place, "study", "pruned.yaml", "--json", LECUN_ABLATE_ON=nodes.address)
    report = json.loads(driver.ends())
    assert driver.process.returncode == 0 and BOTH in driver.said, driver.said
    changing = {"wall_seconds", "run_id"}
    assert {k for k in report if report[k] != local[1][k]} <= changing


def test_the_command_is_killed_and_goes_on(nodes, two, place, local, command, monkeypatch):
    arguments = ("run", "ways.yaml", "--on", nodes.address)
    killed = Driver(place, *arguments)
    killed.until(lambda: killed.finished() >= 2)
    killed.process.kill()
    killed.process.wait()
    done = killed.finished()
    assert 2 <= done < RUNS

    ended = Driver(place, *arguments)
    ended.until(lambda: ended.finished() >= done + 4)
    ended.process.send_signal(signal.SIGTERM)
    out = ended.ends()
    assert ended.process.returncode == 130, ended.said
    assert "run the same command to continue" in ended.said and out == ""
    done = ended.finished()
    assert done < RUNS

    monkeypatch.chdir(place)  # this machine ends what the cluster has begun
    status, out, said = command("run", "ways.yaml")
    assert status == 0, said
    assert f"{RUNS} runs, {done} done before, {RUNS - done} to train" in said
    assert same(table(place), local[0])

    again = Driver(place, "reproduce", "ways:halved:3", "--on", nodes.address)
    out = again.ends()
    assert again.process.returncode == 0 and "training on" in again.said, again.said
    assert "bit for bit" in out


def test_nodes_may_die_freeze_and_join(nodes, two, place, local, tmp_path_factory):
    """One command, through all of it: the table is that of this machine, and its JSON is whole."""
    library = tmp_path_factory.mktemp("older")
    (library / "sitecustomize.py").write_text(OLDER)
    older = nodes.add(env_vars={"PYTHONPATH": f"{library}{os.pathsep}{PACKAGE}"})
    driver = Driver(place, "run", "ways.yaml", "--json", "--on", nodes.address)
    dies, freezes = two
    joins, frozen = None, []

    def losses():
        return driver.said.count("a process is lost")

    def goes_on():
        before = driver.finished()
        driver.until(lambda: driver.finished() >= before + 2)

    try:
        driver.until(lambda: "is left out" in driver.said and BOTH in driver.said)
        assert "expected the instruction set" in driver.said
        assert "--instruction-set" in driver.said.split("is left out")[1]
        goes_on()
        workers(freezes)[0].kill()
        driver.until(lambda: losses() == 1)
        goes_on()
        raylet(dies).kill()
        driver.until(lambda: losses() == 2)
        joins = nodes.add()
        driver.until(lambda: driver.said.count(BOTH) >= 3)
        frozen = [raylet(freezes), *workers(freezes)]
        for process in frozen:
            process.suspend()
        assert driver.finished() < RUNS, "it was over before a node froze"
        driver.until(lambda: losses() > 2, DEADLINE + 15)
        out = driver.ends()
    finally:
        driver.process.kill()
        for process in frozen:
            with contextlib.suppress(psutil.Error):
                process.kill()
        nodes.remove(*filter(None, [older, *two, joins]))
    assert driver.process.returncode == 0, driver.said
    assert "(raylet)" not in driver.said
    assert {row["arm"] for row in json.loads(out)["arms"]} == {"tanh", "relu", "halved"}
    assert same(table(place), local[0])
    with closing(sqlite3.connect(place / "mlflow.db")) as connection:
        machines = {json.loads(v)["machine"] for (v,) in connection.execute(MACHINES)}
    assert len(machines) == 3, "the node that has joined has trained nothing"


# ---- slow


@pytest.mark.slow
def test_the_head_is_killed(place, local, command, monkeypatch):
    """Ray ends the driver's process after about a minute; what had finished is there."""
    own = Nodes()
    try:
        own.add()
        driver = Driver(place, "run", "ways.yaml", "--on", own.address)
        driver.until(lambda: driver.finished() >= 2)
        (gcs,) = own.cluster.head_node.all_processes["gcs_server"]
        gcs.process.kill()
        driver.ends(180)
        assert driver.process.returncode != 0, "it has ended before the head was missed"
    finally:
        driver.process.kill()
        own.cluster.shutdown()
    done = driver.finished()
    assert 2 <= done < RUNS
    monkeypatch.chdir(place)
    status, _, said = command("run", "ways.yaml")
    assert status == 0, said
    done += taken_back(said)
    assert f"{RUNS} runs, {done} done before, {RUNS - done} to train" in said
    assert same(table(place), local[0])


@pytest.mark.slow
def test_a_thousand_runs(nodes, place, empty_store, tmp_path_factory):
    """With a process killed about every hundred runs."""
    there = [nodes.add(), nodes.add()]
    (place / "many.yaml").write_text(
        "name: ways\ndata: digits\nvary: {activation: [tanh, relu]}\n"
        "recipe: {epochs: 1}\nseeds: 500\n"
    )
    driver = Driver(place, "run", "many.yaml", "--on", nodes.address)
    try:
        for k in range(1, 9):
            driver.until(lambda k=k: driver.finished() >= 100 * k, 300)
            if victims := workers(there[k % 2]):
                victims[0].kill()
        driver.ends(300)
    finally:
        driver.process.kill()
        nodes.remove(*there)
    assert driver.process.returncode == 0, driver.said
    assert driver.said.count("a process is lost") >= 4
    other = furnish(tmp_path_factory.mktemp("other"), empty_store)
    alone = Driver(other, "run", str(place / "many.yaml"))
    alone.ends(300)
    assert alone.process.returncode == 0, alone.said
    assert same(table(place, 1000), table(other, 1000))


@pytest.mark.slow
def test_slurm_as_the_page_has_it(nodes, place, local, tmp_path_factory):
    """The script of docs/scaling.md, on a SLURM of this machine alone.

    Its last: `ray symmetric-run` wants no other Ray here, and in the end stops all there is.
    """
    nodes.cluster.shutdown()
    script = ROOT / "scripts" / "slurm.sh"
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([script, "start", folder], capture_output=True, text=True, check=False)
    if "not installed" in started.stderr or "need root" in started.stderr:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    page = (ROOT / "docs" / "scaling.md").read_text()
    job = textwrap.dedent(
        page[page.index("    #!/bin/bash") : page.index("\n\n`ray symmetric-run`")]
    )
    for wide, narrow in (
        ("--nodes=4", "--nodes=1"),
        ("--min-nodes 4", "--min-nodes 1"),
        ("--cpus-per-task=64", f"--cpus-per-task={os.cpu_count()}"),
        ("experiments/activation.yaml --seeds 1000", "ways.yaml"),
        ("python ", f"{sys.executable} "),
        ("srun ray", f"srun {Path(sys.executable).with_name('ray')}"),
    ):
        assert wide in job, wide
        job = job.replace(wide, narrow)
    (place / "job.sh").write_text(job)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": PACKAGE}
    try:
        done = subprocess.run(
            ["sbatch", "--wait", "--output=out.txt", "job.sh"],
            cwd=place, env=environment, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
    finally:
        subprocess.run([script, "stop", folder], check=False)
    out = (place / "out.txt").read_text()
    assert done.returncode == 0, out
    assert "training on 1 node" in out
    assert same(table(place), local[0])
