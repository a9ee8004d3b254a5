"""A Hub on loopback that can be written to: the API that huggingface_hub speaks for uploads.

Repositories of models, datasets and Spaces with branches, tags, commits and LFS objects, all in
memory. What huggingface.co checks is checked: tokens and their roles, a commit's parent, objects
that never arrived. It can misbehave: break connections in the middle of an upload, stop there and
wait, fail, move a revision between two requests.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote

import yaml

KINDS = ("models", "datasets", "spaces")
TOKENS = {"hf_writer": "write", "hf_reader": "read"}
"""Tokens that the Hub knows, and their roles."""


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool = False

    @property
    def oid(self) -> str:
        return hashlib.sha256(self.data).hexdigest() if self.lfs else git_sha1(self.data)


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    message: str
    files: Mapping[str, Blob]
    changed: frozenset[str]
    parent: "Commit | None" = None

    def history(self) -> "Iterator[Commit]":
        commit: Commit | None = self
        while commit:
            yield commit
            commit = commit.parent

    def last_change(self, path: str) -> "Commit":
        return next(one for one in self.history() if path in one.changed)


@dataclass
class Repo:
    branches: dict[str, Commit]
    private: bool = False
    tags: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    """LFS objects that arrived, by sha256."""

    def at(self, revision: str) -> Commit | None:
        if found := self.branches.get(revision) or self.tags.get(revision):
            return found
        heads = [*self.branches.values(), *self.tags.values()]
        return next((c for head in heads for c in head.history() if c.oid == revision), None)

    def commit(
        self,
        branch: str,
        files: Mapping[str, Blob | None],
        title: str = "Update by hand",
        message: str = "",
    ) -> Commit:
        """Add, replace and (None) remove files."""
        head = self.branches.get(branch)
        tree = dict(head.files) if head else {}
        changed = {path for path, blob in files.items() if tree.get(path) != blob}
        for path, blob in files.items():
            tree.pop(path, None)
            if blob is not None:
                tree[path] = blob
        text = repr((head and head.oid, title, sorted((p, b.oid) for p, b in tree.items())))
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.branches[branch] = Commit(oid, title, message, tree, frozenset(changed), head)
        return self.branches[branch]

    def texts(self, branch: str = "main") -> dict[str, bytes]:
        """The content of a branch's files, without what the Hub itself puts there."""
        files = self.branches[branch].files
        return {path: blob.data for path, blob in files.items() if path != ".gitattributes"}


def new_repo(private: bool = False) -> Repo:
    repo = Repo({}, private)
    attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
    repo.commit("main", {".gitattributes": Blob(attributes)}, "initial commit")
    return repo


class WritableHub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        """By kind (`models`) and id."""
        self.requests: Counter[str] = Counter()
        """How often each method and path was asked for."""
        self.received: Counter[str] = Counter()
        """Bytes of LFS objects that arrived, by sha256."""
        self.drop_puts = 0
        """Break the connection half-way through so many uploads of objects."""
        self.stall_after: int | None = None
        """From this number of uploaded objects on, take half of the next one and wait."""
        self.stalled, self.released = threading.Event(), threading.Event()
        self.answers: dict[str, tuple[int, str, str]] = {}
        """Refusals by the beginning of method and path: status, code, message."""
        self.renamed: dict[str, str] = {}
        """What repositories are called now, by the name that still leads to them."""
        self.before: dict[str, Callable[[], None]] = {}
        """What happens (once) just before a request, by the beginning of method and path."""
        self.xet_files: dict[str, bytes] | None = None
        """The files, by sha256, that clients may send through xet; None: there is no xet."""
        self.xorb_bytes = 0
        """Bytes of xorbs that arrived."""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def model(self, repo_id: str) -> Repo:
        return self.repos["models", repo_id]

    def has_xet(self, *files: bytes) -> None:
        """Have xet storage. Xorbs are counted, not unpacked: what files they make is told here."""
        self.xet_files = {hashlib.sha256(data).hexdigest(): data for data in files}

    def writes(self) -> list[str]:
        """The requests that change something."""
        return [
            request
            for request in self.requests
            if re.match(r"PUT|DELETE|POST .*(/create|/commit/|/branch/|/batch)", request)
        ]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up; that is not this server's problem."""


