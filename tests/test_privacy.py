"""A secret that is planted anywhere in a program is in no byte that mltrace writes, sends or says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import logging
import os
import sqlite3
import urllib.parse

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import attrs
import msgspec
import pydantic
import pytest

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import mltrace

from mltrace import _config, _watched
from mltrace._redaction import MASK
from mltrace.backends.memory import MemoryBackend
from tests.secrets import SHAPES
from tests.server import MlflowServer


SOME = [
    "openai",
    "aws id",
    "jwt",
    "bearer in a dict",
    "cookie",
    "rsa",
    "postgres",
    "password in json",
    "azure client",
]
PLANT = Callable[[str], Any]


@pytest.fixture(autouse=True, scope="module")
def _patience() -> Iterator[None]:
    """Let a busy machine take its time: nothing here is slow by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_watched, "BUDGET_SECONDS", 10.0)
        yield


# Where a secret can be planted. Each takes the secret as the argument `password`, so that it is known by its name.


@dataclasses.dataclass
class Login:
    user: str
    password: str


class LoginModel(pydantic.BaseModel):
    user: str
    key: pydantic.SecretStr
    pin: Annotated[str, mltrace.Redact]


class LoginStruct(msgspec.Struct):
    api_key: str


@attrs.define
class LoginAttrs:
    pin: Annotated[str, mltrace.Redact]


class Holder:
    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"Holder({self.value!r})"

    def __str__(self) -> str:
        return self.value


@mltrace.track_run
def child(*values: Any, **more: Any) -> Any:
    return values


def in_output(password: str) -> Any:
    return {"note": f"used {password}", password: [password], "keys": {f"key {password}": 1.0, "fine": 2.0}}


def in_number_keys(password: str) -> Any:
    return {f"score of {password}": 0.5}


def in_error(password: str) -> None:
    raise ValueError(f"refused: {password}", {"password": password})


def in_key_error(password: str) -> None:
    raise KeyError(f'it\'s "{password}"')


def in_cause(password: str) -> None:
    try:
        in_error(password)
    except ValueError as error:
        raise RuntimeError(Holder(password)) from error


def in_bytes_error(password: str) -> None:
    raise ValueError(json.dumps({"body": f"token {password}"}), repr(password))


def in_local_variable(password: str) -> None:
    connection = {"password": password, "url": f"https://ada:{password}@host"}
    raise OSError(5, f"no connection with {connection}", password)


def in_texts(password: str) -> None:
    mltrace.log_text(f"the log says {password}\n" * 3, "log.txt")
    mltrace.log_text(password, f"{password}.txt")
    mltrace.log_dict({"line": password, password: 1, "rows": [{"a": password}]}, "log.json")
    mltrace.log_text(Holder(password), "holder.txt")  # type: ignore[arg-type]


def in_tags(password: str) -> None:
    mltrace.set_tags({"note": f"used {password}", f"tag {password}": "fine", "long": f"{password} " * 3_000})
    mltrace.log_params({"note": Holder(password), f"param {password}": [password]})
    mltrace.log_metric(f"metric {password}", 1.0)
    mltrace.log_metric("no number", password)  # type: ignore[arg-type]


def in_address(password: str) -> None:
    quoted = urllib.parse.quote(password, safe="")
    child(f"postgres://ada:{quoted}@host/db", url=f"https://host/?q={quoted}")


def in_headers(password: str) -> None:
    child({"Authorization": f"Bearer {password}", "X-Trace": password, "Cookie": f"session={password}"})


def in_records(password: str) -> None:
    child(
        Login(password, password),
        LoginModel(user=password, key=password, pin=password),
        LoginStruct(password),
        LoginAttrs(password),
    )


def in_children(password: str) -> None:
    with contextlib.suppress(KeyError):
        in_a_child(lambda: password)
    with mltrace.track_run("block", tags={"note": password}, params={"note": password}) as run:
        run.log_text(password, "log.txt")
    mltrace.start_run(f"by hand {password}").end()


@mltrace.track_run
def in_a_child(say: Callable[[], str]) -> None:
    mltrace.log_text(say(), "log.txt")
    raise KeyError(say())


def in_prompts(password: str) -> None:
    mltrace.log_llm_call(
        model=f"gpt {password}", prompt=[{"role": "user", "content": password}], response=f"I know {password}", finish_reason=password,
    )  # fmt: skip
    mltrace.log_prediction(question=password, answer={"text": password}, user_feedback=password)
    with mltrace.log_llm_call(model="m", prompt=password) as call:
        call.response = {"choices": [{"message": {"content": password}, "finish_reason": password}]}


def in_stream(password: str) -> Any:
    def stream() -> Iterator[Any]:
        yield password[:3]
        yield password[3:]

    def mixed() -> Iterator[Any]:
        yield {"delta": password}
        yield Holder(password)

    async def later() -> AsyncIterator[str]:
        yield password

    async def drain() -> None:
        async for _ in mltrace.track_run(later)():
            pass

    list(mltrace.track_run(stream)())
    list(mltrace.track_run(mixed)())
    asyncio.run(drain())


