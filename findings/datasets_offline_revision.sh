#!/usr/bin/env bash
# Two commits of one dataset of the Hub in the cache, the newer one loaded last; then a job without network.
# Guess: with HF_HUB_OFFLINE=1, datasets.load_dataset(repository, revision=commit) gives the rows of that commit, which
#   are in the cache, as it does online; or it raises.
# Seen (datasets 5.2.0, huggingface_hub 2.4.0): the revision is ignored. What was put in the cache last is loaded, here
#   the other commit, also for a commit that was never loaded. The log warns of "the latest cached version", with a path
#   that has the digits of the other commit in it; it does not say that another revision was asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 huggingface_hub==2.4.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

REPOSITORY, FILE = "someone/sums", "train.jsonl"
FIRST, SECOND, NEVER = "1" * 40, "2" * 40, "3" * 40
ROWS = {FIRST: b'{"text": "of the first commit"}\n', SECOND: b'{"text": "of the second commit"}\n'}
LOAD = f"""
import sys, datasets
print(datasets.load_dataset({REPOSITORY!r}, split="train", revision=sys.argv[1])["text"][:])
"""


class Hub(BaseHTTPRequestHandler):
    """The information, the listing and the one file of the repository; no other file is there."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        commit = next((commit for commit in ROWS if commit in path), SECOND)
        rows, headers, status = ROWS[commit], {"X-Repo-Commit": commit}, 200
        entry = {"type": "file", "path": FILE, "size": len(rows), "oid": hashlib.sha1(rows).hexdigest()}
        if path.endswith(f"/resolve/{commit}/{FILE}"):
            body, headers["ETag"] = rows, f'"{entry["oid"]}"'
        elif "/resolve/" in path:
            body, headers["X-Error-Code"], status = b"", "EntryNotFound", 404
        elif "/tree/" in path or "/paths-info/" in path:
            listed = [entry] if path.endswith(commit) else []
            body = json.dumps(listed).encode()
        else:
            body = json.dumps({"id": REPOSITORY, "sha": commit, "siblings": [{"rfilename": FILE}], "tags": []}).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        pass


def load(revision, offline):
    here = {"HF_HOME": "cache", "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    environment = os.environ | here | {"HF_HUB_OFFLINE": str(offline)}
    command = [sys.executable, "-c", LOAD, revision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "latest cached" in line]
    print(f"{'offline' if offline else 'online'}, revision {revision[:4]}...: {done.stdout.strip()}", *said, sep="\n  ")
    return done.stdout.strip()


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"datasets {version('datasets')}, huggingface_hub {version('huggingface_hub')}")
first, second = "['of the first commit']", "['of the second commit']"
assert [load(revision, 0) for revision in (FIRST, SECOND, FIRST)] == [first, second, first]
server.shutdown()
assert load(FIRST, 1) == second, "the revision is kept: the behaviour has changed"
assert load(NEVER, 1) == second
PYTHON
