"""
The errors mltrace raises, and nothing else.

    MltraceError
    ├── ConfigurationError   an option, address or directory that cannot be used (also a ValueError)
    ├── MissingExtra         a feature whose optional dependency is not installed (also an ImportError)
    ├── SpoolFull            ``on_full="raise"`` and the spool has reached its limit
    └── LoggingError         strict mode: a record that production would have adjusted or left out

Outside strict mode only the first two ever reach user code, and only from `configure`, a
decorator's options, or the command line.
"""

from __future__ import annotations


class MltraceError(Exception):
    """Base of every error that mltrace raises."""


class ConfigurationError(MltraceError, ValueError):
    """An option that cannot be used. The message names the option, the rule and the remedy."""


class MissingExtra(MltraceError, ImportError):
    """A feature needs an optional dependency. The message says what to install."""


class SpoolFull(MltraceError):
    """The spool has reached `spool_limit_bytes` and *on_full* is ``"raise"``."""


class LoggingError(MltraceError):
    """In strict mode: something was logged that MLflow would refuse, or outside any run."""
