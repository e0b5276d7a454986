"""Secrets are hidden before anything is recorded, and ordinary names and texts stay readable."""

from __future__ import annotations

import functools
import json
import time

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Optional

import pydantic
import pytest

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mltrace

from mltrace._redaction import MASK, Redactor
from mltrace._secret_shapes import may_hold_secret, secret_text
from mltrace._texts import WHOLE_LIMIT
from mltrace._values import Renderer
from mltrace.backends.memory import MemoryBackend, RecordedRun
from tests.harness import shown
from tests.secrets import ORDINARY, ORDINARY_TEXTS, SHAPES


SECRET = "correct-horse-battery"


def words(text: str) -> list[str]:
    return text.split()


SECRET_NAMES = words("""
    password passwd pwd passphrase passcode db_password userPassword PASSWORD user.password
    password_hash password2
    secret secrets client_secret clientSecret webhook_secret secret_key secretKey secret_value JWTSecret
    api_key apikey apiKey API-KEY APIKey x-api-key openai_api_key OpenAIApiKey
    access_key aws_secret_access_key AWSSecretKey
    private_key privateKey ssh_key signing_key encryption_key account_key
    token hf_token access_token accessToken refresh_token auth_token bearer_token
    id_token session_token csrf_token APIToken
    auth x_auth authorization Authorization proxy-authorization bearer jwt
    cookie cookies set-cookie session_cookie cookie_cutter credential credentials aws_credentials
    dsn sentry_dsn connection_string passwords api_keys api_key_2 openai_api_key_value totp otp_auth db_pass smtp_pass sas_token
    access_tokens refreshTokens azure_storage_key OPENAI_API_KEYS master_key HF_TOKEN_2 personal_access_token
""")


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_value_under_the_name_of_a_secret_is_hidden(name: str) -> None:
    """A secret's name is recognised word by word, in snake_case, camelCase, kebab-case and capitals."""
    assert Redactor().is_secret_name(name)


@pytest.mark.parametrize("name", ORDINARY)
def test_a_value_under_an_ordinary_name_stays_readable(name: str) -> None:
    """Names of machine learning that only contain a secret's word are no secrets."""
    assert not Redactor().is_secret_name(name)


def test_ordinary_arguments_come_through_unchanged(memory: MemoryBackend) -> None:
    """A call with all of them, by keyword and in a mapping, is recorded as it was made."""
    mltrace.track_run(lambda **arguments: dict(arguments))(**ORDINARY)
    mltrace.track_run(lambda config: None)(ORDINARY)
    first, second = memory.roots
    assert len(ORDINARY) > 200
    assert {name: str(value) for name, value in ORDINARY.items()} == first.params
    assert (ORDINARY, ORDINARY) == (
        json.loads(first.tags["mltrace.output"]),
        json.loads(second.params["config"]),
    )
    numbers = {name: value for name, value in ORDINARY.items() if not isinstance(value, str)}
    assert numbers == {name: value for name, value in first.metrics.items() if name in numbers}


@given(st.text())
@settings(deadline=None, max_examples=200)
def test_any_name_is_judged(name: str) -> None:
    """Whatever the name, with or without a secret's word behind it, it is judged without an error."""
    assert Redactor().is_secret_name(f"{name}_password")
    assert Redactor().is_secret_name(name) in (True, False)


