"""The model registry: stages over aliases, promotion, rollback, and who moved what; against a real MLflow server."""

from __future__ import annotations

import math

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

import mltrace

from mltrace import registry
from mltrace._clock import new_id
from mltrace.registry._changes import Change, encode, new_change, read_changes, standing
from mltrace.registry._moving import move
from mltrace.registry._rule import Rule, decide
from mltrace.registry._versions import read
from tests.harness import Proxy, python, run_python
from tests.server import MlflowServer


Shelve = Callable[..., str]


@pytest.fixture(name="client")
def _client(server: MlflowServer) -> MlflowClient:
    """Point mltrace at the shared server; return MLflow's own client there."""
    mltrace.configure(tracking_uri=server.url)
    return MlflowClient(server.url, server.url)


@pytest.fixture(name="shelve")
def _shelve(client: MlflowClient) -> Shelve:
    """Register versions of a new model, one for each mapping of metrics; return its name."""

    def shelve(*versions: Mapping[str, float], name: str | None = None) -> str:
        name = name or f"model-{new_id()[:8]}"
        if not any(model.name == name for model in client.search_registered_models(f"name='{name}'")):
            client.create_registered_model(name)
        for metrics in versions:
            run = client.create_run("0")
            for key, value in metrics.items():
                client.log_metric(run.info.run_id, key, value)
            client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
        return name

    return shelve


def production(client: MlflowClient, name: str) -> str | None:
    """Return the version that the server's alias names."""
    found = dict(client.get_registered_model(name).aliases).get("production")
    return None if found is None else str(found)


# Looking.


def test_the_latest_model_is_the_newest_or_the_newest_in_a_stage(shelve: Shelve) -> None:
    """Without a stage the highest number counts, with one the alias; the word's case does not matter."""
    name = shelve({"accuracy": 0.9}, {"accuracy": 0.8})
    registry.transition_model_to_stage(name, 1, "production")

    assert ("2", "1") == (
        registry.get_latest_model(name).version,
        registry.get_latest_model(name, "PRODUCTION").version,
    )
    assert ("Production", ("production",)) == (
        registry.get_latest_model(name, "Production").stage,
        registry.get_latest_model(name, "Production").aliases,
    )


def test_errors_say_what_there_is(shelve: Shelve) -> None:
    """A wrong name, version, alias or stage is answered with the names, versions and aliases that exist."""
    name = shelve({}, {})
    registry.promote_to_production(name, 2)
    with pytest.raises(registry.ModelNotFound, match=rf"there is '{name}'.*registered, and under exactly"):
        registry.get_latest_model(name + "x")
    with pytest.raises(
        registry.ModelNotFound, match=r"no version 7; there are versions 1, 2 .*production → 2"
    ):
        registry.transition_model_to_stage(name, 7, "Staging")
    with pytest.raises(registry.ModelNotFound, match="in Staging; there are versions 1, 2 and the aliases"):
        registry.get_latest_model(name, "Staging")
    with pytest.raises(mltrace.ConfigurationError, match="stage: 'Prod' is not one of Production, Staging"):
        registry.get_latest_model(name, "Prod")
    with pytest.raises(mltrace.ConfigurationError, match="version: 'two' is not a version number"):
        registry.promote_to_production(name, "two")


def test_a_registry_that_is_away_is_said_so_within_seconds() -> None:
    """MLflow's client would try for minutes; the address is asked first."""
    mltrace.configure(tracking_uri="http://127.0.0.1:9")
    with pytest.raises(registry.RegistryUnavailable, match="cannot be reached"):
        registry.get_latest_model("any")


