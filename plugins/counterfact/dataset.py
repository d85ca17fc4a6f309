"""The dataset ``counterfact``: records from a local file or from the Hugging Face hub."""

from __future__ import annotations

from editkit import Dataset, Records
from editkit.records.reading import read_source
from editkit_plugins.counterfact.config import CounterFactConfig
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
        return parse_records(read_source(self.config), texts, self.config)
