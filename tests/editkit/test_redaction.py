"""No part of a password or token is shown, stored or logged, and addresses stay readable."""

from __future__ import annotations

import json
import logging
import re
import string
import sys
import time
import traceback
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from editkit import EditkitError, TrackingError
from editkit.redaction import MASK, redacted, redacted_values

NO_SECRETS = {"true", "false", "none", "null", "disabled", "enabled", "default"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:SEC@RET@host", "http://***@host"),
        ("http://user:SEC@RET@host:5000/path", "http://***@host:5000/path"),
        ("https://TOKEN@host/x", "https://***@host/x"),
        ("https://:SECRET@host", "https://***@host"),
        ("https://user:pa/ss@host/x", "https://***@host/x"),
        ("https://user:pa?ss@host/x", "https://***@host/x"),
        ("https://user:pa#ss@host/x", "https://***@host/x"),
        ("https://user:pa ss@host/x", "https://***@host/x"),
        ("https://user:pa'ss\"x@host/x", "https://***@host/x"),
        ("https://user:12/34@host/x", "https://***@host/x"),
        ("http://u:SECRET@[::1]:5000/x", "http://***@[::1]:5000/x"),
        ("HTTPS://U:SECRET@HOST", "HTTPS://***@HOST"),
        ("postgresql://u:SECRET@h:5432/db", "postgresql://***@h:5432/db"),
        ("mysql+pymysql://u:SE%40CRET@h/db", "mysql+pymysql://***@h/db"),
        ("s3://key:SEC/RET@bucket/x", "s3://***@bucket/x"),
        ("databricks://profile", "databricks://profile"),
        ("databricks://token:SECRET@h", "databricks://***@h"),
        ("sqlite:////tmp/me@home/x.db", "sqlite:////tmp/me@home/x.db"),
        ("sqlite:////tmp/x.db?password=SECRET", "sqlite:////tmp/x.db?password=***"),
        ("http://h/?password=SECRET&x=1", "http://h/?password=***&x=***"),
        ("http://h/p?PASSWORD=SE@CRET", "http://h/p?PASSWORD=***"),
        ("http://h/?SECRET", "http://h/?***"),
        ("http://h/x#access_token=SECRET", "http://h/x#***"),
        ("http://h/?X-Amz-Signature=SECRET", "http://h/?X-Amz-Signature=***"),
        ("http://h/?sv=1&sig=SECRET%3D", "http://h/?sv=***&sig=***"),
        ("http://u:SECRET@h/d?password=SE@CRET", "http://***@h/d?password=***"),
        ("http://user:SECRET", "http://***"),
        ("with url: /api?token=SECRET (Caused by", "with url: /api?token=*** (Caused by"),
        ("Authorization: Bearer SECRETSECRET", "Authorization: ***"),
        ("{'Authorization': 'Basic U0VDUkVU'}", "{'Authorization': '***'}"),
        ('{"password": "SEC RET", "n": 1}', '{"password": "***", "n": 1}'),
        ("token hf_SECRETSECRETSECRET is invalid", "token *** is invalid"),
        ("ghp_SECRETSECRETSECRETSECRET", "***"),
        ("AKIASECRETSECRETSECR", "***"),
        ("MLFLOW_TRACKING_PASSWORD=SECRET", "MLFLOW_TRACKING_PASSWORD=***"),
        ("host=h password=SECRET user=u", "host=h password=*** user=u"),
        ("https:/user:SECRET@h/x", "https:/***@h/x"),  # an address taken for a path
        ("//user:SE@CRET@h/x", "//***@h/x"),
        ("http://me:0000#`SECRET@h/x", "http://***@h/x"),  # neither a port nor a fragment
        ("https%3A%2F%2Fu%3ASECRET%40h", "https%3A%2F%2F***%40h"),
        ("sent Basic U0VDUkVU==", "sent Basic ***"),
        ("db_password: SECRET", "db_password: ***"),
        ("x-api-key: 'SEC RET'", "x-api-key: ***"),
        ("set-cookie: session=SECRET", "set-cookie: ***"),
    ],
)
def test_secrets_are_masked_and_the_rest_stays_readable(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "see https://huggingface.co/docs/hub, or docs/errors/model.md.",
        "MLflow at http://localhost:5000 could not be written or read: it does not answer",
        "model 'EleutherAI/gpt-j-6b' was not found; position token: subject_last",
        "--set editors.rome.token=subject_last: got 'subject_last'",
        "the prompt 'a@b' of case 3; basic arithmetic of bearers",
        "C:\\Users\\me, /home/me@corp/x, 50% of 3/4",
        "bos_token='<s>' add_eos_token=True tokens=20000",
    ],
)
def test_texts_without_secrets_are_unchanged(text: str) -> None:
    assert redacted(text) == text


_CHARACTERS = string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@%/?#[] \"<>\\^`{|}é"
_SECRET = st.text(_CHARACTERS, min_size=6, max_size=20)


def _leaks(secret: str, shown: str) -> bool:
    """Whether four characters of the secret in a row can be read."""
    pieces = {secret[i : i + 4] for i in range(len(secret) - 3)}
    return any(piece in shown for piece in pieces)


