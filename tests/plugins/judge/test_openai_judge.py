"""The judge ``openai``, against an endpoint on this machine."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest

from editkit import Attempt, ConfigError, Judge, JudgeError, OpenQuestion, Verdict, make_judge
from editkit_plugins.judge.config import PROMPT
from editkit_plugins.judge.openai import filled
from tests.plugins.judge.fake_endpoint import FakeEndpoint

LOUVRE = OpenQuestion("The Louvre is in", (("Paris", "City of Light"),))
RIGHT, WRONG = Attempt(LOUVRE, "the City of Light"), Attempt(LOUVRE, "Rome")
NOW = {"headers": {"Retry-After": "0"}}  # no wait between tries
KEY = "abcd efgh 1234".replace(" ", "-")  # in no issuer's form


def judge_at(endpoint: FakeEndpoint | str, **values: Any) -> Judge[Any]:
    url = endpoint if isinstance(endpoint, str) else endpoint.url
    judge = make_judge("openai", url=url, model="small", **values)
    judge.prepare()
    return judge


def test_a_model_s_letters_are_scores() -> None:
    with FakeEndpoint() as endpoint:
        verdicts = judge_at(endpoint).judge([RIGHT, WRONG, RIGHT])
    assert [verdict.score for verdict in verdicts] == [1.0, 0.0, 1.0]
    assert [verdict.received for verdict in verdicts] == ["A", "B", "A"]
    assert verdicts[0].sent in endpoint.prompts
    assert set(endpoint.paths) == {"/v1/chat/completions"}
    body = endpoint.bodies[0]
    assert body == {
        "model": "small",
        "messages": [{"role": "user", "content": endpoint.prompts[0]}],
        "temperature": 0,
        "max_tokens": 16,
    }
    assert "authorization" not in endpoint.headers[0]


def test_the_prompt_shows_question_answers_and_text() -> None:
    question = OpenQuestion("Languages of Finland:", (("Finnish", "suomi"), ("Swedish",)))
    prompt = filled("[question] | [answers] | [text]", Attempt(question, "[answers] {x} %s"))
    assert prompt == "Languages of Finland: | - Finnish (or: suomi)\n- Swedish | [answers] {x} %s"
    assert "Paris (or: City of Light)" in filled(PROMPT, RIGHT)


def test_optional_values_are_sent_if_set() -> None:
    with FakeEndpoint() as endpoint:
        judge_at(endpoint, seed=7, max_tokens=None).judge([RIGHT])
    assert endpoint.bodies[0]["seed"] == 7
    assert "max_tokens" not in endpoint.bodies[0]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("A", 1.0), (" B\n", 0.0), ("**A**", 1.0), ("(B).", 0.0), ("_A_", 1.0),
        ("<think>B? No, it is right: A.</think>\n\nA", 1.0),
        ("A\n\nIt names Paris, not B.", 1.0), ("B\nA", 0.0), ("Well:\nA", None),
        ("", None), ("a", None), ("AB", None), ("A or B", None), ("Maybe", None),
        ("A. Right.", 1.0), ("**B**: it names Rome", 0.0), ("A, B, A", None), ("A. Not B", None),
        ("A good answer, but B", None), ("<think>A", None), ("C", None),
    ],
)  # fmt: skip
def test_a_reply_is_a_letter_or_no_verdict(reply: str, score: float | None) -> None:
    with FakeEndpoint((200, reply)) as endpoint:
        [verdict] = judge_at(endpoint).judge([RIGHT])
    assert verdict.score == score
    assert verdict.received == reply
    assert verdict.problem == ("" if score is not None else f"the reply is {reply!r}, "
                               "expected A or B")  # fmt: skip


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_temporary_errors_are_tried_again(status: int) -> None:
    with FakeEndpoint((status, NOW), (status, NOW), (200, "A")) as endpoint:
        [verdict] = judge_at(endpoint, retries=2).judge([WRONG])
    assert verdict.score == 1.0
    assert len(endpoint.bodies) == 3


def test_lasting_errors_stop_the_run() -> None:
    reason = r"cannot be used: HTTP 500 \(3 tries\)"
    with (
        FakeEndpoint(*[(500, NOW)] * 3) as endpoint,
        pytest.raises(JudgeError, match=reason) as caught,
    ):
        judge_at(endpoint, retries=2).judge([WRONG])
    assert caught.value.exit_code == 4
    assert "stored records are not judged again" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "values", "advice"),
    [
        (401, {}, "Set api_key_env to the name"),
        (403, {"api_key_env": "MY_VARIABLE"}, "environment variable MY_VARIABLE (api_key_env)"),
        (404, {}, "Check url, which ends before /chat/completions"),
        (307, {}, "Give that address as url."),
        (429, {}, "Lower parallel, or raise retries."),
    ],
)
def test_errors_advise(
    status: int, values: dict[str, Any], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_VARIABLE", KEY)
    with FakeEndpoint((status, {})) as endpoint, pytest.raises(JudgeError) as caught:
        judge_at(endpoint, retries=0, **values).judge([WRONG])
    assert caught.value.hint is not None
    assert advice in caught.value.hint
    assert "stored records are not judged again" in caught.value.hint


def test_a_retry_of_all_threads_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    attempts = [Attempt(LOUVRE, f"Rome {n}") for n in range(4)]
    with caplog.at_level(logging.INFO), FakeEndpoint(*[(503, NOW)] * 4) as endpoint:
        judge_at(endpoint, parallel=4, retries=4).judge(attempts)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "HTTP 503; try 2 of 5" in line] != []
    assert len(lines) == len(set(lines))


def test_silence_ends_after_the_timeout() -> None:
    with (
        FakeEndpoint((0, ""), (0, "")) as endpoint,
        pytest.raises(JudgeError, match=r"no reply after 0\.2 s"),
    ):
        judge_at(endpoint, retries=0, timeout=0.2).judge([WRONG])


def test_a_lost_connection_is_tried_again() -> None:
    with FakeEndpoint((0, ""), (200, "A")) as endpoint:
        [verdict] = judge_at(endpoint, retries=1, timeout=0.2).judge([WRONG])
    assert verdict.score == 1.0


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(JudgeError, match=f"{url}/chat/completions cannot be used: cannot reach it"):
        judge_at(url, retries=0).judge([WRONG])


GARBAGE = [
    (200, b"<html>", "is not JSON"),
    (200, b"[" * 100_000, "is not JSON"),
    (200, {}, "no choices"),
    (200, {"choices": []}, "no choices"),
    (200, {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}, "'length'"),
    (200, b'{"choices": [{"message": {"content": "\\ud800"}}]}', "not valid Unicode"),
    (200, b" " * (2**20 + 1), "longer than"),
    (400, {"error": "too long"}, "HTTP 400"),
]


@pytest.mark.parametrize(("status", "body", "problem"), GARBAGE)
def test_garbage_is_no_verdict(status: int, body: Any, problem: str) -> None:
    """From an endpoint that never worked it stops the run; otherwise, its record fails."""
    with FakeEndpoint((status, body), (200, "A"), (status, body)) as endpoint:
        judge = judge_at(endpoint, parallel=1)
        with pytest.raises(JudgeError, match=problem):
            judge.judge([RIGHT])
        assert judge.judge([RIGHT])[0].score == 1.0
        [verdict] = judge.judge([RIGHT])
    assert verdict.score is None
    assert problem in verdict.problem


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with FakeEndpoint() as other:
        for status in (301, 302, 307, 308):
            target = {"headers": {"Location": f"{other.url}/chat/completions"}}
            with (
                FakeEndpoint((status, target)) as endpoint,
                pytest.raises(JudgeError, match=f"it redirects to {other.url}"),
            ):
                judge_at(endpoint, api_key_env="MY_KEY").judge([RIGHT])
    assert other.paths == []


def test_loopback_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeEndpoint() as proxy, FakeEndpoint() as endpoint:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert judge_at(endpoint).judge([RIGHT])[0].score == 1.0
    assert proxy.paths == []


def test_requests_run_in_parallel_and_keep_their_order() -> None:
    attempts = [Attempt(LOUVRE, "Paris" if n % 3 else f"Rome {n}") for n in range(20)]
    with FakeEndpoint() as endpoint:
        verdicts = judge_at(endpoint, parallel=8).judge(attempts)
    assert [verdict.score for verdict in verdicts] == [float(bool(n % 3)) for n in range(20)]
    assert [verdict.sent for verdict in verdicts] == [filled(PROMPT, each) for each in attempts]


# ---------------------------------------------------------------- the key


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_VARIABLE", KEY)
    echo = {"headers": {"Retry-After": "0"}, "body": f"no quota for {KEY}".encode()}
    script = [(429, echo), (200, f"Bearer {KEY}"), (401, f"wrong: {KEY}".encode()), (400, echo)]
    with caplog.at_level(logging.DEBUG), FakeEndpoint(*script) as endpoint:
        judge = judge_at(endpoint, api_key_env="MY_VARIABLE", parallel=1)
        [verdict] = judge.judge([RIGHT])
        with pytest.raises(JudgeError, match=r"HTTP 401: wrong: \*\*\*") as caught:
            judge.judge([RIGHT])
        [refused] = judge.judge([RIGHT])
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"
    assert verdict.received == "Bearer ***"
    assert "HTTP 429: no quota for ***" in caplog.text
    shown = [repr(judge), judge.config.model_dump_json(), caplog.text, str(caught.value),
             repr(caught.value.__context__), repr(verdict), repr(refused)]  # fmt: skip
    assert not [text for text in shown if KEY in text]


@pytest.mark.parametrize("value", [None, "", "a\nb", "k\u00e9y", "two words"])
def test_a_missing_or_damaged_key_is_reported_first(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("MY_VARIABLE", raising=False)
    else:
        monkeypatch.setenv("MY_VARIABLE", value)
    with pytest.raises(ConfigError, match="api_key_env is 'MY_VARIABLE'") as caught:
        judge_at("http://127.0.0.1:9/v1", api_key_env="MY_VARIABLE")
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "url: is missing"),
        ({"url": "localhost:8000"}, "url: got 'localhost:8000'; expected an address such as"),
        ({"url": "ftp://host"}, "expected an address"),
        ({"url": "http://host:99999/v1"}, "expected a port"),
        ({"url": "http://user:hunter22@host/v1"}, "without user, password"),
        ({"url": "http://host/v1?api_key=hunter22"}, "without user, password"),
        ({"url": "http://ho st/v1"}, "without white space"),
        ({"url": "http://host", "api_key_env": "hunter22"}, "never the key itself"),
        ({"url": "http://host", "prompt": "[text]"}, r"a text with \[question\], \[answers\]"),
        ({"url": "http://host", "prompt": "[question][answers][text]"}, "must not share a name"),
        ({"url": "http://host", "prompt_version": "v2"}, "must not share a name"),
        ({"url": "http://host", "timeout": 0}, "timeout: got 0"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make_judge("openai", model="small", **values)
    assert "hunter22" not in str(caught.value)


def test_an_address_may_end_with_the_whole_path() -> None:
    judge = make_judge("openai", url="http://host/v1/chat/completions/", model="small")
    assert judge.config.url == "http://host/v1"


def test_nothing_is_asked_for_no_attempts() -> None:
    assert judge_at("http://127.0.0.1:9/v1").judge([]) == []


def test_verdicts_need_a_score_or_a_reason() -> None:
    assert Verdict(None, problem="no idea").score is None
    for wrong in ((None,), (1.5,), (-0.1,), (float("nan"),), (1.0, "", "", "but why")):
        with pytest.raises(Exception, match="a number from 0 to 1, or None and a problem"):
            Verdict(*wrong)
