"""From an experiment to tracked results: what is stored, resumed, extended, and kept on failure."""

import io
import json
import re
import shutil
import signal
import warnings

import numpy as np
import pandas as pd
import pytest
from mlflow_view import View

import lecun_ablate
from lecun_ablate import api
from lecun_ablate.api import Options
from lecun_ablate.config.experiment import load_experiment
from lecun_ablate.config.source import Overrides
from lecun_ablate.data import Split, load
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.evidence.sentences import answer
from lecun_ablate.plan.results import EPOCH_METRICS
from lecun_ablate.reporting.conclusion import conclude
from lecun_ablate.running.estimate import estimate
from lecun_ablate.running.experiment import run_experiment
from lecun_ablate.running.training import run_status
from lecun_ablate.statistics import look_level
from lecun_ablate.tracking.plan_run import PlanRun
from lecun_ablate.tracking.store import Store, still_to_do
from lecun_ablate.tracking.writer import Writer
from lecun_ablate.trainers.base import EpochReport, Scores
from lecun_ablate.trainers.torch_trainer import TorchTrainer

pytestmark = pytest.mark.usefixtures("tiny", "plain_reports")

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


def prepare(file, **options):
    return api.prepare(load_experiment(file, **options), Options(trainer="torch", device="cpu"))


def execute(file, **options):
    """Do as run does, but write no report: that takes most of the time."""
    return conclude_all(prepare(file, **options), warnings.warn).results.frame


def conclude_all(prepared, notice):
    with Writer.opened() as writer, PlanRun.opened(writer, prepared.plan, notice) as plan_run:
        return conclude(run_experiment(prepared, plan_run), writer.files, plan_run)


@pytest.fixture
def no_training(monkeypatch):
    """From now on, nothing may be trained."""

    def forbid():
        monkeypatch.setattr(TorchTrainer, "train", lambda *_: pytest.fail("something was trained"))

    return forbid


def seed_runs(name="small/tiny"):
    store = View()
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
    store = View()
    found = next(r for r in seed_runs() if r.data.params["seed"] == "1")
    params = found.data.params
    for name, value in {
        "output_activation": "tanh",
        "init": "sqrt_fan_in",
        "lr": "0.03",
        "epochs": "3",
        "dtype": "float32",
        "trainer": "torch",
        "device": "cpu",
        "data": "tiny",
        "momentum": "0.0",
    }.items():
        assert params[name] == value
    assert len(params["data_digest"]) == 16
    assert set(found.data.metrics) == set(EPOCH_METRICS)
    steps = [p.step for p in store.client.get_metric_history(found.info.run_id, "test_error")]
    assert steps == [1, 2, 3]
    assert found.info.status == "FINISHED"
    (data,) = store.client.get_run(found.info.run_id).inputs.dataset_inputs
    assert data.dataset.digest == params["data_digest"]
    weights = store.files.weights(found.info.run_id)
    assert sum(w.size for w in weights.values()) == 10960
    assert weights["h1_weight"].dtype == np.float32
    answers = store.files.predictions(found.info.run_id)
    labels = pd.read_parquet(
        io.BytesIO(store.files.read(found.info.run_id, "test_predictions.parquet"))
    ).label
    assert (answers != labels).sum() == found.data.metrics["test_misses"]


def test_the_three_levels(experiment):
    frame = run(experiment)
    store = View()
    top = store.find("small")
    experiment_id = top.experiment_id
    arms = store.search(experiment_id, mlflow__parentRunId=top.run_id)
    assert {arm.data.tags["lecun_ablate.arm"] for arm in arms} == {"tanh", "relu"}
    for arm in arms:
        name = arm.data.tags["lecun_ablate.arm"]
        assert "seed" not in arm.data.params and "test_error" not in arm.data.metrics
        own = frame[(frame.arm == name) & (frame.epoch == 3)].test_error
        assert arm.data.metrics["test_error_mean"] == pytest.approx(own.mean(), abs=1e-15)
        assert arm.data.metrics["test_error_sd"] == pytest.approx(own.std(), abs=1e-15)
        assert arm.data.metrics["seeds"] == 2
        history = store.client.get_metric_history(arm.info.run_id, "test_error_mean")
        assert [point.step for point in history] == [1, 2, 3]
        children = store.search(experiment_id, mlflow__parentRunId=arm.info.run_id)
        assert len(children) == 2
        assert "connectivity.png" in {f.path for f in store.client.list_artifacts(arm.info.run_id)}
    files = {f.path for f in store.client.list_artifacts(top.run_id)}
    assert {"plan.json", "small.yaml", "report.html", "learning_curves_test.svg"} <= files


