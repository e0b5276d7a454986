"""Somebody who waits for delivery, in a thread of the program's."""

from __future__ import annotations

import threading


class Waiter:
    """
    Somebody who waits for the records up to number *target*, of run *uid* or of all; an impatient
    one leaves when an attempt fails.
    """

    def __init__(self, uid: str | None, target: int, *, patient: bool) -> None:
        self.uid = uid
        self.target = target
        self.event = threading.Event()
        self.in_vain = False
        self._patient = patient
        self._before: tuple[int, int] | None = None

    def is_in_vain(self, gave_up: tuple[int, int]) -> bool:
        """
        Say whether an attempt made since the wait began failed in a way that ends it; *gave_up*
        counts pauses, and suspensions among them.
        """
        if self._before is None:
            self._before = gave_up
        return gave_up[1] > self._before[1] or (not self._patient and gave_up[0] > self._before[0])

    def give_up(self) -> None:
        """Let the waiting thread go, empty-handed."""
        self.in_vain = True
        self.event.set()
