"""
The errors mltrace raises, and nothing else.

    MltraceError
    ├── ConfigurationError   an option, address or directory that cannot be used (also a ValueError)
    ├── MissingExtra         a feature whose optional dependency is not installed (also an ImportError)
    ├── SpoolFull            ``on_full="raise"`` and the spool has reached its limit
    ├── LoggingError         strict mode: a record that production would have adjusted or left out
    └── RegistryError        what was asked of the model registry cannot be done
        ├── ModelNotFound       no such name, version, alias or stage there
        ├── RegistryUnavailable the registry does not answer
        ├── RegistryConflict    somebody else moved the alias meanwhile
        └── CorruptedModel      the files are not those that were registered

Outside strict mode only the first two ever reach user code from what is logged, and only from
`configure`, a decorator's options, or the command line. Those of the registry are raised by
`mltrace.registry` alone, which is asked and not merely told.
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


class RegistryError(MltraceError):
    """What was asked of the model registry cannot be done. The message says why, and what is there."""


class ModelNotFound(RegistryError):
    """The registry has no such name, version, alias or stage. The message lists what it has."""


class RegistryUnavailable(RegistryError):
    """The registry does not answer, and nothing local can stand in."""


class RegistryConflict(RegistryError):
    """Somebody else moved the alias between the reading and the writing. The message says where it is now."""


class CorruptedModel(RegistryError):
    """The files of a model are not those that were registered; they were not loaded."""
