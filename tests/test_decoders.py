"""Decoders that several threads ask for at once."""

from __future__ import annotations

from tests.harness import run_python


RACE = """
    import sys, threading
    import msgspec
    from typing import Optional
    from mltrace._checks import decoder_of

    sys.setswitchinterval(1e-6)
    for number in range(300):
        inner = msgspec.defstruct("Inner", [("a", int, 0), ("b", Optional[list[int]], None)])
        middle = msgspec.defstruct("Middle", [("x", inner), ("y", Optional[list[inner]], None)])
        outer = msgspec.defstruct("Outer", [("p", middle), ("q", Optional[middle], None)])
        together = threading.Barrier(4)

        def decode():
            together.wait()
            assert decoder_of(outer).decode(b'{"p":{"x":{"a":1},"y":[{"a":2}]}}').p.y[0].a == 2

        threads = [threading.Thread(target=decode) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
"""


def test_the_first_decoders_of_a_structure_do_not_meet() -> None:
    """Threads that decode a structure for the first time at once do not kill the process."""
    run_python(RACE)
