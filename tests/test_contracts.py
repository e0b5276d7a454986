"""The decorators keep the contracts that users are given, each with its own options."""

from __future__ import annotations

import asyncio

from collections.abc import Callable
from typing import Any

import pytest

from hypothesis import given, settings

import mltrace

from mltrace.testing import play, record, strategies
from mltrace.testing.contracts import check_logged, check_transparent


DECORATORS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "track_run": (mltrace.track_run, {"kind": "run"}),
    "track_run with options": (
        mltrace.track_run("run_{x}", params={"team": 5}, tags={"env": "test"}, description="why"),
        {
            "name": "run_{x}",
            "params": lambda arguments: {**arguments, "team": 5},
            "tags": {"env": "test", "mlflow.note.content": "why"},
        },
    ),
    "log_training_run": (mltrace.log_training_run, {"kind": "training"}),
    "log_llm_call": (mltrace.log_llm_call, {"kind": "llm_call", "output": "mltrace.response"}),
    "log_prediction": (mltrace.log_prediction, {"kind": "prediction"}),
    "nothing captured": (
        mltrace.track_run(capture_input=False, capture_output=False),
        {"params": lambda arguments: {}, "output": None},
    ),
}


@pytest.mark.parametrize("name", DECORATORS)
def test_every_decorator_is_transparent(name: str) -> None:
    """What a caller can tell of a call is the same with and without the decorator."""
    check_transparent(DECORATORS[name][0], examples=25 if name == "track_run" else 10)


@pytest.mark.parametrize("name", DECORATORS)
def test_every_decorator_tells_the_truth(name: str) -> None:
    """Each call is the run that the options say."""
    decorate, expected = DECORATORS[name]
    check_logged(decorate, **expected, examples=25 if name == "track_run" else 10)


@pytest.mark.parametrize("check", [check_transparent, check_logged])
def test_a_contract_says_that_it_needs_its_own_loop(check: Callable[..., None]) -> None:
    """Called from a coroutine, a contract says what to do instead of failing for that reason."""

    async def main() -> None:
        check(mltrace.track_run)

    with pytest.raises(RuntimeError, match="a test that is no coroutine"):
        asyncio.run(main())


@given(strategies.trees())
@settings(deadline=None, max_examples=50)
def test_any_tree_is_recorded_as_it_was_played(tree: Any) -> None:
    """Names, params, metrics, tags, statuses and nesting of any calls compare with what was meant."""
    with record() as recorder:
        play(tree)
    assert [tree] == recorder.runs


@given(strategies.values())
@settings(deadline=None, max_examples=200)
def test_any_value_can_be_an_argument_and_a_result(value: Any) -> None:
    """Whatever a value does when it is asked something, it passes through, and its call is recorded."""
    with record() as recorder:
        assert value is mltrace.track_run(lambda value: value)(value)
    recorder.assert_logged(status="FINISHED")
    assert ["value"] == list(recorder.runs[0].params or {})


@given(strategies.secrets())
@settings(deadline=None, max_examples=50)
def test_a_secret_is_hidden_wherever_it_turns_up(secret: str) -> None:
    """In an argument, the output, a tag, a text or an error, the secret is not in what was recorded."""

    @mltrace.track_run
    def call(text: str) -> str:
        mltrace.set_tag("note", f"see {text}")
        mltrace.log_text(f"key: {text}", "note.txt")
        mltrace.track_run(fail)(text)
        return f"<{text}>"

    def fail(text: str) -> None:
        raise ValueError(text)

    with record() as recorder, pytest.raises(ValueError, match=r"^"):
        call(secret)
    for tree in recorder.walk():
        for found in (tree.params, tree.tags, tree.artifacts):
            assert secret not in str(found)


@given(strategies.calls(strategies.values()))
@settings(deadline=None, max_examples=100)
def test_calls_fit_their_functions(call: strategies.Call) -> None:
    """Each drawn call can be made, and binds what it says."""
    assert set(call.arguments) >= set(call.kwargs) - {"self", "cls"} - {
        name for name in call.kwargs if name in call.function.__code__.co_varnames
    }
    call.function(*call.args, **call.kwargs)
