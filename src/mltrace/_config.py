"""
The one mutable object of the process: settings, and the backend made from them.

Settings come from `configure`, else the environment, else defaults, and are resolved when the first
record is made, not at import. Whether mltrace is enabled is asked at every call, so that a test or
a notebook can switch it off and on.

A backend is kept per process. `configure` replaces it: the old one goes on delivering in the
background and is flushed at exit with the new one.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import msgspec

from . import _guard, _watched
from ._addresses import OTLP_SCHEME, has_stray_userinfo, safe_uri, without_bridge
from ._provenance import context_tags
from ._records import KINDS, RUN, TRACE
from ._redaction import RedactHook, Redactor
from ._spool import DestinationDirectory
from ._texts import clean_experiment
from ._values import Renderer
from .backends import Backend, FlushReport, SpoolStatus
from .backends.journal import Journal
from .backends.memory import MemoryBackend
from .backends.noop import NoopBackend
from .delivery import connect
from .delivery.destination import DeliveryError, NotApplied, Reachability, Uncertain
from .exceptions import ConfigurationError, MissingExtra


DEFAULT_URI = "sqlite:///mlflow.db"
DEFAULT_EXPERIMENT = "Default"
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}
_TRUTH: dict[bytes | str, bool] = {
    form: truth
    for truth, texts in ((True, _TRUE), (False, _FALSE))
    for text in texts
    for form in (text, text.encode())
}
_BACKENDS = ("mlflow", "memory", "noop")
_ON_FULL = ("drop", "block", "raise")
_DURABILITY = ("process", "disk")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, resolved. The table of defaults and variables is in the README."""

    tracking_uri: str
    experiment_name: str
    backend: str | Backend
    spool_dir: Path
    spool_limit_bytes: int
    on_full: str
    durability: str
    redact: bool | RedactHook
    redact_keys: tuple[str, ...]
    sample_rate: float
    record_as: Mapping[str, str]
    strict: bool
    exit_timeout: float
    bridge: bool = True

    def __repr__(self) -> str:
        """Show everything but the password that an address can have."""
        shown = {**msgspec.structs.asdict(self), "tracking_uri": safe_uri(self.tracking_uri)}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class Active:
    """
    What a run needs of the configuration, as plain attributes: *backend*, *experiment*, *renderer*,
    *sample_rate*, and *traced*: the kinds of calls that are recorded as spans, None for no kind.
    """

    __slots__ = ("backend", "experiment", "renderer", "sample_rate", "settings", "traced")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.experiment = settings.experiment_name
        self.sample_rate = settings.sample_rate
        self.traced = frozenset(kind for kind, form in settings.record_as.items() if form == TRACE) or None
        hook = settings.redact if callable(settings.redact) else None
        self.renderer = Renderer(Redactor(settings.redact_keys, hook, builtin=settings.redact is not False))
        self.backend = _make_backend(settings)


_lock = threading.RLock()
_given: dict[str, Any] = {}
_forced: dict[str, Any] = {}  # by `take_over`: stronger than what the program configures
_enabled: bool | None = None
_active: Active | None = None
_retired: list[Backend] = []
_elsewhere: dict[str, Backend] = {}  # by address: those that MLflow's own API was pointed at, beside ours
_exit_hooked = False

# `os.environ` decodes and copies at each look-up, 0.6 µs; the mapping below it is read in 0.02 µs
# and is the same object for the life of the process.
_environ: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)
_encoded = os.environ.encodekey if _environ is not os.environ else str
_raw = _environ.get
_MLTRACE_ENABLED, _MLFLOW_ENABLED, _DISABLED = (
    _encoded(name) for name in ("MLTRACE_ENABLED", "MLFLOW_ENABLED", "DISABLE_MLFLOW_TRACKING")
)


def is_enabled() -> bool:
    """
    Return whether calls are recorded, as of now.

    `configure(enabled=)` decides; else ``MLTRACE_ENABLED``, else ``MLFLOW_ENABLED``, else
    ``DISABLE_MLFLOW_TRACKING`` inverted; else True.
    """
    if _enabled is not None:
        return _enabled
    if (value := _raw(_MLTRACE_ENABLED)) is not None:
        return _is_true("MLTRACE_ENABLED", value)
    if (value := _raw(_MLFLOW_ENABLED)) is not None:
        return _is_true("MLFLOW_ENABLED", value)
    if (value := _raw(_DISABLED)) is not None:
        return not _is_true("DISABLE_MLFLOW_TRACKING", value)
    return True


