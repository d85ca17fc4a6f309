"""The local web page for raters. It answers browsers on this machine only.

The markup is in ``templates``, which escape every value. The page works without JavaScript; only
the keyboard shortcuts need it.
"""

from __future__ import annotations

import functools
import io
import logging
import socket
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jinja2 import Template

from editkit import EditkitError
from editkit.report.html_page import html_template
from editkit.results import Rating
from editkit.storage.resources import resource_text
from editkit_plugins.rating.comparisons import CHOICES, QUESTIONS, Comparison

HOST = "127.0.0.1"
SECONDS = 10.0
"""Time limit for a browser to send a request, and to receive the response."""

_LONGEST_BODY = 10_000
_DRAINED = 1_000_000  # bytes of a refused body that are still read: the browser shows the response
_MOST_CONNECTIONS = 32
_FILES = {"/style.css": "text/css", "/script.js": "text/javascript"}
_REFUSED = "This request is not valid."
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_log = logging.getLogger(__name__)


@functools.cache
def _template(name: str) -> Template:
    nfc = functools.partial(unicodedata.normalize, "NFC")
    return html_template("editkit_plugins.rating", name, nfc=nfc)


def question_page(
    comparison: Comparison, *, done: int, total: int, answers: Mapping[str, str] | None = None
) -> str:
    """Two texts and the questions; nothing in the page reveals the editors.

    Args:
        comparison: The texts.
        done: Number of comparisons that the rater has answered.
        total: Number of all comparisons.
        answers: The rater's earlier answers to this comparison.
    """
    return _template("question.html").render(
        comparison=comparison,
        done=done,
        total=total,
        answers=answers or {},
        questions=QUESTIONS,
        choices=CHOICES,
    )


