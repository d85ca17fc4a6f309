"""Ways in which the folder of a model can be broken: each function changes a sound folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 548105171\n"


def config(folder: Path, **values: Any) -> None:
    """Change values of the config; None removes one."""
    file = folder / "config.json"
    content = {**json.loads(file.read_text(encoding="utf-8")), **values}
    kept = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")


def tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "model.safetensors"
    content = load_file(file)
    change(content)
    save_file(content, file, metadata={"format": "pt"})


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content, encoding="utf-8") and None


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        (folder / old).rename(folder / new)

    return rename


def only(name: str, content: bytes = b"{}") -> Callable[[Path], None]:
    def empty(folder: Path) -> None:
        for file in folder.iterdir():
            file.unlink()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return empty


def two_ggufs(folder: Path) -> None:
    nothing(folder)
    for name in ("a.gguf", "b.gguf"):
        (folder / name).write_bytes(b"GGUF")


def nothing(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def adapter(folder: Path) -> None:
    content = {"peft_type": "LORA", "base_model_name_or_path": "openai-community/gpt2"}
    (folder / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    save_file({"lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")


def adapter_alone(folder: Path) -> None:
    nothing(folder)
    adapter(folder)


def quantised(**values: Any) -> Callable[[Path], None]:
    return lambda folder: config(folder, quantization_config=values)


def of_type(model_type: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: config(folder, model_type=model_type, **values)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def pickle_by_another_name(folder: Path) -> None:
    pickled(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")


def cut(n: int) -> Callable[[Path], None]:
    def shorten(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:n])

    return shorten


def longer(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"more")


def damaged_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:8] + b"[" + content[9:])


def sharded(folder: Path) -> None:
    """In two files, with an index."""
    content = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(content)
    placed = {}
    for number, part in enumerate((names[:20], names[20:]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: content[name] for name in part}, folder / file)
        placed.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def sharded_and(change: Callable[[Path], None]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        sharded(folder)
        change(folder)

    return build


def index(**values: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "model.safetensors.index.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["weight_map"].update(values)
        file.write_text(json.dumps(content), encoding="utf-8")

    return write


def twice(folder: Path) -> None:
    first = load_file(folder / "model-00001-of-00002.safetensors")
    second = load_file(folder / "model-00002-of-00002.safetensors")
    name = sorted(first)[0]
    second[name] = first[name] + 1
    save_file(second, folder / "model-00002-of-00002.safetensors")


def drop(*names: str) -> Callable[[Path], None]:
    def change(content: dict[str, Any]) -> None:
        for name in names:
            del content[name]

    return lambda folder: tensors(folder, change)


def with_tensor(name: str, value: torch.Tensor) -> Callable[[Path], None]:
    return lambda folder: tensors(folder, lambda content: content.update({name: value}))


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "blob-that-is-not-there")


def slow(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text('{"a": 0, "b": 1, "<unk>": 2}', encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    content = {"tokenizer_class": "CTRLTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")


def no_words(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.json").write_text("{}", encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def checkpoints_inside(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "kept")
    nothing(folder)
    shutil.move(folder.parent / "kept", folder / "checkpoint-500")