def _is_true(name: str, value: bytes | str) -> bool:
    known = _TRUTH.get(value)
    return known if known is not None else _judge(name, value)


def _judge(name: str, value: bytes | str) -> bool:
    text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else value).strip().lower()
    if text not in _TRUE and text not in _FALSE:
        _guard.warn_once(
            f"env:{name}", f"{name} is neither true nor false; mltrace takes it as true", value=text[:40]
        )
    return text not in _FALSE


def active() -> Active:
    """Return the configuration in force, resolved and started at the first call."""
    return _active or _activate()


def _activate() -> Active:
    global _active, _exit_hooked
    with _lock:
        if _active is None:
            settings = resolve()
            _guard.strict = settings.strict
            _active = Active(settings)
            if not _exit_hooked:
                _exit_hooked = True
                atexit.register(_at_exit)
        return _active


def configure(
    *,
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    enabled: bool | None = None,
    backend: str | Backend | None = None,
    spool_dir: str | os.PathLike[str] | None = None,
    spool_limit_bytes: int | None = None,
    on_full: str | None = None,
    durability: str | None = None,
    redact: bool | RedactHook | None = None,
    redact_keys: Iterable[str] | None = None,
    sample_rate: float | None = None,
    record_as: str | Mapping[str, str] | None = None,
    strict: bool | None = None,
    exit_timeout: float | None = None,
    bridge: bool | None = None,
) -> None:
    """
    Set up mltrace for this process; call it once, early. What is not given comes from the
    environment, else from the defaults.

    Args:
        tracking_uri: Where MLflow is: ``http(s)://…``, or any address of MLflow's own with the
            ``mlflow`` extra (``sqlite:///mlflow.db``). Environment: ``MLFLOW_TRACKING_URI``.

        experiment_name: The experiment of runs that name none and have no parent
            (``MLFLOW_EXPERIMENT_NAME``; "Default"). Above 256 characters it is cut and ends in its hash.

        enabled: Whether anything is recorded (``MLTRACE_ENABLED``, ``MLFLOW_ENABLED``,
            ``DISABLE_MLFLOW_TRACKING`` inverted; True).

        backend: "mlflow" (the journal and its delivery), "memory", "noop", or an object with the
            methods of `mltrace.backends.Backend` (``MLTRACE_BACKEND``; "mlflow").

        spool_dir: Directory of the journal (``MLTRACE_SPOOL_DIR``; the user's state directory).

        spool_limit_bytes: Bytes that this process has on disk above which *on_full* applies
            (``MLTRACE_SPOOL_LIMIT_BYTES``; 1 GiB).

        on_full: "drop" and count, "block" the caller for at most 30 s, or "raise" `SpoolFull` from
            what the program logs itself, never from a decorated call (``MLTRACE_ON_FULL``; "drop").

        durability: "process": a record survives the death of the process; "disk": and power loss
            (``MLTRACE_DURABILITY``; "process").

        redact: False: nothing is hidden; a function ``redact(key, value) -> value``: applied after
            the built-in rules; hides what it raises on.

        redact_keys: More names whose values are hidden, compared without case and punctuation.

        sample_rate: Share of root runs that are recorded, with their trees, 0 to 1; a tree with a
            failed run is always kept (``MLTRACE_SAMPLE_RATE``; 1).

        record_as: "run" or "trace", for all or by kind (``{"llm_call": "trace"}``): whether a call becomes
            an MLflow run or a span of a trace (``MLTRACE_RECORD_AS``, there as
            ``llm_call=trace,prediction=trace``; "run"). Kinds: ``run``, ``training``, ``llm_call``,
            ``prediction``, ``evaluation``.

        strict: Raise mltrace's own errors instead of logging them; for tests (``MLTRACE_STRICT``;
            False).

        exit_timeout: Seconds that the interpreter's exit may wait for delivery
            (``MLTRACE_EXIT_TIMEOUT``; 5).

        bridge: Whether the current run of kind run or training is also MLflow's active run, where the
            program uses MLflow's own API at the same address (``MLTRACE_BRIDGE``; True).

    Raises: ConfigurationError: A value that cannot be used; the message names it. Nothing is
        changed then.
    """
    global _given, _enabled
    given = _settings_among(locals())
    if enabled is not None and not isinstance(enabled, bool):
        raise ConfigurationError(f"enabled: {enabled!r} is not a bool")
    with _lock:
        settings = resolve(given)
        _given = _as_resolved(given, settings)
        _enabled = _forced.get("enabled") if enabled is None else enabled
        _guard.strict = settings.strict
        _retire()


