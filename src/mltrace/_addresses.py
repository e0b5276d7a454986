"""Addresses of tracking servers: how they are shown, compared and made the name of a directory."""

from __future__ import annotations

import hashlib
import re

from urllib.parse import urlsplit, urlunsplit


OTLP_SCHEME = "otlp+"
"""What the address of an OpenTelemetry collector begins with; http or https follows."""

BRIDGE = "mltrace+"
"""What stands before a tracking address that MLflow is to reach through the journal: see `mltrace.bridge`."""


def without_bridge(uri: str) -> str:
    """Return the tracking address itself: *uri* without ``mltrace+``."""
    return uri.removeprefix(BRIDGE)


def safe_uri(uri: str) -> str:
    """
    Return *uri* without user, password, query and fragment: the only form that is logged, hashed or
    written.
    """
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:  # half an IPv6 address; a port that is a piece of a password
        parts = None
    if parts is None or has_stray_userinfo(uri):
        return re.sub(r"//.*@", "//", uri, flags=re.DOTALL).partition("?")[0].partition("#")[0]
    if not parts.netloc:
        return uri
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def has_stray_userinfo(uri: str) -> bool:
    """
    Say whether the http(s) address *uri* has an ``@`` beyond its host: a password with a ``/``,
    ``?`` or ``#`` in it is taken for host and path, by every client.
    """
    scheme, _, rest = uri.partition("://")
    return scheme.removeprefix(OTLP_SCHEME) in ("http", "https") and "@" in "".join(
        re.split("([/?#])", rest, maxsplit=1)[1:]
    )


def same_origin(one: str, other: str) -> bool:
    """Say whether two addresses are of one server: equal in scheme, host and port."""
    return urlsplit(safe_uri(one))[:2] == urlsplit(safe_uri(other))[:2]


def destination_id(uri: str) -> str:
    """Return the directory name of the destination *uri*: 16 hex digits."""
    return hashlib.sha256(safe_uri(uri).rstrip("/").encode()).hexdigest()[:16]