def test_without_mlflow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, and what to install."""
    done = run_python(
        """
        import sys
        sys.modules["mlflow"] = None
        from mltrace import MissingExtra, registry
        try:
            registry.get_latest_model("any")
        except MissingExtra as error:
            print(error)
        """
    )
    assert "the model registry needs mlflow" in done.stdout
    assert "install mltrace-mlflow[mlflow]" in done.stdout


def test_while_mltrace_is_off_nothing_is_changed() -> None:
    """What changes something returns None, and asks no server; there is none at this address."""
    mltrace.configure(tracking_uri="http://127.0.0.1:9", enabled=False)

    assert [None] * 5 == [
        registry.register_model("runs:/1/model", "any"),
        registry.transition_model_to_stage("any", 1, "Production"),
        registry.promote_to_production("any", 1),
        registry.promote_best_model("any", "accuracy"),
        registry.rollback("any"),
    ]


# Stages.


def test_a_version_is_in_one_stage_at_a_time(client: MlflowClient, shelve: Shelve) -> None:
    """It leaves the stage it was in; who was in the new one has none; and any number can be archived."""
    name = shelve({}, {}, {})
    registry.transition_model_stage(name, 1, "Staging")
    registry.transition_model_stage(name, 1, "Production")
    registry.transition_model_stage(name, 2, "Production")
    registry.transition_model_stage(name, 3, "Archived")
    registry.transition_model_stage(name, 1, "Archived")

    assert {"production": "2"} == {
        alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()
    }
    assert ["Archived", "Production", "Archived"] == [
        read(client, name).version(number).stage for number in (1, 2, 3)
    ]
    registry.transition_model_stage(name, 1, "None")
    registry.transition_model_stage(name, 3, "Staging")
    assert ["None", "Production", "Staging"] == [
        read(client, name).version(number).stage for number in (1, 2, 3)
    ]


def test_old_stages_are_kept_in_step_on_request_and_understood(client: MlflowClient, shelve: Shelve) -> None:
    """`sync_stages` sets MLflow's deprecated field too; where there is no alias, that field counts."""
    name = shelve({}, {})
    registry.promote_to_production(name, 1)
    assert "None" == client.get_model_version(name, "1").current_stage
    registry.promote_to_production(name, 2, sync_stages=True)
    assert "Production" == client.get_model_version(name, "2").current_stage
    registry.rollback(name, sync_stages=True)
    assert ["Production", "Archived"] == [
        client.get_model_version(name, number).current_stage for number in ("1", "2")
    ]
    client.delete_registered_model_alias(name, "production")
    assert "1" == registry.get_latest_model(name, "Production").version


def test_every_change_says_who_when_from_to_why_and_on_what(client: MlflowClient, shelve: Shelve) -> None:
    """The entry is on the registered model and on the version that it is about."""
    name = shelve({"accuracy": 0.9, "loss": float("nan")}, {})
    registry.promote_to_production(name, 1, why="first", by="ada")
    registry.promote_to_production(name, 2, why="second", by="grace")
    first, second = registry.history(name)

    assert (None, "1", "ada", "first", "promote") == (
        first.before,
        first.after,
        first.who,
        first.why,
        first.action,
    )
    assert {"accuracy": 0.9, "loss": "NaN"} == first.metrics
    assert ("1", "2", "grace", 2) == (second.before, second.after, second.who, second.seq)
    assert first.when <= second.when
    assert [second] == read_changes(dict(client.get_model_version(name, "2").tags))
    assert [first] == read_changes(dict(client.get_model_version(name, "1").tags))


# Promotion by a metric.


def test_the_best_is_promoted_at_the_threshold(client: MlflowClient, shelve: Shelve) -> None:
    """0.95 reaches 0.95; a dry run says so and changes nothing."""
    name = shelve({"accuracy": 0.93}, {"accuracy": 0.95}, {"accuracy": float("nan")}, {})
    would = registry.promote_best_model(name, "accuracy", min_value=0.95, dry_run=True)
    assert would is not None
    assert ("2", None, True) == (would.promoted, production(client, name), would.dry_run)
    assert [] == registry.history(name)
    done = registry.promote_best_model(name, "accuracy", min_value=0.95)

    assert done is not None
    assert (["2", None], "2") == ([done.promoted, done.refused], production(client, name))
    assert (0.93, 0.95, None) == (done.values["1"], done.values["2"], done.values["4"])
    assert math.isnan(done.values["3"] or 0)
    assert {"accuracy": 0.95} == registry.history(name)[-1].metrics


