"""Ready-made views of an experiment in the MLflow UI.

The UI can share a view: it writes the view's state, as JSON, to a tag of the experiment, and a link
names the tag. The states here are written the same way, so that a link opens a comparison instead
of an empty page. MLflow does not document the schema: it is the persisted state of the runs page
(ExperimentPageUIState with the search facets; charts are the classes of RunsChartsCardConfig) in
MLflow's front end. A key that a later version does not know is ignored there.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

from lecun_ablate.tracking.names import ARM, LEVEL, PARENT, PLAN, Level

TAG = "mlflow.sharedViewState."  # a view's tag begins with this
LONGEST = 5000  # characters of a tag that MLflow takes; the UI compresses what is longer
PAGE_ROWS = 100  # runs that the UI loads at first: a view cannot aggregate over more


def plan_views(
    plan_key: str, plan_run: str, varied: Sequence[str], arms: Sequence[str], runs: int
) -> dict[str, str]:
    """Return the states of a plan's views, by their keys.

    `plan_run` is the plan's own run, `varied` are the recipe fields in which the arms differ.
    arms: a line per arm over the epochs with the band over its seeds, and bars of the final error.
    table: a row per arm. seeds: every run, grouped by arm.
    """
    used_by = used(plan_key)
    shown = [f"params.`{field}`" for field in varied]
    together = len(arms) + runs <= PAGE_ROWS
    # one filter for both levels: arms hold what is concluded, seeds what is averaged
    members = f"tags.`{used_by}` LIKE '%'"
    only_arms = f"tags.`{PARENT}` = '{plan_run}'"
    groups = {f"tag.{used_by}.{arm}": False for arm in arms}
    over_seeds = {"groupBy": _group(used_by), "groupsExpanded": groups} if together else {}
    lines = "" if together else "_mean"
    by_epoch = [
        f"{name}{lines}" for name in ("test_error", "train_error", "test_loss", "train_loss")
    ]
    concluded = ["test_error_mean", "difference", "p_adjusted"]
    numbers = [
        f"metrics.`{name}`"
        for name in (
            *("test_error_mean", "test_error_low", "test_error_high"),
            *("difference", "difference_low", "difference_high", "p_adjusted", "seeds"),
        )
    ]
    words = ["tags.`verdict`", "tags.`compared_with`"]
    best_first = {"orderByKey": "metrics.`test_error_mean`", "orderByAsc": True}
    return {
        arms_view(plan_key): _state(
            searchFilter=members if together else only_arms,
            selectedColumns=[*shown, *numbers, *words],
            **over_seeds,
            **_charts(
                ("After each epoch", [_line(name) for name in by_epoch]),
                ("After the last epoch", [_bar(name) for name in concluded]),
            ),
            **best_first,
        ),
        table_view(plan_key): _state(
            searchFilter=only_arms,
            selectedColumns=[*shown, *numbers, *words],
            columnOrder=[*shown, *words, *numbers],
            columnWidths=dict.fromkeys(numbers, 120),
            **best_first,
        ),
        seeds_view(plan_key): _state(
            searchFilter=f"{members} and tags.`{LEVEL}` = '{Level.RUN}'",
            groupBy=_group(used_by),
            useGroupedValuesInCharts=False,
            selectedColumns=[
                *shown,
                *("params.`seed`", "metrics.`test_error`", "metrics.`train_error`"),
                *("metrics.`test_loss`", "tags.`lecun_ablate.status`"),
            ],
            **_charts(
                ("After each epoch", [_line(name) for name in ("test_error", "train_error")]),
                ("After the last epoch", [_bar("test_error"), _bar("train_error")]),
            ),
            orderByKey="params.`seed`",
            orderByAsc=True,
        ),
    }


def study_views(study_run: str, searched: Sequence[str]) -> dict[str, str]:
    """Return the state of the view of a study's trials, by its key; `study_run` is its own run.

    The error against every searched field, and over the epochs.
    """
    fields = [f"params.`{field}`" for field in searched]
    against = [_scatter(field, "score") for field in searched]
    return {
        trials_view(study_run): _state(
            searchFilter=f"tags.`{PARENT}` = '{study_run}'",
            selectedColumns=[
                *fields,
                *("metrics.`score`", "metrics.`validation_error`"),
                *(f"tags.`{ARM}`", "tags.`trial.state`"),
            ],
            runsHiddenMode="SHOW_ALL",
            **_charts(
                ("Validation error against the searched values", against),
                ("After each epoch", [_line("validation_error")]),
            ),
            orderByKey="metrics.`score`",
            orderByAsc=True,
        )
    }


def used(plan_key: str) -> str:
    """Return the tag that runs have if a plan uses them; its value is the arm there."""
    return f"{PLAN}.{plan_key[:8]}"


def arms_view(plan_key: str) -> str:
    """Return the key of the view that compares the arms of a plan."""
    return f"arms-{plan_key[:8]}"


def table_view(plan_key: str) -> str:
    """Return the key of the view with a row per arm of a plan."""
    return f"table-{plan_key[:8]}"


def seeds_view(plan_key: str) -> str:
    """Return the key of the view of all runs of a plan."""
    return f"seeds-{plan_key[:8]}"


def trials_view(study_run: str) -> str:
    """Return the key of the view of a study's trials."""
    return f"trials-{study_run[:8]}"


