"""Ids that a program was given here, in texts for the server."""

from __future__ import annotations

import re

from collections.abc import Callable


_ID = re.compile(r"(?:m-)?[0-9a-f]{32}")


def replace(text: str, server_id: Callable[[str], str | None]) -> str:
    """Return *text* with the server's id in the place of each one that *server_id* knows."""
    return _ID.sub(lambda found: server_id(found[0]) or found[0], text)
