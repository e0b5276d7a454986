"""One local server with the providers' replies for all tests of clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .server import ProviderServer


@pytest.fixture(name="provider", scope="session")
def _provider() -> Iterator[ProviderServer]:
    server = ProviderServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _as_new(provider: ProviderServer) -> None:
    """Let no test see what another has asked for."""
    provider.reset()
