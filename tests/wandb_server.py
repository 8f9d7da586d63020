"""A W&B server that knows just enough for a run to begin; `python wandb_server.py` serves until its stdin ends.

Prints its port. With "silent" it takes connections and never says a word.
"""

import http.server
import json
import socket
import sys
import threading

BUCKET = {"id": "UnVu", "displayName": "r", "config": "{}", "sweepName": None, "historyLineCount": 0}
PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}


def answer(query, variables):
    if "upsertBucket" in query:
        return {
            "upsertBucket": {"inserted": True, "bucket": BUCKET | {"name": variables.get("name"), "project": PROJECT}}
        }
    if "createRunFiles" in query:
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}
    return {"viewer": {"id": "v", "entity": "e", "username": "u", "flags": "{}"}, "serverInfo": {}, "model": None}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply({})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/graphql":
            self.reply({"exitcode": None, "limits": {}})
            return
        asked = json.loads(body)
        self.reply({"data": answer(asked["query"], asked.get("variables") or {})})

    def reply(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def swallow():
    """A port that takes connections and answers nothing; nothing is ever read."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=100)
    kept = [listening]
    threading.Thread(target=lambda: [kept.append(listening.accept()) for _ in range(10_000)], daemon=True).start()
    return listening.getsockname()[1]


if __name__ == "__main__":
    if "silent" in sys.argv:
        print(swallow(), flush=True)
    else:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
    sys.stdin.read()
