"""A loopback web server whose files have versions, with the faults that servers and networks have."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from zoo.fetch import download


@dataclass
class WebFile:
    """A file of the web. `ranges`: whether the server continues; `matching`: whether it heeds If-Range; `drops`: after
    so many bytes of the body the next answers break off; `statuses`: what the next requests are answered instead.
    """

    data: bytes
    ranges: bool = True
    matching: bool = True
    versioned: bool = True
    length: bool = True
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    before: Callable[[], None] | None = None

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:16]}"'


class WebServer(ThreadingHTTPServer):
    """Serves `files` by their paths; `asked` has the path and range of each request, `sent` the bytes of all bodies."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, WebFile] = {}
        self.asked: list[tuple[str, str]] = []
        self.sent = 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def add(self, path: str, data: bytes) -> tuple[str, WebFile]:
        """A file at this path; its address, and the file."""
        self.files[path] = WebFile(data)
        return f"{self.endpoint}{path}", self.files[path]

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A server, and this process as one that may use a network and does not wait long."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "FIRST_WAIT", 0.0)
    with WebServer() as server:
        yield server
        server.shutdown()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append((self.path, wanted))
        file = self.server.files.get(self.path)
        if file is None or file.statuses:
            self._answer(404 if file is None else file.statuses.pop(0), b"nothing", None)
            return
        if file.before:
            file.before()
        start = re.fullmatch(r"bytes=(\d+)-", wanted)
        fresh = not file.matching or self.headers.get("If-Range") == file.tag
        if start and file.ranges and fresh and int(start[1]) >= len(file.data):
            self._answer(416, b"", None)
        elif start and file.ranges and fresh:
            first = int(start[1])
            self._answer(206, file.data[first:], file, f"bytes {first}-{len(file.data) - 1}/{len(file.data)}")
        else:
            self._answer(200, file.data, file)

    def _answer(self, status: int, body: bytes, file: WebFile | None, part: str = "") -> None:
        self.send_response(status)
        if file and file.versioned:
            self.send_header("ETag", file.tag)
        if part:
            self.send_header("Content-Range", part)
        if file is None or file.length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        sent = body[: file.drops.pop(0)] if file and file.drops else body
        self.server.sent += len(sent)  # before anybody can have them
        self.wfile.write(sent)
        if len(sent) < len(body) or not (file is None or file.length):
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
