"""Ready-made views of the MLflow UI: what they say is what its own front end reads and writes."""

import base64
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import zlib
from pathlib import Path

import mlflow
import pytest
from mlflow_view import View

import lecun_ablate
from lecun_ablate.tracking import views

FRONT_END = Path(mlflow.__file__).parent / "server/js/build/static/js"
KEY = "0123456789abcdef"
STATES = views.plan_views(KEY, "f" * 32, ["activation"], ["tanh", "relu"], 20) | views.study_views(
    "e" * 32, ["lr"]
)
YAML = """
name: small
question: Which activation learns the stripes?
data: tiny
recipe: {epochs: 2}
vary: {activation: [tanh, relu]}
seeds: 2
"""


@pytest.fixture(scope="module")
def front_end():
    """The text of the installed UI's scripts."""
    return "\n".join(path.read_text(errors="ignore") for path in sorted(FRONT_END.glob("*.js")))


@pytest.fixture
def small(workplace, tiny):
    file = workplace / "small.yaml"
    file.write_text(YAML)
    return file


def test_the_front_end_knows_the_keys_of_a_state(front_end):
    """Those of its own state and of its search facets: a key it has dropped would do nothing."""
    (listed,) = set(re.findall(r'=(\["selectedColumns","columnOrder",[^\]]*\])', front_end))
    persisted = set(json.loads(listed))
    facets = {"searchFilter", "orderByKey", "orderByAsc", "startTime", "lifecycleFilter"}
    facets |= {"datasetsFilter", "modelVersionFilter"}
    assert all(re.search(rf"\b{facet}:", front_end) for facet in facets)
    for key, text in STATES.items():
        assert set(json.loads(text)) <= persisted | facets, key
    assert f'"{views.TAG}"' in front_end and '"viewStateShareKey"' in front_end
    assert '"deflate;"' in front_end  # how it marks a state that it has compressed


def test_the_front_end_knows_the_charts(front_end):
    """The types, and of each the fields that its class has."""
    classes = re.findall(r"class \w+ extends \w+\{constructor\(.*?\}\}", front_end)
    common = {"uuid", "type", "runsCountToCompare", "metricSectionId", "deleted", "isGenerated"}
    kinds = {"LINE": "lineSmoothness", "BAR": "dataAccessKey", "SCATTER": "xaxis"}
    fields = {}
    for kind, telling in kinds.items():
        (found,) = {
            text
            for text in classes
            if re.search(rf"this\.type=\w+\.{kind},", text) and f"this.{telling}=" in text
        }
        fields[kind] = set(re.findall(r"this\.(\w+)=", found))
    charts = [
        chart for text in STATES.values() for chart in json.loads(text).get("compareRunCharts", ())
    ]
    assert {chart["type"] for chart in charts} == set(kinds)
    for chart in charts:
        assert set(chart) <= fields[chart["type"]] | common | {"displayName"}


