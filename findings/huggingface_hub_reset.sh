#!/usr/bin/env bash
# A connection that breaks in the middle of a large file, as when a proxy or the Hub's host resets it.
# Guess: hf_hub_download goes on from the bytes that it has, as it does when the server closes the connection too early;
#   or the next call does.
# Seen (huggingface_hub 2.4.0): after a close it asks for the rest with a Range header and gives the whole file. After a
#   reset (httpx2.ReadError) it does not try again: it raises and deletes what it had. The next call begins at byte 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet huggingface_hub==2.4.0
cd "$folder"
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
from huggingface_hub import hf_hub_download

CONTENT = bytes(30_000_000)
SENT, WRITTEN = 25_000_000, 20_000_000  # bytes sent before the break, and of these at least written to the part


def parts():
    return [path.stat().st_size for path in Path().glob("*/models--*/blobs/*.incomplete")]


class Hub(BaseHTTPRequestHandler):
    """One file; the connection of the first GET ends early, in the way that `ends` says."""

    ends, asked = None, []

    def do_HEAD(self):
        start = int(re.search(r"\d+", self.headers.get("Range") or "bytes=0-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.end_headers()
        return start

    def do_GET(self):
        start = self.do_HEAD()
        self.asked.append(self.headers.get("Range"))
        ends, Hub.ends = Hub.ends, None
        if ends is None:
            self.wfile.write(CONTENT[start:])
            return
        self.wfile.write(CONTENT[:SENT])
        limit = time.monotonic() + 10
        while sum(parts()) < WRITTEN and time.monotonic() < limit:
            time.sleep(0.01)
        print(f"{ends}: of {len(CONTENT)} bytes the part has {parts()}")
        if ends == "reset":  # which a close is that waits for nothing
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_):
        pass


def download(cache):
    Hub.asked.clear()
    try:
        found = hf_hub_download("someone/model", "weights.bin", cache_dir=cache, endpoint=endpoint)
        got = f"{Path(found).stat().st_size} bytes"
    except Exception as error:
        got = f"{type(error).__module__}.{type(error).__name__}"
    print(f"  hf_hub_download: {got}; parts left: {parts()}; ranges asked for: {Hub.asked}")
    return got, list(Hub.asked)


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
server.handle_error = lambda *_: None
threading.Thread(target=server.serve_forever, daemon=True).start()
endpoint = f"http://127.0.0.1:{server.server_port}"
print(f"huggingface_hub {huggingface_hub.__version__}")
whole = f"{len(CONTENT)} bytes"
Hub.ends = "close"
got, ranges = download("closed")
assert got == whole and len(ranges) == 2 and ranges[0] is None and ranges[1].startswith("bytes=20"), ranges
Hub.ends = "reset"
got, ranges = download("torn")
assert got.endswith(".ReadError") and ranges == [None] and not parts(), "the behaviour has changed"
print("the next call:")
assert download("torn") == (whole, [None]), "the next call goes on: the behaviour has changed"
PYTHON
