"""A machine that is short of something: the command works, with the same table, or says why not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lecun_ablate

pytestmark = pytest.mark.slow
EXPERIMENT = """
name: one
data: digits
recipe: {epochs: 2}
vary: {activation: [tanh, relu]}
seeds: 2
"""
RUN = f"{sys.executable} -m lecun_ablate run one.yaml"
WORKS = {
    "few files": f"ulimit -n 64; {RUN}",
    "one core": f"taskset -c 0 {RUN}",
    "2 GB of address space": f"ulimit -v 2000000; {RUN}",
    "no home": f"env -u HOME {RUN}",
    "a home that is not there": f"HOME=/nonexistent {RUN}",
    "a home that nobody can write": f"HOME=/proc {RUN}",
    "temporary files on a full disk": f"TMPDIR=/proc {RUN}",
    "a small stack": f"ulimit -s 1024; {RUN}",
    "no locale": f"env -i PATH=$PATH LC_ALL=C PYTHONPATH=$PYTHONPATH {RUN}",
    "a clock that jumps back": f"LD_PRELOAD=$CLOCK {RUN}",
}
REFUSES = {
    "hardly any files": (f"ulimit -n 10; {RUN}", r"[Tt]oo many open files|unable to open"),
    "hardly any memory": (f"ulimit -v 450000; {RUN}", r"memory|cannot allocate|failed to map"),
    "no file may grow": (f"ulimit -f 100; {RUN}", r"too large|full|I/O error"),
}


@pytest.fixture
def place(workplace):
    (workplace / "mlflow.db").unlink()  # creating a store takes the most
    (workplace / "one.yaml").write_text(EXPERIMENT)
    return workplace


def shell(command, folder):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "LECUN"))}
    environment["PYTHONPATH"] = str(Path(lecun_ablate.__file__).parents[1])
    if "$CLOCK" in command:
        compiler = shutil.which("cc") or pytest.skip("no C compiler")
        source = Path(__file__).parent / "faults/clock.c"
        library = folder / "clock.so"
        words = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        subprocess.run(words, check=True)
        environment["CLOCK"] = str(library)
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_clock_of_this_suite_jumps(tmp_path):
    program = "import time; t = [(time.time(), time.sleep(.1)) for _ in range(50)]; "
    program += "print(any(b[0] < a[0] for a, b in zip(t, t[1:])))"
    done = shell(f"LD_PRELOAD=$CLOCK {sys.executable} -c '{program}'", tmp_path)
    assert done.stdout == "True\n", done.stderr


@pytest.fixture(scope="session")
def right(tmp_path_factory):
    folder = tmp_path_factory.mktemp("right")
    (folder / "one.yaml").write_text(EXPERIMENT)
    return lecun_ablate.run(folder / "one.yaml", tracking_uri=f"sqlite:///{folder}/mlflow.db")


@pytest.mark.parametrize("case", WORKS)
def test_it_works_all_the_same(place, right, case):
    done = shell(WORKS[case], place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    again = shell(WORKS[case], place)
    assert again.returncode == 0 and "0 to train" in again.stderr, again.stderr
    found = lecun_ablate.load_results("one")
    columns = [c for c in right.columns if c not in ("run_id", "epoch_seconds")]
    assert found[columns].equals(right[columns])


@pytest.mark.parametrize("case", REFUSES)
def test_it_says_why_it_does_not(place, right, case):
    command, said = REFUSES[case]
    done = shell(command, place)
    assert done.returncode not in (0, None), done.stdout
    assert re.search(said, done.stderr), done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    assert shell(RUN, place).returncode == 0, "nothing is in the way of the next start"
    found = lecun_ablate.load_results("one")
    columns = [c for c in right.columns if c not in ("run_id", "epoch_seconds")]
    assert found[columns].equals(right[columns])