def test_a_refused_promotion_is_written_down_once_and_alerts_each_time(
    client: MlflowClient, shelve: Shelve, said: list[str]
) -> None:
    """A new model that is worse than the old one: a warning, the hook, an entry in the history, and no change."""
    name = shelve({"accuracy": 0.95}, {"accuracy": 0.91})
    registry.promote_to_production(name, 1)
    alerts: list[registry.Promotion] = []
    for _ in range(2):
        registry.promote_best_model(name, "accuracy", on_regression=alerts.append)

    assert "1" == production(client, name)
    assert ["2", "2"] == [alert.refused for alert in alerts]
    assert f"version 2 of model '{name}' is not promoted to Production" in said
    assert "0.91 is worse than 0.95 of version 1" in said
    refusals = [change for change in registry.history(name) if change.action == "refuse"]
    assert [("1", "2", "accuracy: 0.91 is worse than 0.95 of version 1")] == [
        (change.before, change.after, change.why) for change in refusals
    ]


def test_a_pipeline_can_stop_at_a_regression(client: MlflowClient, shelve: Shelve) -> None:
    """What the hook raises is raised, after everything is written down."""
    name = shelve({"loss": float("nan")})

    def stop(outcome: registry.Promotion) -> None:
        raise SystemExit(outcome.reason)

    with pytest.raises(SystemExit, match="no version has a finite value"):
        registry.promote_best_model(name, "loss", higher_is_better=False, on_regression=stop)
    assert ["refuse"] == [change.action for change in registry.history(name)]
    assert production(client, name) is None


def test_archived_versions_do_not_take_part(client: MlflowClient, shelve: Shelve) -> None:
    """However good they were."""
    name = shelve({"accuracy": 0.99}, {"accuracy": 0.9})
    registry.transition_model_to_stage(name, 1, "Archived")
    registry.promote_best_model(name, "accuracy")

    assert "2" == production(client, name)


@pytest.mark.parametrize(
    "options",
    [
        {"min_value": float("nan")},
        {"min_delta": -0.1},
        {"min_delta": True},
        {"higher_is_better": "yes"},
        {"stage": "Archived"},
        {"metric": ""},
    ],
)
def test_wrong_options_of_a_promotion_name_themselves(options: dict[str, Any]) -> None:
    """They are refused before any server is asked."""
    with pytest.raises(mltrace.ConfigurationError, match=next(iter(options))):
        registry.promote_best_model(**{"name": "any", "metric": "accuracy", **options})


VALUES = st.one_of(
    st.none(), st.sampled_from([0.1, 0.2, 0.3, 0.85, 0.95, 1.0, -1.0]), st.floats(allow_nan=True, width=32)
)
RULES = st.builds(
    Rule,
    higher_is_better=st.booleans(),
    min_value=st.one_of(st.none(), st.sampled_from([0.1, 0.85, 0.95])),
    min_delta=st.sampled_from([0.0, 0.05, 0.1]),
)


@given(values=st.lists(VALUES, max_size=6), rule=RULES, data=st.data())
def test_the_rule(values: list[float | None], rule: Rule, data: st.DataObject) -> None:
    """
    Whatever the values: what wins is finite, is the best, is good enough and better than the current
    one by what was asked; and where such a one exists, it wins.
    """
    table = {str(number): value for number, value in enumerate(values, start=1)}
    current = data.draw(st.sampled_from([None, *table])) if table else None
    decision = decide(table, current, rule)

    def key(version: str) -> Decimal:
        exact = Decimal(repr(float(table[version] or 0.0)))
        return exact if rule.higher_is_better else -exact

    finite = [version for version, value in table.items() if value is not None and math.isfinite(value)]
    sign = 1 if rule.higher_is_better else -1
    bound = None if rule.min_value is None else sign * Decimal(repr(rule.min_value))
    best = max(map(key, finite), default=None)
    worthy = [
        version
        for version in finite
        if key(version) == best
        and (bound is None or key(version) >= bound)
        and (
            current not in finite
            or (key(version) > key(current) and key(version) - key(current) >= Decimal(repr(rule.min_delta)))
        )
        and version != current
    ]
    if current in finite and key(current or "") == best:
        worthy = []
    assert (worthy[-1] if worthy else None) == decision.promote
    assert not (decision.promote and decision.refuse)
    assert decision.refuse != current or current is None or not finite
    assert decision.reason