SECRET_TEXTS = {
    "openai": "key sk-proj-abcdefghijklmnopqrstuvwx here",
    "anthropic": "sk-ant-api03-abcdefghijkl_mnop-qrst",
    "github": "ghp_abcdefghijklmnopqrst12345",
    "github fine-grained": "github_pat_11ABCDEFG0abcdefgh_ijk",
    "gitlab": "glpat-abcdefghijklmnop1234",
    "hugging face": "hf_abcdefghijklmnopqrstuv",
    "slack": "xoxb-1234567890-abcdefgh",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "google": "AIzaSyA1234567890abcdefghijklmnopqrstuvw",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc123_-x",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc\n-----END RSA PRIVATE KEY-----",
    "private key, torn": "-----BEGIN PRIVATE KEY-----\nMIIEabc",
    "bearer": "Authorization: Bearer abcdef1234567890",
    "basic": "Authorization: Basic dXNlcjpwYXNzd29yZA==",
    "url": "postgres://user:hunter2secret@host/db",
    "url, no user": "redis://:hunter2secret@host",
    "url, password with an at sign": "postgres://user:hunter2@secret@host/db",
    "pair": "password=hunter2secret",
    "pair, prefixed": "DB_PASSWORD='hunter2secret'",
    "pair, json": '{"password": "hunter2secret"}',
    "pair, query": "https://host/?api_key=hunter2secret&x=1",
    "pair, prefixed key": "OPENAI_API_KEY=hunter2secret",
    "pair, aws": "AWS_SECRET_ACCESS_KEY=hunter2secret",
}
TELLING = (
    "abcdef",
    "hunter2",
    "MIIE",
    "IOSFODNN7",
    "A1234567890",
    "dXNlcjp",
    "eyJzdWI",
    "11ABCDEFG0",
    "1234567890-",
    "secret@",
)


@pytest.mark.parametrize("text", SECRET_TEXTS.values(), ids=SECRET_TEXTS)
def test_a_secret_is_recognised_by_its_shape(text: str) -> None:
    """Provider keys, tokens, private keys, passwords in addresses and pairs are hidden where they stand."""
    found = Redactor().text(f"before {text} after")
    assert MASK in found
    assert [] == [part for part in TELLING if part in found]
    assert found.startswith("before ")


