"""What is known of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from editkit.storage.machine import network_file_system


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/results", "nfs4"),
        ("/home/scratch/results", None),
        ("/home2/results", None),
        ("/my data/out", "lustre"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_innermost_mount(
    path: str, kind: str | None, tmp_path: Path
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\n"
        "server:/home /home nfs4 rw 0 0\n"
        "/dev/sdb1 /home/scratch xfs rw 0 0\n"
        "pool@o2ib:/fs /my\\040data lustre rw 0 0\n",
        encoding="utf-8",
    )
    assert network_file_system(Path(path), mounts) == kind


def test_without_a_list_of_mounts_the_file_system_is_unknown(tmp_path: Path) -> None:
    assert network_file_system(tmp_path, tmp_path / "missing") is None