def test_the_same_plan_again_trains_nothing(experiment, no_training):
    first = run(experiment)
    no_training()
    assert run(experiment).equals(first)


def test_more_seeds_train_only_the_new_ones_and_replace_the_summaries(experiment):
    first = run(experiment)
    more = run(experiment, seeds=3)
    assert set(first.run_id) < set(more.run_id) and len(set(more.run_id)) == 6
    assert same_numbers(first, more[more.seed < 2].reset_index(drop=True))
    store = View()
    (top,) = store.plans(store.experiment("small/tiny").experiment_id)
    arms = store.search(top.experiment_id, lecun_ablate__level="arm")
    assert len(arms) == 2
    for arm in arms:
        assert arm.data.metrics["seeds"] == 3
        history = store.client.get_metric_history(arm.info.run_id, "seeds")
        assert [point.value for point in history] == [3, 3, 3]
        assert len(store.search(top.experiment_id, mlflow__parentRunId=arm.info.run_id)) == 3


def test_every_number_of_seeds_at_which_conclusions_are_drawn_is_a_look(experiment, command):
    def look(number):
        status, out, _ = command("show", "small", "--json")
        found = json.loads(out)
        assert (status, found["look"]) == (0, number)
        assert found["level"] == pytest.approx(look_level(number))
        tags = View().client.get_run(View().find("small").run_id).data.tags
        return json.loads(tags["lecun_ablate.looks"])

    run(experiment)
    assert look(1) == [2]
    run(experiment)  # the same seeds are the same look
    assert look(1) == [2]
    run(experiment, seeds=3)
    assert look(2) == [2, 3]
    run(experiment)  # all there are are shown
    assert look(2) == [2, 3]
    run(experiment, seeds=5)
    assert look(3) == [2, 3, 5]


def tree(name="small/tiny"):
    """Return the active runs of an experiment by id, after checking that their links hold."""
    store = View()
    runs = {r.info.run_id: r for r in store.search(store.experiment(name).experiment_id)}
    for run in runs.values():
        if run.data.tags["lecun_ablate.level"] != "experiment":
            assert run.data.tags["mlflow.parentRunId"] in runs, "its parent is deleted or missing"
        noted = re.findall("/runs/([0-9a-f]{32})", run.data.tags.get("mlflow.note.content", ""))
        assert set(noted) <= set(runs), "a link to an arm that has been replaced"
    return runs


def parents(name="small/tiny"):
    """Return the arm and the plan under which each seed run stands: {(arm, seed): (arm, plan)}."""
    runs = tree(name)
    found = {}
    for run in runs.values():
        if run.data.tags["lecun_ablate.level"] == "run":
            arm = runs[run.data.tags["mlflow.parentRunId"]]
            top = arm.data.tags["mlflow.parentRunId"]
            key = run.data.tags["lecun_ablate.arm"], int(run.data.params["seed"])
            assert key not in found, "a run stands twice"
            found[key] = arm.data.tags["lecun_ablate.arm"], top
    return found


def test_fewer_seeds_lose_nothing(experiment):
    three = run(experiment, seeds=3)
    said = []
    shown = conclude_all(prepare(experiment, seeds=1), said.append)
    assert said == ["2 more seeds have been run before: all 3 are shown"]
    assert shown.results.frame.equals(three)
    assert str(shown.plan.experiment.command).endswith("small.yaml --seeds 3")
    assert lecun_ablate.load_results("small").equals(three)
    assert len(parents()) == 6 and len(tree()) == 6 + 2 + 1
    arms = [r for r in tree().values() if r.data.tags["lecun_ablate.level"] == "arm"]
    assert [arm.data.metrics["seeds"] for arm in arms] == [3, 3]


