"""Settings come from `configure`, the environment, or defaults; off is off; nothing global is touched."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mltrace

from mltrace import _config
from mltrace._records import KINDS
from mltrace.backends.memory import MemoryBackend
from tests.harness import shown


@mltrace.track_run
def call() -> str:
    return "called"


def settings() -> Any:
    return _config.resolve()


def python(source: str, **environment: str) -> Any:
    """
    Run *source* in a fresh interpreter and return what it puts into ``found``; stdout must be empty.
    """
    program = (
        f"{textwrap.dedent(source)}\nimport json, sys\nprint('found', json.dumps(found), file=sys.stderr)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (0, "") == (answer.returncode, answer.stdout), answer.stderr
    [found] = [line for line in answer.stderr.splitlines() if line.startswith("found ")]
    return json.loads(found.removeprefix("found "))


# Precedence.

SETTINGS: dict[str, tuple[str | None, str, Any, Any, Any]] = {
    # name: (variable, its text, what that means, configured, default)
    "tracking_uri": ("MLFLOW_TRACKING_URI", "http://env:5000", "http://env:5000", "http://given:5000", None),
    "experiment_name": ("MLFLOW_EXPERIMENT_NAME", "env", "env", "given", "Default"),
    "backend": ("MLTRACE_BACKEND", "noop", "noop", "memory", "mlflow"),
    "spool_dir": ("MLTRACE_SPOOL_DIR", "/env", Path("/env"), Path("/given"), None),
    "spool_limit_bytes": ("MLTRACE_SPOOL_LIMIT_BYTES", "100000", 100_000, 200_000, 1 << 30),
    "on_full": ("MLTRACE_ON_FULL", "block", "block", "raise", "drop"),
    "durability": ("MLTRACE_DURABILITY", "disk", "disk", "process", "process"),
    "redact": (None, "", None, False, True),
    "redact_keys": (None, "", None, ("a", "b"), ()),
    "record_as": (
        "MLTRACE_RECORD_AS",
        "llm_call=trace",
        {**dict.fromkeys(KINDS, "run"), "llm_call": "trace"},
        dict.fromkeys(KINDS, "trace"),
        dict.fromkeys(KINDS, "run"),
    ),
    "sample_rate": ("MLTRACE_SAMPLE_RATE", "0.5", 0.5, 0.25, 1.0),
    "strict": ("MLTRACE_STRICT", "yes", True, False, False),
    "exit_timeout": ("MLTRACE_EXIT_TIMEOUT", "1.5", 1.5, 0.0, 5.0),
    "bridge": ("MLTRACE_BRIDGE", "no", False, False, True),
}


def test_the_table_of_settings_is_complete() -> None:
    """Every setting is in the table above, so that the tests below hold of all of them."""
    assert set(SETTINGS) == set(_config.Settings.__struct_fields__)


@pytest.mark.parametrize("name", SETTINGS)
def test_configure_comes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A setting is what `configure` was given, else what the environment says, else the default."""
    variable, text, from_environment, given, default = SETTINGS[name]
    if variable is not None:
        monkeypatch.delenv(variable, raising=False)
    if default is not None:
        assert default == getattr(settings(), name)
    if variable is not None:
        monkeypatch.setenv(variable, text)
        assert from_environment == getattr(settings(), name)
    mltrace.configure(**{name: given})
    assert given == getattr(settings(), name)


def test_the_defaults_of_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word, MLflow's local store is the destination, the user's state directory has the spool."""
    monkeypatch.delenv("MLTRACE_SPOOL_DIR")
    assert f"sqlite:///{Path.cwd()}/mlflow.db" == settings().tracking_uri
    assert settings().spool_dir.is_relative_to(Path.home())


def test_the_environment_is_read_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set between the import and the first call counts."""
    monkeypatch.setenv("MLTRACE_BACKEND", "memory")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "late")
    call()
    backend = _config.active().backend
    assert isinstance(backend, MemoryBackend)
    assert ["late"] == [run.experiment for run in backend.roots]


def test_a_later_configure_replaces_the_one_before() -> None:
    """Each call of `configure` starts from the environment again; what is not given is not kept."""
    mltrace.configure(experiment_name="first", sample_rate=0.5)
    mltrace.configure(experiment_name="second")
    assert ("second", 1.0) == (settings().experiment_name, settings().sample_rate)


# Wrong values.