@pytest.mark.parametrize(
    ("values", "current", "rule", "promote", "refuse"),
    [
        ([0.9], None, Rule(), "1", None),
        ([0.9], None, Rule(min_value=0.9), "1", None),
        ([0.9], None, Rule(min_value=0.91), None, "1"),
        ([0.9, 0.9], "1", Rule(), None, "2"),
        ([0.9, 0.9], None, Rule(), "2", None),
        ([0.2, 0.3], "1", Rule(min_delta=0.1), "2", None),  # in binary it is 0.0999…
        ([0.2, 0.29], "1", Rule(min_delta=0.1), None, "2"),
        ([0.2, 0.1], "1", Rule(higher_is_better=False), "2", None),
        (
            [1e30, 0.1, 0.2],
            None,
            Rule(higher_is_better=False),
            "2",
            None,
        ),  # whose gains are equal in 28 digits
        ([0.2, 0.1], "1", Rule(higher_is_better=False, min_value=0.05), None, "2"),
        ([float("nan"), 0.1], "1", Rule(), "2", None),
        ([0.1, float("inf")], "1", Rule(), None, "2"),
        ([0.9, 0.8], "1", Rule(), None, "2"),
        ([0.8, 0.9], "2", Rule(), None, None),
        ([None, None], "1", Rule(), None, "2"),
        ([], None, Rule(), None, None),
    ],
)
def test_the_rule_by_example(
    values: list[float | None], current: str | None, rule: Rule, promote: str | None, refuse: str | None
) -> None:
    """The cases that people ask about."""
    table = {str(number): value for number, value in enumerate(values, start=1)}
    decision = decide(table, current, rule)

    assert (promote, refuse) == (decision.promote, decision.refuse)


# Back.


def test_rollback_goes_further_back_each_time(client: MlflowClient, shelve: Shelve) -> None:
    """Three promotions, two rollbacks: the first version; a third has nothing to go back to; on from there as ever."""
    name = shelve({}, {}, {}, {})
    for version in (1, 2, 3):
        registry.promote_to_production(name, version)
    seen = []
    for _ in range(2):
        back = registry.rollback(name, why="errors in production")
        assert back is not None
        seen.append(back.version)
    assert ["2", "1"] == seen
    with pytest.raises(registry.RegistryError, match=r"cannot be rolled back.*before version 1"):
        registry.rollback(name)
    registry.promote_to_production(name, 4)
    registry.rollback(name)

    assert "1" == production(client, name)
    assert ["promote", "promote", "promote", "rollback", "rollback", "promote", "rollback"] == [
        change.action for change in registry.history(name)
    ]


def test_rollback_passes_over_what_is_gone_and_takes_in_what_others_did(
    client: MlflowClient, shelve: Shelve
) -> None:
    """A deleted version is skipped; an alias that was moved by hand is what is rolled back from."""
    name = shelve({}, {}, {}, {})
    for version in (1, 2, 3):
        registry.promote_to_production(name, version)
    client.set_registered_model_alias(name, "production", "4")
    client.delete_model_version(name, "3")
    back = registry.rollback(name)

    assert back is not None
    assert ("2", "2") == (back.version, production(client, name))
    assert ("4", "2") == (registry.history(name)[-1].before, registry.history(name)[-1].after)


@given(st.lists(st.one_of(st.none(), st.integers(1, 4)), max_size=12))
def test_the_standing_is_a_stack(steps: list[int | None]) -> None:
    """Whatever is promoted and rolled back (None), the top is what stands, and a rollback uncovers what was below."""
    changes: list[Change] = []
    stack: list[str | None] = [None]
    said = {"why": "", "by": "me", "metrics": {}}
    for seq, step in enumerate(steps, start=1):
        before = stack[-1]
        if step is None and len(stack) > 1:
            stack.pop()
            changes.append(new_change("Production", "rollback", before, stack[-1], seq=seq, **said))
        elif step is not None and str(step) != before:
            stack.append(str(step))
            changes.append(new_change("Production", "promote", before, str(step), seq=seq, **said))
    assert stack == standing(changes, "Production", stack[-1]) or not changes
    assert [*stack, "9"] == standing(changes, "Production", "9") or not changes