def test_fewer_seeds_do_not_train_what_is_not_asked_for(experiment, monkeypatch, no_training):
    """A plan that was stopped keeps the seeds that all of its arms have; the others wait."""
    train = TorchTrainer.train

    def stops(self, runs, *rest):
        yield from train(self, runs[:5], *rest)  # tanh and relu 0, 1; tanh 2
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TorchTrainer, "train", stops)
        execute(experiment, seeds=10)
    no_training()
    with pytest.warns(UserWarning, match="1 more seed has been run before: all 2 are shown"):
        assert sorted(execute(experiment, seeds=1).seed.unique()) == [0, 1]
    assert len(parents()) == 5


@pytest.mark.filterwarnings("ignore:.* been run before")
def test_plans_that_share_runs_do_not_take_them_from_each_other(experiment):
    """A run stands under the arm that trained it, and other plans' arms link to that arm."""
    wider = experiment.with_name("wider.yaml")
    wider.write_text(YAML.replace("[tanh, relu]", "[tanh, relu, softsign]"))
    execute(experiment, seeds=1)
    first = View().find("small").run_id
    assert len(execute(wider, seeds=1)) == 9
    second = View().find("small").run_id
    expected = {(arm, 0): (arm, first) for arm in ("tanh", "relu")}
    assert parents() == expected | {("softsign", 0): ("softsign", second)}
    execute(experiment, seeds=2)  # its arms are replaced, and the links follow
    expected |= {(arm, 1): (arm, first) for arm in ("tanh", "relu")}
    assert parents() == expected | {("softsign", 0): ("softsign", second)}
    for again in ((wider, 1), (experiment, 1), (wider, 2), (experiment, 2)):
        execute(again[0], seeds=again[1])
    expected |= {("softsign", 0): ("softsign", second), ("softsign", 1): ("softsign", second)}
    assert parents() == expected
    runs = tree()
    arms = {
        (r.data.tags["mlflow.parentRunId"], r.data.tags["lecun_ablate.arm"]): r
        for r in runs.values()
        if r.data.tags["lecun_ablate.level"] == "arm"
    }
    assert len(arms) == 5
    for arm in ("tanh", "relu"):
        note = arms[second, arm].data.tags["mlflow.note.content"]
        assert f"2 under [{arm}](#/experiments/" in note
        assert f"/runs/{arms[first, arm].info.run_id})" in note
    assert "mlflow.note.content" not in arms[second, "softsign"].data.tags
    for top, number in ((first, 4), (second, 6)):
        assert lecun_ablate.load_results(top).run_id.nunique() == number


def test_runs_whose_arm_was_deleted_get_another(experiment):
    execute(experiment)
    store = View()
    for arm in store.search(store.find("small").experiment_id, lecun_ablate__level="arm"):
        store.client.delete_run(arm.info.run_id)
    execute(experiment)
    assert len(parents()) == 4


@pytest.mark.parametrize("moment", ["log_metrics", "_replace_arm", "delete_run", "_gather"])
def test_a_kill_while_an_arm_is_replaced(experiment, monkeypatch, moment):
    """No arm twice, no child lost, and no metric with two points at one epoch."""
    execute(experiment)

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    def log_metrics_and_die(self, run_id, metrics, *parameters):
        log_metrics(self, run_id, metrics, *parameters)
        if metrics:  # not the parameters of a new arm
            raise Killed

    log_metrics = Writer.log_metrics
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Writer, "end", lambda *_: None)
        if moment == "delete_run":
            patch.setattr("mlflow.MlflowClient.delete_run", killed)
        elif moment == "log_metrics":
            patch.setattr(Writer, moment, log_metrics_and_die)
        else:
            patch.setattr(PlanRun, moment, killed)
        execute(experiment, seeds=3)
    tree()
    execute(experiment, seeds=3)
    assert len(parents()) == 6
    arms = [r for r in tree().values() if r.data.tags["lecun_ablate.level"] == "arm"]
    assert len(arms) == 2
    for arm in arms:
        history = View().client.get_metric_history(arm.info.run_id, "seeds")
        assert [(point.step, point.value) for point in history] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("moment", ["_create_arm", "_replace_arm"])