WRONG: list[tuple[str, Any]] = [
    *(
        ("backend", "mysql"),
        ("backend", 5),
        ("backend", object()),
        ("on_full", "explode"),
        ("durability", "forever"),
    ),
    *(("sample_rate", 2), ("sample_rate", "half"), ("sample_rate", math.nan), ("sample_rate", -0.1)),
    *(("spool_limit_bytes", 10), ("spool_limit_bytes", "much"), ("spool_limit_bytes", math.inf)),
    *(("exit_timeout", -1), ("exit_timeout", "long"), ("strict", "perhaps"), ("enabled", "no")),
    *(("redact", "x"), ("redact", 5), ("redact_keys", 5), ("redact_keys", "password"), ("redact_keys", [5])),
    *(
        ("tracking_uri", 5),
        ("tracking_uri", "http://"),
        ("tracking_uri", "http://a b"),
        ("tracking_uri", "a\nb"),
    ),
    *(("experiment_name", 5), ("spool_dir", 5)),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=shown)
def test_a_wrong_value_raises_and_changes_nothing(name: str, value: Any) -> None:
    """A value that cannot be used is an error that names the option; what was configured stays in force."""
    mltrace.configure(backend="memory", experiment_name="before", enabled=True)
    before = _config.active()
    with pytest.raises(mltrace.ConfigurationError, match=name):
        mltrace.configure(**{name: value})
    assert before is _config.active()


