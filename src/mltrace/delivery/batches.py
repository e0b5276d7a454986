"""What records say to MLflow, in batches within its limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from .._records import APART, Logged, Metric, Record, RunEnded, RunStarted
from .outbox import Delivered


MAX_METRICS, MAX_PARAMS, MAX_TAGS, MAX_ITEMS = 1000, 100, 100, 1000
MAX_BYTES = 800_000  # MLflow's documented limit is 1 MB per request; hosts before it may enforce it


class Item(msgspec.Struct, frozen=True):
    """One param, tag or metric point, and the record that it came with."""

    kind: str
    key: str
    value: str
    metric: Metric | None
    delivered: Any

    @property
    def what(self) -> str:
        """The item in a few words."""
        return f"{self.kind} {self.key!r}"

    def alone(self, uid: str, time: int, experiment: str) -> Record:
        """Return a record of this item alone, for the run *uid* that started in *experiment*."""
        return Logged(
            run=uid,
            time=time,
            params={self.key: self.value} if self.kind == "param" else {},
            metrics=(self.metric,) if self.metric is not None else (),
            tags={self.key: self.value} if self.kind == "tag" else {},
            experiment=experiment,
        )


def items(job: Sequence[Delivered]) -> Iterator[Item]:
    """
    Yield what the records of *job* log, in order; of a param or tag logged twice only what MLflow
    would keep: the first param, the last tag.
    """
    params: set[str] = set()
    tags = {
        key: record
        for _, record in job
        if not isinstance(record, (*APART, RunStarted))
        for key in record.tags
    }
    for delivered in job:
        record = delivered[1]
        if isinstance(record, APART):
            continue
        for key, value in () if isinstance(record, RunEnded) else record.params.items():
            if key not in params:
                params.add(key)
                yield Item("param", key, value, None, delivered)
        if isinstance(record, RunStarted):
            continue  # its tags went with the creation
        for metric in record.metrics:
            yield Item("metric", metric.key, "", metric, delivered)
        for key, value in record.tags.items():
            if tags[key] is record:
                yield Item("tag", key, value, None, delivered)


def batches(found: Iterator[Item]) -> Iterator[list[Item]]:
    """Yield *found* in batches within MLflow's limits."""
    batch: list[Item] = []
    counts = {"metric": 0, "param": 0, "tag": 0}
    limits = {"metric": MAX_METRICS, "param": MAX_PARAMS, "tag": MAX_TAGS}
    size = 0
    for item in found:
        weight = 100 + len(item.key) + (len(item.value) if item.value.isascii() else 4 * len(item.value))
        if (
            counts[item.kind] == limits[item.kind]
            or len(batch) == MAX_ITEMS
            or (batch and size + weight > MAX_BYTES)
        ):
            yield batch
            batch, size, counts = [], 0, dict.fromkeys(counts, 0)
        batch.append(item)
        counts[item.kind] += 1
        size += weight
    if batch:
        yield batch
