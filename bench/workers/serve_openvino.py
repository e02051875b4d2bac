"""A small streaming server over OpenVINO GenAI's pipeline, as its own server is no wheel.

``python serve_openvino.py MODEL PORT THREADS``: POST /v1/completions with token ids, streamed. One
thread steps the pipeline, one per connection writes; standard library only.
"""

from __future__ import annotations

import itertools
import json
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from run_openvino import as_tensor, greedy, make_pipeline


class Stepper:
    """Adds requests to the pipeline and hands out what each step wrote."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._inbox: queue.SimpleQueue[tuple[Any, Any, queue.SimpleQueue[Any]]] = (
            queue.SimpleQueue()
        )
        self._live: list[tuple[Any, queue.SimpleQueue[Any]]] = []
        self._ids = itertools.count()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, prompt: list[int], max_tokens: int) -> queue.SimpleQueue[Any]:
        """Return a queue of lists of token ids; None ends it."""
        out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._inbox.put((as_tensor(prompt), greedy(max_tokens), out))
        return out

    def _run(self) -> None:
        while True:
            while not self._live or not self._inbox.empty():
                tensor, config, out = self._inbox.get()
                handle = self._pipeline.add_request(next(self._ids), tensor, config)
                self._live.append((handle, out))
            self._pipeline.step()
            for handle, out in self._live:
                while handle.can_read():
                    for generated in handle.read().values():
                        out.put(generated.generated_ids)
            self._live = [one for one in self._live if not self._ended(*one)]

    def _ended(self, handle: Any, out: queue.SimpleQueue[Any]) -> bool:
        if handle.get_status().name == "RUNNING":
            return False
        out.put(None)
        return True


class Handler(BaseHTTPRequestHandler):
    """Streams completions; GET answers that the server is there."""

    protocol_version = "HTTP/1.1"
    stepper: Stepper
    tokenizer: Any

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        out = self.stepper.submit(asked["prompt"], asked["max_tokens"])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        count = 0
        while (ids := out.get()) is not None:
            count += len(ids)
            self._send({"choices": [{"text": self.tokenizer.decode(list(ids))}]})
        usage = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": count}
        self._send({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(self, event: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()


def main(model: str, port: int, threads: int) -> None:
    pipeline = make_pipeline(model, threads, is_caching=True)
    Handler.tokenizer = pipeline.get_tokenizer()
    Handler.stepper = Stepper(pipeline)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