@settings(max_examples=400, derandomize=True)
@given(
    scheme=st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "s3", "HTTPS"]),
    host=st.sampled_from(["tracking.example", "localhost:5000", "[2001:db8::1]:80", "10.0.0.7"]),
    user=st.sampled_from(["me", "me.too", ""]),
    secret=_SECRET,
    path=st.sampled_from(["", "/", "/db", "/a/b.c"]),
    place=st.sampled_from(["password", "query", "fragment"]),
    around=st.sampled_from(
        ["{}", "MLflow at {} failed: no", "('{}',)", "at <{}>", "{}. Again: {}"]
    ),
)
def test_secrets_anywhere_in_an_address_are_masked(
    scheme: str, host: str, user: str, secret: str, path: str, place: str, around: str
) -> None:
    if place == "password":
        # As it should be written, or raw where a reader of the address would still see a password.
        for written in {quote(secret, safe=""), secret.replace("@", "").replace("?", "")}:
            assume(not re.match(r"\d+[\s,;.)\"'<>]*(\s|$)", written))  # as host and port
            shown = redacted(around.replace("{}", f"{scheme}://{user}:{written}@{host}{path}"))
            assert not _leaks(written, shown)
            assert f"{scheme}://" in shown
            assert host in shown
    else:
        mark = {"query": "?password=", "fragment": "#"}[place]
        url = f"{scheme}://{host}{path}{mark}{quote(secret, safe='')}"
        shown = redacted(around.replace("{}", url))
        assert not _leaks(quote(secret, safe=""), shown)
        assert f"{scheme}://{host}{path}" in shown


@settings(max_examples=300, derandomize=True)
@given(secret=st.text(string.ascii_letters + "/@:?#&=%. ", min_size=6, max_size=20))
def test_secrets_of_the_environment_are_masked_everywhere(secret: str) -> None:
    secret = secret.strip()
    assume(len(secret) >= 4 and secret.lower() not in NO_SECRETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
        for written in (secret, quote(secret, safe="")):
            assert written not in redacted(f"failed ({written!s}): {written}, {written}")


@pytest.mark.parametrize(
    "address",
    [
        "http://user:SEC@RET@host/x?token=TOKEN9",
        "https://TOKEN9@host",
        "user:SECRET9@host",
        "postgresql://user:SEC/RET@host/db?sslpassword=TOKEN9",
    ],
)
def test_parts_of_the_tracking_address_are_masked(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    text = f"{address}; could not resolve SECRET9 TOKEN9; SEC@RET SEC/RET; {quote(address)}"
    shown = redacted(text)
    for secret in ("SECRET9", "TOKEN9", "SEC@RET", "SEC/RET"):
        if secret in address:
            assert secret not in shown


def test_ordinary_variables_are_not_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/home/me")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "true")
    text = "/home/me holds false and true"
    assert redacted(text) == text


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "x.",
        "x-amz-",
        "//a:",
        "://a:b",
        "%3A%2F%2F",
        "a:/",
        "token=",
        "'a",
        "basic ",
        "@",
        "?a=b&",
    ],
)
def test_long_texts_are_redacted_quickly(part: str) -> None:
    started = time.perf_counter()
    redacted(part * (20_000 // len(part)))
    assert time.perf_counter() - started < 5  # 0.1 s; "x." took minutes


def test_errors_redact_themselves() -> None:
    error = TrackingError("at http://u:SECRET@h", hint="Unset https://h/?token=SECRET.")
    assert "SECRET" not in f"{error} {error.message} {error.hint} {error!r}"
    assert issubclass(TrackingError, EditkitError)


def test_plain_data_is_redacted_at_every_level() -> None:
    data = {"hub": "https://u:SECRET@h/x", "n": 1, "list": ["a?token=SECRET"], "api_key": "SECRET"}
    shown = redacted_values(data)
    assert "SECRET" not in json.dumps(shown)
    assert shown["n"] == 1
    assert shown["api_key"] == MASK


def test_errors_logs_and_tracebacks_show_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from editkit.cli import main as command_line

    address = "http://user:SEC@RET@host/?token=SECRET9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

    def fail(arguments: list[str]) -> int:
        logging.getLogger("editkit.x").warning("at %s", address)
        logging.getLogger("some.library").warning("retrying %s of %d", address, 3)
        try:
            raise ConnectionError(f"no answer of {address}")
        except ConnectionError as error:
            if arguments == ["known"]:
                raise TrackingError(f"{address}: {error}", hint=f"See {address}") from error
            raise ValueError(f"{address}: SEC@RET") from error

    monkeypatch.setattr(command_line, "_run", fail)
    factory = logging.getLogRecordFactory()
    for name in ("known", "unknown"):
        assert command_line.main([name, "--debug"]) in (1, 4)
        out, err = capsys.readouterr()
        assert "Traceback" in err
        assert "host" in err
        for secret in ("SEC@RET", "RET@", "SECRET9"):
            assert secret not in out + err
    assert logging.getLogRecordFactory() is factory


def test_refused_arguments_show_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    from editkit.cli.main import main

    assert main(["report", "--format", "http://u:SECRET@h"]) == 2
    assert main(["run-benchmark", "--limit", "?token=SECRET"]) == 2
    assert main(["run-benchmark", "--model", "https://u:SECRET@h/x", "--limit", "1"]) == 2
    assert "SECRET" not in "".join(capsys.readouterr())


def test_a_traceback_of_python_shows_no_secret() -> None:
    try:
        raise TrackingError("http://u:SECRET@h")
    except TrackingError:
        shown = "".join(traceback.format_exception(*sys.exc_info()))
    assert "http://u:***" not in shown  # the source line above is the test's own
    assert "TrackingError: http://***@h" in shown