class RatingServer(ThreadingHTTPServer):
    """Serves the comparisons to one rater.

    Args:
        port: Port to listen on; 0 for any free port.
        comparisons: The comparisons, in order.
        rater: Name of the rater.
        known: Earlier ratings; those of this rater are shown again.
        keep: Saves a rating; called before the browser gets its response.
        seconds: Time limit for a whole request, even if it arrives byte by byte.
    """

    daemon_threads = True
    request_queue_size = 128  # connections that wait to be accepted

    def __init__(
        self,
        port: int,
        comparisons: Sequence[Comparison],
        *,
        rater: str,
        known: Sequence[Rating],
        keep: Callable[[Rating], None],
        seconds: float = SECONDS,
    ) -> None:
        super().__init__((HOST, port), _Handler)
        self.seconds = seconds
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self.comparisons = comparisons
        self.rater = rater
        self.keep = keep
        self._answers: dict[int, dict[str, str]] = {}
        earlier = {rating.name: rating for rating in known}
        for comparison in comparisons:
            rating = earlier.get(self._rating(comparison, {}).name)
            if rating is not None:
                self._answers[comparison.number] = _as_shown(rating, comparison)

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def done(self) -> int:
        """Number of comparisons that the rater has answered."""
        return len(self._answers)

    def answers(self, number: int) -> dict[str, str]:
        """The answers to a comparison; empty before the first."""
        return self._answers.get(number, {})

    def next(self) -> int | None:
        """Number of the first unanswered comparison; None if all are answered."""
        return next((c.number for c in self.comparisons if c.number not in self._answers), None)

    def rate(self, number: int, answers: dict[str, Any]) -> None:
        """Save the answers to one comparison."""
        self.keep(self._rating(self.comparisons[number], answers))
        self._answers[number] = answers

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread; beyond the maximum number of connections, close this one."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            _log.debug("too many connections: closing one")
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then free the slot of this connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log one line; a browser that disconnects is not an error."""
        error = sys.exc_info()[1]
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        _log.log(level, "request failed: %s: %s", type(error).__name__, error)

    def _rating(self, comparison: Comparison, answers: dict[str, Any]) -> Rating:
        return Rating(
            comparison.case_id,
            comparison.place,
            comparison.cells,
            self.rater,
            answers,
            time.time(),
        )


def _as_shown(rating: Rating, comparison: Comparison) -> dict[str, str]:
    """Earlier answers, for the sides on which the texts are now."""
    shown = {}
    for question in rating.answers:
        better = rating.better(question)
        side = "right" if better == comparison.cells[1] else "left"
        shown[question] = "same" if better is None else side
    return shown


class _Deadline(io.RawIOBase):
    """Reads from a socket until a deadline; later reads raise :class:`TimeoutError`."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Receive at least one byte before the deadline."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request did not arrive in time")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: RatingServer
    server_version = "editkit"
    sys_version = ""

    def setup(self) -> None:
        """Set a deadline for the whole request."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Deadline(self.connection, self.server.seconds))

    def do_GET(self) -> None:
        """Send a page, or one of the two files that pages need."""
        if not self._is_for_us():
            return
        try:
            url = urlsplit(self.path)
        except ValueError:
            self._refuse(HTTPStatus.BAD_REQUEST, "This address is not valid.")
            return
        if url.path in _FILES:
            content = resource_text(f"editkit_plugins.rating:templates{url.path}")
            self._send(HTTPStatus.OK, content, _FILES[url.path])
        elif url.path == "/":
            self._show(parse_qs(url.query).get("number", [""])[0])
        elif url.path == "/instructions":
            self._instruct()
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "This page does not exist.")

    def do_POST(self) -> None:
        """Save the answers to one comparison and redirect to the next."""
        if not self._is_for_us():
            return
        body = self._body()
        if body is None:
            return
        fields = parse_qs(body.decode("utf-8", errors="replace"))
        number = self._number(fields.get("number", [""])[0])
        answers = {question: fields.get(question, [""])[0] for question in QUESTIONS}
        if number is None or not all(answer in CHOICES for answer in answers.values()):
            self._refuse(HTTPStatus.BAD_REQUEST, "Please answer both questions.")
            return
        try:
            self.server.rate(number, answers)
        except EditkitError as error:
            _log.error("%s", error)
            message = f"Your answer was not saved: {error}"
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, message)
            return
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", "/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self) -> bytes | None:
        """The request's body; None if it was refused (and the response sent)."""
        lengths = set(self.headers.get_all("Content-Length", []))
        text = lengths.pop() if len(lengths) == 1 else ""
        known = text.isascii() and text.isdigit() and len(text) < 12
        if lengths or not known or "Transfer-Encoding" in self.headers:
            self._refuse(HTTPStatus.BAD_REQUEST, _REFUSED)
            return None
        length = int(text)
        if length > _LONGEST_BODY:
            if length <= _DRAINED:
                self.rfile.read(length)
            self._refuse(HTTPStatus.BAD_REQUEST, _REFUSED)
            return None
        body = self.rfile.read(length)
        if len(body) < length:  # the browser disconnected
            self.close_connection = True
            return None
        return body

    def _instruct(self) -> None:
        """Send the instructions, with a link to the first open comparison."""
        server = self.server
        number = server.next()
        page = _template("instructions.html").render(
            total=len(server.comparisons),
            done=server.done,
            first=len(server.comparisons) - 1 if number is None else number,
            questions=QUESTIONS,
            choices=CHOICES,
        )
        self._send(HTTPStatus.OK, page)

    def _show(self, wanted: str) -> None:
        server = self.server
        number = self._number(wanted)
        if number is None and not server.done:
            self._instruct()
            return
        number = server.next() if number is None else number
        total = len(server.comparisons)
        if number is None:
            self._send(HTTPStatus.OK, _template("finished.html").render(total=total))
            return
        page = question_page(
            server.comparisons[number],
            done=server.done,
            total=total,
            answers=server.answers(number),
        )
        self._send(HTTPStatus.OK, page)

    def _number(self, text: str) -> int | None:
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            return None
        return int(text) if int(text) < len(self.server.comparisons) else None

    def _is_for_us(self) -> bool:
        """Whether the request names this server as its host and origin (against DNS rebinding)."""
        port = self.server.server_port
        hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin")
        named = self.headers.get_all("Host", [])
        if (
            len(named) == 1
            and named[0] in hosts
            and (origin is None or origin in {f"http://{host}" for host in hosts})
        ):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "This page is only for browsers on this machine.")
        return False

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self._send(status, _template("message.html").render(message=message))

    def _send(self, status: HTTPStatus, content: str, kind: str = "text/html") -> None:
        body = content.encode("utf-8", errors="replace")
        self.connection.settimeout(self.server.seconds)
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log requests at debug level only."""
        _log.debug(format, *args)
