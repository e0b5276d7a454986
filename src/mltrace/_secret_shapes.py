"""
What secrets look like, and what they are called: the tables behind `_redaction`.

Names are compared word by word. Shapes are one regular expression, and the search takes time in
proportion to the text, whatever the text is: no part of it can begin in the middle of what it may
run through, and what comes before a part's first fixed letters is bounded.
"""

from __future__ import annotations

import functools
import itertools
import re
import string

from collections.abc import Callable


_Search = Callable[[str], "re.Match[str] | None"]

# Names.

WORD_EDGE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A name that has one of these is a secret's, unless it ends with what is only about one.
_ANYWHERE = _words(
    "password passwords passwd pwd passphrase passphrases passcode passcodes authorization cookie cookies credential credentials dsn"
)
_ABOUT = _words("length len policy policies required strength attempts enabled count expiry field fields")

# A name that ends with one of these is one, unless it counts them.
_AT_THE_END = tuple(
    words.split("_")
    for words in [
        "secret",
        "secrets",
        "apikey",
        "apikeys",
        "api_key",
        "api_keys",
        "private_key",
        "access_key",
        "access_keys",
        "secret_key",
        "signing_key",
        "encryption_key",
        "auth_key",
        "account_key",
        "ssh_key",
        "master_key",
        "deploy_key",
        "service_key",
        "subscription_key",
        "storage_key",
        "connection_string",
        "conn_str",
        "connection_str",
        "bearer",
        "jwt",
        "auth",
        "otp",
        "totp",
        "pswd",
        "pw",
        "passkey",
        "private_pem",
        "sas_url",
    ]
)
_COUNTS = _words("n num number count max min total has is use uses requires needs no")
_SECRET_WHAT = _words("access key token value text string bytes")
_FORMS = _words("value string str text raw plain plaintext base64 b64 bytes encoded")  # of what comes before

# Tokens of a text, a page or a vocabulary are no secrets, and neither are counts of them.
_TEXT_TOKENS = _words("""
    eos bos pad padding unk unknown sep separator cls class mask stop next prev previous current new last first page special
    per start end begin image audio video text word subword char input output prompt max min num n total oov blank placeholder
    trigger initializer initial prefix suffix middle lang language source src target tgt label yes no answer question
    register dist distillation pooled split delimiter newline whitespace fim decoder encoder draft accepted rejected sampled
    predicted generated tool call role turn system user assistant image2 vision patch control added additional single each
    every any other common rare key query top best
""")
_LOGIN_TOKENS = _words("access refresh auth api bearer security secret csrf xsrf personal")
_LOGINS = _words(
    "smtp db database user usr mysql postgres pg ftp proxy email mail admin root ssh redis mongo ldap imap"
)


def words_of(name: str) -> str:
    """Return *name* in lower case, its words joined by ``_``."""
    return WORD_EDGE.sub("_", name).lower().strip("_")


def is_secret_name(name: str) -> bool:
    """Say whether a value of this name, as `words_of` writes it, is a secret."""
    words = [word.rstrip("0123456789") or word for word in name.split("_")]
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    last = words[-1]
    if not _ANYWHERE.isdisjoint(words):
        return last not in _ABOUT
    if words[0] in _COUNTS:
        return False
    if any(words[-len(end) :] == end for end in _AT_THE_END):
        return True
    while len(words) > 1 and last in _FORMS:
        words.pop()
        last = words[-1]
    before = words[-2] if len(words) > 1 else ""
    return (
        any(words[-len(end) :] == end for end in _AT_THE_END)
        or any(pair[0] == "secret" and pair[1] in _SECRET_WHAT for pair in itertools.pairwise(words))
        or (last == "token" and before not in _TEXT_TOKENS)
        or (last == "tokens" and before in _LOGIN_TOKENS)
        or (last == "pass" and before in _LOGINS)
    )


# Shapes.

