"""
Ready-made property tests, for a user's decorators and backends.

    from mltrace.testing.contracts import check_logged, check_transparent

    def test_our_decorator():
        check_transparent(audited)
        check_logged(audited, tags={"team": "search"})

Each is a plain function that raises `AssertionError` with a sentence: which law is broken, and the
smallest call that breaks it. Records go nowhere meanwhile.
"""

from ._backend import check_backend
from ._logged import check_logged
from ._transparent import check_transparent


__all__ = ["check_backend", "check_logged", "check_transparent"]
