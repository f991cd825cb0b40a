"""A loopback server that speaks as much of the Hugging Face Hub's HTTP API as its client needs, with faults on demand.

Tests start `HubServer` in a thread and point HF_ENDPOINT at it. Large files go through LFS, in parts above PART bytes,
or through Xet, which keeps its chunks in a directory (hf_xet's `local://` endpoint). Uploads are refused unless their
SHA-256 is the promised one, commits unless their large files are there and their parent is the head of the branch.
Large files are served from another host name, as the Hub's are.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote, urlsplit

PART = 64 << 10  # bytes; larger files are uploaded in parts of this size
TOKEN = "hf_thisIsTheSecretOfTheTests"  # noqa: S105  # no secret of anybody's
LARGE = (".safetensors", ".parquet", ".pth")
# A file's Xet hash, and the file as the chunks of a directory give it back: `python -c XET DIRECTORY FILE BACK`.
XET = """
import sys, hf_xet
place, file, back = sys.argv[1:]
[info] = hf_xet.hash_files([file])
print(info.hash)
session, access = hf_xet.XetSession(), {"token": "", "token_expiry_unix_secs": 2**40}
with session.new_file_download_group(endpoint="local://" + place, **access) as group:
    group.start_download_file(hf_xet.XetFileInfo(info.hash, info.file_size), back)
"""


@dataclass
class Repo:
    """Commits are (oid, files by name), in the order in which they were made; a file is its bytes."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("0" * 40, {})])
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        wanted = self.branches.get(revision) or self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == wanted), None)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        oid = hashlib.sha1(f"{len(self.commits)}{sorted(files)}{time.time_ns()}".encode()).hexdigest()  # noqa: S324
        self.commits.append((oid, files))
        self.branches[branch] = oid
        return oid