@pytest.mark.parametrize(("context", "secret"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "around",
    ["{}", "before {} after", '{{"text": "{}"}}', "line\n{}\nline", "line\\n{}\\nline", "({})", "<{}>"],
)
def test_a_shape_is_hidden_wherever_it_stands(context: str, secret: str, around: str) -> None:
    """Synthesized secrets of many providers are hidden in prose, in quotes, in brackets and on a line of their own."""
    found = Redactor().text(around.format(context.format(secret)))
    assert (True, []) == (MASK in found, [part for part in parts(secret) if part in found])


def parts(secret: str) -> list[str]:
    """Return the pieces of a secret that must not be left: all of it, its lines, its halves."""
    lines = [line for line in secret.split("\n") if not line.startswith("---")]
    return [secret, *lines, *(line[len(line) // 2 :] for line in lines if len(line) > 15)]


CUT = ["openai", "aws id", "jwt", "bearer", "rsa", "postgres", "password with spaces"]


@pytest.mark.parametrize("shape", CUT)
@pytest.mark.parametrize("offset", range(-70, 10, 5))
def test_a_cut_leaves_no_half_of_a_secret(shape: str, offset: int) -> None:
    """A secret across the place where a long text is cut is seen as a whole before the cut."""
    context, secret = SHAPES[shape]

    class Own:
        def __repr__(self) -> str:
            return "x" * (2_000 + offset) + " " + context.format(secret) + " " + "x" * 5_000

    text = Renderer(Redactor()).field("value", Own(), [])
    assert [] == [part for part in (secret[:12], secret[4:14]) if not part.startswith("---") and part in text]


@pytest.mark.parametrize("offset", [-30, -5])
def test_a_cut_leaves_no_half_of_a_known_secret(offset: int) -> None:
    """Neither in an artifact's text, nor for a secret that has no shape."""
    text = "x" * (WHOLE_LIMIT + offset) + SECRET + "x" * 10_000
    assert "correct" not in Renderer(Redactor()).field("value", text, [SECRET])


UNITS = [
    *("a-", "a.", "a:", "a=", "a@", "a ", "\n", "é", "eyJ-", "éeyJ", "eyJaaaaaaaa.", "eyJaaaaaaaa.bbbbbbbb.", "sk-", "sk-a", "gh", "ghp_"),
    *("http://", "://a:", "x://a:@", "x://aaaa:b", "a://a:b/", "bearer ", "Bearer a.", "basic a=", "cookie:", "cookie:a=", "Authorization: "),
    *("password", "password=", "password='", 'password="', "password: ", 'secret":"\\', "'secret': ", "secret = ", "?token=", "A_TOKEN=", "AAAA_"),
    *("-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "-----END", "hooks.slack.com/services/", "aaa8Q~", "00000000:", "MNOMNOMNOMNOMNOMNOMNOMNO."),
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_the_search_takes_time_in_proportion_to_the_text(unit: str) -> None:
    """Ten times the text takes about ten times as long, however it repeats itself."""
    redactor = Redactor()

    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        taken = []
        for _ in range(2):
            started = time.thread_time()
            redactor.text(text)
            taken.append(time.thread_time() - started)
        return min(taken)

    # Squared it would be a hundred times; the constant keeps the clock's own grain out of it.
    assert seconds(300_000) < 30 * (seconds(30_000) + 0.001)


@given(st.text(), st.sampled_from(list(SHAPES.values())))
@settings(deadline=None, max_examples=200)
def test_the_quick_look_overlooks_nothing(text: str, shape: tuple[str, str]) -> None:
    """What is searched for secrets and what is not is decided by a look that never says no where one is."""
    for candidate in (text, f"{text}{shape[0].format(shape[1])}", f"{text} {shape[0].format(shape[1])}"):
        assert may_hold_secret(candidate) or secret_text().search(candidate) is None


@given(st.from_regex(secret_text()), st.text(max_size=3))
@settings(deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
def test_the_quick_look_overlooks_none_of_any_shape(text: str, before: str) -> None:
    """Nor where letters stand in it that are the same but for their case to the search, and not to `str.lower`."""
    for candidate in (text, f"{before}{text}"):
        assert may_hold_secret(candidate) or secret_text().search(candidate) is None


@pytest.mark.parametrize(
    "text",
    ["The basic principles of key management: a token of trust = none.", "primary_key: 7, next_token = the", "see https://example.com/hooks, or ask", "0123456789abcdef" * 4],
)  # fmt: skip
def test_the_quick_look_lets_ordinary_texts_by(text: str) -> None:
    """Words that secrets' names are made of do not make a text worth a search, which takes a hundred times as long."""
    assert not may_hold_secret(text)


@pytest.mark.parametrize("text", ORDINARY_TEXTS)
def test_an_ordinary_text_stays_readable(text: str) -> None:
    """Prose, addresses, hashes and identifiers are kept word for word."""
    assert text == Redactor().text(text)


def test_what_a_secret_was_stays_readable() -> None:
    """The part of a text that says which secret stood there is kept."""
    assert f"postgres://{MASK}@host/db" == Redactor().text("postgres://user:hunter2@host/db")
    assert f"Bearer {MASK}" == Redactor().text("Bearer abcdef1234567890")
    assert f"password={MASK}" == Redactor().text("password=hunter2")


@given(st.text(max_size=60), st.sampled_from(list(SECRET_TEXTS.values())))
@settings(deadline=None, max_examples=100)
def test_hiding_is_done_after_one_time(text: str, secret: str) -> None:
    """A redacted text is not changed by the same rules again."""
    once = Redactor().text(f"{text} {secret}")
    assert once == Redactor().text(once)


def test_a_key_that_was_ordinary_is_hidden_where_it_is_a_secret() -> None:
    """That a key was shown before, when nothing was known to be secret, is no reason to show it in a run that knows better."""
    renderer = Renderer(Redactor())
    value = {SECRET: {"note": 1}}

    assert value == renderer.plain("", value, [])
    assert {MASK: {"note": 1}} == renderer.plain("", value, [SECRET])
    assert {"password": MASK, MASK: {"note": 1}} == renderer.plain("", {"password": SECRET, **value}, [])


def test_a_name_that_is_a_secret_is_hidden_each_time() -> None:
    """An argument's name of a secret's shape is not taken for an ordinary one when it comes up again."""
    renderer = Renderer(Redactor())
    name = "sk-abcdefghijklmnopqrstuvwxyz0123456789"

    for _ in range(3):
        assert not any(name in key for key in renderer.fields({name: 1}, []))
        assert name not in renderer.key(name, [])


# Within a run.


def everything(run: RecordedRun) -> str:
    """Return all that a run and those below it hold, as one text."""
    return repr([found for _, found in run.walk()])


def only(memory: MemoryBackend) -> RecordedRun:
    [run] = memory.roots
    return run


NESTED = [
    {"password": SECRET},
    {"a": [{"api_key": SECRET}]},
    [{"token": SECRET.encode()}],
    {"cookie": [SECRET]},
    {"dsn": {"a": SECRET}},
]


@pytest.mark.parametrize("value", NESTED, ids=repr)
def test_a_secret_is_hidden_at_any_depth(memory: MemoryBackend, value: Any) -> None:
    """Names of secrets count in nested arguments too, and hide whatever stands under them."""

    @mltrace.track_run
    def call(config: Any) -> None: ...

    call(value)
    assert SECRET not in everything(only(memory))
    assert MASK in only(memory).params["config"]


def test_a_pydantic_secret_is_hidden(memory: MemoryBackend) -> None:
    """A `SecretStr` is hidden under any name, and so is its content where it turns up elsewhere."""

    @mltrace.track_run
    def call(anything: pydantic.SecretStr, data: pydantic.SecretBytes) -> str:
        return anything.get_secret_value()

    call(pydantic.SecretStr(SECRET), pydantic.SecretBytes(b"another-secret-value"))
    assert {"anything": MASK, "data": MASK} == only(memory).params
    assert SECRET not in everything(only(memory))


def test_a_number_under_the_name_of_a_secret_is_hidden(memory: MemoryBackend) -> None:
    """A numeric password is a password; a flag of that name is none."""

    @mltrace.track_run
    def call(password: int, token: bool) -> None: ...

    call(password=20241231, token=True)
    assert {"password": MASK, "token": "True"} == only(memory).params


def leak_output(password: str) -> str:
    return f"logged in with {password}"


def leak_mapping(password: str) -> dict[str, Any]:
    return {f"key {password}": [password]}


def leak_error(password: str) -> None:
    raise ValueError(f"refused: {password}")


def leak_cause(password: str) -> None:
    try:
        leak_error(password)
    except ValueError as error:
        raise RuntimeError("no login") from error


def leak_text(password: str) -> None:
    mltrace.log_text(f"the log says {password}", "log.txt")


def leak_dict(password: str) -> None:
    mltrace.log_dict({"line": f"the log says {password}"}, "log.json")


def leak_tag(password: str) -> None:
    mltrace.set_tag("note", f"used {password}")


def leak_param(password: str) -> None:
    mltrace.log_param("note", f"used {password}")


def leak_long_tag(password: str) -> None:
    mltrace.set_tag("note", f"used {password} " * 2_000)


def leak_to_argument(password: str) -> None:
    child(f"argument {password}")


def leak_in_child(password: str) -> None:
    child_that_says(lambda: password)


def leak_in_block(password: str) -> None:
    with mltrace.track_run("block", tags={"note": password}, params={"note": password}) as run:
        run.log_text(password, "log.txt")


def leak_in_prompt(password: str) -> None:
    mltrace.log_llm_call(
        model="gpt-4", prompt=f"my password is {password}, ok?", response=f"I know {password} now"
    )


@mltrace.track_run
def child(value: str) -> str:
    return value


@mltrace.track_run
def child_that_says(say: Callable[[], str]) -> None:
    mltrace.log_text(say(), "log.txt")
    mltrace.set_tag("note", say())
    raise KeyError(say())


LEAKS = [
    *(leak_output, leak_mapping, leak_error, leak_cause, leak_text, leak_dict, leak_tag, leak_long_tag),
    *(leak_param, leak_to_argument, leak_in_child, leak_in_block, leak_in_prompt),
]  # fmt: skip


@pytest.mark.parametrize("leak", LEAKS)
def test_a_secret_argument_is_hidden_where_it_turns_up(
    memory: MemoryBackend, leak: Callable[[str], Any]
) -> None:
    """A value hidden by its name is hidden in whatever is recorded of the run and of those below it."""
    try:
        mltrace.track_run(leak)(SECRET)
    except (ValueError, RuntimeError, KeyError):
        pass
    assert SECRET not in everything(only(memory))
    assert everything(only(memory)).count(MASK) > 1


def test_a_secret_in_an_earlier_argument_is_hidden(memory: MemoryBackend) -> None:
    """The order of the arguments does not matter: what one names a secret is hidden in those before it."""

    @mltrace.track_run("call_{url}")
    def call(url: str, password: str) -> None: ...

    call(f"user {SECRET}", SECRET)
    assert SECRET not in everything(only(memory))


@pytest.mark.parametrize("size", [1, 20_000])
def test_a_secret_that_the_output_names_later_is_hidden(memory: MemoryBackend, size: int) -> None:
    """In an output too, what stands before the secret's name is hidden as what stands behind it."""
    mltrace.track_run(lambda: {"note": f"uses {SECRET}", "padding": "x" * size, "password": SECRET})()
    assert SECRET not in everything(only(memory))


@pytest.mark.parametrize("password", [SECRET, "abc", 123, ["abc"]], ids=repr)
def test_a_secret_is_not_shown_in_the_name(memory: MemoryBackend, password: Any) -> None:
    """A template that asks for a secret argument gets the mask, however short the secret is."""
    mltrace.track_run("login_{password}")(leak_output)(password)
    assert f"login_{MASK}" == only(memory).name


def test_a_secret_of_a_stream_is_hidden_in_its_items(memory: MemoryBackend) -> None:
    """What a generator yields is hidden as what a function returns."""

    @mltrace.track_run
    def stream(password: str) -> Any:
        yield "it is "
        yield password

    assert ["it is ", SECRET] == list(stream(SECRET))
    assert f"it is {MASK}" == only(memory).tags["mltrace.output"]


def test_a_secret_given_as_an_option_is_hidden_in_the_block(memory: MemoryBackend) -> None:
    """A secret among the decorator's params is known to the run as one among the arguments is."""
    with mltrace.track_run("block", params={"api_key": SECRET}) as run:
        run.log_text(f"sent {SECRET}", "log.txt")
    assert SECRET not in everything(only(memory))


def test_a_secret_logged_later_is_hidden_from_then_on(memory: MemoryBackend) -> None:
    """A secret that the run learns from `log_param` is hidden in what is logged after it."""
    with mltrace.track_run("block") as run:
        run.log_param("api_key", SECRET)
        run.log_text(f"sent {SECRET}", "log.txt")
    assert SECRET not in everything(only(memory))


def test_the_secrets_of_one_run_are_not_those_of_the_next(memory: MemoryBackend) -> None:
    """A word that was one call's password stays readable in calls that have nothing to do with it."""

    @mltrace.track_run
    def login(password: str) -> None: ...

    login("transformers")
    child("transformers")
    assert {"value": "transformers"} == memory.roots[1].params


def test_the_caller_gets_the_secret_itself(memory: MemoryBackend) -> None:
    """Only the record is redacted: function and caller see the values as they are."""
    assert f"logged in with {SECRET}" == mltrace.track_run(leak_output)(SECRET)


# What annotations say.

Pin = Annotated[str, mltrace.Redact]


class Service:
    @mltrace.track_run
    def method(self, pin: Annotated[str, mltrace.Redact], user: str) -> str:
        return f"{user} {pin}"

    @classmethod
    @mltrace.track_run
    def class_method(cls, pin: Annotated[str, mltrace.Redact], user: str) -> str:
        return f"{user} {pin}"

    @mltrace.track_run
    @staticmethod
    def static_method(pin: Annotated[str, mltrace.Redact], user: str) -> str:
        return f"{user} {pin}"

    def __call__(self, pin: Pin, user: str) -> str:
        return f"{user} {pin}"


@mltrace.track_run
def in_a_union(pin: Annotated[str, mltrace.Redact] | None, user: str) -> str:
    return f"{user} {pin}"


@mltrace.track_run("{user}_{pin}")
def by_an_instance(user: str, *, pin: Optional[Annotated[str, "a number", mltrace.Redact()]]) -> str:
    return f"{user} {pin}"


@mltrace.track_run
def by_an_alias(pin: Pin, user: str) -> str:
    return f"{user} {pin}"


@mltrace.track_run
def with_a_missing_name(pin: Annotated[str, mltrace.Redact], user: NotThere) -> str:  # type: ignore[name-defined] # noqa: F821
    return f"{user} {pin}"


@mltrace.track_run
def whose_alias_comes_later(pin: Later, user: str) -> str:
    return f"{user} {pin}"


Later = Annotated[str, mltrace.Redact]

MARKED: dict[str, Callable[..., Any]] = {
    "method": Service().method,
    "class method": Service.class_method,
    "static method": Service.static_method,
    "callable instance": mltrace.track_run(Service()),
    "partial": mltrace.track_run(functools.partial(Service().__call__)),
    "union": in_a_union,
    "instance": by_an_instance,
    "alias": by_an_alias,
    "missing name": with_a_missing_name,
    "later alias": whose_alias_comes_later,
}


@pytest.mark.parametrize("call", MARKED.values(), ids=MARKED)
def test_a_marked_argument_is_hidden(memory: MemoryBackend, call: Callable[..., Any]) -> None:
    """`Annotated[…, Redact]` hides an argument of any kind of callable, and its value in the output."""
    assert f"ada {SECRET}" == call(pin=SECRET, user="ada")
    assert ({"pin": MASK, "user": "ada"}, f"ada {MASK}") == (
        only(memory).params,
        only(memory).tags["mltrace.output"],
    )
    assert SECRET not in everything(only(memory))


def returns_it() -> Annotated[str, mltrace.Redact]:
    return SECRET


def returns_several() -> list[Annotated[str, mltrace.Redact]]:
    return [SECRET]


def yields_it() -> Iterator[Annotated[str, mltrace.Redact]]:
    yield SECRET


def returns_numbers() -> Annotated[dict[str, float], mltrace.Redact]:
    return {"balance": 123456.0}


async def yields_it_later() -> AsyncIterator[Annotated[str, mltrace.Redact]]:
    yield SECRET


@pytest.mark.parametrize("function", [returns_it, returns_several, yields_it, returns_numbers])
@pytest.mark.parametrize("decorate", [mltrace.track_run, mltrace.log_llm_call, mltrace.log_prediction])
def test_a_marked_output_is_hidden(memory: MemoryBackend, decorate: Any, function: Callable[[], Any]) -> None:
    """A return annotation that is marked hides what comes out, numbers among it."""
    result = decorate(function)()
    list(result if hasattr(result, "__next__") else ())
    found = everything(only(memory))
    assert (False, False, True) == (SECRET in found, "123456" in found, MASK in found)


def keep(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"said": f"{inputs['password']} of {inputs['pin']}"}


NOT_CAPTURED: list[dict[str, Any]] = [
    {"capture_input": False},
    {"capture_input": ["user"]},
    {"ignore_arguments": ["password", "pin"]},
    {"process_inputs": keep},
]


@pytest.mark.parametrize("options", NOT_CAPTURED, ids=shown)
def test_a_secret_that_is_not_captured_is_hidden_too(memory: MemoryBackend, options: dict[str, Any]) -> None:
    """An argument that the options leave out, or turn into another, is hidden where it turns up."""

    @mltrace.track_run(**options)
    def login(password: str, pin: Annotated[str, mltrace.Redact], user: str = "ada") -> str:
        raise ValueError(f"{password} of {pin}")

    with pytest.raises(ValueError, match=SECRET):
        login(SECRET, "pin-of-ada-lovelace")
    found = everything(only(memory))
    assert (False, False) == (SECRET in found, "pin-of-ada-lovelace" in found)


def test_a_number_under_the_name_of_a_secret_is_no_metric(memory: MemoryBackend) -> None:
    """The numbers of a returned mapping are metrics, but for those that are secrets."""
    mltrace.track_run(lambda: {"password": 20241231, "loss": 0.5, "login": {"token": 20241231}})()
    assert {"latency_ms", "loss"} == set(only(memory).metrics)


def test_a_secret_that_is_returned_as_a_number_is_no_metric(memory: MemoryBackend) -> None:
    """A number that was an argument's secret is not recorded as a metric of the output."""
    mltrace.track_run(lambda password: password)(20241231)
    mltrace.track_run(lambda password: {"loss": 0.5, "code": password})(20241231)
    first, second = memory.roots
    assert ({"latency_ms"}, {"latency_ms", "loss"}) == (set(first.metrics), set(second.metrics))
    assert "20241231" not in repr([first.tags, second.tags])


# What users set.


def scrub(_: str, value: Any) -> Any:
    return value.replace("Ada Lovelace", "[name]") if isinstance(value, str) else value


def say_in_output() -> str:
    return "by Ada Lovelace"


def say_in_mapping() -> dict[str, Any]:
    return {"authors": [{"name": "Ada Lovelace"}]}


def say_in_error() -> None:
    raise ValueError("by Ada Lovelace")


def say_in_tag() -> None:
    mltrace.set_tag("by", "Ada Lovelace")


def say_in_param() -> None:
    mltrace.log_param("by", "Ada Lovelace")


def say_in_dict() -> None:
    mltrace.log_dict({"by": "Ada Lovelace"}, "by.json")


def say_in_text() -> None:
    mltrace.log_text("by Ada Lovelace", "by.txt")


def say_in_argument() -> None:
    child("Ada Lovelace")


SAYINGS = [
    say_in_output,
    say_in_mapping,
    say_in_error,
    say_in_tag,
    say_in_param,
    say_in_dict,
    say_in_text,
    say_in_argument,
]


@pytest.mark.parametrize("say", SAYINGS)
def test_the_hook_sees_everything_that_is_recorded(say: Callable[[], Any]) -> None:
    """`redact(key, value)` is applied to arguments, outputs, errors, tags, params, dicts and texts."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, redact=scrub, strict=True)
    try:
        mltrace.track_run(say)()
    except ValueError:
        pass
    assert "[name]" in everything(only(memory))
    assert "Ada Lovelace" not in everything(only(memory))


def test_the_hook_gets_keys_and_values_after_the_rules() -> None:
    """The hook sees each key with its value, nested ones too, but not what the built-in rules have hidden."""
    memory, seen = MemoryBackend(), []

    def watch(key: str, value: Any) -> Any:
        seen.append((key, value))
        return value

    mltrace.configure(backend=memory, redact=watch, strict=True)

    @mltrace.track_run(capture_output=False)
    def call(size: int, password: str, config: dict[str, Any]) -> None: ...

    call(3, SECRET, {"inner": "text"})
    assert [("size", 3), ("config", {"inner": "text"}), ("inner", "text")] == seen


def test_a_value_is_hidden_when_the_hook_raises() -> None:
    """A redactor that fails hides everything it was asked about: closed, not open."""
    memory = MemoryBackend()

    def broken(key: str, value: Any) -> Any:
        raise LookupError(key)

    mltrace.configure(backend=memory, redact=broken, strict=True)
    child("readable")
    assert {"value": MASK} == only(memory).params
    assert MASK == only(memory).tags["mltrace.output"]


def test_the_hook_can_replace_a_value_by_anything() -> None:
    """What the hook returns is rendered as any value is."""
    memory = MemoryBackend()
    mltrace.configure(
        backend=memory, redact=lambda key, value: {"length": 8} if value == "readable" else value, strict=True
    )
    child("readable")
    assert {"value": '{"length":8}'} == only(memory).params


def test_more_names_can_be_made_secret() -> None:
    """`redact_keys` are compared whole, without case and punctuation."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, redact_keys=["Patient-Name."], strict=True)

    @mltrace.track_run
    def call(patient_name: str, patientName: str, name: str) -> None: ...

    call("Ada", "Ada", "Ada")
    assert {"patient_name": MASK, "patientName": MASK, "name": "Ada"} == only(memory).params


def test_options_follow_the_rules_in_force() -> None:
    """Params and tags given at decoration are redacted anew after each `configure`."""
    memory = MemoryBackend()
    call = mltrace.track_run("call", params={"patient": "Ada"}, tags={"patient": "Ada"})(lambda: None)
    for names in ([], ["patient"], []):
        mltrace.configure(backend=memory, redact_keys=names, strict=True)
        call()
    found = [(run.params["patient"], run.tags["patient"]) for run in memory.roots]
    assert [("Ada", "Ada"), (MASK, MASK), ("Ada", "Ada")] == found


def test_redaction_can_be_switched_off() -> None:
    """With `redact=False` everything is recorded as it is."""
    memory = MemoryBackend()
    mltrace.configure(backend=memory, redact=False, strict=True)
    mltrace.track_run(leak_output)("Bearer abcdef1234567890")
    assert {"password": "Bearer abcdef1234567890"} == only(memory).params
    assert "logged in with Bearer abcdef1234567890" == only(memory).tags["mltrace.output"]
