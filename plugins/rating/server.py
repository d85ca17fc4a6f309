"""The local page: answers questions of a browser on this machine, and of nobody else."""

from __future__ import annotations

import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from editkit import EditkitError
from editkit.results import Rating
from editkit.storage.resources import resource_text
from editkit_plugins.rating.comparisons import Comparison
from editkit_plugins.rating.page import finished_page, message_page, question_page
from editkit_plugins.rating.questions import ANSWERS, QUESTIONS

HOST = "127.0.0.1"
SECONDS = 10.0
"""How long a browser may take to send a whole request, and to take the answer."""

_LONGEST_BODY = 10_000
_DRAINED = 1_000_000  # bytes of a refused body that are read, so that the browser sees the answer
_MOST_CONNECTIONS = 32
_FILES = {"/style.css": "text/css", "/script.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_log = logging.getLogger(__name__)


class RatingServer(ThreadingHTTPServer):
    """Serves the comparisons to one rater.

    Args:
        port: Port to listen on; 0: any free one.
        comparisons: What is compared, in order.
        rater: Who answers.
        known: What the rater said before.
        keep: Writes a rating where it survives; called before the browser is answered.
        seconds: How long a request may take to arrive as a whole, however slowly it drips in.
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
        said = {rating.name: rating for rating in known}
        for comparison in comparisons:
            rating = said.get(self._rating(comparison, {}).name)
            if rating is not None:
                self._answers[comparison.number] = _as_shown(rating, comparison)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def done(self) -> int:
        """Comparisons that are answered."""
        return len(self._answers)

    def answers(self, number: int) -> dict[str, str]:
        """What was said about a comparison so far."""
        return self._answers.get(number, {})

    def next(self) -> int | None:
        """The first comparison that is not answered yet."""
        return next((c.number for c in self.comparisons if c.number not in self._answers), None)

    def rate(self, number: int, answers: dict[str, Any]) -> None:
        """Keep the answers to one comparison."""
        self.keep(self._rating(self.comparisons[number], answers))
        self._answers[number] = answers

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; beyond so many at once, connections are closed."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            _log.debug("too many connections: one is closed")
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that left is no error; anything else is one line in the log."""
        error = sys.exc_info()[1]
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        _log.log(level, "a request was not answered: %s: %s", type(error).__name__, error)

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
    """Earlier answers, in terms of who stands left and right now."""
    shown = {}
    for question in rating.answers:
        better = rating.better(question)
        side = "right" if better == comparison.cells[1] else "left"
        shown[question] = "same" if better is None else side
    return shown


class _Deadline(io.RawIOBase):
    """What a socket receives until a moment; after it, reading raises :class:`TimeoutError`."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Receive some bytes."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long to arrive")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    server: RatingServer
    server_version = "editkit"
    sys_version = ""

    def setup(self) -> None:
        """Read from the socket with a deadline for the whole request."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Deadline(self.connection, self.server.seconds))

    def do_GET(self) -> None:
        """A page, or one of the two files that it needs."""
        if not self._is_for_us():
            return
        try:
            url = urlsplit(self.path)
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, message_page("That is no address."))
            return
        if url.path in _FILES:
            content = resource_text(f"editkit_plugins.rating:{url.path[1:]}")
            self._send(HTTPStatus.OK, content, _FILES[url.path])
        elif url.path == "/":
            self._show(parse_qs(url.query).get("number", [""])[0])
        else:
            self._send(HTTPStatus.NOT_FOUND, message_page("There is no such page."))

    def do_POST(self) -> None:
        """The answers to one comparison; the browser is then sent to the next."""
        if not self._is_for_us():
            return
        body = self._body()
        if body is None:
            return
        fields = parse_qs(body.decode("utf-8", errors="replace"))
        number = self._number(fields.get("number", [""])[0])
        answers = {question: fields.get(question, [""])[0] for question in QUESTIONS}
        if number is None or not all(answer in ANSWERS for answer in answers.values()):
            self._send(HTTPStatus.BAD_REQUEST, message_page("Please answer both questions."))
            return
        try:
            self.server.rate(number, answers)
        except EditkitError as error:
            _log.error("%s", error)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, message_page(f"Not kept: {error}"))
            return
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", "/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self) -> bytes | None:
        """What was sent; None where it is refused, and the browser is answered."""
        lengths = set(self.headers.get_all("Content-Length", []))
        text = lengths.pop() if len(lengths) == 1 else ""
        known = text.isascii() and text.isdigit() and len(text) < 12
        if lengths or not known or "Transfer-Encoding" in self.headers:
            self._send(HTTPStatus.BAD_REQUEST, message_page("That was no answer."))
            return None
        length = int(text)
        if length > _LONGEST_BODY:
            if length <= _DRAINED:
                self.rfile.read(length)
            self._send(HTTPStatus.BAD_REQUEST, message_page("That was no answer."))
            return None
        body = self.rfile.read(length)
        if len(body) < length:  # the browser left in the middle
            self.close_connection = True
            return None
        return body

    def _show(self, wanted: str) -> None:
        server = self.server
        number = self._number(wanted)
        number = server.next() if number is None else number
        total = len(server.comparisons)
        if number is None:
            self._send(HTTPStatus.OK, finished_page(total))
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
        """Whether the browser asked this very server, and not a name that was bent to lead here."""
        port = self.server.server_port
        hosts = {f"{HOST}:{port}", f"localhost:{port}"}
        origin = self.headers.get("Origin")
        asked = self.headers.get_all("Host", [])
        if (
            len(asked) == 1
            and asked[0] in hosts
            and (origin is None or origin in {f"http://{host}" for host in hosts})
        ):
            return True
        self._send(HTTPStatus.FORBIDDEN, message_page("This page is for this machine only."))
        return False

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
        """Say nothing of every request; --debug shows them."""
        _log.debug(format, *args)
