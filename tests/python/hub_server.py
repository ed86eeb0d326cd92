"""A server that speaks as much of the Hugging Face hub's protocol as downloading takes, on this machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

Repos = dict[str, dict[str, dict[str, bytes]]]  # "owner/name" -> revision -> file -> bytes


def commit(repo: str, revision: str) -> str:
    return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not api and not file:
            return self._send(404, b"{}", body)
        repo = (api or file).group(1)  # type: ignore[union-attr]
        revisions = self.server.repos.get(repo)
        if revisions is None:
            return self._send(401, b'{"error": "no"}', body, {"X-Error-Code": "RepoNotFound"})
        wanted = ((api.group(3) if api else file.group(2)) or "main").split("?")[0]  # type: ignore[union-attr]
        revision = next((r for r in revisions if wanted in (r, commit(repo, r))), None)
        if revision is None:
            return self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        files, sha = revisions[revision], commit(repo, revision)
        if api and api.group(2) == "tree":
            return self._send(200, json.dumps([{"type": "file", "path": f, "size": len(d), "oid": _oid(d)}
                                               for f, d in files.items()]).encode(), body)  # fmt: skip
        if api:
            info = {"id": repo, "sha": sha, "siblings": [{"rfilename": name} for name in files]}
            return self._send(200, json.dumps(info).encode(), body)
        assert file is not None
        if file.group(3) not in files:
            return self._send(404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        data = files[file.group(3)]
        self._send(200, data, body, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"})

    def _send(self, status: int, data: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


class _Server(ThreadingHTTPServer):
    repos: Repos
    asked: list[str]


@contextmanager
def hub_server(repos: Repos) -> Iterator[tuple[str, list[str]]]:
    """The endpoint's address, and the requests that it got."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.repos, server.asked = repos, []
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
