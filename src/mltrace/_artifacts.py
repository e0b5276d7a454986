"""
What artifacts are made of: a figure's picture, the files below a directory.
"""

from __future__ import annotations

import os

from collections.abc import Iterator
from typing import Any

from . import _guard


def picture(figure: Any, path: str) -> bytes:
    """
    Return a matplotlib or plotly figure as bytes of the format that the suffix of *path* names.
    """
    import io

    suffix = path.rpartition(".")[2].lower()
    if hasattr(figure, "savefig"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix)
        return buffer.getvalue()
    if suffix == "html":
        return str(figure.to_html(include_plotlyjs="cdn")).encode()
    return bytes(figure.to_image(format=suffix))


def files_of(directory: str) -> Iterator[tuple[str, str]]:
    """
    Yield the files below *directory*: their paths as artifacts, which begin with its name, and on
    disk. What is no file is left out, with a warning.
    """
    base = os.path.basename(os.path.normpath(directory))
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            file = os.path.join(folder, name)
            if os.path.isfile(file):
                yield f"{base}/{os.path.relpath(file, directory)}", file
            else:  # a FIFO would be waited for
                _guard.warn_once(f"artifact:{file}", f"log_artifact: {file!r} is not a file; it is left out")