def in_options(password: str) -> None:
    def fail(_: Any) -> Any:
        raise LookupError(f"cannot say {password}")

    mltrace.track_run(f"name {password}", params={"a": password}, tags={"b": password}, description=password)(
        lambda: None
    )()
    for option in ("process_inputs", "process_outputs"):
        mltrace.track_run(**{option: fail})(lambda value: value)(password)
    list(mltrace.track_run(output_reducer=fail)(lambda: iter([password]))())
    mltrace.track_run("load_{value}_{holder.value}")(lambda value, holder: None)(password, Holder(password))


def in_wrong_uses(password: str) -> None:
    with mltrace.track_run("wrong") as run:
        run.log_metric("a", 1.0, step=password)  # type: ignore[arg-type]
        run.log_param("a", password)
        run.log_param("a", f"{password} again")
        run.end(password)
    mltrace.log_metric("outside", password)  # type: ignore[arg-type]


PLANTS: list[PLANT] = [
    *(in_output, in_number_keys, in_error, in_key_error, in_cause, in_bytes_error, in_local_variable, in_texts, in_tags),
    *(in_address, in_headers, in_records, in_children, in_prompts, in_stream, in_options, in_wrong_uses),
]  # fmt: skip


def plant(place: PLANT, secret: str) -> None:
    """Run *place* as a decorated call that was given the secret, whatever it raises."""
    with contextlib.suppress(Exception):
        mltrace.track_run(place)(password=secret)


def forms(secret: str) -> list[bytes]:
    """Return a secret as a program may write it."""
    texts = {
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
    }
    texts |= {
        urllib.parse.quote(secret.encode("utf-8", "surrogatepass"), safe=""),
        json.dumps(repr(secret)[1:-1])[1:-1],
    }
    return [text.encode("utf-8", "replace") for text in texts]


def files_below(directory: Path) -> Iterator[tuple[str, bytes]]:
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder, name)
            yield (
                str(path.relative_to(directory)),
                str(path.relative_to(directory)).encode() + b"\n" + path.read_bytes(),
            )


def leaks(secret: str, places: Iterator[tuple[str, bytes]]) -> list[str]:
    """Return the names of the places that have the secret, in any form."""
    return [name for name, content in places if any(form in content for form in forms(secret))]


def everything(memory: MemoryBackend) -> Iterator[tuple[str, bytes]]:
    for run in memory.runs.values():
        for field in ("name", "params", "metrics", "tags", "artifacts"):
            content = getattr(run, field)
            parts = [content] if isinstance(content, str) else [*content, *content.values()]
            yield (
                f"{run.name[:20]}.{field}",
                b"\n".join(part if isinstance(part, bytes) else str(part).encode() for part in parts),
            )


class Said(logging.Handler):
    """Keeps what mltrace logs."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


@contextlib.contextmanager
def listening() -> Iterator[Said]:
    said = Said()
    logging.getLogger("mltrace").addHandler(said)
    try:
        yield said
    finally:
        logging.getLogger("mltrace").removeHandler(said)


# Long enough, and beginning as nothing else does, so that it turns up nowhere by chance.
secrets = st.text(st.characters(), min_size=3, max_size=30).map(lambda text: f"Zq7{text}kX9")


@given(secrets, st.sampled_from(PLANTS))
@example("Zq7\"'\\kX9", in_key_error)
@example("Zq7\n\t\0kX9", in_error)
@example("Zq7 é\ud800 kX9", in_texts)
@example("Zq7 a b;c=d, e kX9", in_headers)
@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])
def test_a_named_secret_is_nowhere(secret: str, place: PLANT) -> None:
    """Whatever text a password is, and wherever the call puts it, no field, artifact, key, name or message has it."""
    memory = MemoryBackend()
    _config.reset()
    mltrace.configure(backend=memory)
    with listening() as said:
        plant(place, secret)
    assert [] == leaks(secret, everything(memory))
    assert [] == leaks(secret, iter([("logs", "\n".join(said.messages).encode("utf-8", "replace"))]))
    assert memory.runs


def by_position(text: str) -> None:
    child(
        text,
        [text],
        {"a": {"b": (text,)}},
        text.encode() if len(text) < 9 else text,
        Holder(text),
        Login(text, "x"),
    )
    child(note=text, ünicode=text)


def shape_in_error(text: str) -> Any:
    def fail() -> None:
        raise ValueError(text)

    with contextlib.suppress(ValueError):
        mltrace.track_run(fail)()


def shape_in_texts(text: str) -> None:
    in_texts(text)
    in_tags(text)


def shape_in_output(text: str) -> None:
    mltrace.track_run(lambda: {"a": text, "b": [text]})()
    mltrace.track_run(lambda: text)()
    list(mltrace.track_run(lambda: iter([text, {"a": text}]))())


SHAPE_PLANTS: list[PLANT] = [
    by_position,
    shape_in_error,
    shape_in_texts,
    shape_in_output,
    in_prompts,
    in_options,
]


@pytest.mark.parametrize("place", SHAPE_PLANTS)
@pytest.mark.parametrize("shape", SOME)
def test_a_secret_of_a_shape_is_nowhere(shape: str, place: PLANT) -> None:
    """A secret that no name announces is recognised wherever it stands."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory)
    context, secret = SHAPES[shape]
    with listening() as said, mltrace.track_run("root"):
        place(context.format(secret))
    line = next(line for line in secret.split("\n") if not line.startswith("---"))
    assert [] == leaks(line, everything(memory))
    assert [] == leaks(line, iter([("logs", "\n".join(said.messages).encode())]))
    assert MASK.encode() in b"".join(content for _, content in everything(memory))


