"""The dataset ``counterfact``: records from a local file or from the Hugging Face hub."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from editkit import Dataset, DatasetError, Records
from editkit_plugins.counterfact.config import CounterFactConfig
from editkit_plugins.counterfact.parsing import parse_records

_GZIP_MAGIC = b"\x1f\x8b"


class CounterFactDataset(Dataset[CounterFactConfig]):
    """Records in CounterFact's layout.

    A dataset of one's own needs no more than a path::

        class MyDataset(CounterFactDataset):
            def __init__(self, config: MyConfig) -> None:
                super().__init__(CounterFactConfig(path=MY_FILE))
    """

    def load(self) -> Records:
        """Read all records; broken ones are reported in ``Records.rejected``.

        Raises:
            DatasetError: The file or hub dataset is absent or holds no list of records.
        """
        if self.config.path is not None:
            return parse_records(read_json_list(self.config.path.expanduser()))
        return parse_records(_read_hub(self.config))


def read_json_list(path: Path) -> list[object]:
    """The elements of a JSON list, from a plain or gzip-compressed file.

    Raises:
        DatasetError: The file is absent, damaged, or holds something else.
    """
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP_MAGIC):
            data = gzip.decompress(data)
        content = json.loads(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(
            f"dataset file {str(path)!r} does not exist.",
            hint="Give the path of a CounterFact file; docs/datasets.md says where to get one.",
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(
            f"dataset file {str(path)!r} cannot be read: {error}.",
            hint="Check that it is a file, readable, and completely downloaded.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"dataset file {str(path)!r} is not JSON: {error}.",
            hint="Expected a JSON list of records; check that it is completely downloaded.",
        ) from error
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else f"a JSON {type(content).__name__}"
        raise DatasetError(
            f"dataset file {str(path)!r} holds {found}, expected a list of records.",
            hint="docs/datasets.md shows the layout of a record.",
        )
    return content


def _read_hub(config: CounterFactConfig) -> Iterable[object]:
    from datasets import Dataset as HubDataset
    from datasets import load_dataset

    try:
        table = load_dataset(config.hub, split=config.split, revision=config.revision)
    except Exception as error:  # the library raises whatever its storage backends raise
        raise DatasetError(
            f"hub dataset {config.hub!r} (split {config.split!r}, revision {config.revision!r}) "
            f"cannot be loaded: {error}",
            hint="Check the name, the split and the network; without network, load it once where "
            "there is one, or give a local file as 'path'.",
        ) from error
    if not isinstance(table, HubDataset) or not len(table):
        raise DatasetError(
            f"hub dataset {config.hub!r} has no records in split {config.split!r}.",
            hint="Give one split that exists, such as 'train'.",
        )
    rows: Iterable[object] = table
    return rows
