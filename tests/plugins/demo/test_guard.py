"""Whom the server answers, and what it passes on to gradio."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra demo is not installed")

from editkit_plugins.demo.server import Guard

OURS = {"host": "127.0.0.1:7000"}
PAGE = b"<script>mine()</script><script src='a.js'></script><script async>two()</script>"


class Inner:
    """An application that remembers what reached it."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        headers = [(b"content-type", b"text/html"), (b"cache-control", b"max-age=99")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": PAGE[:30], "more_body": True})
        await send({"type": "http.response.body", "body": PAGE[30:]})


def ask(
    path: str = "/", query: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes, list[Any]]:
    """Status, headers and body of the answer, and the requests that reached the application."""
    inner, sent = Inner(), []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    given = [(k.replace("_", "-").encode(), v.encode()) for k, v in {**OURS, **headers}.items()]
    scope = {"type": "http", "path": path, "query_string": query, "headers": given}
    asyncio.run(Guard(inner, 7000)(scope, receive, send))
    start, *parts = sent
    answered = {k.decode(): v.decode() for k, v in start["headers"]}
    return start["status"], answered, b"".join(part["body"] for part in parts), inner.scopes


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:7000"}, 200),
        ({"origin": "http://127.0.0.1:7000"}, 200),
        ({"host": "evil.example:7000"}, 403),
        ({"host": "127.0.0.1:7000.evil.example"}, 403),
        ({"host": "127.0.0.1"}, 403),
        ({"host": "127.0.0.1:7001"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "https://127.0.0.1:7000"}, 403),
        ({"origin": "http://127.0.0.1:7001"}, 403),
        ({"origin": "null"}, 403),
    ],
)
def test_only_requests_to_this_machine_by_its_own_name_are_answered(
    headers: dict[str, str], status: int
) -> None:
    answer, _, _, reached = ask(**headers)
    assert answer == status
    assert bool(reached) == (status == 200)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/upload",
        "/gradio_api/proxy=https://example.org/",
        "/gradio_api/run-history/buckets",
        "/gradio_api/runs",
        "/gradio_api/deep_link",
        "/gradio_api/component_server",
        "/gradio_api/run/edit",
        "/monitoring",
        "/login",
        "/docs",
        "/openapi.json",
        "/assets/../routes.py",
        "/assets/%2e%2e/routes.py",
        "/patches/a/../b",
        "//",
        "/\n",
    ],
)
def test_what_the_page_does_not_need_does_not_exist(path: str) -> None:
    status, _, _, reached = ask(path)
    assert (status, reached) == (404, [])


def test_the_page_takes_no_parameters_and_no_headers_of_proxies() -> None:
    assert ask("/", b"deep_link=x")[0] == 404
    _, _, _, [scope] = ask("/config", x_forwarded_host="evil.example", accept="*/*")
    assert {name for name, _ in scope["headers"]} == {b"host", b"accept"}


def test_browsers_run_only_the_scripts_of_the_page() -> None:
    _, headers, body, _ = ask("/")
    assert body == PAGE
    policy = headers["content-security-policy"]
    scripts = policy.partition("script-src ")[2].partition(";")[0]
    assert scripts.count("'sha256-") == 2
    assert "unsafe-inline" not in scripts
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert headers["cache-control"] == "no-store"
    assert ask("/assets/a.js")[1]["cache-control"] == "max-age=99"
