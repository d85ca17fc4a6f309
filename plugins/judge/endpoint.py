"""An endpoint with OpenAI's interface: one request, its retries, and what can go wrong.

Only the standard library. The key is sent to the configured address alone: no redirect is followed,
and a loopback address is never asked through a proxy.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import Any, Protocol
from urllib.parse import urlsplit

from typing_extensions import override

from editkit import ConfigError, JudgeError
from editkit.redaction import MASK, redacted
from editkit_plugins.judge.config import OpenAiConfig

_LONGEST_REPLY = 2**20  # bytes
_LONGEST_SHOWN = 200
_LONGEST_WAIT = 60.0  # seconds
_SECONDS_OF_SILENCE = 60.0
_RETRIED = {408, 425, 429, 500, 502, 503, 504, 529}
_OF_ONE_REQUEST = {400, 413, 422}
_log = logging.getLogger(__name__)


class _Body(Protocol):
    def read1(self, n: int, /) -> bytes:
        """What has arrived, at most ``n`` bytes; empty at the end."""


class RefusedError(Exception):
    """A request that may be the only one to fail: its text is too long, its reply is damaged."""


class _TemporaryError(Exception):
    """Another try may succeed.

    Args:
        reason: What went wrong.
        wait: Seconds to wait, if the endpoint asks for it.
        advice: What to do if no try succeeds.
    """

    def __init__(self, reason: str, wait: float | None = None, advice: str = "") -> None:
        super().__init__(reason)
        self.reason, self.wait, self.advice = reason, wait, advice


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    @override
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


class Endpoint:
    """Sends prompts to an endpoint; may be used by several threads.

    Args:
        config: The endpoint, its model, and how often to try.
    """

    def __init__(self, config: OpenAiConfig) -> None:
        self.config = config
        self.address = f"{config.url}/chat/completions"
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if _is_loopback(config.url):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        self._logged: dict[str, float] = {}
        self._lock = threading.Lock()

    def key(self) -> str | None:
        """The key; None if no variable is named.

        Raises:
            ConfigError: The variable is not set, or has a value that cannot be sent.
        """
        name = self.config.api_key_env
        if name is None:
            return None
        key = os.environ.get(name, "").strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            state = "is not set" if not key else "has characters that cannot be sent"
            raise ConfigError(
                f"api_key_env is {name!r}, but that environment variable {state}, expected the key "
                f"for {self.config.url}.",
                hint=f"Run 'export {name}=...' first, or leave out api_key_env if the endpoint "
                "needs no key.",
            )
        return key

    def reply_to(self, prompt: str, stop: threading.Event) -> str:
        """What the model replies.

        Args:
            prompt: The whole prompt, as a user's turn.
            stop: Ends the waits between tries.

        Raises:
            ConfigError: There is no key.
            JudgeError: The endpoint is unreachable, or refuses everything.
            RefusedError: This request fails, whatever happens to others.
        """
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.config.max_tokens,
            "seed": self.config.seed,
        }
        data = json.dumps({name: value for name, value in body.items() if value is not None})
        key = self.key()
        for tried in range(self.config.retries + 1):
            try:
                return self._content(self._answer(data.encode(), key))
            except _TemporaryError as error:
                if tried == self.config.retries or stop.is_set():
                    raise self._unusable(
                        error.reason, key, tries=tried + 1, advice=error.advice
                    ) from None
                wait = 2.0**tried if error.wait is None else error.wait
                self._log_once(
                    f"{self.address}: {self._shown(error.reason, key)}; "
                    f"try {tried + 2} of {self.config.retries + 1} in {wait:.0f} s"
                )
                stop.wait(min(wait, _LONGEST_WAIT))
            except RefusedError as error:
                raise RefusedError(self._shown(str(error), key)) from None
        raise self._unusable("it was never asked", key)  # unreachable: the last try raises

    def without_key(self, text: str) -> str:
        """A text of the endpoint, which may repeat the key that it was sent."""
        key = self.key()
        return text.replace(key, MASK) if key else text

    def _log_once(self, line: str) -> None:
        """Log a line at most once a minute: every thread meets the same outage."""
        now = time.monotonic()
        with self._lock:
            self._logged = {each: until for each, until in self._logged.items() if until > now}
            if line in self._logged:
                return
            self._logged[line] = now + _SECONDS_OF_SILENCE
        _log.info("%s", line)

    # ------------------------------------------------------------ one request

    def _answer(self, data: bytes, key: str | None) -> bytes:
        """The body of the endpoint's answer."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(self.address, data, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.config.timeout) as answer:
                return self._read(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise self._of_status(error, key) from None
        except (TimeoutError, urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                text = f"no reply after {self.config.timeout:g} s"
            else:
                text = f"cannot reach it: {reason or type(reason).__name__}"
            advice = "Start the service, check url, or raise timeout and retries."
            raise _TemporaryError(text, advice=advice) from None

    def _read(self, answer: _Body) -> bytes:
        """A body, which must arrive within the timeout as a whole."""
        ends = time.monotonic() + self.config.timeout
        parts, size = [], 0
        while part := answer.read1(65536):
            parts.append(part)
            size += len(part)
            if size > _LONGEST_REPLY:
                raise RefusedError(f"the reply is longer than {_LONGEST_REPLY} bytes")
            if time.monotonic() > ends:
                raise TimeoutError
        return b"".join(parts)

    def _of_status(self, error: urllib.error.HTTPError, key: str | None) -> Exception:
        try:
            body = self._read(error).decode("utf-8", "replace")
        except (OSError, RefusedError, http.client.HTTPException):
            body = ""
        text = f"HTTP {error.code}"
        if detail := " ".join(body.split()):
            text += f": {self._shown(detail, key):.{_LONGEST_SHOWN}}"
        if error.code in _RETRIED or error.code >= 500:
            return _TemporaryError(text, _seconds(error.headers), self._advice(error.code))
        if error.code in _OF_ONE_REQUEST:
            return RefusedError(text)
        if 300 <= error.code < 400:
            target = error.headers.get("Location", "an unknown address")
            advice = "Give that address as url."
            return self._unusable(f"it redirects to {target}", key, advice=advice)
        return self._unusable(text, key, advice=self._advice(error.code))

    def _content(self, body: bytes) -> str:
        """The text of the reply in a body."""
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            raise RefusedError(f"the reply is not JSON: {body[:60]!r}") from None
        choices = document.get("choices") if isinstance(document, dict) else None
        first = choices[0] if isinstance(choices, list) and choices else None
        message = first.get("message") if isinstance(first, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str):
            ended = first.get("finish_reason") if isinstance(first, dict) else None
            what = f"no text (it ended with {ended!r})" if message is not None else "no choices"
            raise RefusedError(f"the reply has {what}: {body[:60]!r}")
        try:
            content.encode()
        except UnicodeEncodeError:
            raise RefusedError("the reply is not valid Unicode") from None
        return content

    # ------------------------------------------------------------ errors

    def _unusable(
        self, reason: str, key: str | None, *, tries: int = 1, advice: str = ""
    ) -> JudgeError:
        times = f" ({tries} tries)" if tries > 1 else ""
        again = "Run the same command again once it works: stored records are not judged again."
        return JudgeError(
            f"the judge at {self.address} cannot be used: {self._shown(reason, key)}{times}.",
            hint=f"{advice} {again}".strip(),
        )

    def _advice(self, status: int) -> str:
        """What to do about an HTTP status; empty if the service has to be repaired."""
        if status in (401, 403):
            variable = self.config.api_key_env
            return (
                f"Check the key in the environment variable {variable} (api_key_env)."
                if variable
                else "Set api_key_env to the name of the environment variable with the key."
            )
        if status in (404, 405):
            return (
                "Check url, which ends before /chat/completions (http://localhost:8000/v1), and "
                f"the model {self.config.model!r}."
            )
        return "Lower parallel, or raise retries." if status == 429 else ""

    def _shown(self, text: str, key: str | None) -> str:
        return redacted(text.replace(key, MASK) if key else text)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _seconds(headers: Message) -> float | None:
    """How long the endpoint asks to wait; None if it does not, or gives a date."""
    try:
        return max(0.0, float(headers.get("Retry-After") or ""))
    except ValueError:
        return None
