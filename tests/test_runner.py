"""From an experiment to tracked results: what is stored, resumed, extended, and kept on failure."""

import io
import json

import numpy as np
import pandas as pd
import pytest

import lecun_ablate
from lecun_ablate import runner
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.tracking import EPOCH_METRICS, Store

pytestmark = pytest.mark.usefixtures("tiny")

YAML = """
name: small
question: Which is better?
data: tiny
recipe: {epochs: 3}
vary: {activation: [tanh, relu]}
seeds: 2
"""


@pytest.fixture
def experiment(workplace):
    (workplace / "small.yaml").write_text(YAML)
    return workplace / "small.yaml"


def run(file, **options):
    return lecun_ablate.run(file, trainer="torch", device="cpu", **options)


def seed_runs(name="small/tiny"):
    store = Store()
    return store.search(store.experiment(name).experiment_id, lecun_ablate__level="run")


def same_numbers(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    columns = ["arm", "seed", "epoch", *EPOCH_METRICS[:-1], "status"]
    return a[columns].equals(b[columns])


def test_results_are_tidy_and_read_back_bit_for_bit(experiment):
    frame = run(experiment)
    assert list(frame.columns) == ["arm", "seed", "epoch", *EPOCH_METRICS, "status", "run_id"]
    assert len(frame) == 2 * 2 * 3
    assert frame.groupby(["arm", "seed"]).epoch.apply(list).tolist() == [[1, 2, 3]] * 4
    assert (frame.test_misses == (frame.test_error * 20).round()).all()
    assert ((frame.train_error >= 0) & (frame.train_error <= 1)).all()
    pd.testing.assert_frame_equal(lecun_ablate.load_results("small"), frame)
    pd.testing.assert_frame_equal(lecun_ablate.load_results(frame.run_id[0]), frame)


def test_what_a_seed_run_holds(experiment):
    run(experiment)
    store = Store()
    found = next(r for r in seed_runs() if r.data.params["seed"] == "1")
    params = found.data.params
    for name, value in {
        "output_activation": "tanh", "init": "sqrt_fan_in", "lr": "0.03", "epochs": "3",
        "dtype": "float32", "trainer": "torch", "device": "cpu", "data": "tiny", "momentum": "0.0",
    }.items():  # fmt: skip
        assert params[name] == value
    assert len(params["data_digest"]) == 16
    assert set(found.data.metrics) == set(EPOCH_METRICS)
    steps = [p.step for p in store.client.get_metric_history(found.info.run_id, "test_error")]
    assert steps == [1, 2, 3]
    assert found.info.status == "FINISHED"
    assert found.inputs.dataset_inputs[0].dataset.digest == params["data_digest"]
    weights = store.weights(found.info.run_id)
    assert sum(w.size for w in weights.values()) == 10960
    assert weights["h1_weight"].dtype == np.float32
    answers = store.predictions(found.info.run_id)
    labels = pd.read_parquet(
        io.BytesIO(store.bytes(found.info.run_id, "test_predictions.parquet"))
    ).label
    assert (answers != labels).sum() == found.data.metrics["test_misses"]


def test_the_three_levels(experiment):
    frame = run(experiment)
    store = Store()
    top = store.find("small")
    experiment_id = top.info.experiment_id
    arms = store.search(experiment_id, mlflow__parentRunId=top.info.run_id)
    assert {arm.data.tags["lecun_ablate.arm"] for arm in arms} == {"tanh", "relu"}
    for arm in arms:
        name = arm.data.tags["lecun_ablate.arm"]
        assert "seed" not in arm.data.params and "test_error" not in arm.data.metrics
        own = frame[(frame.arm == name) & (frame.epoch == 3)].test_error
        assert arm.data.metrics["test_error_mean"] == pytest.approx(own.mean(), abs=1e-15)
        assert arm.data.metrics["test_error_sd"] == pytest.approx(own.std(), abs=1e-15)
        assert arm.data.metrics["test_error_n"] == 2
        history = store.client.get_metric_history(arm.info.run_id, "test_error_mean")
        assert [point.step for point in history] == [1, 2, 3]
        children = store.search(experiment_id, mlflow__parentRunId=arm.info.run_id)
        assert len(children) == 2
        assert "connectivity.png" in {f.path for f in store.client.list_artifacts(arm.info.run_id)}
    files = {f.path for f in store.client.list_artifacts(top.info.run_id)}
    assert {"plan.json", "small.yaml", "report.html", "learning_curves_test.svg"} <= files


def test_the_same_plan_again_trains_nothing(experiment, monkeypatch):
    first = run(experiment)
    monkeypatch.setattr(runner, "_train", lambda *_: pytest.fail("something was trained"))
    assert run(experiment).equals(first)


def test_more_seeds_train_only_the_new_ones_and_replace_the_summaries(experiment):
    first = run(experiment)
    more = run(experiment, seeds=3)
    assert set(first.run_id) < set(more.run_id) and len(set(more.run_id)) == 6
    assert same_numbers(first, more[more.seed < 2].reset_index(drop=True))
    store = Store()
    (top,) = store.experiment_runs(store.experiment("small/tiny").experiment_id)
    arms = store.search(top.info.experiment_id, lecun_ablate__level="arm")
    assert len(arms) == 2
    for arm in arms:
        assert arm.data.metrics["test_error_n"] == 3
        history = store.client.get_metric_history(arm.info.run_id, "test_error_n")
        assert [point.value for point in history] == [3, 3, 3]
        assert len(store.search(top.info.experiment_id, mlflow__parentRunId=arm.info.run_id)) == 3


def test_another_plan_is_another_experiment_run(experiment):
    run(experiment, seeds=1)
    other = run(experiment, seeds=1, assignments=["recipe.lr=0.05"])
    store = Store()
    plans = store.experiment_runs(store.experiment("small/tiny").experiment_id)
    assert len(plans) == 2
    assert lecun_ablate.load_results("small").equals(other)  # the latest
    assert len(seed_runs()) == 4


def test_a_plan_that_shares_runs_with_another_does_not_train_them_again(experiment):
    run(experiment, seeds=1)
    wider = YAML.replace("[tanh, relu]", "[tanh, relu, softsign]")
    experiment.write_text(wider)
    assert len(run(experiment, seeds=1)) == 9
    assert len(seed_runs()) == 3


def test_one_killed_process_later(experiment):
    """Whatever was left RUNNING or half-written is swept away, and the numbers stay the same."""
    whole = run(experiment)
    store = Store()
    client, experiment_id = store.client, store.experiment("small/tiny").experiment_id
    victim = seed_runs()[0]
    half = client.create_run(experiment_id, tags=dict(victim.data.tags))  # RUNNING, no metrics
    client.delete_run(victim.info.run_id)
    for level in ("experiment", "arm"):
        for left in store.search(experiment_id, lecun_ablate__level=level):
            client.update_run(left.info.run_id, status="RUNNING")
    again = run(experiment)
    assert same_numbers(whole, again)
    assert half.info.run_id not in set(again.run_id)
    assert len(seed_runs()) == 4
    running = client.search_runs([experiment_id], "attributes.status = 'RUNNING'", run_view_type=3)
    assert not running


def test_divergence_and_collapse_are_results(workplace):
    file = workplace / "x.yaml"
    file.write_text(
        "name: x\ndata: tiny\nrecipe: {epochs: 3}\narms:\n- {name: fine}\n"
        "- {name: wild, activation: lisht, output_activation: lisht, lr: 1e4}\n"
        "- {name: dead, init: dead}\nseeds: 1\ncomponents: dead.py\n"
    )
    (workplace / "dead.py").write_text(
        "import torch\nfrom lecun_ablate import register\n@register('init')\n"
        "def dead(generator, shape):\n    return torch.zeros(shape, dtype=torch.float64)\n"
    )
    frame = run(file, assignments=["recipe.lr=1e-9"])
    status = frame.groupby("arm").status.first()
    assert status.to_dict()["wild"] == "diverged" and status.to_dict()["dead"] == "collapsed"
    assert len(frame[frame.arm == "wild"]) < 3
    assert len(frame[frame.arm == "fine"]) == 3
    by_arm = {r.data.tags["lecun_ablate.arm"]: r for r in seed_runs("x/tiny")}
    assert {r.info.status for r in by_arm.values()} == {"FINISHED"}
    assert by_arm["wild"].data.tags["lecun_ablate.status"] == "diverged"
    own = {f.path for f in Store().client.list_artifacts(by_arm["dead"].info.run_id, "components")}
    assert own == {"components/dead.py"}


def test_a_component_that_fails_is_named_before_training(workplace):
    (workplace / "mine.py").write_text(
        "from lecun_ablate import register\n\n"
        "@register('activation')\ndef mine(x):\n    return x @ 3\n"
    )
    (workplace / "x.yaml").write_text(
        "name: x\ndata: tiny\ncomponents: mine.py\nvary: {activation: [mine, tanh]}"
    )
    with pytest.raises(ConfigError, match=r"arm 'mine': activation 'mine': .*mine.py:5: TypeError"):
        run(workplace / "x.yaml")


def test_what_had_finished_before_a_failure_is_kept(experiment, monkeypatch):
    original = Store.log_run
    logged = []

    def fails_at_the_third(self, *arguments):
        if len(logged) == 2:
            raise OSError("disk full")
        logged.append(original(self, *arguments))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(Store, "log_run", fails_at_the_third)
        run(experiment)
    assert Store().find("small").info.status == "FAILED"
    assert {r.info.run_id for r in seed_runs()} == set(logged)
    again = run(experiment)
    assert set(logged) < set(again.run_id) and len(seed_runs()) == 4


def test_plan_json_survives(experiment):
    run(experiment, seeds=1)
    store = Store()
    plan = store.plan(store.find("small"))
    assert plan.experiment.arm("relu").recipe.activation == "relu"
    kept = store.text(store.find("small").info.run_id, "plan.json")
    assert json.loads(plan.to_json()) == json.loads(kept)
    with pytest.raises(LecunAblateError, match="no experiment or run 'smal': did you mean"):
        store.find("smal")


def test_estimate_is_in_seconds_for_all_runs(experiment):
    from lecun_ablate import api
    from lecun_ablate.experiment import load_experiment

    prepared = api.prepare(load_experiment(experiment), trainer="torch", device="cpu")
    todo = runner.pending(prepared.plan, {})
    assert len(todo) == 4 and todo[:2] == [("tanh", 0), ("relu", 0)]
    assert 0 < runner.estimate(prepared, todo[:1]) < 60
    assert runner.estimate(prepared, []) == 0
