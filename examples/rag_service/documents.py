"""The text of a document, whatever its type, and its chunks."""

import io
import re

from collections.abc import Callable

from bs4 import BeautifulSoup
from docx import Document
from pypdf import PdfReader


class UnreadableDocument(ValueError):
    """A file that is not what its name says, or holds no text; the message is for the user."""


class UnknownType(UnreadableDocument):
    """A file of a type for which there is no reader."""


def read(content: bytes, document_type: str) -> str:
    """Return the text of a file of the type that its suffix says; raise `UnreadableDocument`."""
    reader = READERS.get(document_type)
    if reader is None:
        raise UnknownType(f"{document_type or 'no type'} is not one of {', '.join(READERS)}")
    try:
        text = reader(content)
    except Exception as error:  # each reader has errors of its own
        raise UnreadableDocument(f"not a readable {document_type} file: {error}") from error
    if not re.search(r"\w", text):
        raise UnreadableDocument("there is no text in it")
    return text


def chunks(text: str, max_words: int = 80) -> list[str]:
    """Cut a text into chunks of whole sentences, of at most `max_words` words where sentences allow it."""
    found: list[list[str]] = [[]]
    for sentence in re.split(r"(?<=[.?!])\s+|\n\s*\n", text):
        words = sentence.split()
        if found[-1] and len(found[-1]) + len(words) > max_words:
            found.append([])
        found[-1] += words
    return [" ".join(words) for words in found if words]


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig")


def _html(content: bytes) -> str:
    page = BeautifulSoup(content, "html.parser")
    for hidden in page(["script", "style"]):
        hidden.decompose()
    return page.get_text("\n", strip=True)


def _pdf(content: bytes) -> str:
    return "\n\n".join(page.extract_text() for page in PdfReader(io.BytesIO(content)).pages)


def _docx(content: bytes) -> str:
    return "\n\n".join(paragraph.text for paragraph in Document(io.BytesIO(content)).paragraphs)


READERS: dict[str, Callable[[bytes], str]] = {
    ".txt": _text,
    ".md": _text,
    ".html": _html,
    ".pdf": _pdf,
    ".docx": _docx,
}
