"""Versions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._fluent import log_figure
from ._client import connect, needed
from ._stages import ALIASES, PRODUCTION
from ._versions import metrics_of, read


def compare_models(
    name: str,
    metric: str | Sequence[str],
    *,
    higher_is_better: bool = True,
    figure: str | None = None,
) -> Any:
    """
    Return the versions of a model as a pandas frame, best by *metric* first, those without a value last.

    Columns: ``version``, ``stage``, ``aliases``, ``created`` (UTC), ``run_id``, one for each metric,
    and ``vs_production``, the first metric less that of the version in Production.

    Args:
        metric: Of the run that made the version, or of the model itself; or several.

        figure: Also log a bar chart to the current run, as this artifact (``comparison.png``).
    """
    pandas = needed("pandas", "compare_models")
    wanted = [metric] if isinstance(metric, str) else list(metric)
    client = connect(writes=False)
    shelf = read(client, name)
    rows = []
    for version in shelf.versions:
        metrics = metrics_of(client, version)
        rows.append(
            {
                "version": version.version,
                "stage": version.stage,
                "aliases": ", ".join(version.aliases),
                "created": pandas.Timestamp(version.created, unit="ms", tz="UTC"),
                "run_id": version.run_id,
                **{key: metrics.get(key, float("nan")) for key in wanted},
            }
        )
    frame = pandas.DataFrame(rows, columns=["version", "stage", "aliases", "created", "run_id", *wanted])
    in_production = frame.loc[frame["version"] == shelf.aliases.get(ALIASES[PRODUCTION]), wanted[0]]
    standard = float(in_production.iloc[0]) if len(in_production) else float("nan")
    frame["vs_production"] = frame[wanted[0]] - standard
    frame = frame.sort_values(
        wanted[0], ascending=not higher_is_better, na_position="last", kind="stable", ignore_index=True
    )
    if figure is not None:
        log_figure(_chart(name, frame, wanted[0]), figure)
    return frame


def _chart(name: str, frame: Any, metric: str) -> Any:
    """Return a bar chart, made without pyplot: that keeps figures of the whole program."""
    matplotlib = needed("matplotlib.figure", "the figure of compare_models", "mlflow")
    chart = matplotlib.Figure(figsize=(6.4, 0.8 + 0.4 * max(len(frame), 1)), layout="constrained")
    axes = chart.add_subplot()
    labels = [
        f"{version} ({aliases})" if aliases else version
        for version, aliases in zip(frame["version"], frame["aliases"], strict=True)
    ]
    bars = axes.barh(labels[::-1], list(frame[metric].fillna(0.0))[::-1])
    axes.bar_label(bars, [f"{value:.4g}" for value in list(frame[metric])[::-1]])
    axes.set_xlabel(metric)
    axes.set_title(name)
    return chart