# Not in the middle of a word; what a quoted text has before it may look like one (``\\n``, ``%20``).
_QUOTED = r"(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2})"
_START = rf"(?:(?<![A-Za-z0-9_\-])|{_QUOTED})"
_WORD = rf"(?:(?<![A-Za-z0-9])|{_QUOTED})"

# What a provider puts before its keys; what follows is long.
_PREFIXES = r"""
    (?: gsk_ | r8_ | hf_ | api_org_ | fw_ | jina_ | e2b_ | npm_ | ntn_ | sbp_ | phx_ | glc_ | pplx- | csk- | PMAK- | NRAK- | tvly-
      | gh[oprsu]_ | [spr]k_(?:live|test)_ | shp(?:at|ss|ca|pa)_ | do[opr]_v1_ | AGE-SECRET-KEY-1 )[A-Za-z0-9]{16}
    | (?: sk-(?:proj|ant|or|svcacct|admin|lf|live|test)- | xai- | nvapi- | tgp_v1_ | pcsk_ | lsv2_(?:pt|sk)_ | wandb_v1_
      | github_pat_ | gl(?:pat|dt|rt|ptt|cbt|soat|ft)- | pypi- | rubygems_ | dckr_pat_ | xox[abeoprs]- | xoxe\.xox[bp]- | xapp- | whsec_
      | xkeysib- | lin_api_ | figd_ | hv[sbr]\. | glsa_ | sntry[su]_ | ATATT3 | ATCTT3 | GOCSPX- | ya29\. )[A-Za-z0-9_\-]{16}
    | (?: IQoJb3JpZ2lu | FwoGZXIvYXdz )[A-Za-z0-9/+]{16}
"""
_KEYS = r"""
    sk-(?:[A-Za-z0-9]{20,}|(?=[A-Za-z_\-]{0,60}[0-9])[A-Za-z0-9_\-]{16,})
    | dapi[0-9a-f]{16,}
    | (?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![A-Za-z0-9])
    | AIza[0-9A-Za-z_\-]{30,}
    | SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}
    | key-[0-9a-f]{32}
    | pat[A-Za-z0-9]{14}\.[0-9a-f]{32,}
    | [0-9]{8,10}:AA[A-Za-z0-9_\-]{30,}
    | [A-Za-z0-9_~.]{3}[78]Q~[A-Za-z0-9_~.\-]{30,}
    | [MNO][A-Za-z0-9]{23,25}\.[A-Za-z0-9_\-]{6}\.[A-Za-z0-9_\-]{27,}
    | eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*
"""
# A value in quotes is hidden to its end, whatever it holds.
_VALUE = r"""(?:(?<=")(?:[^"\\\n]|\\.){3,500}(?=")|(?<=')(?:[^'\\\n]|\\.){3,500}(?=')|[^\s&,;"']{3,})"""
_NAMED = r"(?:passw(?:or)?d|pwd|passphrase|api[_\-]?key|secret|access[_\-]?key|account[_\-]?key|sharedaccesskey|(?:access|auth|refresh|session|id|bot)[_\-]?token)"

