"""``mltrace dead``: what the server refused for good, and what to do with it."""

from __future__ import annotations

import sys

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Union

import msgspec
import typer

from rich.table import Column, Table

from .._addresses import safe_uri
from .._spool import DestinationDirectory
from .._survey import all_destinations
from ..delivery.letters import Letter, as_document, discard, read_office, requeue
from . import words


app = typer.Typer(
    help="What the server refused for good: look, send again, or give up.", no_args_is_help=True
)

Ids = Annotated[
    Union[list[str], None], typer.Argument(help="Ids as `mltrace dead list` shows them, or their beginnings.")
]
All = Annotated[bool, typer.Option("--all", help="All dead letters of all destinations.")]

Found = tuple[DestinationDirectory, Letter]


@app.command(name="list")
def list_letters(as_json: words.AsJson = False) -> None:
    """List the dead letters, oldest first, with the reason."""
    found = _letters()
    if as_json:
        words.print_json([_document(each) for each in found])
        return
    if not found:
        words.out.print("There are no dead letters.")
        return
    columns = (Column("id", no_wrap=True), Column("when", no_wrap=True), "run", "what", "reason")
    table = Table(*columns, box=None, pad_edge=False)
    for _, letter in found:
        table.add_row(letter.id, words.age(letter.time), letter.run[:8], letter.what, letter.reason)
    words.out.print(table)


@app.command()
def show(
    identity: Annotated[str, typer.Argument(metavar="ID", help="The letter's id, or the beginning of it.")],
    as_json: words.AsJson = False,
) -> None:
    """Show one dead letter whole: what was refused, why, and the record that would be sent again."""
    (each,) = _chosen([identity], everything=False)
    if as_json:
        words.print_json(_document(each))
        return
    for name, value in _document(each).items():
        shown = words.when(value) if name == "time" else value
        if isinstance(value, dict):
            shown = msgspec.json.encode(value).decode()
        words.out.print(f"{name}: {shown}", markup=False)


@app.command(name="requeue")
def requeue_letters(ids: Ids = None, everything: All = False, as_json: words.AsJson = False) -> None:
    """Send dead letters again: after a run was restored, a limit raised, a server repaired."""
    count = _each_destination(_chosen(ids, everything=everything), requeue)
    _say(count, "requeued", "put into the spool again; `mltrace sync` sends them", as_json=as_json)


@app.command(name="discard")
def discard_letters(ids: Ids = None, everything: All = False, as_json: words.AsJson = False) -> None:
    """Give dead letters up. They are counted as dropped; `mltrace dead export` keeps a copy before."""
    count = _each_destination(_chosen(ids, everything=everything), discard)
    _say(count, "discarded", "given up", as_json=as_json)


@app.command()
def export(
    output: Annotated[
        Union[Path, None], typer.Option(help="File to write, which must not exist (stdout).")
    ] = None,
) -> None:
    """Write all dead letters as JSON lines."""
    lines = b"".join(msgspec.json.encode(_document(each)) + b"\n" for each in _letters())
    if output is None:
        sys.stdout.write(lines.decode())
        return
    try:
        with output.open("xb") as file:
            file.write(lines)
    except OSError as error:
        words.err.print(f"mltrace: {output} cannot be written: {error}", markup=False)
        raise typer.Exit(1) from None


def _letters() -> list[Found]:
    found = [
        (directory, letter)
        for directory in all_destinations(words.settings())
        for letter in read_office(directory).waiting.values()
    ]
    return sorted(found, key=lambda each: each[1].time)


def _chosen(ids: Iterable[str] | None, *, everything: bool) -> list[Found]:
    """Return the letters that the user means; end the command where that is not clear."""
    letters = _letters()
    if everything:
        return letters
    chosen: list[Found] = []
    for identity in ids or ():
        matching = [each for each in letters if each[1].id.startswith(identity.lower())]
        if len(matching) != 1:
            words.err.print(
                f"{len(matching) or 'No'} dead letters have an id that begins with {identity!r};"
                " `mltrace dead list` shows them.",
                markup=False,
            )
            raise typer.Exit(1)
        chosen += matching
    if not chosen:
        words.err.print("Name the letters by their ids, or say --all.", markup=False)
        raise typer.Exit(2)
    return chosen


def _each_destination(
    chosen: Iterable[Found], act: Callable[[DestinationDirectory, list[Letter]], int]
) -> int:
    groups: dict[Path, tuple[DestinationDirectory, list[Letter]]] = {}
    for directory, letter in chosen:
        letters = groups.setdefault(directory.path, (directory, []))[1]
        if letter not in letters:
            letters.append(letter)
    try:
        return sum(act(directory, letters) for directory, letters in groups.values())
    except OSError as error:
        words.err.print(f"mltrace: {error}", markup=False)
        raise typer.Exit(1) from None


def _say(count: int, how: str, in_words: str, *, as_json: bool) -> None:
    if as_json:
        words.print_json({how: count})
    else:
        words.out.print(f"{count} dead letter{'s' if count != 1 else ''} {in_words}.")


def _document(each: Found) -> dict[str, Any]:
    directory, letter = each
    return {"destination": safe_uri(directory.uri), **as_document(letter)}
