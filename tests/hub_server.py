"""A Hugging Face Hub on the loopback interface that knows what its libraries ask when they read a repository.

It serves commits, branches and tags of models and datasets: information, listings, and files with ETag, size, commit
and ranges. Small files are sent by itself; weights and parquet files, as there, by another host to which it redirects
and to which no token may be sent. As there, all of a gated repository but its information is closed.
"""

import hashlib
import http.server
import json
import re
import socket
import struct
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".parquet")
# Tokens: of a user who was let into gated repositories, of one who was not; any other is refused.
MEMBER, STRANGER, EXPIRED = (f"hf_made_up_{name}_of_the_tests" for name in ("member", "stranger", "expired"))


@dataclass
class Repository:
    """Commits, each a dict of path -> bytes, in order; and branches and tags, each the number of a commit.

    Attributes:
        gated: whether files need a token, and one whose user was let in.
        private: whether the repository is hidden from those without a token.
    """

    commits: list[dict[str, bytes]]
    names: dict[str, int] = field(default_factory=lambda: {"main": 0})
    gated: bool = False
    private: bool = False

    def commit(self, number):
        """The 40 digits that name a commit."""
        return hashlib.sha1(repr((number, sorted(self.commits[number].items()))).encode()).hexdigest()

    def find(self, revision):
        """The number of the commit that a branch, a tag or 40 digits name; None without one."""
        by_hash = {self.commit(number): number for number in range(len(self.commits))}
        return self.names.get(revision, by_hash.get(revision))


@dataclass
class Hub:
    """What is served and what was asked.

    Attributes:
        repositories: (models or datasets, owner/name) -> repository.
        breaks: path -> number of bytes after which the connection ends, once, and whether by a reset.
        asked: method, path, token and range of each request, in order; "cdn" before the path on the second host.
    """

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    breaks: dict[str, tuple[int, bool]] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    endpoint: str = ""
    cdn: str = ""

    @contextmanager
    def serving(self, prefix=""):
        """Serves at `endpoint`, which ends with the prefix, while inside."""
        with ExitStack() as stack:
            for name in ("endpoint", "cdn"):
                # A host is told by its name: 127.0.0.2 is another than 127.0.0.1, and as near.
                host = "127.0.0.1" if name == "endpoint" else "127.0.0.2"
                of_host = type("OfHost", (Handler,), {"hub": self, "cdn": name == "cdn", "prefix": prefix})
                server = http.server.ThreadingHTTPServer((host, 0), of_host)
                server.daemon_threads = True
                threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
                setattr(self, name, f"http://{host}:{server.server_port}" + (prefix if name == "endpoint" else ""))
            yield self


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request; `hub`, `cdn` and `prefix` are set by `Hub.serving`."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    cdn = False
    prefix = ""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def answer(self):
        url = urlsplit(self.path)
        path = unquote(url.path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        where = f"cdn {path}" if self.cdn else path
        self.hub.asked.append((self.command, where, token, self.headers.get("Range")))
        if self.cdn:
            self.send_file(*self.stored(path.removeprefix("/")))
            return
        path = path.removeprefix(self.prefix)
        if found := re.fullmatch(
            r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(.*))?", path
        ):
            self.information(*found.groups(), parse_qs(url.query), token)
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            datasets, name, revision, file = found.groups()
            self.resolve("datasets" if datasets else "models", name, revision, file, token)
        elif path in ("", "/"):
            self.send(200, b"the Hub")
        else:
            self.refuse(404, None, "Sorry, we can't find the page you are looking for.")

    def repository(self, kind, name, token, of_files):
        """The repository, or None after the Hub's words on why there is none."""
        found = self.hub.repositories.get((kind, name))
        if token not in (None, MEMBER, STRANGER):
            self.refuse(401, None, "Invalid credentials in Authorization header")
        elif token is None and (found is None or found.private):  # which the Hub does not tell apart
            self.refuse(401, "RepoNotFound", "Invalid username or password.")
        elif found is None or (found.private and token != MEMBER):
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif of_files and found.gated and token is None:
            self.refuse(401, "GatedRepo", f"Access to {name} is restricted. You must be authenticated to access it.")
        elif of_files and found.gated and token != MEMBER:
            self.refuse(403, "GatedRepo", f"Access to {name} is restricted and you are not in the authorized list.")
        else:
            return found
        return None

    def information(self, kind, name, part, revision, folder, query, token):
        repository = self.repository(kind, name, token, of_files=part == "tree")
        if repository is None:
            return
        number = repository.find(revision or "main")
        if number is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = repository.commits[number]
        if part in ("tree", "paths-info"):
            if part == "tree":
                inside = folder.strip("/") + "/" if folder.strip("/") else ""
                listed = [path for path in sorted(files) if path.startswith(inside)]
            else:
                listed = parse_qs(self.body.decode()).get("paths", []) or json.loads(self.body)["paths"]
                inside, query = "", {"recursive": ["true"]}
            if query.get("recursive", ["false"])[0].lower() != "true":
                entries = {path[: len(inside)] + path[len(inside) :].split("/")[0] for path in listed}
            else:
                folders = {path.rsplit("/", 1)[0] for path in listed if "/" in path[len(inside) :]}
                entries = {*listed, *folders}
            self.send_json([self.entry(files, path) for path in sorted(entries) if self.exists(files, path)])
            return
        described = {"_id": "0", "id": name, "sha": repository.commit(number), "private": repository.private}
        described |= {"gated": "manual" if repository.gated else False, "tags": [], "downloads": 0, "likes": 0}
        described |= {"siblings": [{"rfilename": path} for path in sorted(files)], "author": name.split("/")[0]}
        self.send_json(described)

    @staticmethod
    def exists(files, path):
        return path in files or any(one.startswith(f"{path}/") for one in files)

    @staticmethod
    def entry(files, path):
        if path not in files:
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
        content = files[path]
        described = {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": path}
        if path.endswith(LARGE):
            described["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return described

    def resolve(self, kind, name, revision, file, token):
        repository = self.repository(kind, name, token, of_files=True)
        if repository is None:
            return
        number = repository.find(revision)
        if number is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        commit, content = repository.commit(number), repository.commits[number].get(file)
        headers = {"X-Repo-Commit": commit}
        if content is None:
            self.refuse(404, "EntryNotFound", "Entry not found", headers)
        elif file.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{digest}"'}
            self.send(302, b"", headers | {"Location": f"{self.hub.cdn}/{digest}"})
        else:
            self.send_file(file, content, headers)

    def stored(self, digest):
        """Path and content of a large file, by the hash of its content."""
        for repository in self.hub.repositories.values():
            for files in repository.commits:
                for path, content in files.items():
                    if hashlib.sha256(content).hexdigest() == digest:
                        return path, content
        raise AssertionError(f"nothing links to {digest}")

    def send_file(self, path, content, headers=None):
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"} | (headers or {})
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            start, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        ends = self.hub.breaks.pop(path, None) if self.command == "GET" else None
        self.send(206 if asked else 200, content, headers, ends)

    def refuse(self, status, code, message, headers=None):
        said = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send(status, json.dumps({"error": message}).encode(), said | (headers or {}))

    def send_json(self, content):
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def send(self, status, body, headers=None, ends=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if ends is None:
            self.wfile.write(body)
            return
        num_bytes, reset = ends
        self.wfile.write(body[:num_bytes])
        self.close_connection = True
        if reset:  # closing with nothing to wait for
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
