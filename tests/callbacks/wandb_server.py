"""As much of a W&B server as one run needs, on loopback, with a switch to make it go away; a key, and what was said."""

from __future__ import annotations

import gzip
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

KEY = "a" * 40
_ENTITY = {"name": "tester", "id": "entity"}
_ANSWERS: dict[str, Any] = {
    "UpsertBucket": {
        "upsertBucket": {
            "bucket": {
                "id": "bucket", "displayName": "run", "config": "{}", "sweepName": None,
                "historyLineCount": 0, "project": {"id": "p", "name": "faceveil", "entity": _ENTITY},
            }
        }
    },
    "Viewer": {"viewer": {"id": "v", "username": "tester", "entity": "tester", "flags": "{}"}},
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "RunResumeStatus": {"model": None},
    "CreateRunFiles": {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": []}},
}  # fmt: skip


class WandbServer(http.server.ThreadingHTTPServer):
    """Answers what W&B's service asks for and keeps what it sends.

    Attributes:
        streamed: the bodies of the file stream, as text: history, summary, console.
        asked: the names of the queries that came.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.streamed: list[str] = []
        self.asked: list[str] = []
        self._open: set[socket.socket] = set()
        self._gone = False
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def go_away(self) -> None:
        """Close the port and every connection, as a machine does that loses its network."""
        if self._gone:
            return
        self._gone = True
        self.shutdown()
        self.server_close()
        for connection in self._open:
            with suppress(OSError):  # W&B has closed it already
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that broke."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            query = asked["query"]
            name = query.split("(")[0].split("{")[0].split()[1] if query.split() else ""
            self.server.asked.append(name)
            answer = _ANSWERS.get(name, {})
            if name == "UpsertBucket":  # the run keeps the id that it asks for, and its folder with it
                bucket = answer["upsertBucket"]["bucket"] | {"name": asked["variables"]["name"]}
                answer = {"upsertBucket": {"bucket": bucket, "inserted": True}}
            self._answer({"data": answer})
        elif self.path.startswith("/sdk/otel"):  # W&B's own statistics
            self._answer({}, 404)
        else:
            self.server.streamed.append(body.decode())
            self._answer({})

    do_GET = do_PUT = do_POST

    def _answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Serve until the block ends, or until it goes away."""
    with WandbServer() as server:
        yield server
        server.go_away()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of W&B."""
    return [record.message for record in caplog.records if "W&B" in record.message]