_SHAPES = rf"""(?xs)
      {_START}(?:(?:{_PREFIXES})[A-Za-z0-9_\-./+=]*|{_KEYS})
    | -----BEGIN[ ][A-Z ]{{0,40}}PRIVATE[ ]KEY(?:[ ]BLOCK)?-----.*?(?:-----END[ ][A-Z ]{{0,40}}PRIVATE[ ]KEY(?:[ ]BLOCK)?-----|\Z)
    | (?P<scheme>{_WORD}(?:(?i:bearer)\s{{1,3}}(?=\S{{0,200}}[0-9._\-])|(?i:basic)\s{{1,3}}(?=[A-Za-z0-9+/]{{0,200}}[0-9=])
        |(?i:authorization["']?\s{{0,3}}[:=]\s{{0,3}}["']?(?:token|apikey|negotiate)?\s{{0,3}})(?=\S{{0,200}}[0-9._\-])(?!(?i:bearer|basic)\s)))
        [A-Za-z0-9+/=_\-.~]{{8,}}
    | (?P<cookie>{_WORD}(?i:(?:set-)?cookie)["']?\s{{0,3}}:\s{{0,3}}["']?)(?=[^\s=;"']{{1,60}}=)[^\r\n"']{{4,}}
    | (?P<url>(?<![A-Za-z0-9+.\-])[A-Za-z][A-Za-z0-9+.\-]{{0,30}}://)
        (?:[^\s/@:"'<>]{{0,200}}:(?![0-9]{{1,5}}(?:[/?#]|\Z))[^\s"'<>]{{1,300}}|[A-Za-z0-9_\-.]{{20,200}})@
    | (?P<hook>(?i:hooks\.slack\.com/services/|discord(?:app)?\.com/api/webhooks/))[A-Za-z0-9_\-/]{{20,}}
    | (?P<query>(?<=[?&])(?i:token|sig|signature|x-amz-signature|x-amz-security-token|x-goog-signature)=)[^\s&\#"']{{8,}}
    | (?P<variable>{_WORD}[A-Z][A-Z0-9_]{{0,60}}_TOKEN=)(?=[A-Za-z_\-.]{{0,200}}[0-9])[A-Za-z0-9_\-.]{{8,}}
    | (?P<pair>(?i:{_NAMED}["']?\s{{0,3}}(?:=|(?<=["']):|(?<=["'][ ]):|:(?=\s{{0,3}}["']?[^\s&,;"']{{0,100}}[0-9_\-+/=!@\#$%^*]))\s{{0,3}}["']?))
        (?!\[redacted\]){_VALUE}
    """

SHORTEST = 10
"""The shortest text that one of the shapes can take: most arguments are shorter and skip the search."""

# Most texts hold none. Whether one may is told at a fraction of the cost, by what a shape cannot do without.


def _behind(word: str, *before: str) -> str:
    """Return an expression for *word* right behind one of *before*, which begins with the word for all that."""
    return f"{word}(?:{'|'.join(rf'(?<={one}{word})|(?<={one}[_-]{word})' for one in before)})"


_SAID = r"""["']?\s{0,3}[=:]"""
# In a text in lower case, by a character that the text has to hold (a search for one costs nothing beside the rest). Each
# begins with fixed letters: an expression that does is searched for ten times as fast as a choice of several.
_HINTS = {
    "a": (
        r"bearer\s{1,3}(?=\S{0,200}[0-9._\-])[a-z0-9+/=_\-.~]{8}",
        r"basic\s{1,3}(?=[a-z0-9+/]{0,200}[0-9=])[a-z0-9+/=_\-.~]{8}",
    ),
    "-": (r"-----begin",),
    "z": (rf"authorization{_SAID}",),
    "=": (r"_token=", r"[?&](?:token|sig|x-)"),
    "@": (r"://\S{0,600}@",),
    "/": (r"hooks(?:/|\.slack\.com/services/)",),
}  # fmt: skip
# The same, of names before a ``=`` or ``:``.
_NAMED_HINTS = (
    rf"passw(?:or)?d{_SAID}",
    rf"pwd{_SAID}",
    rf"passphrase{_SAID}",
    rf"secret{_SAID}",
    _behind("key", "api", "access", "account") + _SAID,
    _behind("token", "access", "auth", "refresh", "session", "id", "bot") + _SAID,
    rf"cookie{_SAID}",
)
_NAME_ENDS = ("password", "passwd", "pwd", "passphrase", "secret", "key", "token", "cookie")
_NAME_LENGTH = 20  # with a quote and spaces behind it
_RARE = 400  # characters for one such sign: of a text with more it is cheaper to search for the names
# As if by case the same: `re` finds these for ``s`` and ``i``, and `str.lower` leaves them, or takes two for one.
_FOLDED = (("ſ", "s"), ("ı", "i"), ("i\u0307", "i"))

