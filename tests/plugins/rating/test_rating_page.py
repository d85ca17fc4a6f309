"""The page over plain HTTP, under kill -9, and in a real browser."""

from __future__ import annotations

import contextlib
import functools
import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit import StoreError, UsageError
from editkit.benchmark.store import keep_rating, ratings_in
from editkit.cli.parser import Parser
from editkit_plugins.rating import command
from editkit_plugins.rating.comparisons import (
    CHOICES,
    QUESTIONS,
    Comparison,
    chosen_pair,
    comparisons,
)
from editkit_plugins.rating.server import RatingServer
from tests.browser import BACKSPACE, ENTER, browsing
from tests.plugins.rating.rating_samples import cell, written_run

SERVE = """
import sys
from argparse import ArgumentParser
from editkit_plugins.rating import command
parser = ArgumentParser()
command.configure(parser)
sys.exit(command.run(parser.parse_args()))
"""
FIRST = "/?number=0"
WHOLE = {"consistent": "left", "fluent": "same"}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    written_run(tmp_path, cell("rome"), cell("ft"))
    return tmp_path


@contextlib.contextmanager
def serving(out: Path, rater: str = "me", seconds: float = 20) -> Iterator[RatingServer]:
    server = RatingServer(
        0,
        comparisons(chosen_pair(out, []), limit=3, seed=0),
        rater=rater,
        known=ratings_in(out),
        keep=functools.partial(keep_rating, out),
        seconds=seconds,
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(
    port: int, method: str = "GET", path: str = "/", body: Any = None, **headers: str
) -> tuple[int, str, Any]:
    """Status, text and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        content = urllib.parse.urlencode(body) if isinstance(body, dict) else body
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def test_a_page_shows_two_texts_without_revealing_their_editors(out: Path) -> None:
    with serving(out) as server:
        status, page, headers = ask(server.server_port, path=FIRST)
    first: Comparison = server.comparisons[0]
    assert status == 200
    assert all(text in page for text in first.texts)
    assert page.index(first.texts[0]) < page.index(first.texts[1])
    assert "is &lt;made&gt; by <strong>Ferrari &amp; Sons</strong>" in page
    assert "1 of 3" in page
    shown = page.replace(first.texts[0], "").replace(first.texts[1], "")
    for secret in ("rome", "ft-0", "f00d", "small", f"case_id={first.case_id}"):
        assert secret not in shown
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert not re.search(r"https?://", page)


def test_instructions_come_before_the_first_pair_and_stay_within_reach(out: Path) -> None:
    with serving(out) as server:
        port = server.server_port
        status, page, _ = ask(port)
        assert status == 200
        assert 'href="/?number=0">Start<' in page
        for wording in (*QUESTIONS.values(), CHOICES["same"]):
            assert wording in page
        assert not re.search(r"\b(?:rome|ft|editor)", page, re.IGNORECASE)
        assert 'href="/instructions"' in ask(port, path=FIRST)[1]
        ask(port, "POST", "/", {"number": 0, **WHOLE})
        assert "2 of 3" in ask(port)[1]
        assert 'href="/?number=1">Continue<' in ask(port, path="/instructions")[1]


def test_answers_are_saved_and_lead_to_the_next_pair(out: Path) -> None:
    with serving(out) as server:
        port = server.server_port
        for number in range(3):
            assert f"{number + 1} of 3" in ask(port, path="/" if number else FIRST)[1]
            status, _, headers = ask(port, "POST", "/", {"number": number, **WHOLE})
            assert (status, headers["Location"]) == (303, "/")
        assert "everything is rated" in ask(port)[1]
        assert len(ratings_in(out)) == 3
        back = ask(port, path="/?number=1")[1]
        assert back.count(" checked") == 2
        ask(port, "POST", "/", {"number": 1, "consistent": "right", "fluent": "right"})
    kept = {(r.case_id, r.place): r for r in ratings_in(out)}
    assert len(kept) == 3
    changed = server.comparisons[1]
    assert kept[changed.case_id, changed.place].better("fluent") == changed.cells[1]
    assert kept[changed.case_id, changed.place].rater == "me"


def test_rated_pairs_are_skipped_for_the_same_rater_only(out: Path) -> None:
    with serving(out) as server:
        ask(server.server_port, "POST", "/", {"number": 0, **WHOLE})
    with serving(out) as server:
        assert server.done == 1
        assert "2 of 3" in ask(server.server_port)[1]
        page = ask(server.server_port, path="/?number=0")[1]
        assert '"consistent" value="left" required checked' in page
        assert '"fluent" value="same" required checked' in page
    with serving(out, rater="you") as server:
        assert "1 of 3" in ask(server.server_port, path=FIRST)[1]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"number": 0},
        {"number": 0, "consistent": "left"},
        {"number": 0, "consistent": "left", "fluent": "best"},
        {"number": 3, **WHOLE},
        {"number": -1, **WHOLE},
        {"number": "²", **WHOLE},
        "x" * 20_000,
    ],
)
def test_invalid_answers_are_refused_and_not_saved(out: Path, body: Any) -> None:
    with serving(out) as server:
        status, _, _ = ask(server.server_port, "POST", "/", body)
    assert status == 400
    assert ratings_in(out) == []


def test_only_requests_to_this_machine_by_its_own_name_are_answered(out: Path) -> None:
    with serving(out) as server:
        port = server.server_port
        assert server.server_address[0] == "127.0.0.1"
        assert ask(port, Host="evil.example")[0] == 403
        assert ask(port, "POST", "/", WHOLE, Origin="http://evil.example")[0] == 403
        assert ask(port, Host=f"localhost:{port}")[0] == 200
        assert ask(port, path="/command.py")[0] == 404
        assert ask(port, path="/../server.py")[0] == 404
        for path, kind in (("/style.css", "text/css"), ("/script.js", "text/javascript")):
            status, _, headers = ask(port, path=path)
            assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")


# ---------------------------------------------------------------- malformed requests

LENGTH = len(urllib.parse.urlencode({"number": 0, **WHOLE}))


def raw(port: int, *parts: bytes, pause: float = 0.0, finish: bool = False) -> bytes:
    """The response to bytes that are sent part by part."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # a closed connection is a response, too
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            if finish:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                answer += chunk
        return answer


def head(port: int, *lines: str, method: str = "POST / HTTP/1.1") -> bytes:
    return "\r\n".join([method, f"Host: 127.0.0.1:{port}", *lines, "", ""]).encode()


def test_silent_and_slow_connections_are_closed(out: Path) -> None:
    with serving(out, seconds=0.4) as server:
        port = server.server_port
        start = time.monotonic()
        assert raw(port) == b""
        drips = [b"G", b"E", b"T", b" ", b"/", b" ", b"H", b"T", b"T", b"P"]
        assert raw(port, *drips, pause=0.1) == b""  # the whole request is too slow
        assert raw(port, head(port, f"Content-Length: {LENGTH}"), b"number=0") == b""
        assert raw(port, head(port, f"Content-Length: {LENGTH}"), *drips, pause=0.1) == b""
        assert time.monotonic() - start < 10
        assert "1 of 3" in ask(port, path=FIRST)[1]
    assert ratings_in(out) == []


def test_many_open_connections_do_not_block_new_ones(out: Path) -> None:
    with serving(out, seconds=0.5) as server, contextlib.ExitStack() as stack:
        port = server.server_port
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        before = threading.active_count()
        assert before < 60
        deadline = time.monotonic() + 20
        status = 0
        while status != 200 and time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status = ask(port)[0]
            time.sleep(0.1)
        assert status == 200


@pytest.mark.parametrize(
    "length",
    ["", "x", "-1", "+5", "1_0", "5 5", "1e3", "\xb2", "9" * 11, "9" * 30, "20000", "5, 6"],
)
def test_invalid_lengths_are_refused(out: Path, length: str) -> None:
    with serving(out) as server:
        port = server.server_port
        body = urllib.parse.urlencode({"number": 0, **WHOLE}).encode()
        request = head(port, f"Content-Length: {length}")
        answer = raw(port, request, body, finish=True)
        assert answer.startswith(b"HTTP/1.0 400 ") or answer == b""
        assert ask(port)[0] == 200
    assert ratings_in(out) == []


def test_truncated_ambiguous_and_chunked_bodies_are_refused(out: Path) -> None:
    body = urllib.parse.urlencode({"number": 0, **WHOLE}).encode()
    with serving(out) as server:
        port = server.server_port
        length = f"Content-Length: {len(body)}"
        longer = f"Content-Length: {len(body) + 1}"
        assert raw(port, head(port, longer), body, finish=True) == b""
        refused = b"HTTP/1.0 400 "
        assert raw(port, head(port, length, longer), body).startswith(refused)
        assert raw(port, head(port, "Transfer-Encoding: chunked"), body).startswith(refused)
        chunked = head(port, length, "Transfer-Encoding: chunked")
        assert raw(port, chunked, body).startswith(refused)
        assert ratings_in(out) == []
        assert raw(port, head(port, length), body).startswith(b"HTTP/1.0 303 ")
        assert len(ratings_in(out)) == 1


def test_huge_requests_are_refused(out: Path) -> None:
    with serving(out) as server:
        port = server.server_port
        assert raw(port, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n").startswith(b"HTTP/1.0 414 ")
        lines = [f"X-{i}: y" for i in range(200)]
        assert b" 431 " in raw(port, head(port, *lines, method="GET / HTTP/1.1"))
        assert b" 431 " in raw(port, head(port, "X: " + "y" * 70_000, method="GET / HTTP/1.1"))
        huge = [b"x" * 65536] * 160  # 10 MB
        raw(port, head(port, f"Content-Length: {160 * 65536}"), *huge)
        assert ask(port)[0] == 200
    assert ratings_in(out) == []


def test_other_hosts_and_addresses_are_refused(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(out) as server:
        port = server.server_port
        hosts = ["evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port}@evil", ""]
        for host in hosts:
            assert ask(port, Host=host)[0] == 403
        twice = f"GET / HTTP/1.1\r\nHost: evil\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
        assert raw(port, twice).startswith(b"HTTP/1.0 403 ")
        assert raw(port, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 403 ")
        assert ask(port, "POST", "/", WHOLE, Origin="null")[0] == 403
        paths = ["/../server.py", "/%2e%2e/server.py", "/style.css/../server.py", "//etc/passwd"]
        for path in [*paths, "/..%5cserver.py", "/etc/passwd", "/style.css%00", "/\\server.py"]:
            assert raw(port, head(port, method=f"GET {path} HTTP/1.1")).startswith(b"HTTP/1.0 404 ")
        bad = raw(port, head(port, method="GET http://[ HTTP/1.1"))
        assert bad.startswith(b"HTTP/1.0 400 ")
        assert raw(port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n")  # TLS
        assert raw(port, head(port, method="BREW / HTTP/1.1")).startswith(b"HTTP/1.0 501 ")
        assert ask(port)[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_a_browser_that_does_not_read_blocks_nobody(out: Path) -> None:
    with serving(out, seconds=0.3) as server, contextlib.ExitStack() as stack:
        for _ in range(5):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
            one.sendall(head(server.server_port, method="GET / HTTP/1.1"))
        assert ask(server.server_port)[0] == 200


def test_an_answer_that_cannot_be_saved_is_reported_and_asked_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(rating: object) -> None:
        raise StoreError("the disk is full.", hint="Make room.")

    with serving(out) as server:
        monkeypatch.setattr(server, "keep", full)
        status, page, _ = ask(server.server_port, "POST", "/", {"number": 0, **WHOLE})
        assert status == 500
        assert "the disk is full" in page
        assert "1 of 3" in ask(server.server_port, path=FIRST)[1]


def test_a_used_port_and_an_invalid_limit_are_clear_errors(out: Path) -> None:
    def run(*arguments: str) -> int:
        parser = Parser()
        command.configure(parser)
        return command.run(parser.parse_args([str(out), *arguments]))

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(UsageError, match="cannot listen on port"):
            run("--port", str(listener.getsockname()[1]))
    with pytest.raises(UsageError, match="a port from 0 to 65535"):
        run("--port", "99999")
    with pytest.raises(UsageError, match="--limit"):
        run("--limit", "0")


@contextlib.contextmanager
def process(out: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command in a new process, and its port."""
    arguments = [sys.executable, "-c", SERVE, str(out)]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            url = child.stdout.readline() if child.stdout else ""
            yield child, int(url.rstrip("/\n").rpartition(":")[2])
        finally:
            child.kill()


def test_answers_survive_a_kill(out: Path) -> None:
    with process(out) as (child, port):
        assert ask(port, "POST", "/", {"number": 0, **WHOLE})[0] == 303
        child.kill()
        child.wait()
    assert len(ratings_in(out)) == 1


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_it_prints_the_odds(out: Path, end: signal.Signals) -> None:
    with process(out) as (child, port):
        ask(port, "POST", "/", {"number": 0, **WHOLE})
        child.send_signal(end)
        output, _ = child.communicate(timeout=30)
        assert child.returncode == 0
    assert "rome against ft, small on tiny: 1 rating by 1 person of 1 pair of texts" in output


def test_a_person_rates_everything_in_a_browser(out: Path, tmp_path: Path) -> None:
    with serving(out) as server, browsing(tmp_path) as browser:
        browser.open(server.url)
        browser.wait_for("You will see 3 pairs of short texts")
        browser.press(ENTER)
        browser.wait_for("1 of 3")
        assert "Zoë" in browser.text()
        # With the keyboard: A, then about the same; back, another answer, and next.
        browser.press("1", "2")
        assert browser.run(
            "return [...document.querySelectorAll('input:checked')].map(i => i.name + i.value)"
        ) == ["consistentleft", "fluentsame"]
        browser.press(ENTER)
        browser.wait_for("2 of 3")
        browser.press(BACKSPACE)
        browser.wait_for("1 of 3")
        # With the mouse.
        browser.click("input[name=fluent][value=right]")
        browser.click("button")
        browser.wait_for("2 of 3")
        browser.click("button")  # nothing is chosen: the browser requires answers
        assert "2 of 3" in browser.text()
        browser.press("3", "3", ENTER)
        browser.wait_for("3 of 3")
        browser.press("2", "1", ENTER)
        browser.wait_for("everything is rated")
        assert browser.problems() == []
    answers = {(r.case_id, r.place): dict(r.answers) for r in ratings_in(out)}
    assert [answers[c.case_id, c.place] for c in server.comparisons] == [
        {"consistent": "left", "fluent": "right"},
        {"consistent": "right", "fluent": "right"},
        {"consistent": "same", "fluent": "left"},
    ]
