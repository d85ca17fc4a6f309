"""The completion scripts complete what a shell asks for."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from editkit.cli.main import main

_CASES = [
    ("editkit run-b", {"run-benchmark"}),
    ("editkit run-benchmark --ed", {"--editor"}),
    ("editkit run-benchmark -e ro", {"rome"}),
    ("editkit run-benchmark -e rome,mem", {"rome,memit"}),
    ("editkit run-benchmark --metrics effic", {"efficacy"}),
    ("editkit run-benchmark -e rome atlas-g", {"atlas-generation"}),
    ("editkit run-benchmark --dtype bf", {"bfloat16"}),
    ("editkit run-benchmark -o fold", {"folder"}),  # no files
    ("editkit trace -m smol", {"smollm2"}),
    ("editkit trace --facts atlas-z", {"atlas-zsre"}),
    ("editkit trace --facts fole", {"fole.safetensors"}),
    ("editkit edit --preset paper-", {"paper-v1"}),
    ("editkit run-experiment prefix", {"prefix-ablation"}),
    ("editkit describe zz", set()),
    ("editkit patch ch", {"check"}),
    ("editkit patch check --tog", {"--together"}),
    ("editkit patch check fol", {"folder", "fole.safetensors"}),
    ("editkit report --save fol", {"folder", "fole.safetensors"}),
    ("editkit atlas train --th", {"--threads"}),
    ("editkit train --th", set()),
]


@pytest.fixture
def script(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Path:
    """The script of a shell, next to a folder and a file."""
    assert main(["completion", request.param]) == 0
    (tmp_path / "folder").mkdir()
    (tmp_path / "fole.safetensors").touch()
    path = tmp_path / f"script.{request.param}"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash(script: Path) -> None:
    asked = [*_CASES, ("editkit run-benchmark --editor = rome,mem", {"rome,memit"})]
    lines = [f"source {script}", f"cd {script.parent}"]
    for line, _ in asked:  # as bash splits --editor=rome,mem
        lines.append(
            f"COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _editkit; "
            'echo "${COMPREPLY[*]}"'
        )
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    answers = [set(answer.split()) for answer in done.stdout.split("\n")[:-1]]
    for (line, expected), answer in zip(asked, answers, strict=True):
        assert answer == expected, line


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish(script: Path) -> None:
    lines = [f"source {script}", f"cd {script.parent}"]
    lines += [f"echo (complete -C \"{line}\" | string replace -r '\\t.*' '')" for line, _ in _CASES]
    done = subprocess.run(
        ["fish", "--no-config", "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    answers = [set(answer.replace("/", "").split()) for answer in done.stdout.split("\n")[:-1]]
    for (line, expected), answer in zip(_CASES, answers, strict=True):
        assert answer == expected, line


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_understands_the_script(script: Path) -> None:
    subprocess.run(["zsh", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    functions = set(re.findall(r"^(_editkit\w*)\(\)", text, re.MULTILINE))
    called = set(re.findall(r"\) (_editkit\w*) ;;", text))
    assert called | {"_editkit"} <= functions