class _Refused(Exception):  # noqa: N818
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WritableHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        hub = self.server
        path, _, query = self.path.partition("?")
        request = f"{'GET' if self.command == 'HEAD' else self.command} {unquote(path)}"
        with hub.lock:
            hub.requests[request] += 1
            happens = [hub.before.pop(key) for key in [*hub.before] if request.startswith(key)]
        for change in happens:
            change()
        try:
            if self.command == "PUT":
                self._put(path)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            for key, refusal in hub.answers.items():
                if request.startswith(key):
                    raise _Refused(*refusal)
            self._answer(path, parse_qs(query), body)
        except _Refused as refused:
            self._send(
                refused.status,
                json.dumps({"error": refused.message}).encode(),
                {"X-Error-Code": refused.code, "X-Error-Message": refused.message},
            )

    def _answer(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        hub = self.server
        for pattern, method in _ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                parts = {key: unquote(value) for key, value in match.groupdict().items() if value}
                with hub.lock:
                    answer = method(self, query, body, **parts)
                if answer is not None:
                    self._send(200, json.dumps(answer).encode())
                return
        raise _Refused(404, "RepoNotFound", f"no such page: {self.command} {path}")

    # --- who asks, and for what --------------------------------------------------------------

    def _role(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def _writer(self) -> None:
        if self._role() is None:
            raise _Refused(401, "", "Invalid username or password.")
        if self._role() != "write":
            raise _Refused(403, "", "you must use a write token to upload to a repository")

    def _repo(self, repo: str, kind: str = "models") -> Repo:
        role = self._role()
        found = self.server.repos.get((kind, repo))
        if found is None or (found.private and role is None):
            raise _Refused(404 if role else 401, "RepoNotFound", "Repository not found")
        return found

    def _commit_at(self, repo: str, rev: str, kind: str = "models") -> Commit:
        found = self._repo(repo, kind).at(rev)
        if found is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        return found

    # --- reading -----------------------------------------------------------------------------

    def _whoami(self, *_: Any) -> dict[str, Any]:
        role = self._role()
        if role is None:
            raise _Refused(401, "", "Invalid username or password.")
        return {"name": "me", "auth": {"accessToken": {"displayName": "t", "role": role}}}

    def _info(self, _: Any, __: bytes, kind: str, repo: str, rev: str = "main") -> dict[str, Any]:
        head = self._commit_at(repo, rev, kind)
        return {
            "id": self.server.renamed.get(repo, repo),
            "sha": head.oid,
            "private": self.server.repos[kind, repo].private,
            "siblings": [{"rfilename": path} for path in sorted(head.files)],
        }

    def _refs(self, _: Any, __: bytes, repo: str) -> dict[str, Any]:
        def listed(refs: Mapping[str, Commit], kind: str) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit.oid}
                for name, commit in refs.items()
            ]

        found = self._repo(repo)
        return {
            "branches": listed(found.branches, "heads"),
            "tags": listed(found.tags, "tags"),
            "converts": [],
        }

    def _commits(self, _: Any, __: bytes, repo: str, rev: str) -> list[dict[str, Any]]:
        return [
            {
                "id": one.oid,
                "title": one.title,
                "message": one.message,
                "authors": [{"user": "me"}],
                "date": "2026-11-28T08:00:00.000Z",
            }
            for one in self._commit_at(repo, rev).history()
        ]

    def _tree(self, _: Any, __: bytes, repo: str, rev: str) -> list[dict[str, Any]]:
        head = self._commit_at(repo, rev)
        return [self._entry(head, path) for path in sorted(head.files)]

    def _paths(self, _: Any, body: bytes, repo: str, rev: str) -> list[dict[str, Any]]:
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
        head = self._commit_at(repo, rev)
        return [self._entry(head, path) for path in paths if path in head.files]

    def _entry(self, head: Commit, path: str) -> dict[str, Any]:
        blob, last = head.files[path], head.last_change(path)
        pointer = f"oid sha256:{blob.oid}\nsize {len(blob.data)}\n".encode()
        lfs = {"oid": blob.oid, "size": len(blob.data), "pointerSize": len(pointer)}
        return {
            "type": "file",
            "path": path,
            "size": len(blob.data),
            "oid": git_sha1(pointer) if blob.lfs else blob.oid,
            **({"lfs": lfs} if blob.lfs else {}),
            "lastCommit": {"id": last.oid, "title": last.title, "date": "2026-11-28T08:00:00.000Z"},
        }

    def _resolve(self, _: Any, __: bytes, repo: str, rev: str, path: str) -> None:
        head = self._commit_at(repo, rev)
        if path not in head.files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        blob = head.files[path]
        data, total, status = blob.data, len(blob.data), 200
        headers = {"ETag": f'"{blob.oid}"', "X-Repo-Commit": head.oid, "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(match[1]), int(match[2] or total - 1) + 1
            status, data = 206, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{total}"
        self._send(status, data, headers)

    # --- writing -----------------------------------------------------------------------------

    def _create(self, _: Any, body: bytes) -> dict[str, Any]:
        self._writer()
        asked = json.loads(body)
        if asked["organization"] != "me":
            raise _Refused(403, "", f'You don\'t have the rights to create "{asked}"')
        key = (f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}")
        if key in self.server.repos:
            raise _Refused(409, "", "You already created this model repo")
        self.server.repos[key] = new_repo(asked.get("visibility") == "private")
        return {"url": f"{self.server.url}/{key[1]}"}

    def _branch(self, _: Any, body: bytes, repo: str, branch: str) -> dict[str, Any]:
        self._writer()
        found = self._repo(repo)
        if branch in found.branches or branch in found.tags:
            raise _Refused(409, "", "Reference already exists")
        start = json.loads(body or b"{}").get("startingPoint", "main")
        found.branches[branch] = self._commit_at(repo, start)
        return {}

    def _validate(self, _: Any, body: bytes) -> dict[str, Any] | None:
        front = json.loads(body)["content"].split("---\n")
        try:
            metadata = yaml.safe_load(front[1]) if len(front) > 2 else {}
            if not isinstance(metadata, dict):
                raise ValueError("the metadata is no mapping")
            if not isinstance(metadata.get("license", "mit"), str):
                raise ValueError('"license" must be a string')
            for index in metadata.get("model-index", []):
                for result in index["results"]:
                    assert result["task"]["type"] and result["dataset"]["type"]
                    assert all("value" in metric for metric in result["metrics"])
        except (ValueError, KeyError, AssertionError, yaml.YAMLError) as error:
            told = json.dumps({"errors": [{"message": str(error)}]})
            as_text = self.headers.get("Accept") == "text/plain"
            self._send(400, (str(error) if as_text else told).encode())
            return None
        return {"errors": [], "warnings": []}

    def _preupload(self, _: Any, body: bytes, repo: str, rev: str) -> dict[str, Any]:
        self._writer()
        head = self._commit_at(repo, rev)
        modes = []
        for file in json.loads(body)["files"]:
            lfs = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
            blob = head.files.get(file["path"])
            oid = {"oid": blob.oid} if blob else {}
            mode = "lfs" if lfs else "regular"
            modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
        return {"files": modes}

    def _batch(self, _: Any, body: bytes, repo: str) -> dict[str, Any]:
        self._writer()
        found = self._repo(repo)
        objects: list[dict[str, Any]] = []
        for wanted in json.loads(body)["objects"]:
            target = {"href": f"{self.server.url}/put/{repo}/{wanted['oid']}"}
            there = wanted["oid"] in found.objects
            objects.append({**wanted, **({} if there else {"actions": {"upload": target}})})
        return {"transfer": "basic", "objects": objects}

    def _put(self, path: str) -> None:
        hub = self.server
        _, _, owner, name, oid = path.split("/")
        size = int(self.headers.get("Content-Length", 0))
        with hub.lock:
            drop, hub.drop_puts = hub.drop_puts > 0, max(0, hub.drop_puts - 1)
            stall = hub.stall_after is not None and len(hub.received) >= hub.stall_after
        if drop or stall:
            self.rfile.read(size // 2)
            if stall:
                hub.stalled.set()
                hub.released.wait(60)
            self.close_connection = True
            return
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        data = self._chunks() if chunked else self.rfile.read(size)
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Refused(400, "", "the object is not what its name says")
        with hub.lock:
            hub.model(f"{owner}/{name}").objects[oid] = data
            hub.received[oid] += len(data)
        self._send(200, b"")

    def _chunks(self) -> bytes:
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _xet_token(self, _: Any, __: bytes, repo: str, rev: str) -> dict[str, Any]:
        self._writer()
        self._commit_at(repo, rev)
        if self.server.xet_files is None:
            raise _Refused(404, "", "Not found")
        return {"accessToken": "xet", "exp": 4_000_000_000, "casUrl": self.server.url}

    def _xorb(self, _: Any, body: bytes, address: str) -> dict[str, Any]:
        self.server.xorb_bytes += len(body)
        return {"was_inserted": True}

    def _shard(self, _: Any, __: bytes) -> dict[str, Any]:
        for repo in self.server.repos.values():
            repo.objects.update(self.server.xet_files or {})
        return {"result": 1}

    def _commit(self, _: Any, body: bytes, repo: str, rev: str) -> dict[str, Any]:
        self._writer()
        found = self._repo(repo)
        if rev not in found.branches:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, found.branches[rev].oid):
            raise _Refused(412, "", "A commit has happened since. Please refresh and try again.")
        files: dict[str, Blob | None] = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in found.objects:
                    raise _Refused(400, "", f"the object of {value['path']} never arrived")
                files[value["path"]] = Blob(found.objects[value["oid"]], lfs=True)
            else:
                assert line["key"] == "deletedFile", line
                files[value["path"]] = None
        made = found.commit(rev, files, header["summary"], header["description"])
        url = f"{self.server.url}/{repo}/commit/{made.oid}"
        return {"commitUrl": url, "commitOid": made.oid}

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


_ID = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES: tuple[tuple[str, Callable[..., Any]], ...] = (
    (r"GET /api/whoami-v2", _Handler._whoami),
    (
        rf"GET /api/(?P<kind>models|datasets|spaces)/{_ID}(/revision/(?P<rev>[^/]+))?",
        _Handler._info,
    ),
    (rf"GET /api/models/{_ID}/refs", _Handler._refs),
    (rf"GET /api/models/{_ID}/commits/(?P<rev>[^/]+)", _Handler._commits),
    (rf"GET /api/models/{_ID}/tree/(?P<rev>[^/]+)/?", _Handler._tree),
    (rf"POST /api/models/{_ID}/paths-info/(?P<rev>[^/]+)", _Handler._paths),
    (rf"(GET|HEAD) /{_ID}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", _Handler._resolve),
    (r"POST /api/repos/create", _Handler._create),
    (rf"POST /api/models/{_ID}/branch/(?P<branch>[^/]+)", _Handler._branch),
    (r"POST /api/validate-yaml", _Handler._validate),
    (rf"POST /api/models/{_ID}/preupload/(?P<rev>[^/]+)", _Handler._preupload),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", _Handler._batch),
    (rf"POST /api/models/{_ID}/commit/(?P<rev>[^/]+)", _Handler._commit),
    (rf"GET /api/models/{_ID}/xet-write-token/(?P<rev>[^/]+)", _Handler._xet_token),
    (r"POST /v1/xorbs/default/(?P<address>\w+)", _Handler._xorb),
    (r"POST (/v1)?/shards", _Handler._shard),
)


@contextmanager
def writable_hub() -> Iterator[WritableHub]:
    hub = WritableHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        hub.shutdown()
        hub.server_close()
