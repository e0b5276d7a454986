"""
For tests of code that mltrace records: what our own tests use.

    >>> import mltrace
    >>> from mltrace.testing import record, run
    >>> @mltrace.track_run
    ... def double(x):
    ...     return 2 * x
    >>> with record() as recorder:
    ...     double(21)
    42
    >>> recorder.runs == [run("double", params={"x": 21}, metrics={"output": 42})]
    True

With pytest, the fixture ``mltrace_recorder`` is such a recorder. Two modules need Hypothesis
(``pip install 'mltrace-mlflow[test]'``): `mltrace.testing.strategies` makes values, calls, run trees
and secrets, `mltrace.testing.contracts` has whole property tests for decorators and backends.
"""

from ._fakes import Clock
from ._limits import refuse
from ._play import play
from ._recorder import Recorder, record
from ._trees import RunTree, explain, run, unordered


__all__ = ["Clock", "Recorder", "RunTree", "explain", "play", "record", "refuse", "run", "unordered"]