def test_a_secret_found_by_its_shape_is_hidden_alone_too(memory: MemoryBackend) -> None:
    """The password of an address and the token of a header are hidden where they turn up without them."""

    @mltrace.track_run
    def connect(url: str, headers: dict[str, str]) -> str:
        raise ValueError("refused hunter2LongEnough and abcdef0123456789")

    with pytest.raises(ValueError, match="hunter2"):
        connect("postgres://ada:hunter2LongEnough@db/app", {"Authorization": "Bearer abcdef0123456789"})
    assert [] == [
        *leaks("hunter2LongEnough", everything(memory)),
        *leaks("abcdef0123456789", everything(memory)),
    ]


def test_the_parts_of_a_hidden_value_are_hidden(memory: MemoryBackend) -> None:
    """Of credentials that are a structure each text is known, and so is a number."""

    @mltrace.track_run
    def connect(credentials: Any, auth: Any, password: int) -> None:
        raise ValueError("refused ada-lovelace-1815, babbage-the-engine, 20241231")

    with pytest.raises(ValueError, match="refused"):
        connect({"login": {"pass": "ada-lovelace-1815"}}, ("charles", "babbage-the-engine"), 20241231)
    assert "refused [redacted], [redacted], [redacted]" == memory.roots[0].tags["mltrace.error.message"]


# The bytes themselves.


def test_no_byte_of_the_spool_has_it(tmp_path: Path) -> None:
    """Journal, blobs and all else in the spool are free of every planted secret while the server is away."""
    mltrace.configure(
        tracking_uri="http://127.0.0.1:9", backend="mlflow", spool_dir=tmp_path / "spool", exit_timeout=0
    )
    planted = plant_all()
    mltrace.shutdown(0)
    written = list(files_below(tmp_path / "spool"))
    assert sum(len(content) for _, content in written) > 50_000
    assert [] == [(secret[:20], found) for secret in planted if (found := leaks(secret, iter(written)))]


def test_no_byte_of_the_server_has_it(server: MlflowServer, tmp_path: Path) -> None:
    """Neither what the server answers nor its database nor its artifacts have a planted secret."""
    mltrace.configure(
        tracking_uri=server.url, backend="mlflow", experiment_name="privacy", spool_dir=tmp_path / "spool"
    )
    with listening() as said:
        planted = plant_all()
        report = mltrace.flush(60)
    assert (0, 0, 0) == (report.pending, report.dropped, report.dead)
    places = [("logs", "\n".join(said.messages).encode()), *stored(server)]
    assert b"in_error" in b"".join(content for _, content in places)
    assert [] == [(secret[:20], found) for secret in planted if (found := leaks(secret, iter(places)))]


def plant_all() -> list[str]:
    """Plant a secret of its own in each place, and some that only their shape tells; return them."""
    planted = []
    for number, place in enumerate(PLANTS):
        secret = f"Zq7\"{number:02}' \\ é{base64.b64encode(bytes([number] * 9)).decode()}"
        plant(place, secret)
        planted.append(secret)
    for shape in SOME:
        context, secret = SHAPES[shape]
        by_position(context.format(secret))
        planted += [line for line in secret.split("\n") if not line.startswith("---")]
    return planted


def stored(server: MlflowServer) -> Iterator[tuple[str, bytes]]:
    """Return what the server has: rows as its database holds them, and its files."""
    with contextlib.closing(sqlite3.connect(f"file:{server.store}?mode=ro", uri=True)) as store:
        yield "dump", "\n".join(store.iterdump()).encode("utf-8", "replace")
    yield from files_below(Path(server.store).parent)
    runs = server.runs("privacy")
    yield (
        "answers",
        json.dumps([runs, [server.artifacts(run["id"]) for run in runs]], ensure_ascii=False).encode(),
    )