# Of a provider's key: a run of letters, digits, - and _ of this length, or one of the beginnings that others may follow too,
# by the rarest of their letters.
_RUN = b"x" * 16
_OF_KEYS = f"{string.ascii_letters}{string.digits}_-".encode()
_AS_RUN = bytes(_RUN[0] if code in _OF_KEYS else ord(" ") for code in range(256))
_BEGINNINGS = (("J", "eyJ"), ("~", "Q~"), ("J", "IQoJb3JpZ2lu"), ("X", "FwoGZXIvYXdz"))
_KEY = rf"{_START}(?:{_PREFIXES}|{_KEYS})"
# A key may have begun that long before its first run, or behind what a quoted text has before it.
_BEFORE, _BEHIND = 20, 2
_KEY_THERE = rf"(?xs).{{0,{_BEFORE + _BEHIND}}}?{_KEY}"
_KEY_SOMEWHERE = rf"(?x){_KEY}"


def may_hold_secret(text: str) -> bool:
    """Say whether it is worth while to search *text* for `secret_text`: never no where that is in it."""
    lowered = text.lower()
    if not text.isascii():
        for character, folded in _FOLDED:
            lowered = lowered.replace(character, folded)
    for character, searches in _searches():
        if character in lowered:
            for search in searches:
                if search(lowered) is not None:
                    return True
    if _may_name(lowered):
        for search in _named_searches():
            if search(lowered) is not None:
                return True
    return len(text) >= len(_RUN) and _may_hold_key(text)


def _may_name(lowered: str) -> bool:
    """
    Say whether one of `_NAMED_HINTS` is worth a search: what is before each ``=`` and ``:`` tells, unless
    there are many.
    """
    left = len(lowered) // _RARE + 4
    for sign in "=:":
        place = lowered.find(sign)
        while place >= 0:
            before = lowered[max(place - _NAME_LENGTH, 0) : place].rstrip()
            if left == 0 or before.rstrip("\"'").endswith(_NAME_ENDS):
                return True
            left -= 1
            place = lowered.find(sign, place + 1)
    return False


def _may_hold_key(text: str) -> bool:
    runs = text.encode("ascii", "replace").translate(_AS_RUN)
    start = runs.find(_RUN)
    while start >= 0:
        if _compiled(_KEY_THERE).match(text, max(start - _BEFORE, 0)) is not None:
            return True
        end = runs.find(b" ", start)
        start = runs.find(_RUN, end) if end >= 0 else -1
    for letter, beginning in _BEGINNINGS:
        if letter in text and beginning in text:
            return _compiled(_KEY_SOMEWHERE).search(text) is not None
    return False


def secret_text() -> re.Pattern[str]:
    """Return the expression for a secret in a text; see `shown_part` and `hidden_part`."""
    return _compiled(_SHAPES)


@functools.cache
def _searches() -> list[tuple[str, list[_Search]]]:
    """Return `_HINTS`, ready to be searched for."""
    return [(character, [re.compile(hint).search for hint in hints]) for character, hints in _HINTS.items()]


@functools.cache
def _named_searches() -> list[_Search]:
    """Return `_NAMED_HINTS`, ready to be searched for."""
    return [re.compile(hint).search for hint in _NAMED_HINTS]


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # With the first text, not with the import: it takes milliseconds.
    return re.compile(pattern)


def shown_part(match: re.Match[str]) -> str:
    """Return the part of a match that says what was there, and stays."""
    return match[match.lastgroup] if match.lastgroup else ""


def hidden_part(match: re.Match[str]) -> str:
    """Return the secret of a match: of an address the password."""
    hidden = match[0][len(shown_part(match)) :]
    return hidden[:-1].partition(":")[2] or hidden[:-1] if match.lastgroup == "url" else hidden
