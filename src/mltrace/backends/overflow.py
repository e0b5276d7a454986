"""
Records in memory: what the disk does not take at present, until it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Overflow:
    """Lines with their numbers, oldest first; whoever holds it has a lock."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, bytes]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, number: int, line: bytes) -> None:
        """Keep *line* as the latest."""
        self._lines.append((number, line))
        self._bytes += len(line)

    def trim(self, limit: int) -> bool:
        """Drop the latest line if there are more than *limit* bytes; say whether it was."""
        if self._bytes <= limit:
            return False
        _, line = self._lines.pop()
        self._bytes -= len(line)
        return True

    def oldest(self) -> bytes:
        """Return the oldest line."""
        return self._lines[0][1]

    def drop_oldest(self) -> None:
        """Let go of the oldest line: it is whole on disk."""
        _, line = self._lines.popleft()
        self._bytes -= len(line)

    def after(self, number: int) -> list[bytes]:
        """Return the lines with numbers above *number*."""
        return [line for own, line in self._lines if own > number]

    def forget(self, numbers: Iterable[int]) -> None:
        """Let go of the lines with these *numbers*."""
        gone = set(numbers)
        self._lines = deque(item for item in self._lines if item[0] not in gone)
        self._bytes = sum(len(line) for _, line in self._lines)

    def clear(self) -> None:
        """Let go of all."""
        self._lines.clear()
        self._bytes = 0