def page(experiment_id: str, view: str | None = None) -> str:
    """Return the address of an experiment's runs within the UI, in one of its views."""
    address = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    if view is None:
        return address
    mode = "TABLE" if view.startswith("table-") else "CHART"
    return f"{address}&compareRunsMode={mode}&viewStateShareKey={view}"


# ---- parts of a state, as the UI writes them


def _state(**changed: Any) -> str:
    state: dict[str, Any] = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsHiddenMode": "FIRST_20_RUNS",
        "runsVisibilityMap": {},
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {
            "xAxisKey": "step",
            "lineSmoothness": 0,
            "selectedXAxisMetricKey": "",
        },
    }
    text = json.dumps(state | changed)
    if len(text) <= LONGEST:
        return text
    return "deflate;" + base64.b64encode(zlib.compress(text.encode())).decode()


def _group(tag: str) -> dict[str, Any]:
    return {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": tag}]}


def _charts(*sections: tuple[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "compareRunSections": [
            {
                "uuid": f"section-{i}",
                "name": name,
                "display": True,
                "isReordered": True,
                "deleted": False,
                "isGenerated": False,
            }
            for i, (name, _) in enumerate(sections)
        ],
        "compareRunCharts": [
            chart | {"uuid": f"chart-{i}-{j}", "metricSectionId": f"section-{i}"}
            for i, (_, charts) in enumerate(sections)
            for j, chart in enumerate(charts)
        ],
    }


def _chart(kind: str, runs: int, **more: Any) -> dict[str, Any]:
    common = {"type": kind, "runsCountToCompare": runs, "deleted": False, "isGenerated": False}
    return common | more


def _line(metric: str) -> dict[str, Any]:
    return _chart(
        "LINE",
        10,
        metricKey=metric,
        selectedMetricKeys=[metric],
        displayName=metric,
        lineSmoothness=0,
        scaleType="log",
        displayPoints=False,
        xAxisScaleType="linear",
        xAxisKey="step",
        selectedXAxisMetricKey="",
        yAxisKey="metric",
        yAxisExpressions=[],
        range={},
        ignoreOutliers=False,
        useGlobalXaxisKey=True,
        useGlobalLineSmoothing=True,
    )


def _bar(metric: str) -> dict[str, Any]:
    return _chart("BAR", 10, metricKey=metric, selectedMetricKeys=[metric], displayName=metric)


def _scatter(param: str, metric: str) -> dict[str, Any]:
    return _chart(
        "SCATTER",
        100,
        displayName=f"{metric} against {param}",
        xaxis={"key": param, "type": "PARAM"},
        yaxis={"key": metric, "type": "METRIC"},
    )