def test_an_interruption_leaves_no_run_running(experiment, monkeypatch, moment):
    """It comes once the runs are known that have to be marked."""
    if moment == "_replace_arm":
        execute(experiment)
    original = getattr(PlanRun, moment)

    def interrupted(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(PlanRun, moment, interrupted)
            execute(experiment, seeds=3)
    finally:
        signal.signal(signal.SIGINT, before)
    store = View()
    top = store.plans(store.experiment("small/tiny").experiment_id)[0]
    runs = store.search(top.experiment_id)
    assert top.status == "KILLED"
    assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}
    assert len(runs) == (9 if moment == "_replace_arm" else 2)
    execute(experiment, seeds=3)
    assert len(parents()) == 6


def test_runs_without_their_files_are_trained_again(experiment):
    whole = execute(experiment)
    store = View()
    experiment_id = store.find("small").experiment_id
    lost = whole.run_id[0]
    (experiment.parent / "mlruns" / experiment_id / lost / "artifacts/weights.npz").unlink()
    assert len(store.finished(experiment_id)[0]) == 3
    assert set(lecun_ablate.load_results("small").run_id) == set(whole.run_id) - {lost}
    (arm, seed) = whole.arm[0], whole.seed[0]
    words = (
        "1 finished run cannot be used and will be trained again:\n"
        f"run {lost} ({arm} seed {seed}): its weights or answers are gone or damaged"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(words)}$"):
        again = execute(experiment)
    assert same_numbers(whole, again) and lost not in set(again.run_id)
    assert len(parents()) == 4


def test_a_plan_goes_on_when_all_files_are_gone(experiment, command):
    whole = execute(experiment)
    shutil.rmtree("mlruns")
    status, _, err = command("show", "small")
    assert status == 1 and "plan.json" in err and "`run` the experiment again" in err
    with pytest.warns(UserWarning, match="^4 finished runs cannot be used") as warned:
        again = execute(experiment)
    first, *runs = str(warned[0].message).splitlines()
    assert first == "4 finished runs cannot be used and will be trained again:"
    ends = whole.drop_duplicates("run_id").itertuples()
    assert sorted(runs) == sorted(
        f"run {run.run_id} ({run.arm} seed {run.seed}): its weights or answers are gone or damaged"
        for run in ends
    )
    assert same_numbers(whole, again) and not set(whole.run_id) & set(again.run_id)
    assert len(parents()) == 4
    assert command("show", "small")[0] == 0


def test_an_interruption_of_one_experiment_is_swept_by_another(experiment):
    execute(experiment, seeds=1)
    store = View()
    left = [r.info.run_id for r in tree().values()]
    for run_id in left:
        store.client.update_run(run_id, status="RUNNING")
    other = experiment.with_name("other.yaml")
    other.write_text(YAML.replace("name: small", "name: other"))
    execute(other, seeds=1)
    experiment_id = store.experiment("small/tiny").experiment_id
    assert not store.client.search_runs([experiment_id], "attributes.status = 'RUNNING'")
    assert len(execute(experiment, seeds=1)) == 6
    assert len(parents()) == 2


def test_a_short_trial_does_not_hide_the_results(experiment, command):
    """Options that change what is trained make a variant, which a run's id finds."""
    other = execute(experiment, seeds=2, assignments=["recipe.lr=0.05"], epochs=2)
    assert lecun_ablate.load_results("small").equals(other), "until there is anything else"
    first = execute(experiment, seeds=1)
    assert lecun_ablate.load_results("small").equals(first)
    execute(experiment, seeds=2, assignments=["recipe.lr=0.05"], epochs=2)
    assert lecun_ablate.load_results("small").equals(first)
    assert lecun_ablate.load_results(other.run_id[0]).equals(other)
    out = command("show", "small")[1]
    (line,) = [line for line in out.splitlines() if re.match(r"  [0-9a-f]{32}  ", line)]
    assert line.endswith("finished  lr 0.05; epochs 2; 2 seeds")


def test_options_that_say_what_the_file_says_make_no_variant(experiment, command):
    """The plan is the same, so its report and its place are."""
    first = execute(experiment, seeds=1)
    epochs = int(first.epoch.max())
    again = execute(experiment, seeds=1, epochs=epochs)
    assert again.equals(first)
    (record,) = View().plans(View().find("small").experiment_id)
    assert record.variant == ""
    out = command("show", "small")[1]
    assert "variant" not in out
    execute(experiment, seeds=1, epochs=epochs + 1)
    assert lecun_ablate.load_results("small").equals(first)


