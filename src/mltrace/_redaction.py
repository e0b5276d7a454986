"""
Secrets are removed here, before anything reaches the disk or the network.

Three rules, all on by default. A value under a secret's *name* (``password``, ``api_key``,
``hf_token``, …) is hidden whole; so is one whose type says that it is a secret
(`pydantic.SecretStr`, ``Annotated[str, mltrace.Redact]``); and text of a secret's *shape* (provider
keys, bearer tokens, JWTs, private-key blocks, ``user:password@`` in addresses, ``password=…``) is
hidden where it stands. Names are compared word by word, so that ``max_tokens``, ``tokenizer`` and
``secret_santa_model`` stay readable. What was hidden once is hidden in the other texts of the run
too, in the forms in which programs quote it.

The user's hook runs after the rules; one that raises hides the value (closed, not open).
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
import urllib.parse

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from ._secret_shapes import (
    SHORTEST,
    hidden_part,
    is_secret_name,
    may_hold_secret,
    secret_text,
    shown_part,
    words_of,
)
from ._texts import clean_text


MASK = "[redacted]"


def shown(text: str) -> str:
    """
    Return *text* as a log or a terminal may show it: control characters escaped, so that what a
    server says neither forges a line nor moves a cursor.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


RedactHook = Callable[[str, Any], Any]


class Redact:
    """
    Marks what is never recorded: ``def login(user: str, pin: Annotated[str, mltrace.Redact])``.

    Counts for arguments and return values of decorated functions and for the fields of dataclasses,
    pydantic models, attrs classes and msgspec structs; anywhere inside an annotation
    (``list[Annotated[str, Redact]] | None``) it hides the whole value. MLflow holds ``[redacted]``
    in the value's place.
    """


class Redactor:
    """
    The rules in force: the built-in ones, more secret *names* (compared whole, ignoring case and
    punctuation), and the user's *hook*.
    """

    def __init__(
        self, names: Iterable[str] = (), hook: RedactHook | None = None, *, builtin: bool = True
    ) -> None:
        self._names = frozenset(words_of(name) for name in names)
        self.hook = hook
        self._builtin = builtin
        self.is_secret_name: Callable[[str], bool] = lru_cache(maxsize=4096)(self._is_secret_name)
        """
        Say whether a value of this name is hidden whole; asked for every argument, so the answer is
        kept.
        """

    def _is_secret_name(self, name: str) -> bool:
        words = words_of(name[:_NAME])
        return words in self._names or (self._builtin and is_secret_name(words))

    def text(self, text: str, known: Iterable[str] = (), learn: list[str] | None = None) -> str:
        """
        Return *text* without secrets: by shape, and the *known* secret values of the run. What is
        found by its shape is added to *learn*.
        """
        for secret in known:
            if secret in text:
                text = text.replace(secret, MASK)
        if not self._builtin or len(text) < SHORTEST or not may_hold_secret(text):
            return text
        if learn is None:
            return secret_text().sub(_hide, text)
        found: list[str] = []

        def hide(match: re.Match[str]) -> str:
            found.append(hidden_part(match))
            return _hide(match)

        text = secret_text().sub(hide, text)
        for secret in found:
            if len(secret) >= _LEARNED:
                remember(secret, learn)
        return text

    def hooked(self, name: str, value: Any) -> Any:
        """Return what the user's hook makes of *value*; `MASK` if it raises."""
        if self.hook is None:
            return value
        try:
            return self.hook(name, value)
        except Exception:
            return MASK


_NAME = 250  # characters of a name that are looked at
_WORTH_HIDING = 6  # shorter ones would blot out ordinary words
_LEARNED = 8  # the same, for what only looks like a secret
_LONGEST = 10_000
_MOST = 2_000  # secrets of one run: each text is searched for each of them


def _hide(match: re.Match[str]) -> str:
    return f"{shown_part(match)}{MASK}{'@' if match.lastgroup == 'url' else ''}"


def remember(secret: str, secrets: list[str]) -> None:
    """Add a secret to those of a run, in the forms in which programs quote it."""
    if not _WORTH_HIDING <= len(secret) <= _LONGEST or len(secrets) >= _MOST or secret == MASK:
        return
    for form in _quoted(secret):
        if form not in secrets:
            secrets.append(form)
    # What follows the scheme of a header's value is a secret of its own.
    scheme, _, rest = secret.partition(" ")
    if scheme.lower() in ("bearer", "basic", "token", "apikey"):
        remember(rest.strip(), secrets)


def _quoted(secret: str) -> list[str]:
    """Return a text as it stands, as Python and JSON write it, and as addresses do; longer forms first."""
    if secret.isalnum() and secret.isascii():
        return [secret]
    both = """'\""""  # beside both, Python escapes the quotes within
    python = {repr(secret)[1:-1], repr(secret + both)[1:-4]}
    forms = {secret, *python}
    forms |= {
        json.dumps(form, ensure_ascii=escaped)[1:-1]
        for form in (secret, *python)
        for escaped in (True, False)
    }
    quoted = secret.encode("utf-8", "surrogatepass")
    forms |= {
        urllib.parse.quote(quoted, safe=""),
        urllib.parse.quote(quoted),
        urllib.parse.quote_plus(quoted),
    }
    return sorted({*forms, *map(clean_text, forms)}, key=len, reverse=True)


# What annotations say.


def marked_names(owners: Sequence[Any]) -> frozenset[str]:
    """
    Return the names that the annotations of a function, or of the classes *owners*, mark with
    `Redact`. One that cannot be resolved counts where it has that word.
    """
    marked: set[str] = set()
    for owner in owners:
        annotations = _annotations(owner)
        scope = getattr(owner, "__globals__", None) or vars(
            sys.modules.get(getattr(owner, "__module__", ""), sys)
        )
        marked |= {name for name, annotation in annotations.items() if _is_marked(annotation, scope, 0)}
    return frozenset(marked)


def _annotations(owner: Any) -> dict[str, Any]:
    try:
        return dict(inspect.get_annotations(owner))
    except Exception:
        return {}


def _is_marked(annotation: Any, scope: dict[str, Any], depth: int) -> bool:
    if annotation is Redact or isinstance(annotation, Redact):
        return True
    text = annotation.__forward_arg__ if isinstance(annotation, typing.ForwardRef) else annotation
    if isinstance(text, str):
        try:
            return depth < _DEPTH and _is_marked(eval(text, scope), scope, depth + 1)  # noqa: S307 # as typing.get_type_hints does
        except Exception:
            return "Redact" in text
    inner = (*typing.get_args(annotation), *getattr(annotation, "__metadata__", ()))
    return depth < _DEPTH and any(_is_marked(part, scope, depth + 1) for part in inner)


_DEPTH = 8
