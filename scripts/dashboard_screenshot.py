"""Take screenshots of Optuna's dashboard: python scripts/dashboard_screenshot.py FOLDER

Starts optuna-dashboard on a storage (default: sqlite:///studies/optuna.db), opens the first study
(or the one that --study names) in headless Chromium, and writes FOLDER/study.png and
FOLDER/note.png. Fails if the pages do not show the study's name, its note and its saved plot.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import optuna

from lecun_ablate.studies.optuna_storage import open_storage

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
]


def main() -> int:
    """Take the screenshots and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--storage", default="sqlite:///studies/optuna.db")
    parser.add_argument("--study", help="name of an Optuna study (default: the first)")
    arguments = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    dashboard = Path(sys.executable).with_name("optuna-dashboard")
    if browser is None or not dashboard.exists():
        print("expected chromium and optuna-dashboard to be installed", file=sys.stderr)
        return 2
    storage = open_storage(arguments.storage)
    names = sorted(optuna.get_all_study_names(storage)) if storage else []
    if not names:
        print(f"{arguments.storage}: no study", file=sys.stderr)
        return 2
    name = arguments.study or names[0]
    study_id = storage.get_study_id_from_name(name)
    arguments.folder.mkdir(parents=True, exist_ok=True)

    port = _free_port()
    server = subprocess.Popen(
        [dashboard, arguments.storage, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}/dashboard"
        _wait_for(base, server)
        # "error [%]" is on an axis of the saved plot, "wall time" at the end of the note
        pages = {
            "study.png": (f"{base}/studies/{study_id}", [name, "error [%]"]),
            "note.png": (f"{base}/studies/{study_id}/note", ["wall time"]),
        }
        missing = []
        for picture, (address, words) in pages.items():
            shown = _look(browser, address, arguments.folder / picture)
            missing += [
                f"{address}: expected it to show {word!r}" for word in words if word not in shown
            ]
        print(
            "\n".join(
                missing
                or [f"{name}: note and plot are shown, see the pictures in {arguments.folder}"]
            )
        )
        return 1 if missing else 0
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_for(address: str, server: subprocess.Popen) -> None:
    for _ in range(240):
        if server.poll() is not None:
            raise SystemExit(f"optuna-dashboard ended with status {server.returncode}")
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.25)
    raise SystemExit(f"{address} does not answer")


def _look(browser: str, address: str, picture: Path) -> str:
    """Take a picture of a page once its scripts have finished, and return its HTML."""
    with tempfile.TemporaryDirectory() as profile:
        common = [
            browser,
            *FLAGS,
            f"--user-data-dir={profile}",
            "--window-size=1400,2600",
            "--virtual-time-budget=15000",
        ]
        quiet = {"stderr": subprocess.DEVNULL, "timeout": 180}
        subprocess.run(
            [*common, f"--screenshot={picture}", address],
            check=True,
            stdout=subprocess.DEVNULL,
            **quiet,
        )
        dom = subprocess.run(
            [*common, "--dump-dom", address], check=True, stdout=subprocess.PIPE, **quiet
        )
    return dom.stdout.decode()


if __name__ == "__main__":
    raise SystemExit(main())