@pytest.mark.parametrize(
    ("variable", "name"),
    [(row[0], name) for name, row in SETTINGS.items() if row[0] not in (None, "MLFLOW_EXPERIMENT_NAME")],
)
def test_a_wrong_environment_names_the_option(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    """The same holds of the environment: the error names the option that is wrong."""
    monkeypatch.setenv(variable, "\x01nonsense")
    if name == "spool_dir":  # any text is a directory's name
        assert "nonsense" in str(settings().spool_dir)
        return
    with pytest.raises(mltrace.ConfigurationError, match=name):
        settings()


def test_a_wrong_environment_does_not_reach_the_program(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls, blocks and logging go on without their record; a warning names the option."""
    monkeypatch.setenv("MLTRACE_BACKEND", "mysql")
    assert "called" == call()
    with mltrace.track_run("block") as run:
        run.log_metric("m", 1)
    trace = f"00-{'b' * 32}-{'a' * 16}-01"
    with mltrace.attach({"mltrace-run": "a" * 32, "mltrace-experiment": "e", "traceparent": trace}):
        mltrace.log_metric("m", 1)
        assert "called" == call()
    assert "backend" in said


@pytest.mark.parametrize(
    "uri", ["http://user:hunter2@", "http://user:hunter2@a b", "https://user:hunter2@[half"]
)
def test_an_error_does_not_show_a_password(uri: str) -> None:
    """An address that cannot be used may still hold a password, which is not in the message."""
    with pytest.raises(mltrace.ConfigurationError, match="tracking_uri") as caught:
        mltrace.configure(tracking_uri=uri)
    assert "hunter2" not in str(caught.value)


# Addresses.


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///sub/mlflow.db", "sqlite:///{here}/sub/mlflow.db"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("sqlite:////my runs/mlflow.db", "sqlite:////my runs/mlflow.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("mlruns", "file://{here}/mlruns"),
        ("./mlruns", "file://{here}/mlruns"),
        ("/abs/mlruns", "file:///abs/mlruns"),
        ("file:mlruns", "file://{here}/mlruns"),
        ("file:./mlruns", "file://{here}/mlruns"),
        ("file:///abs/mlruns", "file:///abs/mlruns"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("https://user:pw@host/path", "https://user:pw@host/path"),
        ("postgresql://u:p@host/db", "postgresql://u:p@host/db"),
        ("databricks", "databricks"),
        ("databricks://profile", "databricks://profile"),
    ],
)
def test_a_relative_place_becomes_absolute(uri: str, expected: str) -> None:
    """Databases and directories mean the same file to whoever delivers later; other addresses are kept."""
    assert expected.format(here=Path.cwd()) == _config.normal_uri(uri)


def test_a_configured_place_does_not_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative address means the directory in which it was configured, wherever the program goes then."""
    mltrace.configure(tracking_uri="sqlite:///mlflow.db", spool_dir="spool")
    expected = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "spool"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert expected == (settings().tracking_uri, settings().spool_dir)


def test_the_spool_may_be_in_the_home() -> None:
    """A leading ``~`` is the user's home."""
    mltrace.configure(spool_dir="~/spool")
    assert Path.home() / "spool" == settings().spool_dir


# Off.

SWITCHES = {"MLTRACE_ENABLED": "0", "MLFLOW_ENABLED": "false", "DISABLE_MLFLOW_TRACKING": "1"}


@pytest.mark.parametrize("variable", SWITCHES)
def test_each_switch_is_read_at_every_call(
    memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A switch takes effect with the next call, in both directions, for functions decorated before."""
    for number, text in enumerate(
        [SWITCHES[variable], {"0": "1", "false": "true", "1": "0"}[SWITCHES[variable]]]
    ):
        monkeypatch.setenv(variable, text)
        assert "called" == call()
        assert number == len(memory.roots)


@pytest.mark.parametrize(
    ("text", "on"),
    [
        *(("1", True), ("true", True), ("YES", True), (" on ", True), ("nonsense", True)),
        *(("0", False), ("false", False), ("No", False), (" OFF", False), ("", False)),
    ],
)
def test_the_words_of_a_switch(monkeypatch: pytest.MonkeyPatch, text: str, on: bool) -> None:
    """The usual words are understood in any case; what is neither is taken as true."""
    monkeypatch.setenv("MLTRACE_ENABLED", text)
    assert on is _config.is_enabled()
    monkeypatch.delenv("MLTRACE_ENABLED")
    monkeypatch.setenv("DISABLE_MLFLOW_TRACKING", text)
    assert on is not _config.is_enabled()


def test_a_switch_that_says_neither_is_said_once(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing mistake in a switch is warned of, once."""
    monkeypatch.setenv("MLTRACE_ENABLED", "flase")
    assert [True] * 3 == [_config.is_enabled() for _ in range(3)]
    assert 1 == len(said)
    assert "MLTRACE_ENABLED" in said


def test_the_order_of_the_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """`configure(enabled=)` comes first, then mltrace's variable, MLflow's, and the one that disables."""
    assert _config.is_enabled()
    monkeypatch.setenv("DISABLE_MLFLOW_TRACKING", "1")
    assert not _config.is_enabled()
    monkeypatch.setenv("MLFLOW_ENABLED", "1")
    assert _config.is_enabled()
    monkeypatch.setenv("MLTRACE_ENABLED", "0")
    assert not _config.is_enabled()
    mltrace.configure(enabled=True)
    assert _config.is_enabled()
    mltrace.configure(enabled=False)
    monkeypatch.setenv("MLTRACE_ENABLED", "1")
    assert not _config.is_enabled()


def test_switched_off_within_a_run(memory: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is open when mltrace is switched off still ends; what begins afterwards is not recorded."""
    with mltrace.track_run("outer"):
        monkeypatch.setenv("MLTRACE_ENABLED", "0")
        call()
        with mltrace.track_run("inner") as inner:
            assert not inner
        monkeypatch.delenv("MLTRACE_ENABLED")
        call()
    assert [(0, "outer", "FINISHED"), (1, "call", "FINISHED")] == [
        (depth, run.name, run.status) for depth, run in memory.roots[0].walk()
    ]


OFF = """
    import sys, threading
    import mltrace

    @mltrace.track_run("call_{x}", tags={"a": 1})
    def call(x):
        mltrace.log_metric("m", 1)
        mltrace.current_run().log_text("text" * 100_000, "a.txt")
        return x

    @mltrace.track_run
    async def later():
        return 1

    @mltrace.log_llm_call(model="m")
    def stream(prompt):
        yield 1

    events, watching = [], True
    WATCHED = ("open", "os.", "socket.", "subprocess.", "_thread.", "import")

    def watch(event, _):
        if watching and event.startswith(WATCHED):
            events.append(event)

    sys.addaudithook(watch)
    for number in range(3):
        call(number)
        list(stream("p"))
        try:
            later().send(None)
        except StopIteration:
            pass
        with mltrace.track_run("block") as run:
            run.log_param("k", 1)
        mltrace.log_llm_call(model="m", response="r")
        mltrace.log_prediction(question="q", answer="a")
        mltrace.log_evaluation_metrics({"m": 1})
        mltrace.start_run("by hand").end()
        mltrace.wrap(call)(1)
        with mltrace.attach(mltrace.carrier()):
            call(1)
    mltrace.flush(1)
    watching = False
    heavy = sorted({"mlflow", "structlog", "http.client"} & set(sys.modules))
    found = [events, threading.active_count(), heavy]
"""


@pytest.mark.parametrize("variable", SWITCHES)
def test_off_is_off(tmp_path: Path, variable: str) -> None:
    """Switched off, calls of every kind open no file or socket, start no thread, and import nothing."""
    before = sorted(tmp_path.rglob("*"))
    assert [[], 1, []] == python(OFF, **{variable: SWITCHES[variable]})
    assert before == sorted(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "block",
    [
        mltrace.track_run,
        mltrace.log_llm_call,
        mltrace.log_prediction,
        mltrace.log_training_run,
        mltrace.start_run,
    ],
)
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_off_a_block_that_fails_does_as_without(
    block: Any, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Switched off, a block passes its error on and says nothing of it, in strict mode too."""
    mltrace.configure(backend="noop", enabled=False, strict=True)
    error = kind("boom")
    with pytest.raises(kind) as caught, block(run_name="x") if block is not mltrace.start_run else block("x"):
        raise error
    assert caught.value is error
    assert [] == caplog.messages


# Out of the way.


def test_the_import_is_light() -> None:
    """`import mltrace` brings in neither MLflow nor anything heavy, starts no thread, reads no setting."""
    heavy = ["mlflow", "pandas", "numpy", "requests", "httpx", "urllib3", "structlog", "rich", "typer"]
    found = python(
        f"""
        import sys, threading
        import mltrace
        found = [[name for name in {heavy!r} if name in sys.modules], threading.active_count()]
        """,
        MLTRACE_BACKEND="nonsense",
        MLTRACE_SAMPLE_RATE="nonsense",
    )
    assert [[], 1] == found


GLOBAL = """
    import logging, os, sys, warnings
    import structlog

    def state():
        loggers = [
            (logger.handlers, logger.level, logger.filters, logger.propagate)
            for logger in (logging.getLogger(), logging.getLogger("mltrace"))
        ]
        logs = [structlog.is_configured(), structlog.get_config(), warnings.filters]
        process = [sys.excepthook, sys.stdout, sys.stderr, sorted(os.environ.items()), os.getcwd()]
        return repr([loggers, logs, process])

    before = state()
    import mltrace
    mltrace.configure(tracking_uri="http://127.0.0.1:9", exit_timeout=0)

    @mltrace.track_run
    def call(password):
        mltrace.log_param("password", "other")
        mltrace.log_metric("text", "no number")
        raise ValueError("no")

    for _ in range(3):
        try:
            call("secret")
        except ValueError:
            pass
    mltrace.log_metric("outside", 1)
    mltrace.flush(0.2)
    heavy = [name for name in ("mlflow", "opentelemetry", "requests") if name in sys.modules]
    found = [before == state(), heavy]
"""


def test_nothing_global_is_touched() -> None:
    """Recording and warning leave logging, structlog, warnings and environment as they were, stdout empty."""
    assert [True, []] == python(GLOBAL)


GLOBAL_MLFLOW = """
    import mlflow, os
    import opentelemetry.trace

    def state():
        uris = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        runs = mlflow.active_run(), mlflow.last_active_run(), mlflow.tracking.fluent._active_experiment_id
        return repr([uris, runs, opentelemetry.trace._TRACER_PROVIDER, sorted(os.environ.items())])

    mlflow.set_tracking_uri("sqlite:///theirs.db")
    before = state()
    import mltrace
    mltrace.configure(tracking_uri="sqlite:///ours.db", experiment_name="ours")
    with mltrace.track_run("run") as run:
        run.log_metric("m", 1)
    delivered = mltrace.flush(60).pending == 0
    found = [delivered, before == state()]
"""


def test_the_users_mlflow_is_not_touched() -> None:
    """Delivery to a store of its own leaves the program's MLflow, and OpenTelemetry, as they were."""
    assert [True, True] == python(GLOBAL_MLFLOW)


# The functions of the process.


def test_the_counts_of_the_process(memory: MemoryBackend) -> None:
    """`status`, `flush` and `shutdown` tell the same counts, and everything accepted is accounted for."""
    call()
    status = mltrace.status()
    assert (
        status.accepted == status.delivered + status.pending + sum(status.dropped.values()) + status.dead > 0
    )
    assert status.report() == mltrace.flush(1) == mltrace.shutdown(1)


def test_after_a_shutdown_recording_starts_anew(memory: MemoryBackend) -> None:
    """The next call after `shutdown` is recorded again."""
    call()
    mltrace.shutdown()
    call()
    assert 2 == len(memory.roots)


def test_nothing_to_flush_is_nothing() -> None:
    """Before the first record there is nothing to wait for."""
    assert mltrace.FlushReport(0, 0, 0, 0) == mltrace.flush() == mltrace.shutdown()


def test_init_says_whether_the_server_can_be_reached() -> None:
    """`init_mlflow` configures, and says in words what is wrong with a server that does not answer."""
    found = mltrace.init_mlflow(experiment_name="e", tracking_uri="http://127.0.0.1:9")
    assert ("e", "http://127.0.0.1:9") == (settings().experiment_name, settings().tracking_uri)
    assert not found.ok
    assert "127.0.0.1:9" in found.message


CALLBACKS: list[Callable[[], Any]] = [mltrace.status, mltrace.flush, mltrace.shutdown]


@pytest.mark.parametrize("ask", CALLBACKS)
def test_a_backend_of_the_users_is_asked(ask: Callable[[], Any]) -> None:
    """Any object with a backend's methods is one."""
    backend = MemoryBackend()
    mltrace.configure(backend=backend)
    call()
    assert backend is _config.active().backend
    assert 1 == len(backend.roots)
    assert ask() in (backend.status(), backend.status().report())
