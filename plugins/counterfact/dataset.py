"""The dataset ``counterfact``: records from a local file or from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable

from editkit import Dataset, DatasetError, Records
from editkit_plugins.counterfact.config import CounterFactConfig
from editkit_plugins.counterfact.files import read_json_list
from editkit_plugins.counterfact.parsing import parse_records
from editkit_plugins.counterfact.reference import read_texts


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
            DatasetError: The file or hub dataset is absent or holds no list of records, or a file
                of texts cannot be read.
        """
        texts = read_texts(self.config.reference_texts, self.config.essence_texts)
        if self.config.path is not None:
            return parse_records(read_json_list(self.config.path.expanduser()), texts)
        return parse_records(_read_hub(self.config), texts)


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
