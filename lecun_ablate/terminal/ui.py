"""The MLflow UI in the browser: started if none is running."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser

from lecun_ablate.errors import LecunAblateError

FIRST, LAST = 5000, 5009  # ports to try, if another program has the first
PATIENCE = 120  # seconds for the UI to start


def show(link: str, command: str | None, browser: bool) -> None:
    """Open a page of the MLflow UI; without a browser, print its address.

    `command` starts the UI, unless it is on a server. A UI started here runs until it is
    interrupted. Raises LecunAblateError if none can be started.
    """
    server = None
    if command:
        port, running = _port(link)
        link = link.replace(f":{FIRST}", f":{port}")
        if not running:
            server = _start(command, port)
    try:
        print(link, flush=True)
        if browser:
            webbrowser.open(link)
        if server:
            print("the MLflow UI is running; Ctrl-C ends it", file=sys.stderr, flush=True)
            server.wait()
    finally:
        if server:
            server.terminate()
            server.wait()


def _port(link: str) -> tuple[int, bool]:
    """Return a free port, or the port of a running UI with this experiment (True)."""
    asked = re.search(r"experiments/(\d+)", link)
    view = re.search(r"viewStateShareKey=([\w-]+)", link)
    for port in range(FIRST, LAST + 1):
        base = f"http://127.0.0.1:{port}"
        try:
            urllib.request.urlopen(f"{base}/health", timeout=2).close()
        except urllib.error.HTTPError:
            continue  # another program
        except OSError:
            return port, False
        number = asked.group(1) if asked else "0"
        path = f"/api/2.0/mlflow/experiments/get?experiment_id={number}"
        try:
            with urllib.request.urlopen(base + path, timeout=10) as answer:
                tags = json.load(answer)["experiment"].get("tags", [])
        except (OSError, ValueError, KeyError):
            continue
        if view is None or any(tag["key"].endswith(view.group(1)) for tag in tags):
            return port, True
    raise LecunAblateError(f"the ports {FIRST} to {LAST} are taken by other programs")


def _start(command: str, port: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", *shlex.split(command), "--port", str(port), "--workers", "1"]
    print(f"{command} --port {port}: starting ...", file=sys.stderr, flush=True)
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        except OSError:
            time.sleep(0.25)
        else:
            return server
    server.terminate()
    raise LecunAblateError(f"{command} --port {port}: did not start: run this command to see why")
