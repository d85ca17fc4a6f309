"""A listener that keeps what it hears."""

from __future__ import annotations

from editkit.progress import Counter


class Log:
    """The events of all work: (label, done, total) or ``"end"``; and the counts of each label."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int | None] | str] = []
        self.counters: dict[str, list[Counter]] = {}
        self.counts: dict[int, list[int]] = {}

    def started(self, counter: Counter) -> None:
        self.counters.setdefault(counter.label, []).append(counter)
        self.changed(counter)

    def changed(self, counter: Counter) -> None:
        self.counts.setdefault(id(counter), []).append(counter.done)
        self.events.append((counter.label, counter.done, counter.total))

    def ended(self, counter: Counter) -> None:
        self.events.append("end")

    def complete(self) -> set[str]:
        """Labels of all work, if every count rose to its total; else an error."""
        for label, counters in self.counters.items():
            for counter in counters:
                counts = self.counts[id(counter)]
                assert counts == sorted(counts), label
                assert counter.total is None or counts[-1] == counter.total, (label, counts)
        return set(self.counters)
