"""An endpoint with OpenAI's interface on this machine, with scripted replies."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from editkit.matching import contained

Reply = tuple[int, Any]
"""Status and body: a text is a reply of the model, bytes are sent as they are."""


class FakeEndpoint:
    """A server; inside ``with``, it listens at :attr:`url`.

    Args:
        script: Replies to the first requests, in order.
        rule: The model's reply to a prompt, once the script has ended.
    """

    def __init__(self, *script: Reply, rule: Callable[[str], str] | None = None) -> None:
        self.script = list(script)
        self.rule = rule or by_matching
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.release = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        """The prompts of all requests."""
        return [body["messages"][0]["content"] for body in self.bodies]

    def __enter__(self) -> FakeEndpoint:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Note a request and choose the reply."""
        with self._lock:
            self.paths.append(path)
            self.headers.append(headers)
            self.bodies.append(json.loads(body))
            if self.script:
                return self.script.pop(0)
            return 200, self.rule(self.prompts[-1])

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, content = endpoint.answer(self.path, headers, self.rfile.read(size))
                if status == 0:  # no reply at all
                    endpoint.release.wait(10)
                    return
                extra = {}
                if isinstance(content, dict) and "headers" in content:
                    extra, content = content["headers"], content.get("body", b"")
                if isinstance(content, str):
                    choice = {"message": {"role": "assistant", "content": content}}
                    content = {"choices": [{**choice, "finish_reason": "stop"}]}
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                endpoint.answer(self.path, dict(self.headers), b"{}")
                self.send_error(500)

            def log_message(self, *arguments: Any) -> None:
                return

        return Handler


def by_matching(prompt: str) -> str:
    """A or B by the rule ``contained``, read from editkit's own prompt."""
    _, answers, text = re.findall(r"^<[a-z_]+>\n(.*?)\n</[a-z_]+>$", prompt, re.DOTALL | re.M)
    every = [re.split(r" \(or: |, |\)", line.removeprefix("- ")) for line in answers.split("\n")]
    return "A" if all(contained(text, spellings) for spellings in every) else "B"
