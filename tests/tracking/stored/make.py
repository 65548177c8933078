"""Make store.tar.xz: an MLflow store, an Optuna storage, and the files that filled them.

It was run once, as `python tests/tracking/stored/make.py`, with the first version of the package
(commit 2a5156b, MLflow 3.17, Optuna 5.0), and shows how the file came about. A later version of the
package must read that file, not a new one.
"""

import contextlib
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = {
    "small.yaml": """\
name: small
question: Which activation learns the stripes?
data: little
components: mine.py
recipe: {epochs: 2}
vary: {activation: [tanh, mine]}
seeds: 2
""",
    "rates.yaml": """\
name: rates
question: At which rate do they?
data: little
components: mine.py
recipe: {epochs: 2}
arms: [{activation: tanh}, {activation: mine}]
search: {lr: {low: 0.001, high: 0.3, log: true}}
trials: 3
batch: 2
seeds: 2
confirm: {trials: 1, seeds: 2}
""",
    "tuned.yaml": """\
name: tuned
data: little
components: mine.py
recipe: {epochs: 2}
tuned: rates.yaml
vary: {activation: [tanh, mine]}
seeds: 1
""",
    "noise.yaml": """\
name: noise
data: little
components: mine.py
recipe: {epochs: 1}
seeds: 1
governs: both
""",
}
IDENTITY = {"name": "torch", "device": "cpu", "instruction_set": "stored", "numerics": 1}
LEFT_OUT = (".lock", "-wal", "-shm", ".html", ".svg", ".csv", ".md", ".png")


def fill() -> None:
    """Run everything in the current folder."""
    from lecun_ablate.cli import _main
    from lecun_ablate.trainers.torch_trainer import TorchTrainer

    TorchTrainer.identity = lambda self: IDENTITY  # the same on every machine
    shutil.copy(HERE / "mine.py", ".")
    for name, text in FILES.items():
        Path(name).write_text(text)
    storage = ("--storage", "sqlite:///optuna.db")
    trainer = ("--trainer", "torch", "--device", "cpu")
    for command in (
        ("run", "small.yaml", *trainer),
        ("study", "rates.yaml", *storage, *trainer),
        ("study", "noise.yaml", *storage, *trainer),
    ):
        if status := _main(list(command)):
            sys.exit(status)


def main() -> None:
    """Fill a folder and pack it, reports left out."""
    with tempfile.TemporaryDirectory(prefix="stored") as folder:
        os.chdir(folder)
        fill()
        shutil.rmtree("reports")
        for database in ("mlflow.db", "optuna.db"):
            with contextlib.closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # no content beside the file
        with tarfile.open(HERE / "store.tar.xz", "w:xz") as archive:
            for path in sorted(Path().rglob("*")):
                if path.is_file() and not path.name.endswith(LEFT_OUT):
                    archive.add(path)
        os.chdir(HERE)


if __name__ == "__main__":
    main()
