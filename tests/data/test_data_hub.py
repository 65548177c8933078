"""USPS from the Hub and its cache, in processes of their own, against a stand-in on this machine.

The client reads its environment (HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE) once, when it is imported.
"""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from data_fixtures import write_folder

from lecun_ablate.data import usps
from lecun_ablate.data.usps import FILES, REPO, read_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LOAD = """
import json, sys
from lecun_ablate.data import load
from lecun_ablate.errors import LecunAblateError
try:
    digits = load("usps", fallback=sys.argv[1] or None)
    answer = {"name": digits.name, "digest": digits.digest, "source": digits.source,
              "notice": digits.notice}
except LecunAblateError as error:
    answer = {"error": type(error).__name__, "status": error.exit_status, "words": str(error)}
print(json.dumps(answer))
"""
RUN = """
import sys, time
began = time.monotonic()
from lecun_ablate.cli import _main
status = _main(["run", sys.argv[1]])
heavy = sorted({"torch", "mlflow", "pandas", "sklearn"} & set(sys.modules))
print(status, time.monotonic() - began, *heavy)
"""


class Hub:
    """The part of the Hub's HTTP interface that a download needs, over a folder."""

    def __init__(self, folder, get_status=200):
        self.requests = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(200, with_content=False)

            def do_GET(self):
                self.answer(get_status, with_content=True)

            def answer(self, status, with_content):
                hub.requests.append(f"{self.command} {self.path}")
                prefix = f"/datasets/{REPO}/resolve/"
                revision, _, name = self.path.removeprefix(prefix).partition("/")
                known = self.path.startswith(prefix) and revision in ("main", COMMIT)
                content = b""
                if not known or name not in FILES.values():
                    status = 404
                elif status == 200:
                    content = (folder / name).read_bytes()
                self.send_response(status)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if with_content:
                    self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("hub-content"))


@pytest.fixture
def alone(tmp_path):
    """Run Python code in a process of its own with an empty cache; return its stdout and stderr."""

    def run(endpoint, code, *arguments, **environment):
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HF_", "LECUN_ABLATE_")) and "proxy" not in name.lower()
        }
        environment = {
            **kept,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": endpoint,
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


@pytest.fixture
def load(alone):
    """Load USPS in a process of its own with an empty cache; return its answer and its stderr."""

    def run(endpoint, fallback="", **environment):
        stdout, stderr = alone(endpoint, LOAD, fallback, **environment)
        return json.loads(stdout), stderr

    return run


@pytest.fixture
def closed_port():
    with socket.socket() as listener:  # bound and not listening: connections are refused
        listener.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_download_with_progress_then_cache(load, content, tmp_path):
    with Hub(content) as hub:
        answer, stderr = load(
            hub.endpoint, fallback="digits", TQDM_POSITION="-1"
        )  # a progress bar although there is no terminal
        endpoint = hub.endpoint
    digest = read_folder(content).digest
    assert answer == {
        "name": "usps",
        "digest": digest,
        "notice": "These are not the usual USPS digits (Hugging Face Hub, data set flwrlabs/usps): "
        f"expected digest 46fb686dd0d0aeee, got {digest}. Their order, pixels or labels differ "
        "from those of the data set flwrlabs/usps, so results cannot be compared with results "
        "on it.",
        "source": "Hugging Face Hub, data set flwrlabs/usps",
    }
    fetched = [request for request in hub.requests if request.startswith("GET /datasets/")]
    assert [request.partition("/data/")[2] for request in fetched] == [
        file.removeprefix("data/") for file in FILES.values()
    ]
    assert "train-00000-of-00001.parquet" in stderr and "100%" in stderr

    again, _ = load(endpoint)  # nobody listens any more
    assert again == answer
    for file in (tmp_path / "hf" / "hub").rglob("test-*.parquet"):
        file.unlink()
    assert load(endpoint)[0]["error"] == "Unavailable"  # half a data set is none


def test_no_network(load, closed_port, tmp_path):
    answer, stderr = load(closed_port)
    assert (answer["error"], answer["status"]) == ("Unavailable", 3)
    assert stderr == ""  # the client, which would tell of its retries, was not let loose
    for word in (
        str(tmp_path / "hf" / "hub"),
        closed_port,
        "refused",
        REPO,
        *FILES.values(),
        "--data-dir",
        "LECUN_ABLATE_DATA",
        "HF_HOME",
        "`data: digits`",
    ):
        assert word in answer["words"]


def test_no_network_with_a_fallback(load, closed_port):
    answer, _ = load(closed_port, fallback="digits")
    assert (answer["name"], answer["source"]) == ("digits", "bundled with scikit-learn")
    assert "NOT 'usps'" in answer["notice"] and "--data-dir" in answer["notice"]


@pytest.fixture
def silent_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts and never answers
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_silent_network(load, silent_port):
    answer, stderr = load(silent_port)
    assert answer["error"] == "Unavailable" and "not answer within 1.5 seconds" in answer["words"]
    assert stderr == ""  # the client, which would tell of its retries, was not let loose


@pytest.mark.parametrize("network", ["closed_port", "silent_port"])
def test_a_run_without_a_network_ends_before_anything_slow(alone, tmp_path, network, request):
    endpoint = request.getfixturevalue(network)
    (tmp_path / "x.yaml").write_text("name: x\ndata: usps\n")
    stdout, stderr = alone(endpoint, RUN, "x.yaml")
    status, seconds, *heavy = stdout.split()
    assert status == "3" and "Give a folder with both files" in stderr and endpoint in stderr
    assert heavy == []
    assert float(seconds) < 3 + 5  # 2 on a machine that has nothing else to do


def test_a_fallback_is_told_of_before_anything_slow(closed_port, alone, tmp_path):
    (tmp_path / "x.yaml").write_text("name: x\nrecipe: {lr: -1}\n")  # where it ends after the data
    stdout, stderr = alone(closed_port, RUN, "x.yaml")
    assert stdout.split()[0] == "2"
    first, second, third = stderr.splitlines()
    assert "refused" in first and second == "using digits instead" and "recipe.lr" in third


def test_offline_mode_asks_nobody(load, content):
    with Hub(content) as hub:
        answer, _ = load(hub.endpoint, HF_HUB_OFFLINE="1")
    assert answer["error"] == "Unavailable" and "HF_HUB_OFFLINE" in answer["words"]
    assert hub.requests == []


def test_download_that_fails_half_way(load, content):
    with Hub(content, get_status=403) as hub:
        answer, stderr = load(hub.endpoint)
    assert any(request.startswith("GET /datasets/") for request in hub.requests)
    assert answer["error"] == "Unavailable" and "403" in answer["words"]
    assert "Traceback" not in stderr


def test_hub_that_lacks_the_data_set(load, tmp_path):
    (tmp_path / "data").mkdir()
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0),
        http.server.BaseHTTPRequestHandler,  # 501 to everything
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        answer, _ = load(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert answer["error"] == "Unavailable" and "501" in answer["words"]


@pytest.mark.timeout(60)
def test_silent_name_server(monkeypatch):
    released = threading.Event()

    def lookup(*args, **kwargs):
        released.wait(120)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(usps, "_refusals", [])
    try:
        began = time.monotonic()
        assert usps.unreachable().endswith("did not answer within 1.5 seconds")
        assert 1.4 < time.monotonic() - began < 3
        assert usps.unreachable().endswith("did not answer within 1.5 seconds")
        assert time.monotonic() - began < 3  # it was not asked again
    finally:
        released.set()
