"""
Secrets are removed here, before anything reaches the disk or the network.

Two rules, both on by default: a value under a secret's *name* (``password``, ``api_key``,
``hf_token``, …) is hidden whole, and text of a secret's *shape* (provider keys, bearer tokens,
JWTs, private-key blocks, ``user:password@`` in addresses, ``password=…``) is hidden where it
stands. Names are compared word by word, so that ``max_tokens``, ``tokenizer`` and
``secret_santa_model`` stay readable.

The user's hook runs after the rules; one that raises hides the value (closed, not open).
"""

from __future__ import annotations

import re

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any


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

_WORD_EDGE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")
_SECRET_NAME = re.compile(
    r"""(?x)
    (?:^|_)
      (?:password|passwd|pwd|passphrase|passcode|authorization|cookies?|credentials?|dsn)\d*
    (?:_|$)
    | (?:^|_)
      (?:secrets?|apikey|api_keys?|private_key|access_key|secret_key|signing_key|encryption_key|auth_key
        |account_key|ssh_key|connection_string|bearer|jwt|auth)\d*
    $
    | (?:^|_)secret_(?:access|key|token|value|text|string)(?:_|$)
    | ^(?:.*_)?
      # Tokens of a text or a page are no secrets, and neither are counts of them.
      (?<!eos_)(?<!bos_)(?<!pad_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)(?<!stop_)(?<!next_)(?<!page_)
      (?<!special_)(?<!first_)(?<!last_)(?<!per_)(?<!start_)(?<!end_)(?<!image_)(?<!audio_)
      token\d*$
    """
)
# No part of a shape can begin in the middle of what it may run through, and none is unbounded
# before
# its first fixed letter: the search takes time in proportion to the text, whatever the text is.
_SECRET_TEXT = re.compile(
    r"""(?x)
      (?<![A-Za-z0-9_\-])
      (?: sk-[A-Za-z0-9_\-]{16,}
        | (?:gh[oprsu]_|github_pat_|glpat-|hf_|xox[abprs]-|pypi-|npm_|dapi|gsk_|r8_|nvapi-)[A-Za-z0-9_\-]{16,}
        | (?:AKIA|ASIA)[0-9A-Z]{16}\b
        | AIza[0-9A-Za-z_\-]{30,}
        | eyJ[\w\-]{8,}\.[\w\-]{8,}\.[\w\-]*
      )
    | -----BEGIN[ ][A-Z ]{0,40}PRIVATE[ ]KEY-----(?:.|\n)*?(?:-----END[ ][A-Z ]{0,40}PRIVATE[ ]KEY-----|\Z)
    | (?P<scheme>\b(?:(?i:bearer)\s{1,3}(?=\S{0,200}[0-9._\-])|(?i:basic)\s{1,3}(?=[A-Za-z0-9+/]{0,200}[0-9=])))
        [A-Za-z0-9+/=_\-.~]{8,}
    | (?P<url>(?<![A-Za-z0-9+.\-])[A-Za-z][A-Za-z0-9+.\-]{0,30}://)[^\s/@:]{0,200}:[^\s/]{1,500}@
    | (?P<pair>(?i:(?:password|passwd|pwd|api[_\-]?key|secret|access[_\-]?key|access[_\-]?token|auth[_\-]?token)
        ["']?\s{0,3}[=:]\s{0,3}["']?))(?!\[redacted\])[^\s&,;"']{3,}
    """
)
_SHORTEST = 10  # the shortest text that one of the shapes above can take: most arguments are shorter and skip the search


def _hide(match: re.Match[str]) -> str:
    """Keep the part of a match that says what was there."""
    kept = match["scheme"] or match["url"] or match["pair"] or ""
    return f"{kept}{MASK}{'@' if match['url'] else ''}"


class Redactor:
    """
    The rules in force: the built-in ones, more secret *names* (compared whole, ignoring case and
    punctuation), and the user's *hook*.
    """

    def __init__(
        self, names: Iterable[str] = (), hook: RedactHook | None = None, *, builtin: bool = True
    ) -> None:
        self._names = frozenset(_WORD_EDGE.sub("_", name).lower().strip("_") for name in names)
        self.hook = hook
        self._builtin = builtin
        self.is_secret_name: Callable[[str], bool] = lru_cache(maxsize=4096)(self._is_secret_name)
        """
        Say whether a value of this name is hidden whole; asked for every argument, so the answer is
        kept.
        """

    def _is_secret_name(self, name: str) -> bool:
        words = _WORD_EDGE.sub("_", name).lower().strip("_")
        return words in self._names or (self._builtin and _SECRET_NAME.search(words) is not None)

    def text(self, text: str, known: Iterable[str] = ()) -> str:
        """Return *text* without secrets: by shape, and the *known* secret values of the run."""
        for secret in known:
            if secret in text:
                text = text.replace(secret, MASK)
        if self._builtin and len(text) >= _SHORTEST:
            return _SECRET_TEXT.sub(_hide, text)
        return text

    def hooked(self, name: str, value: Any) -> Any:
        """Return what the user's hook makes of *value*; `MASK` if it raises."""
        if self.hook is None:
            return value
        try:
            return self.hook(name, value)
        except Exception:
            return MASK
