"""
The one place that decides what becomes of an internal error: logged once per cause, or raised in
strict mode.

User code never sees a failure of its instrumentation. `structlog` is imported with the first
message, and bound to the stdlib logger ``mltrace`` with processors of its own: the program's global
structlog configuration is neither read nor changed.
"""

from __future__ import annotations

import os
import threading

from collections.abc import Callable, MutableMapping
from typing import Any

from ._redaction import Redactor, shown
from .exceptions import LoggingError, MltraceError


strict = False
"""Whether errors are raised; owned by `mltrace.configure(strict=)`."""

_REDACTOR = Redactor()
_logger: Any = None
_said: set[str] = set()
_errors: dict[str, int] = {}
_lock = threading.RLock()

importing = threading.RLock()
"""
Held while mltrace imports something late. A fork waits for it: a child that was made in the middle
of an import of another thread would wait for ever for that module.
"""


def logger() -> Any:
    """Return the bound logger of mltrace, made on first use."""
    global _logger
    if _logger is None:
        with importing:
            import logging

            import structlog

        _logger = structlog.wrap_logger(
            logging.getLogger("mltrace"),
            processors=[
                structlog.stdlib.filter_by_level,
                _render,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
            context_class=dict,
            cache_logger_on_first_use=False,
        )
    return _logger


def _render(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    """
    Return a message as one line: the sentence, then the details, which others may have written:
    without what looks like a secret, and with control characters escaped.
    """
    details = ", ".join(f"{key}={value}" for key, value in event.items() if key not in ("event", "exception"))
    return shown(_REDACTOR.text(f"{event['event']} ({details})" if details else str(event["event"])))


def warn_once(cause: str, message: str, /, **fields: Any) -> None:
    """
    Log *message* as a warning the first time *cause* turns up in this process, and at no later
    time.
    """
    with _lock:
        if cause in _said:
            return
        _said.add(cause)
    try:
        logger().warning(message, **fields)
    except Exception:
        # No descriptors to import structlog with, a user's handler that raises: said later, never
        # raised.
        _said.discard(cause)


def forget(cause: str) -> None:
    """Let *cause* be said again: the condition has gone, and its return is news."""
    _said.discard(cause)


def internal_error(where: str, error: Exception, hide: Callable[[str], str] | None = None) -> None:
    """
    Account for *error*, raised by mltrace itself in *where*: raise it in strict mode, else log its
    first occurrence there.

    Its text may quote a value of the program's, and that may be a secret: *hide* removes those of
    the run it belongs to. Without it the text of mltrace's and the system's own errors is logged
    alone.
    """
    if strict:
        raise error
    with _lock:
        _errors[where] = _errors.get(where, 0) + 1
    warn_once(
        f"internal:{where}:{type(error).__name__}",
        f"mltrace failed in {where}; your program goes on",
        error=_describe(error, hide),
    )


def _describe(error: Exception, hide: Callable[[str], str] | None) -> str:
    """Return the type of *error*, where it was raised, and of its text what may be shown."""
    if hide is not None:
        said = hide(str(error))[:500]
    else:
        said = (
            (isinstance(error, OSError) and error.strerror)
            or (isinstance(error, MltraceError) and str(error))
            or ""
        )
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code if place is not None else None
    where = f" at {os.path.basename(code.co_filename)}:{place.tb_lineno}" if code and place else ""
    return f"{type(error).__name__}{where}{f': {said}' if said else ''}"


def misuse(cause: str, message: str, /) -> None:
    """
    Report a use that records nothing or not what was asked for: raised as `LoggingError` in strict
    mode, else warned of once.
    """
    if strict:
        raise LoggingError(message)
    warn_once(cause, message)


def errors() -> dict[str, int]:
    """Return how often mltrace itself failed in this process, by place."""
    return dict(_errors)


def _after_fork_in_child() -> None:
    """Replace the locks, which other threads may have held."""
    global _lock, importing
    _lock, importing = threading.RLock(), threading.RLock()


os.register_at_fork(
    before=lambda: importing.acquire(),
    after_in_parent=lambda: importing.release(),
    after_in_child=_after_fork_in_child,
)


def isolate() -> Callable[[], None]:
    """
    Begin as if nothing had been said or counted, until the returned function is called, which
    makes everything as it was: for tests.
    """
    before = (strict, set(_said), dict(_errors))

    def restore() -> None:
        global strict
        strict = before[0]
        for present, saved in ((_said, before[1]), (_errors, before[2])):
            present.clear()
            present.update(saved)  # type: ignore[arg-type] # each with its own kind

    _said.clear()
    _errors.clear()
    return restore


def reset() -> None:
    """Forget what was said and counted: for tests."""
    global strict
    strict = False
    _said.clear()
    _errors.clear()