def test_an_entry_fits_every_registry_and_comes_back() -> None:
    """A tag's column had 5,000 characters once: metrics that do not fit are left out, the rest stays."""
    metrics = {f"metric_{number:04}": 1 / 3 for number in range(500)}
    change = new_change("Production", "promote", None, "1", seq=1, why="w" * 2000, by="me", metrics=metrics)
    text = encode(change)
    (back,) = read_changes({change.tag: text, "mltrace.change.bad": "{", "other": "1"})

    assert len(text) < 5000
    assert 20 < len(back.metrics) < 500
    assert msgspec.structs.replace(change, metrics=back.metrics) == back


# Others at the same moment.


def test_a_decision_on_an_old_reading_changes_nothing(client: MlflowClient, shelve: Shelve) -> None:
    """The alias was moved between the decision and the change: the error says by whom, and where it is."""
    name = shelve({}, {}, {})
    old = read(client, name)
    registry.promote_to_production(name, 2, by="ada")
    with pytest.raises(
        registry.RegistryConflict,
        match=r"moved to version 2 by ada since.*from no version; nothing was changed",
    ):
        move(client, old, "Production", "3", action="promote", why="", by="me", metrics={})

    assert "2" == production(client, name)


class _Meddler(Proxy):
    """A proxy that has somebody else move the alias just before, or just after, one request of a client."""

    def __init__(self, port: int, when: str, meddle: Callable[[], object]) -> None:
        self.when, self.meddle = when, meddle
        self.done = False
        super().__init__(port)

    def forward(self, request: Any) -> Any:
        if self.done or request.method != "POST" or "registered-models/alias" not in request.path:
            return super().forward(request)
        self.done = True
        if self.when == "before":
            self.meddle()
        answer = super().forward(request)
        if self.when == "after":
            self.meddle()
        return answer


PROMOTE = """
    import sys
    from mltrace import registry
    name, version, by = sys.argv[1:]
    registry.promote_to_production(name, version, by=by)
"""


def test_who_is_overwritten_at_the_same_moment_is_told(
    client: MlflowClient, shelve: Shelve, server: MlflowServer
) -> None:
    """Another process moves the alias right after ours: the error says that ours does not stand, and whose does."""
    name = shelve({}, {}, {})

    def other() -> None:
        run_python(PROMOTE, name, 2, "grace", MLFLOW_TRACKING_URI=server.url)

    with _Meddler(server.port, "after", other) as proxy:
        mltrace.configure(tracking_uri=proxy.url)
        with pytest.raises(
            registry.RegistryConflict, match="moved to version 2 by grace meanwhile: it was set to version 3"
        ):
            registry.promote_to_production(name, 3)
    mltrace.configure(tracking_uri=server.url)

    assert "2" == production(client, name)
    assert [(None, "3"), ("3", "2")] == [
        (change.before, change.after) for change in registry.history(name, "Production")
    ]


def test_who_overwrites_at_the_same_moment_is_told(
    client: MlflowClient, shelve: Shelve, server: MlflowServer, said: list[str]
) -> None:
    """
    Another process moves the alias between our reading and our writing: a warning names it, and the
    history has the two in the order in which they took effect, so that a rollback goes back to the other's.
    """
    name = shelve({}, {}, {})
    registry.promote_to_production(name, 1)

    def other() -> None:
        run_python(PROMOTE, name, 2, "grace", MLFLOW_TRACKING_URI=server.url)

    with _Meddler(server.port, "before", other) as proxy:
        mltrace.configure(tracking_uri=proxy.url)
        registry.promote_to_production(name, 3)
    mltrace.configure(tracking_uri=server.url)

    assert "moved to version 2 by grace at the same moment as to version 3, which stands now" in said
    assert [(None, "1"), ("1", "2"), ("2", "3")] == [
        (change.before, change.after) for change in sorted(registry.history(name), key=lambda c: c.seq)
    ]
    assert "2" == getattr(registry.rollback(name), "version", None)


