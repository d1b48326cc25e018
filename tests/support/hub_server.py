"""A hub of one data set: as much of its HTTP interface as `datasets` needs, and any commits."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPOSITORY = "someone/lines"


class Hub:
    """Attributes:
    endpoint: for `HF_ENDPOINT`.
    commits: of each its files, the newest last.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.commits: dict[str, dict[str, bytes]] = {}

    def commit(self, files: dict[str, bytes]) -> str:
        """Make a commit of these files; returns its 40 hexadecimal digits."""
        name = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[name] = files
        return name

    def resolve(self, revision: str) -> str | None:
        """The commit of a revision."""
        return list(self.commits)[-1] if revision == "main" else revision


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "datasets"]:
                self._about(parts[4:])
            elif parts[0] == "datasets" and parts[3] == "resolve":
                self._file(parts[4], "/".join(parts[5:]))
            else:
                self._answer(404, b"")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            asked = json.loads(body)["paths"]
            asked = [asked] if isinstance(asked, str) else asked
            files = hub.commits[hub.resolve(parts[5]) or ""]
            self._json([one for one in _listed(files) if one["path"] in asked])

        def _about(self, asked: list[str]) -> None:
            kind, revision = (asked + ["revision", "main"][len(asked) :])[:2]
            commit = hub.resolve(revision)
            if commit not in hub.commits:
                self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif kind == "tree":
                self._json(_listed(hub.commits[commit]))
            else:
                names = [{"rfilename": name} for name in hub.commits[commit]]
                about = {"id": REPOSITORY, "sha": commit, "siblings": names, "tags": []}
                self._json(about | {"private": False, "downloads": 0, "likes": 0})

        def _file(self, revision: str, name: str) -> None:
            commit = hub.resolve(revision) or ""
            content = hub.commits.get(commit, {}).get(name)
            if content is None:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}
            wanted = self.headers.get("Range")
            if wanted is None:
                self._answer(200, content, headers)
                return
            first, last = wanted.removeprefix("bytes=").split("-")
            part = content[int(first) : int(last or len(content)) + 1]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self._answer(206, part, headers)

        def _json(self, value: Any) -> None:
            self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _listed(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
        }
        for name, content in files.items()
    ]
