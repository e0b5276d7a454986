"""
Reading runs back: what a tracking server holds, for those whose work it is to look.

Nothing here is on a caller's path or a sender's: methods block, raise `DeliveryError`, and change
nothing on the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Union

import msgspec

from .. import _guard
from ..exceptions import ConfigurationError
from .destination import Reachability, Suspended


PAGE = 50
"""Runs of one answer: with every param and tag full, 50 are within what an answer may have."""


class FoundRun(msgspec.Struct, frozen=True):
    """
    A run as the server has it. *run_id* is MLflow's; times are wall-clock milliseconds, *end_time*
    None while it is open; *metrics* has each key's last value.
    """

    run_id: str
    name: str
    status: str
    start_time: int
    artifact_uri: str = ""
    end_time: Union[int, None] = None
    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}


class Reader(Protocol):
    """A tracking server or store that is read."""

    def probe(self) -> Reachability:
        """Ask whether it can be used now."""

    def experiment_id(self, name: str) -> Union[str, None]:
        """Return the id of the experiment *name*; None where there is none, or it is deleted."""

    def read_runs(
        self, experiment_id: str, condition: str, most: Union[int, None] = None
    ) -> Iterator[FoundRun]:
        """
        Yield the active runs of an experiment for which *condition*, MLflow's filter, holds: those
        that began last first, *most* of them.
        """

    def read_artifact(self, run: FoundRun, path: str) -> bytes:
        """Return an artifact of *run*."""

    def close(self) -> None:
        """Close the calling thread's connection."""


def open_reader(uri: str) -> Reader:
    """Return the reader of a tracking address; see `mltrace.delivery.connect`."""
    try:
        with _guard.importing:
            if uri.startswith(("http://", "https://")):
                from .rest_reading import RestReader

                return RestReader(uri)
            from .sdk_reading import SdkReader
    except ConfigurationError as error:
        raise Suspended(str(error)) from None
    except ImportError as error:
        scheme = uri.partition(":")[0]
        raise Suspended(
            f"tracking address {scheme}:… needs MLflow's client ({error}); install mltrace-mlflow[mlflow], or use an http(s) address"
        ) from None
    return SdkReader(uri)