def _settings_among(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the *arguments* of `configure` is a setting, and given."""
    return {
        name: value
        for name, value in arguments.items()
        if value is not None and name in Settings.__struct_fields__
    }


def _as_resolved(names: Iterable[str], settings: Settings) -> dict[str, Any]:
    """
    Return the settings called *names*: a relative place stays where it was when it was named, whatever
    directory the program goes to.
    """
    return {name: getattr(settings, name) for name in names}


def _retire() -> None:
    """Have the next record start anew; the backend in force goes on delivering what it has."""
    global _active
    if _active is not None and not isinstance(_active.backend, (NoopBackend, MemoryBackend)):
        _retired.append(_active.backend)
    _active = None


def resolve(given: Mapping[str, Any] | None = None) -> Settings:
    """
    Return the settings that *given* (default: what `configure` was given), the environment and the
    defaults make together.
    """
    given = _given if given is None else given

    def value(name: str, variable: str | None, default: Any) -> Any:
        if name in _forced:
            return _forced[name]
        if name in given:
            return given[name]
        return os.environ.get(variable, default) if variable else default

    uri = normal_uri(value("tracking_uri", "MLFLOW_TRACKING_URI", "") or DEFAULT_URI)
    # A collector of OpenTelemetry's knows spans alone.
    forms = TRACE if uri.startswith(OTLP_SCHEME) else value("record_as", "MLTRACE_RECORD_AS", RUN)
    return Settings(
        tracking_uri=uri,
        experiment_name=clean_experiment(
            _text(
                "experiment_name",
                value("experiment_name", "MLFLOW_EXPERIMENT_NAME", "") or DEFAULT_EXPERIMENT,
            )
        ),
        backend=_one_of("backend", value("backend", "MLTRACE_BACKEND", "mlflow"), _BACKENDS),
        spool_dir=_directory(value("spool_dir", "MLTRACE_SPOOL_DIR", None) or _default_spool_dir()),
        spool_limit_bytes=int(
            _number(
                "spool_limit_bytes",
                value("spool_limit_bytes", "MLTRACE_SPOOL_LIMIT_BYTES", 1 << 30),
                64 << 10,
            )
        ),
        on_full=_one_of("on_full", value("on_full", "MLTRACE_ON_FULL", "drop"), _ON_FULL),
        durability=_one_of("durability", value("durability", "MLTRACE_DURABILITY", "process"), _DURABILITY),
        redact=_hook(value("redact", None, True)),
        redact_keys=_texts("redact_keys", value("redact_keys", None, ())),
        sample_rate=_number("sample_rate", value("sample_rate", "MLTRACE_SAMPLE_RATE", 1.0), 0, 1),
        record_as=_record_as(forms),
        strict=_bool("strict", value("strict", "MLTRACE_STRICT", False)),
        exit_timeout=_number("exit_timeout", value("exit_timeout", "MLTRACE_EXIT_TIMEOUT", 5.0), 0),
        bridge=_bool("bridge", value("bridge", "MLTRACE_BRIDGE", True)),
    )


def _record_as(value: Any) -> dict[str, str]:
    """Return for each kind of call what it is recorded as."""
    given = value
    if isinstance(given, str):
        if given in (RUN, TRACE):
            return dict.fromkeys(KINDS, given)
        pairs = [pair.partition("=") for pair in given.split(",") if pair.strip()]
        given = {kind.strip(): form.strip() for kind, _, form in pairs}
    if not isinstance(given, Mapping) or not all(
        kind in KINDS and form in (RUN, TRACE) for kind, form in given.items()
    ):
        _refuse("record_as", value, f"{RUN!r}, {TRACE!r}, or one of the two for each of {', '.join(KINDS)}")
    return {**dict.fromkeys(KINDS, RUN), **given}


def normal_uri(uri: str) -> str:
    """
    Return *uri* with a relative database or directory made absolute: it must mean the same file to
    the process that delivers later. ``mltrace+`` before it is for MLflow alone.
    """
    if not isinstance(uri, str) or not uri.isprintable():
        _refuse_uri(uri, "is not an address")
    uri = without_bridge(uri)
    scheme, _, rest = uri.partition("://")
    if scheme.removeprefix("otlp+") in ("http", "https"):
        try:
            host = urlsplit(uri).hostname
        except ValueError as error:
            _refuse_uri(uri, f"cannot be read ({error})")
        if not host or " " in uri:
            _refuse_uri(uri, "is not an address: it has a space in it" if " " in uri else "has no host")
        if has_stray_userinfo(uri):
            _refuse_uri(uri, "has an @ behind its host; in a password, write / as %2F, ? as %3F and # as %23")
    elif uri.startswith("sqlite:///") and rest[1:] not in ("", ":memory:"):
        return f"sqlite:///{Path(rest[1:]).absolute()}"
    elif uri.startswith("file:") and not uri.startswith("file:/"):
        return Path(uri.removeprefix("file:")).absolute().as_uri()
    elif "://" not in uri and not uri.startswith(("file:", "databricks")):
        return Path(uri).absolute().as_uri()
    return uri


def _refuse_uri(uri: Any, why: str) -> NoReturn:
    shown = safe_uri(uri) if isinstance(uri, str) else uri
    raise ConfigurationError(
        f"tracking_uri: {shown!r} {why}; set MLFLOW_TRACKING_URI, for example to http://localhost:5000"
        " or sqlite:///mlflow.db"
    )


def _default_spool_dir() -> str:
    import platformdirs

    return platformdirs.user_state_dir("mltrace", appauthor=False)


def _refuse(name: str, value: object, rule: str) -> NoReturn:
    raise ConfigurationError(
        f"{name}: {value!r} is not {rule} (option {name}= of configure, or its environment variable)"
    )


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> Any:
    if isinstance(value, str) and value in choices:
        return value
    if name == "backend" and isinstance(value, Backend):
        return value
    return _refuse(name, value, f"one of {', '.join(choices)}")


def _number(name: str, value: Any, least: float, most: float = float("inf")) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        _refuse(name, value, "a number")
    if not least <= found <= most or found == float("inf"):
        _refuse(name, value, f"between {least:g} and {most:g}")
    return found


def _bool(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if (text := str(value).strip().lower()) in _TRUE | _FALSE:
        return text in _TRUE
    return _refuse(name, value, "true or false")


def _text(name: str, value: Any) -> str:
    return value if isinstance(value, str) else _refuse(name, value, "a text")


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        found = tuple(value)
        if all(isinstance(item, str) for item in found):
            return found
    return _refuse(name, value, "a collection of names")


def _directory(value: Any) -> Path:
    try:
        return Path(value).expanduser().absolute()
    except (TypeError, RuntimeError):
        return _refuse("spool_dir", value, "a directory's path")


def _hook(value: Any) -> Any:
    return (
        value
        if isinstance(value, bool) or callable(value)
        else _refuse("redact", value, "a function redact(key, value) or a bool")
    )


def _make_backend(settings: Settings) -> Backend:
    if not isinstance(settings.backend, str):
        return settings.backend
    if settings.backend == "noop":
        return NoopBackend()
    if settings.backend == "memory":
        return MemoryBackend()
    directory = DestinationDirectory(settings.spool_dir, settings.tracking_uri)
    # With the first record: a program that is off, or only imports mltrace, does without.
    from .delivery.sender import Sender

    sender = Sender(directory, lambda: connect(settings.tracking_uri))
    return Journal(
        directory,
        delivery=sender,
        context=context_tags(),
        experiment=settings.experiment_name,
        limit_bytes=settings.spool_limit_bytes,
        on_full=settings.on_full,
        durability=settings.durability,
    )


def backend_for(uri: str) -> Backend:
    """
    Return the backend of the destination *uri*, a `normal_uri`: the one in force, or a journal with the
    same settings where the program has MLflow's own API write elsewhere.
    """
    config = active()
    if config.settings.tracking_uri == uri or not isinstance(config.backend, Journal):
        return config.backend
    with _lock:
        if uri not in _elsewhere:
            _elsewhere[uri] = _make_backend(msgspec.structs.replace(config.settings, tracking_uri=uri))
        return _elsewhere[uri]


def _backends() -> list[Backend]:
    return [*_retired, *_elsewhere.values(), *([_active.backend] if _active else [])]


def flush(timeout: float = 30.0) -> FlushReport:
    """
    Deliver what was logged before the call, for at most *timeout* seconds.

    Returns:
        Counts of this process's records. *pending* ones are safe in the spool and are sent later.
    """
    return _total(_each(_backends(), timeout, "flush"))


def shutdown(timeout: float | None = None) -> FlushReport:
    """
    Flush for at most *timeout* seconds (default: `exit_timeout`) and stop; the next record starts
    anew. Called at the interpreter's exit.

    Returns:
        Counts of this process's records; with pending ones left, one warning says how many.
    """
    with _lock:
        backends, limit = (
            _backends(),
            timeout if timeout is not None else _active.settings.exit_timeout if _active else 0.0,
        )
        _retired.clear()
        _elsewhere.clear()
    report = _total(_each(backends, limit, "close"))
    _watched.close()
    if report.pending:
        message = "mltrace leaves records in its spool; the next process that logs there sends them, or `mltrace sync` does"
        _guard.logger().warning(message, pending=report.pending)
    if report.dropped:
        _guard.logger().warning("mltrace dropped records; `mltrace status` says why", dropped=report.dropped)
    return report


def _each(backends: Iterable[Backend], timeout: float, method: str) -> list[FlushReport]:
    deadline = time.monotonic() + timeout
    return [getattr(backend, method)(max(deadline - time.monotonic(), 0.0)) for backend in backends]


def _total(reports: Iterable[FlushReport]) -> FlushReport:
    columns = list(zip(*(msgspec.structs.astuple(report) for report in reports), strict=True)) or [(0,)] * 4
    return FlushReport(*(sum(column) for column in columns))


def status() -> SpoolStatus:
    """
    Return the state of this process's destination: counts of records, bytes, the last error. Costs
    no request.
    """
    return active().backend.status()


def init_mlflow(experiment_name: str | None = None, tracking_uri: str | None = None) -> Reachability:
    """
    `configure`, and say in words whether the destination can be used now. It need not be: records
    wait in the spool.

    Returns:
        *ok*, and *message*, a sentence with the remedy where it is not.
    """
    configure(experiment_name=experiment_name, tracking_uri=tracking_uri)
    return probe(resolve().tracking_uri)


def probe(uri: str) -> Reachability:
    """Ask the destination *uri* whether it can be used; an answer in words, never an exception."""
    try:
        destination = connect(uri)
        try:
            return destination.probe()
        finally:
            destination.close()
    except (DeliveryError, ConfigurationError, MissingExtra) as error:
        return Reachability(False, str(error), away=isinstance(error, (NotApplied, Uncertain)))


def take_over(given: Mapping[str, Any], forced: Mapping[str, Any]) -> Callable[[], None]:
    """
    Put *given* settings on top of those that the program gave, and *forced* ones above whatever it
    configures from now on, until the returned function is called: for tests.

    That function makes everything as it was before: settings, the backend in force and those that
    were replaced earlier, which go on delivering meanwhile, and what was said and counted.
    """
    global _given, _forced, _enabled, _active, _retired, _elsewhere
    with _lock:
        before = (_given, _forced, _enabled, _active, _retired, _elsewhere)
        settings = resolve({**_given, **given, **forced})  # a value that cannot be used changes nothing
        restore_guard = _guard.isolate()
        _given = _as_resolved({**_given, **given}, settings)
        _forced, _enabled = dict(forced), forced.get("enabled")
        _active, _retired, _elsewhere = None, [], {}
        _guard.strict = resolve().strict

    def restore() -> None:
        global _given, _forced, _enabled, _active, _retired, _elsewhere
        with _lock:
            _given, _forced, _enabled, _active, _retired, _elsewhere = before
            restore_guard()

    return restore


def reset() -> None:
    """Stop without delivering, and forget every setting and message: for tests."""
    global _given, _forced, _enabled, _active
    shutdown(0)
    with _lock:
        _given, _forced, _enabled, _active = {}, {}, None, None
        _guard.reset()


_exit_callbacks: list[Any] = []


def before_exit(callback: Any) -> None:
    """Have *callback* called before the exit's flush."""
    _exit_callbacks.append(callback)


def _at_exit() -> None:
    try:
        for callback in _exit_callbacks:
            callback()
        shutdown()
    except Exception as error:
        print(f"mltrace failed at exit: {error!r}", file=sys.stderr)  # noqa: T201 # logging may be gone by now


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)
