"""A Hub on loopback: what huggingface_hub asks of huggingface.co about one repository, over HTTP.

It honours ranges, and can misbehave: break connections in the middle of a body, send bodies that
are shorter than asked for, refuse as a gated repository does.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repo_id: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repo_id, self.folder = repo_id, folder
        self.served: Counter[str] = Counter()
        """Bytes of bodies sent, by file."""
        self.requests: Counter[str] = Counter()
        self.drop_every = 0
        """Break the connection half-way through every n-th large body."""
        self.short_every = 0
        """Send half of what was asked for, and call it all, every n-th time."""
        self.fail_after: int | None = None
        """Refuse in a way that is not worth repeating once this many bytes of weights were sent."""
        self.gated: int | None = None
        """Answer with this status as a gated repository does."""
        self.large = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up; that is not this server's problem."""

    def weights_served(self) -> int:
        return sum(n for file, n in self.served.items() if file.endswith(".safetensors"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(form)["paths"] if is_json else parse_qs(form).get("paths", [])
        self._json([entry for path in paths if (entry := self._entry(path))])

    def _answer(self, body: bool) -> None:
        hub = self.server
        path = unquote(self.path.partition("?")[0])
        hub.requests[path] += 1
        if hub.gated:
            return self._refuse(hub.gated, "GatedRepo", "Access to model is restricted.")
        if path.startswith(f"/api/models/{hub.repo_id}"):
            rest = path.removeprefix(f"/api/models/{hub.repo_id}")
            if rest.startswith("/tree/"):
                if rest.count("/") > 2:  # a folder within; there is none
                    return self._refuse(404, "EntryNotFound", "Entry not found")
                return self._json([self._entry(p.name) for p in sorted(hub.folder.iterdir())])
            names = [{"rfilename": p.name} for p in sorted(hub.folder.iterdir())]
            return self._json({"id": hub.repo_id, "sha": COMMIT, "siblings": names})
        match = re.fullmatch(rf"/{re.escape(hub.repo_id)}/resolve/[^/]+/([^/]+)", path)
        if not match:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        if not (hub.folder / match[1]).is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found")
        return self._file(hub.folder / match[1], body)

    def _entry(self, name: str) -> dict[str, Any] | None:
        path = self.server.folder / name
        if not path.is_file():
            return None
        size = path.stat().st_size
        return {"type": "file", "path": name, "size": size, "oid": sha1(name.encode()).hexdigest()}

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, path: Path, body: bool) -> None:
        """The file or a range of it."""
        hub, data = self.server, path.read_bytes()
        status, total = 200, len(data)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = 0
        if match:
            start, stop = int(match[1]), int(match[2] or total - 1) + 1
            status, data = 206, data[start:stop]
        large = body and path.suffix == ".safetensors" and len(data) > 4096
        with hub.lock:
            hub.large += large
            drop = large and hub.drop_every and hub.large % hub.drop_every == 0
            short = large and hub.short_every and hub.large % hub.short_every == 0
            gone = large and hub.fail_after is not None and hub.weights_served() >= hub.fail_after
        if gone:
            self._refuse(410, "Gone", "Come back later.")
            return
        if short:
            data = data[: len(data) // 2]
        self.send_response(status)
        self.send_header("ETag", f'"{sha1(path.name.encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        if match:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{total}")
        self.end_headers()
        if drop:
            data, self.close_connection = data[: len(data) // 2], True
        if body:
            self.wfile.write(data)
            with hub.lock:
                hub.served[path.name] += len(data)


@contextmanager
def serving(repo_id: str, folder: Path) -> Iterator[Hub]:
    hub = Hub(repo_id, folder)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
