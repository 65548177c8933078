"""Many commands and MLflow's own server at once on one store: refused or right, no traceback."""

import os
import random
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

import lecun_ablate

WORKERS, COMMANDS = 3, 12  # commands of each worker
EXPERIMENT = """
name: {name}
data: digits
recipe: {{epochs: 1}}
vary: {{activation: {activations}}}
seeds: 2
"""
STUDY = """
name: rates
data: digits
epochs: 1
arms: [{name: tanh}]
search: {lr: {low: 0.01, high: 0.1}}
trials: 2
seeds: 1
confirm: {trials: 1, seeds: 2}
"""
CHOICES = [
    ("run", "one.yaml"),
    ("run", "one.yaml", "--seeds", "4"),
    ("run", "two.yaml"),
    ("study", "study.yaml"),
    ("report", "one", "--no-pictures"),
    ("show", "one", "--json"),
    ("show", "two"),
    ("list",),
    ("compare", "one:tanh", "two:tanh"),
    ("export", "one", "--csv", "-o", "-"),
    ("delete", "two", "--yes"),
    ("doctor",),
]
# what may be said by a command that comes at the wrong moment
REFUSED = re.compile(
    r"is in use|no experiment|no run has finished yet|holds none|no results here|"
    r"no such (arm|seed)|have no seed in common|"
    r"is marked RUNNING|has the files of|to be trained|unfinished"
)


def environment():
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACKING")}
    root = str(Path(lecun_ablate.__file__).parents[1])
    return env | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def start(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lecun_ablate", *arguments],
        env=environment(),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_commands_at_once(workplace):
    for name, activations in (("one", "[tanh, relu]"), ("two", "[tanh, lisht]")):
        (workplace / f"{name}.yaml").write_text(
            EXPERIMENT.format(name=name, activations=activations)
        )
    (workplace / "study.yaml").write_text(STUDY)
    ui = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "ui", "--port", "5931", "--workers", "1"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    ended = threading.Event()
    asked: Counter[str] = Counter()
    wrong: list[str] = []
    statuses: Counter[tuple[str, int]] = Counter()

    def browse():
        body = b'{"max_results": 100}'
        place = "http://127.0.0.1:5931/api/2.0/mlflow/experiments/search"
        while not ended.is_set():
            try:
                request = urllib.request.Request(place, body, {"Content-Type": "application/json"})
                urllib.request.urlopen(request, timeout=30).close()
                asked["answered"] += 1
            except urllib.error.HTTPError as error:
                asked[f"status {error.code}"] += 1
            except OSError:
                asked["not there"] += 1
            time.sleep(0.2)

    def work(seed):
        rng = random.Random(seed)
        for _ in range(COMMANDS):
            arguments = rng.choice(CHOICES)
            done = start(*arguments)
            statuses[arguments[0], done.returncode] += 1
            said = done.stdout + done.stderr
            fine = done.returncode == 0 or (done.returncode == 1 and REFUSED.search(said))
            if not fine or "Traceback" in said or "is a bug" in said:
                wrong.append(f"{arguments}: {done.returncode}\n{said[-2000:]}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(WORKERS)]
    try:
        for thread in [*threads, threading.Thread(target=browse, daemon=True)]:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        ended.set()
        os.killpg(ui.pid, 15)
        ui.wait()
    assert not wrong, "\n\n".join(wrong)
    assert asked["answered"] > 10 and not [a for a in asked if a.startswith("status 5")], asked
    assert sum(n for (_, status), n in statuses.items() if status == 0) > COMMANDS, statuses
    for name in ("one", "two"):
        last = start("run", f"{name}.yaml", "--seeds", "4")
        assert last.returncode == 0, last.stderr
    found = {name: lecun_ablate.load_results(name) for name in ("one", "two")}
    os.makedirs("alone")
    os.chdir("alone")
    for name, frame in found.items():
        right = lecun_ablate.run(f"../{name}.yaml", seeds=4)
        columns = [c for c in right.columns if c not in ("run_id", "epoch_seconds")]
        assert frame[columns].equals(right[columns])