@dataclass
class Fault:
    """Answers `times` requests that match with this status, or drops the connection after `drop` bytes of body. With
    `lost`, the request is carried out and its answer does not arrive.
    """

    method: str
    path: str
    status: int = 0
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    drop: int | None = None
    lost: bool = False
    page: bytes = b""  # the body of an answer with a status
    before: Callable[[], None] | None = None  # called when it strikes


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.storage = f"http://localhost:{self.server_port}"
        self.lock = threading.RLock()
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}  # large files by SHA-256
        self.xet: Path | None = None  # where Xet keeps its chunks, if it is spoken
        self.xet_hashes: dict[str, str] = {}  # of large files by SHA-256
        self.sources = Path()  # where the files are that clients send through Xet
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []  # "METHOD path"
        self.received = 0  # bytes of large files
        self.sent = 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def fault(self, method: str, path: str, **kwargs: Any) -> Fault:
        made = Fault(method, path, **kwargs)
        self.faults.append(made)
        return made

    def strike(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    if fault.before:
                        fault.before()
                    return fault
        return None

    def from_xet(self, oid: str) -> bool:
        """Whether Xet gives the file of this SHA-256 back; it is then among the objects."""
        found = (path for path in self.sources.rglob("*") if path.name.endswith(LARGE) and path.is_file())
        source = next((path for path in found if hashlib.sha256(path.read_bytes()).hexdigest() == oid), None)
        if self.xet is None or source is None:
            return False
        with TemporaryDirectory() as folder:
            place, back = Path(folder) / "xet", Path(folder) / "back"
            shutil.copytree(self.xet, place)  # the client holds the lock of its own
            command = [sys.executable, "-c", XET, str(place), str(source), str(back)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if done.returncode or hashlib.sha256(back.read_bytes()).hexdigest() != oid:
                return False
            self.objects[oid], self.xet_hashes[oid] = back.read_bytes(), done.stdout.strip()
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up or are killed are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        if not isinstance(content, bytes):
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        server = self.server
        length = int(self.headers.get("Content-Length", 0))
        with server.lock:
            server.log.append(f"{self.command} {path}")
        fault = server.strike(self.command, path)
        if fault and fault.drop is not None and self.command in ("PUT", "POST"):
            self.rfile.read(min(length, fault.drop))
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.chunks()
        if self.command == "PUT":
            with server.lock:
                server.received += len(body)
        if fault and fault.lost:
            self.wfile = io.BytesIO()  # type: ignore[assignment]
            self.close_connection = True
        if fault and fault.status:
            self.answer(fault.status, fault.page or {"error": "as asked"}, **fault.headers)
            return
        if path.startswith("/storage/"):
            self.storage(path, body, fault.drop if fault else None)
        elif path != "/api/validate-yaml" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials")
        else:
            with server.lock:
                self.api(path, body, fault.drop if fault else None)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = serve

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def storage(self, path: str, body: bytes, drop: int | None) -> None:
        """Large files: GET /storage/OID, PUT /storage/OID[/PART], POST /storage/OID/complete."""
        server = self.server
        _, _, oid, *rest = path.split("/")
        if self.command == "GET":
            self.send_data(server.objects[oid], drop)
        elif self.command == "PUT" and rest:
            with server.lock:
                server.parts.setdefault(oid, {})[int(rest[0])] = body
            self.answer(200, b"", ETag=f'"{rest[0]}"')
        else:
            data = body
            if rest:
                data = b"".join(part for _, part in sorted(server.parts.pop(oid, {}).items()))
            if hashlib.sha256(data).hexdigest() != oid:
                self.answer(400, {"error": "these are not the promised bytes"})
                return
            server.objects[oid] = data
            self.answer(200, {})

    def send_data(self, data: bytes, drop: int | None = None, **headers: str) -> None:
        start, status = 0, 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, status = int(found[1]), 206
            end = int(found[2]) + 1 if found[2] else len(data)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            data = data[start:end]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data if drop is None else data[:drop])
        with self.server.lock:
            self.server.sent += len(data if drop is None else data[:drop])
        if drop is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def api(self, path: str, body: bytes, drop: int | None) -> None:
        if path == "/api/whoami-v2":
            self.answer(200, {"type": "user", "name": "user", "auth": {"accessToken": {"role": "write"}}})
        elif path == "/api/validate-yaml":
            errors = [{"message": '"license" must be one of [apache-2.0, ...]'}] if b"license: nonsense" in body else []
            self.answer(400 if errors else 200, {"errors": errors, "warnings": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.batch(json.loads(body))
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(f"{match[1] or 'models/'}{match[2]}", match[3], match[4], drop)
        elif match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/([^/]+)(?:/([^/]+))?)?(?:/(.+))?", path):
            self.about(f"{match[1]}/{match[2]}", match[3] or "revision", match[4] or "main", body)
        else:
            self.answer(404, {"error": path})

    def create(self, asked: dict[str, Any]) -> None:
        kind = asked.get("type") or "model"
        repo_id = f"{asked.get('organization') or 'user'}/{asked['name']}"
        name = f"{kind}s/{repo_id}"
        url = {"url": f"{self.server.endpoint}/{'' if kind == 'model' else kind + 's/'}{repo_id}", "id": repo_id}
        status = 409 if name in self.server.repos else 200
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repos.setdefault(name, Repo(private=private))
        self.answer(status, url)

    def batch(self, asked: dict[str, Any]) -> None:
        server = self.server
        objects = []
        for item in asked["objects"]:
            href = f"{server.storage}/storage/{item['oid']}"
            if item["oid"] in server.objects:
                objects.append(item)
            elif item["size"] <= PART:
                objects.append(item | {"actions": {"upload": {"href": href}}})
            else:
                parts = -(-item["size"] // PART)
                header = {"chunk_size": str(PART)} | {str(n): f"{href}/{n}" for n in range(1, parts + 1)}
                objects.append(item | {"actions": {"upload": {"href": f"{href}/complete", "header": header}}})
        xet = server.xet is not None and "xet" in asked.get("transfers", ())
        self.answer(200, {"transfer": "xet" if xet else "multipart", "objects": objects})

    def about(self, name: str, verb: str, revision: str, body: bytes) -> None:
        server = self.server
        repo = server.repos.get(name)
        if repo is None:
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        if verb == "tag":
            found = repo.at(revision)
            assert found
            tag = json.loads(body)["tag"]
            status = 409 if tag in repo.tags else 200
            repo.tags.setdefault(tag, found[0])
            self.answer(status, {})
            return
        if verb == "branch":
            status = 409 if revision in repo.branches else 200
            repo.branches.setdefault(revision, repo.branches["main"])
            self.answer(status, {})
            return
        found = repo.at(revision)
        if found is None:
            self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            return
        oid, files = found
        if verb == "revision":
            siblings = [{"rfilename": file} for file in files]
            about = {"id": name.partition("/")[2], "sha": oid, "siblings": siblings, "private": repo.private}
            self.answer(200, about | {"downloads": 0, "likes": 0, "tags": [], "gated": False, "disabled": False})
        elif verb == "tree":
            self.answer(200, [entry(file, data) for file, data in sorted(files.items())])
        elif verb == "preupload":
            self.answer(200, {"files": [self.mode(item, files) for item in json.loads(body)["files"]]})
        elif verb in ("xet-read-token", "xet-write-token"):
            about = {"casUrl": f"local://{server.xet}", "accessToken": "of-xet", "exp": int(time.time()) + 3600}
            headers = {"X-Xet-Cas-Url": about["casUrl"], "X-Xet-Access-Token": about["accessToken"]}
            self.answer(200, about, **headers, X_Xet_Token_Expiration=str(about["exp"]))
        elif verb == "commit":
            self.commit(repo, name, revision, [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404, {"error": verb})

    def mode(self, item: dict[str, Any], files: dict[str, bytes]) -> dict[str, Any]:
        large = item["path"].endswith(LARGE)
        there = files.get(item["path"])
        oid = None if there is None else entry(item["path"], there)["oid"]
        if there is not None and large:
            oid = hashlib.sha256(there).hexdigest()
        mode = "lfs" if large else "regular"
        return {"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def commit(self, repo: Repo, name: str, branch: str, lines: list[dict[str, Any]]) -> None:
        found = repo.at(branch)
        assert found
        head, files = found[0], dict(found[1])
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header" and value.get("parentCommit") not in (None, head):
                self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
                return
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.server.objects and not self.server.from_xet(value["oid"]):
                    self.answer(400, {"error": f"LFS object {value['oid']} is not there"})
                    return
                files[value["path"]] = self.server.objects[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(files, branch)
        url = f"{self.server.endpoint}/{name.removeprefix('models/')}/commit/{oid}"
        self.answer(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def resolve(self, name: str, revision: str, file: str, drop: int | None) -> None:
        server = self.server
        repo = server.repos.get(name)
        found = repo.at(revision) if repo else None
        if repo is None:
            self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif found is None:
            self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        elif file not in found[1]:
            self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=found[0])
        elif file.endswith(LARGE):
            data = found[1][file]
            oid = hashlib.sha256(data).hexdigest()
            server.objects[oid] = data
            headers = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": found[0]}
            if oid in server.xet_hashes:
                kind, _, repo_id = name.partition("/")
                route = f"{server.endpoint}/api/{kind}/{repo_id}/xet-read-token/{found[0]}"
                headers |= {"X-Xet-Hash": server.xet_hashes[oid], "X-Xet-Refresh-Route": route}
            self.answer(302, b"", Location=f"{server.storage}/storage/{oid}", **headers)
        else:
            data = found[1][file]
            self.send_data(data, drop, ETag=f'"{entry(file, data)["oid"]}"', X_Repo_Commit=found[0])


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file in a tree listing."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    found = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if path.endswith(LARGE):
        found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return found