def test_every_chart_stands_in_a_section():
    for text in STATES.values():
        state = json.loads(text)
        sections = {section["uuid"] for section in state.get("compareRunSections", ())}
        charts = state.get("compareRunCharts", ())
        assert {chart["metricSectionId"] for chart in charts} == sections
        assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_a_state_that_is_too_long_for_a_tag_is_compressed():
    arms = [f"lr={i / 100}" for i in range(60)]
    text = views.plan_views(KEY, "f" * 32, ["lr"], arms, 30)[views.arms_view(KEY)]
    assert len(text) < views.LONGEST
    prefix, packed = text.split(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert prefix == "deflate" and len(state["groupsExpanded"]) == 60


def test_with_more_runs_than_the_ui_loads_the_means_of_the_arms_are_drawn():
    text = views.plan_views(KEY, "f" * 32, ["lr"], ["a", "b"], 99)[views.arms_view(KEY)]
    state = json.loads(text)
    drawn = [chart["metricKey"] for chart in state["compareRunCharts"]]
    assert state["groupBy"] is None and "test_error_mean" in drawn and "test_error" not in drawn


def test_a_run_writes_the_views_and_the_description(small):
    lecun_ablate.run(small)
    store = View()
    record = store.find("small")
    experiment = store.experiment("small/tiny")
    assert experiment.name == "small (tiny)"
    plan = store.plan(record)
    shown = {key for key in experiment.tags if key.startswith(views.TAG)}
    make = views.arms_view, views.table_view, views.seeds_view
    assert shown == {views.TAG + view(plan.key) for view in make}
    note = experiment.tags["mlflow.note.content"]
    assert note.startswith("Which activation learns the stripes?\n")
    for view in make:
        assert f"({views.page(record.experiment_id, view(plan.key))})" in note
    link = lecun_ablate.api.show("small").link
    assert link.endswith(views.page(record.experiment_id, views.arms_view(plan.key)))
    # what the views ask for is there
    arms, table, seeds = (json.loads(experiment.tags[views.TAG + v(plan.key)]) for v in make)
    found = {
        name: list(store.connection.runs([record.experiment_id], state["searchFilter"]))
        for name, state in (("arms", arms), ("table", table), ("seeds", seeds))
    }
    assert {name: len(runs) for name, runs in found.items()} == {"arms": 6, "table": 2, "seeds": 4}
    metrics = {name for run in found["arms"] for name in run.data.metrics}
    params = {name for run in found["arms"] for name in run.data.params}
    tags = {name for run in found["arms"] for name in run.data.tags}
    assert {chart["metricKey"] for chart in arms["compareRunCharts"]} <= metrics
    for column in arms["selectedColumns"] + seeds["selectedColumns"]:
        kind, name = re.fullmatch(r"(\w+)\.`(.*)`", column).groups()
        assert name in {"metrics": metrics, "params": params, "tags": tags}[kind]


def test_runs_that_another_plan_has_trained_are_in_the_view(small):
    lecun_ablate.run(small)
    small.write_text(YAML.replace("activation: [tanh, relu]", "activation: [tanh, lisht]"))
    lecun_ablate.run(small)
    store = View()
    record = store.find("small")
    used = views.used(store.plan(record).key)
    runs = list(store.connection.runs([record.experiment_id], f"tags.`{used}` LIKE '%'"))
    by_arm = sorted(run.data.tags[used] for run in runs)
    assert by_arm == ["lisht"] * 3 + ["tanh"] * 3


def test_the_experiments_own_run_has_numbers_of_the_whole(small):
    frame = lecun_ablate.run(small)
    lecun_ablate.run(small)
    store = View()
    run_id = store.find("small").run_id
    metrics = store.client.get_run(run_id).data.metrics
    assert metrics.pop("training_seconds") == pytest.approx(frame.epoch_seconds.sum())
    assert metrics == {"arms": 2, "seeds": 2, "runs": 4, "diverged_runs": 0, "collapsed_runs": 0}
    lecun_ablate.run(small, seeds=3)
    points = store.client.get_metric_history(run_id, "runs")
    assert [(point.step, point.value) for point in points] == [(4, 4), (6, 6)]


def test_an_experiment_of_another_program_keeps_its_name(small):
    store = View()
    other = store.client.create_experiment("small (tiny)")
    lecun_ablate.run(small, seeds=1)
    assert store.experiment("small/tiny").experiment_id != other
    assert len(lecun_ablate.load_results("small")) == 4


def test_one_that_was_renamed_in_the_ui_is_found(small):
    before = lecun_ablate.run(small, seeds=1)
    store = View()
    store.client.rename_experiment(store.find("small").experiment_id, "mine")
    assert lecun_ablate.run(small, seeds=1).equals(before)
    assert store.experiment("small/tiny").name == "mine"


@pytest.mark.slow
def test_the_printed_link_shows_the_comparison(small, tmp_path):
    """In a headless browser, without a click."""
    browser = shutil.which("chromium") or pytest.skip("chromium is not installed")
    lecun_ablate.run(small)
    link = lecun_ablate.api.show("small").link
    port = 5913
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        flags += "--disable-background-networking --disable-component-update --disable-sync"
        page = subprocess.run(
            [
                *(browser, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}"),
                *("--window-size=1600,2400", "--virtual-time-budget=90000", "--dump-dom"),
                link.replace(":5000", f":{port}"),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout
    finally:
        server.terminate()
        server.wait()
    for word in (
        "After each epoch",
        "Group: relu",
        "Group: tanh",
        "test_loss",
        "relu (test_error)",
    ):
        assert word in page, word
