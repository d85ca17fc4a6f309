"""A web server for browsers on this machine only.

:class:`Guard` answers before gradio does. It refuses what names another host or origin (DNS
rebinding, pages of other sites), passes on only the addresses that the page needs (none that reads
files, stores uploads, or asks other servers), and forbids the browser to run scripts other than the
page's own, or to load anything from elsewhere.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from http import HTTPStatus
from typing import Any

import uvicorn

from editkit import UsageError
from editkit_plugins.demo.quiet import silenced

HOST = "127.0.0.1"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_ALLOWED = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)|/(assets|static)/[\w./-]+"
    r"|/gradio_api/(info|startup-events|app_id|cancel|reset|queue/(join|data)|heartbeat/\w+)"
    r"|/patches/[\w-]+/[\w+-]+"
)
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# gradio compiles templates of its own in the browser ('unsafe-eval'); users' texts are never part
# of them.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' {scripts}; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)


class Guard:
    """Passes on to ``app`` what a browser on this machine asks of the page.

    Args:
        app: The application.
        port: The port that the server listens on.
    """

    def __init__(self, app: App, port: int) -> None:
        self._app = app
        hosts = [f"{HOST}:{port}", f"localhost:{port}"]
        self._hosts = {host.encode() for host in hosts}
        self._origins = {f"http://{host}".encode() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            status = self._problem(scope)
            if status is None:
                # Headers of proxies would change the addresses in the page.
                kept = [h for h in scope["headers"] if not h[0].startswith(b"x-")]
                answer = _Answer(send, scope["path"])
                await self._app({**scope, "headers": kept}, receive, answer)
            else:
                await _refuse(status, send)

    def _problem(self, scope: Scope) -> HTTPStatus | None:
        named = [value for name, value in scope["headers"] if name == b"host"]
        origins = {value for name, value in scope["headers"] if name == b"origin"}
        if len(named) != 1 or named[0] not in self._hosts or not origins <= self._origins:
            return HTTPStatus.FORBIDDEN
        if not _ALLOWED.fullmatch(scope["path"]) or ".." in scope["path"]:
            return HTTPStatus.NOT_FOUND
        if scope["path"] == "/" and scope["query_string"]:
            return HTTPStatus.NOT_FOUND
        return None


class _Answer:
    """Adds the headers; those of the page allow its own inline scripts and no others."""

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        self._is_page = path == "/"
        self._is_cached = path.startswith(("/assets/", "/static/"))  # of gradio; never change
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self._start = message
            if self._is_page:
                return  # the scripts are in the body
            self._add_headers(b"")
        elif self._is_page:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            self._add_headers(self._body)
            await self._send(self._start)
            message = {"type": "http.response.body", "body": self._body}
        await self._send(message)

    def _add_headers(self, page: bytes) -> None:
        digests = (hashlib.sha256(script).digest() for script in _INLINE_SCRIPT.findall(page))
        scripts = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
        policy = {"Content-Security-Policy": _POLICY.format(scripts=scripts)}
        ours = {k.lower().encode(): v.encode() for k, v in {**_HEADERS, **policy}.items()}
        if self._is_cached:
            del ours[b"cache-control"]
        theirs = [(k, v) for k, v in self._start["headers"] if k.lower() not in ours]
        self._start["headers"] = [*theirs, *ours.items()]


async def _refuse(status: HTTPStatus, send: Send) -> None:
    text = {
        HTTPStatus.FORBIDDEN: "This page is only for browsers on this machine.",
        HTTPStatus.NOT_FOUND: "This page does not exist.",
    }[status]
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


def listen(port: int) -> socket.socket:
    """A socket that listens on the loopback address.

    Args:
        port: The port; 0: any free one.

    Raises:
        UsageError: The port is in use.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As servers do: a port with only lingering connections is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"cannot listen on port {port} of {HOST}: {error}.",
            hint="Choose another port with --port, or omit it.",
        ) from error
    return listener


@contextlib.contextmanager
def serving(app: App, listener: socket.socket) -> Iterator[str]:
    """Inside, a thread answers requests; the end of the block closes all connections.

    Yields:
        The address of the page.

    Raises:
        UsageError: The server does not start.
    """
    port = listener.getsockname()[1]
    config = uvicorn.Config(
        Guard(app, port),
        lifespan="on",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield f"http://{HOST}:{port}/"
    finally:
        with silenced("uvicorn.error"):  # it complains of the connections that this cuts off
            server.should_exit = server.force_exit = True
            thread.join(_STOP_SECONDS)
        listener.close()


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    waiting = threading.Event()
    for _ in range(int(_START_SECONDS / 0.05)):
        if server.started:
            return
        if not thread.is_alive():
            break
        waiting.wait(0.05)
    raise UsageError(
        "the page's server did not start.", hint="Run again with --debug, which shows why."
    )