def test_arms_leave_diverged_runs_out_as_the_table_does(workplace, command):
    file = workplace / "wild.yaml"
    file.write_text(
        "name: wild\ndata: tiny\nrecipe: {epochs: 2}\narms:\n- {name: fine}\n"
        "- {name: wild, activation: lisht, output_activation: lisht, lr: 0.02}\nseeds: 6\n"
    )
    frame = execute(file)
    wild = frame[frame.arm == "wild"]
    diverged = wild[wild.status == "diverged"].seed.nunique()
    assert 0 < diverged < 6, "some of the seeds, else this tests nothing"
    runs = {
        r.data.tags["lecun_ablate.arm"]: r
        for r in tree("wild/tiny").values()
        if r.data.tags["lecun_ablate.level"] == "arm"
    }
    arms = {arm: run.data.metrics for arm, run in runs.items()}
    table = {row["arm"]: row for row in json.loads(command("show", "wild", "--json")[1])["arms"]}
    for arm, number in (("wild", diverged), ("fine", 0)):
        assert arms[arm]["diverged_runs"] == table[arm]["diverged"] == number
        history = View().client.get_metric_history(runs[arm].info.run_id, "seeds")
        assert [point.value for point in history] == [table[arm]["runs"] - number] * 2
        assert arms[arm]["test_error_mean"] == pytest.approx(table[arm]["test_error_mean"])
        assert arms[arm]["test_error_sd"] == pytest.approx(table[arm]["test_error_sd"])


@pytest.mark.parametrize(
    ("misses", "status"),
    [(900, "collapsed"), (897, "collapsed"), (880, "collapsed"), (860, "finished")],
)
def test_collapsed_is_no_clearly_better_than_naming_one_digit(misses, status):
    """1000 images, 100 of every digit: that guess misses 900, give or take 9.5."""
    labels = np.repeat(np.arange(10), 100)
    split = Split(np.zeros((1000, 16, 16)), labels)
    scores = {"train": Scores(0.1, misses, 1000, np.zeros(1000))}
    assert run_status(EpochReport(0, 1, scores, 0.1, False, True, None), split) == status


def test_no_store_is_no_broken_store(experiment, monkeypatch):
    plan = prepare(experiment).plan
    assert len(still_to_do(plan)) == 4
    experiment.with_name("mlflow.db").unlink()
    assert len(still_to_do(plan)) == 4
    experiment.with_name("broken.db").write_bytes(b"this is no database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///broken.db")
    words = "broken.db: is no database: expected an SQLite file, got one that begins with b'this is"
    with pytest.raises(LecunAblateError, match=re.escape(words)):
        still_to_do(plan)


def test_another_plan_is_another_experiment_run(experiment):
    run(experiment, seeds=1)
    other = run(experiment, seeds=1, assignments=["recipe.lr=0.05"])
    store = View()
    plans = store.plans(store.experiment("small/tiny").experiment_id)
    assert len(plans) == 2
    assert lecun_ablate.load_results(other.run_id[0]).equals(other)
    assert len(seed_runs()) == 4


def test_one_killed_process_later(experiment):
    """Whatever was left RUNNING or half-written is swept away, and the numbers stay the same."""
    whole = run(experiment)
    store = View()
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
    own = {f.path for f in View().client.list_artifacts(by_arm["dead"].info.run_id, "components")}
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
    original = PlanRun.log
    logged = []

    def fails_at_the_third(self, *arguments):
        if len(logged) == 2:
            raise OSError("disk full")
        logged.append(original(self, *arguments))
        return logged[-1]

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(PlanRun, "log", fails_at_the_third)
        run(experiment)
    assert View().find("small").status == "FAILED"
    assert {r.info.run_id for r in seed_runs()} == set(logged)
    again = run(experiment)
    assert set(logged) < set(again.run_id) and len(seed_runs()) == 4


