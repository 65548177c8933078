"""How long the command line takes to answer: for --help, and for a run without a network.

python benchmarks/start.py
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(*arguments: str, rounds: int = 5, **environment: str) -> float:
    """Return the shortest of several wall times of a command, in a folder of its own."""
    took = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.yaml").write_text("name: x\ndata: usps\n")
        inherited = {k: v for k, v in os.environ.items() if k != "LECUN_ABLATE_DATA"}
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "lecun_ablate", *arguments],
                cwd=folder,
                check=False,
                env={**inherited, "HF_HOME": folder, **environment},
                capture_output=True,
            )
            took.append(time.perf_counter() - began)
    return min(took)


def main() -> None:
    print(f"--help                        {seconds('--help'):.2f} s (limit: 0.5)")
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))  # without listening
        for name, hub in (("refuses", refusing), ("is silent", silent)):
            endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
            took = seconds("run", "x.yaml", HF_ENDPOINT=endpoint)
            print(f"a run where the Hub {name:9} {took:.2f} s (limit: 3)")


if __name__ == "__main__":
    main()
