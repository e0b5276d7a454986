"""
From the spool to MLflow, in the background.

`Sender` reads records from writer directories, `Outbox` assembles them into what each run still has
to be told, and a `Destination` says it: `rest` over HTTP without importing mlflow, `sdk` through
`MlflowClient`, `collector` to any receiver of OpenTelemetry's protocol. Nothing here is ever waited for by the caller's path.
"""

from __future__ import annotations

from .. import _guard
from .._addresses import OTLP_SCHEME
from ..exceptions import ConfigurationError
from .destination import Destination, Suspended


def connect(uri: str, *, credentials: bool = True) -> Destination:
    """
    Return the destination for a tracking address. Imports what it takes: `http.client` for http(s),
    mlflow for anything else. Over http(s) the environment's *credentials* are meant for the
    configured server; False keeps them from another one.

    Raises `Suspended` where an extra is missing or the address cannot be used; the message says
    what to do.
    """
    needed = "MLflow's client", "mlflow"
    try:
        with _guard.importing:
            if uri.startswith(OTLP_SCHEME):
                needed = "OpenTelemetry's protocol", "otlp"
                from .collector import CollectorDestination

                return CollectorDestination(uri, credentials=credentials)
            if uri.startswith(("http://", "https://")):
                from .rest import RestDestination

                return RestDestination(uri, credentials=credentials)
            from .sdk import SdkDestination
    except ConfigurationError as error:
        raise Suspended(str(error)) from None
    except ImportError as error:
        scheme = uri.partition(":")[0]
        raise Suspended(
            f"tracking address {scheme}:… needs {needed[0]} ({error}); install mltrace-mlflow[{needed[1]}], or use an http(s) address"
        ) from None
    return SdkDestination(uri)
