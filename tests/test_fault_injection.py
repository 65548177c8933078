"""The n-th write, sync, rename, ... of a command fails: one more start, and the table is right.

`faults/inject.py` tries every call by hand; here a sample, drawn with a fixed seed.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

FAULTS = Path(__file__).resolve().parent / "faults"
SAMPLES = {"run": 60, "study": 25, "run-fresh": 15, "report": 20}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("which", SAMPLES)
def test_a_call_that_fails_loses_nothing(tmp_path, which):
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    library = tmp_path / "shim.so"
    words = [
        compiler,
        "-O1",
        "-shared",
        "-fPIC",
        "-o",
        str(library),
        str(FAULTS / "shim.c"),
        "-ldl",
    ]
    subprocess.run(words, check=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "LECUN"))}
    environment |= {"LD_PRELOAD": str(library), "PYTHONPATH": str(FAULTS.parents[1])}
    done = subprocess.run(
        [sys.executable, str(FAULTS / "inject.py"), str(tmp_path), which, str(SAMPLES[which])],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, *trials = map(json.loads, done.stdout.splitlines())
    assert len(trials) == first["trials"] == SAMPLES[which]
    assert min(first["calls"][kind] for kind in ("open", "write", "sync", "rename", "lock")) >= 10
    bad = [trial for trial in trials if not trial["good"]]
    assert not bad, json.dumps(bad, indent=1)
    ended = Counter(trial["statuses"][0] for trial in trials)
    assert ended[1] > len(trials) // 10, "the faults are felt"