def test_plan_json_survives(experiment):
    run(experiment, seeds=1)
    store = View()
    plan = store.plan(store.find("small"))
    assert plan.experiment.arm("relu").recipe.activation == "relu"
    kept = store.files.text(store.find("small").run_id, "plan.json")
    assert json.loads(plan.to_json()) == json.loads(kept)
    with pytest.raises(LecunAblateError, match="no experiment or run 'smal': did you mean"):
        store.find("smal")


def test_estimate_is_in_seconds_for_all_runs(experiment):
    prepared = prepare(experiment)
    todo = prepared.plan.pending({})
    assert len(todo) == 4 and todo[:2] == [("tanh", 0), ("relu", 0)]
    assert 0 < estimate(prepared, todo[:1]) < 60
    assert estimate(prepared, []) == 0


RESAMPLED = YAML.replace("data: tiny", "data: {name: tiny, split: resampled}")


def test_with_a_resampled_split_each_seed_trains_all_arms_on_the_images_that_it_draws(
    experiment, monkeypatch
):
    experiment.write_text(RESAMPLED)
    train, seen = TorchTrainer.train, []

    def watched(self, runs, fit, evaluate, on_epoch=None):
        seen.append(({run.seed for run in runs}, len(runs), fit, evaluate))
        return train(self, runs, fit, evaluate, on_epoch)

    monkeypatch.setattr(TorchTrainer, "train", watched)
    frame = run(experiment)
    digits = load("tiny")
    seen = [call for call in seen if len(call[2]) == 60]
    assert [call[:2] for call in seen] == [({0}, 2), ({1}, 2)]
    for (seed,), _, fit, evaluate in [(tuple(c[0]), *c[1:]) for c in seen]:
        expected = digits.resampled(seed)
        assert np.array_equal(fit.images, expected.train.images)
        assert np.array_equal(evaluate["train"].images, expected.train.images)
        assert np.array_equal(evaluate["test"].labels, expected.test.labels)
    # what is stored is about these images, and can be made again
    for row in frame.groupby(["arm", "seed"]).first().reset_index().itertuples():
        labels = Store().files.labels(row.run_id)
        assert np.array_equal(labels, digits.resampled(row.seed).test.labels)
    again = api.reproduce(frame.run_id.iloc[-1])
    assert again.exact and again.reproduced
    page = (api.page_of(prepare(experiment).plan)).read_text()
    assert "Digit by digit" not in page and "test images drawn by each seed" in page


def test_runs_on_a_resampled_split_are_no_runs_on_the_known_one(experiment, no_training):
    known = execute(experiment)
    experiment.write_text(YAML.replace("name: small", "name: known"))
    execute(experiment)
    experiment.write_text(RESAMPLED)
    drawn = execute(experiment)
    assert set(known.run_id).isdisjoint(drawn.run_id)
    assert not same_numbers(known, drawn)
    no_training()
    assert same_numbers(execute(experiment), drawn)
    plans = Store().find("small"), Store().find(known.run_id.iloc[0])
    assert plans[0].run_id != plans[1].run_id
    assert Store().plan(plans[0]).experiment.arms[0].resampled
    one, two = drawn.groupby("arm", sort=False).run_id.first()
    assert api.compare(one, two).first.seed == 0
    with pytest.raises(LecunAblateError, match=r"the seed of .* drew its test images"):
        api.compare(one, known.run_id.iloc[0])
    with pytest.raises(LecunAblateError, match="on different digits: small:tanh on tiny"):
        api.compare("small:tanh", "known:tanh")
    with pytest.raises(LecunAblateError, match="expected two runs with the same seed"):
        api.compare(one, drawn.run_id.iloc[-1])


def test_nothing_is_said_of_new_images_where_each_seed_has_its_own(experiment):
    experiment.write_text(RESAMPLED.replace("seeds: 2", "seeds: 8"))
    shown = api.evaluate(experiment, Overrides(), Options(trainer="torch", device="cpu"))
    (pair,) = shown.evidence.comparisons.pairs
    assert pair.joint is None
    assert "20 test images that each seed draws from the same pool" in answer(shown.evidence)


def test_another_data_set_keeps_the_split_asked_for(experiment):
    experiment.write_text(RESAMPLED)
    named = load_experiment(experiment, data="digits")
    assert named.data.name == "digits" and named.data.split == "resampled"
    assert all(arm.resampled for arm in named.arms)