REFUSED = """
    import contextlib, sqlite3, sys
    from mlflow import MlflowClient
    from mltrace import registry
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    database, theirs = sys.argv[1:]
    client = MlflowClient()
    client.create_registered_model("raced")
    for _ in range(3):
        client.create_model_version("raced", "models")

    def race(session, *_):
        for row in session.new:
            if type(row).__name__ == "SqlRegisteredModelAlias":
                with contextlib.closing(sqlite3.connect(database)) as other, other:
                    other.execute(
                        "INSERT INTO registered_model_aliases (workspace, name, alias, version) VALUES (?, ?, ?, ?)",
                        (row.workspace, row.name, row.alias, int(theirs)),
                    )

    event.listen(Session, "before_flush", race)
    try:
        registry.promote_to_production("raced", 3)
    except registry.RegistryConflict as error:
        print(error)
    event.remove(Session, "before_flush", race)
    print(client.get_model_version_by_alias("raced", "production").version)
    print([(change.before, change.after) for change in registry.history("raced")])
"""


@pytest.mark.parametrize(("theirs", "history"), [(2, []), (3, [(None, "3")])], ids=["another", "the same"])
def test_a_first_move_that_the_database_refuses_is_judged_by_what_stands(
    tmp_path: Path, theirs: int, history: list[object]
) -> None:
    """
    Of two that set an alias for the first time at once, both insert it, and the database refuses the second:
    a conflict, with nothing written down, if the first set another version; else what stands is what was wanted.
    """
    database = tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    lines = run_python(REFUSED, database, theirs, MLFLOW_TRACKING_URI=uri).stdout.splitlines()

    assert [str(theirs), str(history)] == lines[-2:]
    assert ([] if history else ["Production of model 'raced' was moved to version 2 by somebody"]) == [
        line.partition(" at the same moment as to version 3")[0] for line in lines[:-2]
    ]


RACE = """
    import logging, sys
    from mltrace import registry
    logging.basicConfig(level="WARNING", stream=sys.stdout, format="%(message)s")
    name, *versions = sys.argv[1:]
    registry.get_latest_model(name)  # everything is imported
    print("ready", flush=True)
    sys.stdin.readline()
    for version in versions:
        try:
            registry.promote_to_production(name, version)
        except registry.RegistryConflict as error:
            print("conflict", error)
"""


def test_two_processes_at_once_lose_no_entry(
    client: MlflowClient, shelve: Shelve, server: MlflowServer
) -> None:
    """
    Two processes promote six versions each as fast as they can: what stands is what somebody set, every
    change is in the history unless its process was told of a conflict, and the history leads to what stands.
    """
    name = shelve(*({} for _ in range(12)))
    mine, others = range(1, 7), range(7, 13)
    with (
        python(RACE, name, *mine, MLFLOW_TRACKING_URI=server.url) as one,
        python(RACE, name, *others, MLFLOW_TRACKING_URI=server.url) as two,
    ):
        for process in (one, two):
            assert process.stdout is not None
            assert "ready\n" == process.stdout.readline()
        results = []
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in (one, two):
            output, errors = process.communicate(timeout=120)
            assert 0 == process.returncode, errors
            results.append(output)
    stands = production(client, name)
    entries = registry.history(name)
    conflicts = sum(result.count("conflict") for result in results)

    assert stands in {"6", "12"}
    assert len(entries) >= 12 - conflicts
    assert stands in [change.after for change in entries]
    assert stands == standing(entries, "Production", stands)[-1]


# Side by side.


def test_versions_are_compared_best_first(client: MlflowClient, shelve: Shelve) -> None:
    """A frame of pandas, what has no value last, with the distance to Production; and a chart on the current run."""
    name = shelve({"accuracy": 0.9, "f1": 0.8}, {"accuracy": 0.95}, {"accuracy": float("nan")}, {})
    registry.promote_to_production(name, 1)
    with mltrace.track_run("compare") as run:
        frame = registry.compare_models(name, ["accuracy", "f1"], figure="comparison.png")
    assert run.wait(30)

    assert ["2", "1", "3", "4"] == list(frame["version"])
    assert ["None", "Production", "None", "None"] == list(frame["stage"])
    assert [0.95, 0.9] == list(frame["accuracy"])[:2]
    assert pytest.approx([0.05, 0.0]) == list(frame["vs_production"])[:2]
    assert 0.8 == frame["f1"][1]
    assert ["1"] == list(registry.compare_models(name, "f1")["version"])[:1]
    assert ["comparison.png"] == [file.path for file in client.list_artifacts(run.mlflow_run_id)]
