"""Fails calls to the system one by one while a small experiment runs; see test_fault_injection.py.

    LD_PRELOAD=shim.so python tests/faults/inject.py FOLDER WHICH SAMPLE

WHICH is `run`, `study`, `run-fresh` (which creates its store), or a command on what a run has left.
SAMPLE is `all`, a part of all such as 2/3 (for several processes at once), a number of trials, or
one of them, such as write:390:EIO or open:2:ENOSPC:forever. Every trial is two forks of this
process, which has everything imported: one in which a call fails, and one more start. Prints a JSON
object per trial.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

KINDS = ("open", "write", "sync", "rename", "remove", "mkdir", "lock")
ERRORS = {
    "open": (errno.EMFILE, errno.EIO),
    "write": (errno.ENOSPC, errno.EIO),
    "sync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.ENOSPC),
    "remove": (errno.EIO, errno.EACCES),
    "mkdir": (errno.ENOSPC, errno.EIO),
    "lock": (errno.EAGAIN, errno.EIO),
}
UNWANTED = ("Traceback", "is a bug", "invalid data in the commit")
FILES = {
    "run": "name: small\ndata: tiny\nrecipe: {epochs: 2}\nvary: {activation: [tanh, relu]}\n"
    "seeds: 2\n",
    "study": "name: rates\ndata: tiny\nepochs: 1\narms: [{name: a}]\n"
    "search: {lr: {low: 0.01, high: 0.1}}\ntrials: 2\nseeds: 1\nbatch: 1\n"
    "confirm: {trials: 1, seeds: 2}\n",
}
TRAIN = ["--trainer", "native", "--device", "cpu"]
COMMANDS = {
    "run": ["run", "run.yaml", *TRAIN],
    "study": ["study", "study.yaml", *TRAIN],
    "show": ["show", "small"],
    "report": ["report", "small"],
    "list": ["list"],
    "doctor": ["doctor"],
    "export": ["export", "small", "--csv"],
}

shim = ctypes.CDLL(None)
shim.fault_count.restype = ctypes.c_long


def warm_up(folder: Path, which: str) -> None:
    """Run the command once in this process, so that a fork has nothing left to import."""
    folder.mkdir(parents=True)
    here = Path.cwd()
    os.chdir(folder)
    write_files()
    if which not in FILES:
        assert command("run") == 0
    assert command(which) == 0
    table(which)
    os.chdir(here)


def write_files() -> None:
    for which, text in FILES.items():
        Path(f"{which}.yaml").write_text(text)


def in_a_fork(folder: Path, log: Path, work) -> int:
    """Do `work` in a fork, in a folder; return its exit status. What it prints goes to a file."""
    child = os.fork()
    if child:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(child, 9)
        os.waitpid(child, 0)
        return -9
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    status = 70
    try:
        status = work()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def command(which: str) -> int:
    from lecun_ablate.cli import _main

    return _main(list(COMMANDS[which]))


def table(which: str) -> object:
    """Return what counts of the results in the working directory, checked for doubles."""
    import lecun_ablate

    if which == "study":
        frame = lecun_ablate.study("study.yaml", trainer="native", device="cpu")
        unlike = ["run_id", "number"]  # a trial that is repeated has another number
    else:
        frame = lecun_ablate.load_results("small")
        assert len(frame) == 8 and not frame.duplicated(["arm", "seed", "epoch"]).any()
        unlike = ["run_id", "epoch_seconds"]
    return frame.drop(columns=unlike).astype(str).to_dict("records")


class Trials:
    """Trials in folders of their own, each begun from a copy of one folder."""

    def __init__(self, place: Path, which: str, fresh: bool):
        self.place, self.which, self.fresh = place, which, fresh
        self.start = place / "start"
        self.start.mkdir(parents=True)
        assert in_a_fork(self.start, place / "start.log", self.prepare) == 0
        self.right = self.trial("open", 0, 0, False)["table"]
        assert self.right, "what every table is compared with"

    def prepare(self) -> int:
        """Put into the working directory what every trial begins with."""
        write_files()
        if not self.fresh:  # creating a store makes thousands of calls, tried by themselves
            from lecun_ablate.tracking.new_store import create

            create(Path("mlflow.db").resolve())
        return 0 if self.which in FILES else command("run")

    def trial(self, kind: str, n: int, error: int, forever: bool) -> dict:
        """Let the n-th call of a kind fail; return how both starts ended, and the table then."""
        folder = self.place / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.start, folder)
        logs = [self.place / name for name in ("first.log", "second.log")]
        counted = self.place / "counts.json"

        def first() -> int:
            place = str(folder.resolve()).encode()
            if self.fresh:
                tempfile.tempdir = str(folder)  # where a store is created
            shim.fault_arm(place, KINDS.index(kind), n, error, forever)
            status = command(self.which)
            counts = {k: shim.fault_count(i) for i, k in enumerate(KINDS)}
            shim.fault_arm(b"", -1, 0, 0, 0)
            counted.write_text(json.dumps(counts))
            return status

        def second() -> int:
            status = command(self.which)
            if status == 0:
                Path("table.json").write_text(json.dumps(table(self.which)))
            return status

        statuses = [in_a_fork(folder, logs[0], first), in_a_fork(folder, logs[1], second)]
        said = [log.read_text() for log in logs]
        found = folder / "table.json"
        return {
            "kind": kind,
            "n": n,
            "error": errno.errorcode.get(error, ""),
            "forever": forever,
            "statuses": statuses,
            "traceback": any(word in text for text in said for word in UNWANTED),
            "counts": json.loads(counted.read_text()),
            "table": json.loads(found.read_text()) if found.exists() else None,
            "said": said,
        }


def main(place: str, which: str, sample: str) -> None:
    """Try every call, or a number of them that are drawn with a fixed seed."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny_digits import register_tiny

    register_tiny()
    which, _, fresh = which.partition("-")
    if fresh:  # with more cores, another process creates the store, and its calls do not fail
        os.environ["OMP_NUM_THREADS"] = "1"
    with contextlib.redirect_stdout(sys.stderr):
        warm_up(Path(place, "warm"), which)
    gc.collect()
    gc.freeze()  # the collector of a fork passes over what is imported
    trials = Trials(Path(place), which, fresh == "fresh")
    counts = trials.trial("open", 0, 0, False)["counts"]
    todo = [
        (kind, n, error, False)
        for kind, number in counts.items()
        for n in range(1, number + 1)
        for error in ERRORS[kind]
    ]
    todo += [
        (kind, n, errno.ENOSPC, True)
        for kind in ("open", "write", "sync", "rename")
        for n in range(1, counts[kind] + 1)
    ]
    if ":" in sample:
        kind, n, error, *forever = sample.split(":")
        todo = [(kind, int(n), getattr(errno, error), bool(forever))]
    elif "/" in sample:
        part, parts = map(int, sample.split("/"))
        todo = todo[part - 1 :: parts]
    elif sample != "all":
        todo = random.Random(1).sample(todo, min(int(sample), len(todo)))
    print(json.dumps({"calls": counts, "trials": len(todo)}), flush=True)
    for kind, n, error, forever in todo:
        result = trials.trial(kind, n, error, forever)
        result["same"] = result.pop("table") == trials.right
        good = result["same"] and not result["traceback"] and set(result["statuses"]) <= {0, 1}
        if good:
            del result["said"]
        result["good"] = good
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
