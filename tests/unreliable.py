"""A proxy between a client and a server that loses what it is told to, by a fixed seed."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("request lost", "answer lost", "answer cut", "reset", "500", "503", "slow")
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Unreliable(ThreadingHTTPServer):
    """Passes requests on to a server, but for a share of them, on which it inflicts a fault.

    `down` refuses every request, as `fault_when_down` says. `counts` says how often each fault was
    inflicted, and "sound".
    """

    daemon_threads = True

    def __init__(self, port: int, share: float, seed: int = 0, faults: tuple[str, ...] = FAULTS):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.share, self.faults = port, share, faults
        self.down, self.fault_when_down = False, "reset"
        self.counts: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Say nothing: connections break here on purpose."""

    def draw(self) -> str:
        with self._lock:
            fault = "sound"
            if self.down:
                fault = self.fault_when_down
            elif self._random.random() < self.share:
                fault = self._random.choice(self.faults)
            self.counts[fault] += 1
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_one(self) -> None:
        fault = self.server.draw()
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if fault in ("request lost", "reset"):
            self._break(reset=fault == "reset")
            return
        if fault in ("500", "503"):
            self._answer(int(fault), [], b"out of order")
            return
        if fault == "slow":
            threading.Event().wait(1)
        behind = HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        behind.request(self.command, self.path, body, headers)
        answer = behind.getresponse()
        content = answer.read()
        if fault == "answer lost":
            self._break()
        elif fault == "answer cut":
            self._answer(answer.status, answer.getheaders(), content, cut=True)
        else:
            self._answer(answer.status, answer.getheaders(), content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

    def _answer(self, status, headers, content: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in headers:
            if key.lower() not in HOP:
                self.send_header(key, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._break()

    def _break(self, reset: bool = False) -> None:
        self.close_connection = True
        self.wfile.flush()
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
