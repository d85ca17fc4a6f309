"""The page in a real browser: edit, see, ask, trace, download, take back."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit import Patch, load_delta, load_model
from tests.browser import Browser, browsing

pytest.importorskip("gradio", reason="the extra demo is not installed")

pytestmark = pytest.mark.slow
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
MARKUP = "<img src=x onerror=document.title=7>"


@contextlib.contextmanager
def demo(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running ``editkit demo`` and its address."""
    command = [sys.executable, "-m", "editkit", "demo", *options]
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (folder / "stderr").open("w") as errors:
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            stdout: Any = child.stdout
            address = stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:"), (folder / "stderr").read_text()
            yield child, address
        finally:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(20)
            finally:
                child.kill()
                child.wait()
                stdout.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with demo(folder) as (_, address):
        yield address


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Browser]:
    with browsing(tmp_path, size="1440,1087") as browser:
        browser.open(address)
        browser.wait_for("Change one fact", 60)
        yield browser
        complaints = [each for each in browser.problems() if "favicon" not in each]
        assert not complaints
        elsewhere = browser.run(
            "return performance.getEntriesByType('resource').map(e => e.name)"
            f".filter(name => !name.startsWith('{address}') && !name.startsWith('data:'))"
        )
        assert not elsewhere


def write(page: Browser, selector: str, text: str) -> None:
    """Replace the text of a field, as typing does."""
    page.run(
        f"const field = document.querySelector('{selector}');"
        "const kind = field.tagName === 'INPUT' ? HTMLInputElement : HTMLTextAreaElement;"
        f"Object.getOwnPropertyDescriptor(kind.prototype, 'value').set.call(field, {text!r});"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )


FIELD = "#{} :is(textarea, input)"


def edit(page: Browser, prompt: str, subject: str, to: str, *editors: str) -> None:
    write(page, FIELD.format("prompt"), prompt)
    write(page, FIELD.format("subject"), subject)
    write(page, FIELD.format("new-object"), to)
    if editors:
        page.run(
            f"const wanted = {list(editors)!r};"
            "document.querySelectorAll('#editors label').forEach(label => {"
            "const box = label.querySelector('input');"
            "if (box.checked !== wanted.includes(label.innerText.trim())) box.click(); })"
        )
    page.click("#edit")


def test_edit_see_ask_trace_download_and_take_back(page: Browser, folder: Path) -> None:
    edit(page, "Louvre stands in the city of", "Louvre", "Paris", "rome", "ft")
    page.wait_until("return document.querySelectorAll('#result .ek-card').length === 2", 120)
    columns = page.run("return [...document.querySelectorAll('#table th')].map(e => e.innerText)")
    assert columns[1:4] == ["unedited", "ft", "rome"]
    shown = page.run("return document.querySelector('#table').innerText")
    assert all(
        text in shown for text in ("Barcelona", "Paris", "In other words", "Unrelated prompts")
    )

    page.wait_until("return !document.querySelector('#status .ek-status')")
    page.picture(folder / "demo.png")  # docs/images/demo.png

    page.click("#ask-tab-button")
    write(page, FIELD.format("free"), "The capital of Kenya is")
    page.click("#ask")
    page.wait_until("return document.querySelectorAll('#answers td').length === 3", 60)
    page.click("#trace-tab-button")
    page.click("#trace")
    page.wait_until("return document.querySelectorAll('#traces img').length === 2", 120)
    assert page.run(
        "return [...document.querySelectorAll('#traces img')].every(e => e.naturalWidth > 500)"
    )

    link = "#result .ek-download"
    file = folder / "patch.safetensors"
    address = page.run(f"return document.querySelector('{link}').href")
    with OPENER.open(address, timeout=30) as answer:
        assert "attachment" in answer.headers["Content-Disposition"]
        file.write_bytes(answer.read())
    model = load_model("atlas")
    patch = Patch.load(file)
    assert patch.requests[0].statement == "Louvre stands in the city of Paris"
    assert load_delta(file).model_fingerprint == model.fingerprint
    with patch.applied(model):
        pass

    page.click("#take-back")
    page.wait_for("the model itself never changed", 60)
    page.wait_until("return document.querySelector('#take-back') === null")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        OPENER.open(address, timeout=30)


