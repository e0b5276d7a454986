"""
What a provider's response or stream says, read from the objects alone: no provider's package is
imported.
"""

from ._assembly import Assembly
from ._reading import forget_extractors, read, register_extractor, snapshot
from ._response import LlmResponse
from ._streams import CLOSES, DRAINS, INNER, is_stream


__all__ = [
    "CLOSES",
    "DRAINS",
    "INNER",
    "Assembly",
    "LlmResponse",
    "forget_extractors",
    "is_stream",
    "read",
    "register_extractor",
    "snapshot",
]