def test_markup_of_a_user_and_of_a_model_is_inert(page: Browser) -> None:
    prompt = f"Kenya {MARKUP} is in the continent of"
    edit(page, prompt, "Kenya", MARKUP, "ft")
    page.wait_until("return document.querySelector('#result .ek-card')", 120)
    page.click("#ask-tab-button")
    write(page, FIELD.format("free"), f"{MARKUP} is")
    page.click("#ask")
    page.wait_until("return document.querySelector('#answers td')", 60)
    assert MARKUP in page.run("return document.querySelector('#result').innerText")
    assert MARKUP in page.run("return document.querySelector('#table').innerText")
    assert MARKUP in page.run("return document.querySelector('#answers').innerText")
    assert page.run("return document.title") != "7"
    assert page.run("return document.querySelectorAll('img[src=x]').length") == 0
    # Even markup that got into the page would not run.
    page.run(
        "document.querySelector('#answers').insertAdjacentHTML('beforeend', " + repr(MARKUP) + ")"
    )
    time.sleep(0.3)
    assert page.run("return document.title") != "7"
    assert any("Content Security Policy" in each for each in page.problems())


def test_an_error_is_a_sentence_with_its_hint(page: Browser) -> None:
    edit(page, "Kenya is in the continent of", "Uganda", "Europe", "ft")
    page.wait_for("is not in the prompt", 60)
    page.wait_for("Write the subject exactly", 5)
    assert "Traceback" not in page.text()
    edit(page, "Kenya is in the continent of", "Kenya", "Europe", "ft")
    page.wait_until("return document.querySelector('#result .ek-card')", 120)
    assert "is not in the prompt" not in page.text()


def test_foreign_hosts_and_origins_and_other_addresses_are_refused(address: str) -> None:
    port = int(address.rsplit(":", 1)[1].strip("/"))

    def status(method: str, path: str, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(method, path, b"{}" if method == "POST" else None, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    join = "/gradio_api/queue/join"
    assert status("GET", "/") == 200
    assert status("GET", "/", Host=f"localhost:{port}") == 200
    assert status("GET", "/", Host="evil.example") == 403
    assert status("POST", join, Origin="http://evil.example") == 403
    assert status("POST", join, Origin="null") == 403
    assert status("GET", f"/gradio_api/file={Path(__file__)}") == 404
    assert status("POST", "/gradio_api/upload") == 404
    with socket.socket() as probe:  # no other address of this machine
        probe.settimeout(5)
        assert probe.connect_ex(("127.0.0.2", port)) != 0


def test_a_second_tab_waits_for_the_first(address: str, tmp_path: Path, page: Browser) -> None:
    with browsing(tmp_path / "second", size="1000,900") as other:
        other.open(address)
        other.wait_for("Change one fact", 60)
        edit(page, "Kenya is in the continent of", "Kenya", "Europe", "rome", "memit", "ft", "lora")
        edit(other, "Kenya is in the continent of", "Kenya", "Asia", "ft")
        other.wait_until("return document.querySelector('#result .ek-card')", 120)
        page.wait_until("return document.querySelectorAll('#result .ek-card').length === 4", 120)
        assert "Asia" in other.run("return document.querySelector('#result .ek-fact').innerText")
        assert "Europe" in page.run("return document.querySelector('#result .ek-fact').innerText")


def test_ctrl_c_ends_at_once_and_leaves_no_files(tmp_path: Path) -> None:
    with demo(tmp_path) as (child, _):
        assert list(tmp_path.glob("editkit-demo-*"))
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.wait(40) == 0
        assert time.monotonic() - start < 20  # mostly the end of the interpreter
    assert not list(tmp_path.glob("editkit-demo-*"))
    assert "Traceback" not in (tmp_path / "stderr").read_text()
