"""`ablate` with `arms: path`: what is trained, step by step, whatever happens in between."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from mlflow_view import View

import lecun_ablate
from lecun_ablate import api
from lecun_ablate.api import Options
from lecun_ablate.config.experiment import load_experiment
from lecun_ablate.evidence.weighing import Evidence
from lecun_ablate.plan.plan import Plan
from lecun_ablate.reporting.conclusion import conclude
from lecun_ablate.running.experiment import run_experiment
from lecun_ablate.tracking.plan_run import PlanRun
from lecun_ablate.tracking.writer import Writer
from lecun_ablate.trainers.base import EpochReport, Scores, State
from lecun_ablate.trainers.torch_trainer import TorchTrainer

pytestmark = pytest.mark.usefixtures("tiny", "plain_reports")

CHANGES = {"activation": "relu", "lr": 0.1, "init": "fan_in", "momentum": 0.5}
YAML = """
name: between
question: Which change first?
data: tiny
recipe: {epochs: 1}
seeds: 2
ablate:
  to: {activation: relu, lr: 0.1, init: fan_in, momentum: 0.5}
  arms: path
"""
BEGINNING = ["baseline", "activation", "lr", "init", "momentum"]
# with the misses below: lr, then init, then momentum, then activation
PATH = [
    *BEGINNING,
    "activation+lr", "lr+init", "lr+momentum",
    "activation+lr+init", "lr+init+momentum",
    "winner",
]  # fmt: skip


def misses(made: set[str], seed: int) -> int:
    """Return the errors of 20 with some changes; init gains only once lr has been made."""
    if seed >= 2 and made == {"init"}:
        return 0  # more seeds than two say that it gains most of all
    gains = {"activation": 1, "lr": 4, "init": 0, "momentum": 2}
    return 15 - sum(gains[change] for change in made) - 3 * ({"lr", "init"} <= made) + seed % 2


class Trained(list):
    """Stands in for training: (changes, seed) of each run, whose misses are those above."""

    def __init__(self):
        super().__init__()
        self.misses = misses
        self.stop_after: int | None = None

    def train(self, runs, fit, evaluate, on_epoch=None):
        for index, run in enumerate(runs):
            if len(self) == self.stop_after:
                raise KeyboardInterrupt
            made = {field for field, value in CHANGES.items() if run.recipe.value(field) == value}
            scores = {}
            for name, split in evaluate.items():
                missed = self.misses(made, run.seed)
                answers = split.labels.astype(np.uint8)
                answers[:missed] = (answers[:missed] + 1) % 10
                scores[name] = Scores(0.5, missed, len(answers), answers)
            self.append((frozenset(made), run.seed))
            yield EpochReport(index, 1, scores, 0.01, False, True, State(1, {"w": np.zeros(1)}))


@pytest.fixture
def trained(monkeypatch) -> Trained:
    found = Trained()
    monkeypatch.setattr(TorchTrainer, "train", lambda self, *given: found.train(*given))
    return found


@pytest.fixture
def file(workplace):
    (workplace / "between.yaml").write_text(YAML)
    return workplace / "between.yaml"


def prepare(file, **options):
    return api.prepare(load_experiment(file, **options), Options(trainer="torch", device="cpu"))


def execute(file, only=(), **options) -> Evidence:
    """Do as run does, but write no report: that takes most of the time."""
    prepared = prepare(file, **options)
    prepared = type(prepared)(**{**vars(prepared), "only": tuple(only)})
    with Writer.opened() as writer, PlanRun.opened(writer, prepared.plan, warnings.warn) as run:
        return conclude(run_experiment(prepared, run), writer.files, run)


def stored() -> Plan:
    """Return the plan as the store has it, of which there is one."""
    store = View()
    (top,) = store.plans(store.find("between").experiment_id)
    return store.plan(top)


def arms(plan: Plan) -> list[str]:
    return [arm.name for arm in plan.experiment.arms]


def steps(evidence: Evidence) -> list[tuple[str, float]]:
    return [(step.change, round(20 * step.effect, 6)) for step in evidence.worth.path]


def test_only_what_the_path_meets_is_trained_step_by_step(file, trained):
    evidence = execute(file)
    assert arms(evidence.plan) == arms(stored()) == PATH
    assert len(PATH) == load_experiment(file).most_arms == 11, "of 16 combinations"
    assert len(trained) == len(set(trained)) == 22, "each run once"
    order = list(dict.fromkeys(len(made) for made, _ in trained))
    assert order == [0, 1, 4, 2, 3], "a step when the one before has all seeds"
    assert steps(evidence) == [("lr", -4), ("init", -3), ("momentum", -2), ("activation", -1)]
    assert evidence.worth.contributions == () and evidence.worth.shares == ()
    pairs = [(pair.arm, pair.baseline) for pair in evidence.comparisons.pairs]
    assert pairs == [
        (arm, "baseline") for arm in ("winner", "activation", "lr", "init", "momentum")
    ], "as many as the file says, whatever the results"


def test_it_is_the_path_of_all_combinations(file, trained):
    """The same runs, once as `all`: the store has those of the path already."""
    path = execute(file)
    file.write_text(YAML.replace("arms: path", "arms: all").replace("between", "every"))
    every = execute(file)
    assert len(every.arms) == 16
    assert every.worth.path == path.worth.path
    assert path.comparisons.pairs[0].counted == every.comparisons.pairs[0].counted


def test_the_key_comes_from_the_file(file, trained):
    first = prepare(file).plan
    execute(file)
    grown = stored()
    assert grown.key == first.key == prepare(file).plan.key
    common = set(first.keys) & set(grown.keys)
    assert len(common) == 12 and all(first.keys[run] == grown.keys[run] for run in common)
    for other in (
        YAML.replace("arms: path", "arms: leave_one_out"),
        YAML.replace("{activation: relu, lr: 0.1", "{lr: 0.1, activation: relu"),
    ):
        file.write_text(other)
        assert prepare(file).plan.key != first.key


@pytest.mark.parametrize(
    "moment",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in (1, 9))) for n in range(1, 22, 4)],
)
def test_an_interrupted_path_goes_on_with_the_same_steps(file, trained, moment):
    trained.stop_after = moment
    with pytest.raises(KeyboardInterrupt):
        execute(file)
    before = arms(stored())
    trained.stop_after = None
    evidence = execute(file)
    assert arms(evidence.plan) == PATH and set(before) <= set(PATH)
    assert len(trained) == len(set(trained)) == 22, "each run once"
    again = execute(file)
    assert len(trained) == 22 and again.worth == evidence.worth
    assert again.results.run_id == evidence.results.run_id
    store = View()
    held = store.search(evidence.results.experiment_id, lecun_ablate__level="arm")
    assert sorted(run.data.tags["lecun_ablate.arm"] for run in held) == sorted(PATH)
    assert {run.info.status for run in held} == {"FINISHED"}


def test_a_repeated_command_never_shows_less(file, trained, monkeypatch):
    """It stops where the first step has been read: what is stored has the whole path."""
    execute(file)
    monkeypatch.setattr(PlanRun, "add_sets", lambda *_: pytest.fail("nothing is missing"))
    monkeypatch.setattr("lecun_ablate.evidence.weighing.sets_to_add", lambda _: [])
    execute(file)
    assert arms(stored()) == PATH


def test_more_seeds_may_change_the_path_and_what_was_trained_stays(file, trained):
    two = execute(file)
    more = execute(file, seeds=6)
    assert steps(two)[0][0] == "lr" and steps(more)[0][0] == "init"
    new = {"activation+init", "init+momentum"}
    assert set(PATH) < set(arms(more.plan)) and new <= set(arms(more.plan))
    assert list(more.arms) == arms(more.plan) == arms(stored())
    assert {len(runs) for runs in more.arms.values()} == {6}, "paired: all arms have all seeds"
    assert more.plan.key == two.plan.key
    assert len(trained) == len(set(trained)) == 6 * len(more.arms)


def test_a_failed_run_counts_as_in_the_table(file, trained, monkeypatch):
    """With one run of lr diverged, momentum gains most: 0.9 stands for the diverged one."""

    def diverging(runs, *given):
        for report in Trained.train(trained, runs, *given):
            lost = trained[-1] == (frozenset({"lr"}), 1)
            yield EpochReport(**{**vars(report), "diverged": lost})

    monkeypatch.setattr(TorchTrainer, "train", lambda self, *given: diverging(*given))
    evidence = execute(file)
    assert evidence.worth.failed == 1
    assert steps(evidence)[0] == ("momentum", -2) and "lr+momentum" in evidence.arms


def test_a_path_is_found_anew_where_its_plan_file_is_damaged(file, trained):
    """And a damaged run of an arm that the path comes to is trained again, not left out."""
    first = execute(file)
    (plan,) = file.parent.glob("mlruns/*/*/artifacts/plan.json")
    plan.write_text("{")
    again = execute(file)
    assert arms(again.plan) == PATH and again.worth == first.worth and len(trained) == 22
    plan.write_text("{")
    final = first.results.final
    run_id = final[(final.arm == "lr+init") & (final.seed == 1)].run_id.iloc[0]
    (weights,) = file.parent.glob(f"mlruns/*/{run_id}/artifacts/weights.npz")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="1 finished run cannot be used"):
        again = execute(file)
    assert arms(again.plan) == PATH and again.worth == first.worth
    assert trained[22:] == [(frozenset({"lr", "init"}), 1)]


def test_a_path_is_taken_back_where_the_database_is_lost(file, trained, empty_store):
    first = execute(file)
    shutil.copy(empty_store, file.parent / "mlflow.db")
    with pytest.warns(UserWarning, match="taken back"):
        again = execute(file)
    assert arms(again.plan) == PATH and again.worth == first.worth and len(trained) == 22


def test_a_damaged_run_of_a_later_seed_is_trained_again(file, trained, monkeypatch):
    monkeypatch.setattr("lecun_ablate.statistics.stopping.FIRST_LOOK", 3)
    file.write_text(YAML.replace("seeds: 2", "seeds: {until: {halfwidth: 0.001, at_most: 5}}"))
    final = execute(file).results.final
    number = len(trained)
    run_id = final[(final.arm == "lr") & (final.seed == 4)].run_id.iloc[0]
    (weights,) = file.parent.glob(f"mlruns/*/{run_id}/artifacts/weights.npz")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="1 finished run cannot be used"):
        assert len(execute(file).results.final) == len(final)
    assert trained[number:] == [(frozenset({"lr"}), 4)]


KILLED = """
import os, sys
import lecun_ablate
from lecun_ablate.tracking.plan_run import PlanRun
from tiny_digits import register_tiny
register_tiny()
log, left = PlanRun.log, int(sys.argv[1])
def dying(self, *given):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
    return log(self, *given)
PlanRun.log = dying
lecun_ablate.run("between.yaml", trainer="torch", device="cpu")
"""


@pytest.mark.slow
def test_a_killed_path_goes_on_with_the_same_steps(file, empty_store, monkeypatch):
    """Trained in truth, and killed with -9 in the middle of its second step."""
    process = subprocess.run(
        [sys.executable, "-c", KILLED, "14"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    frame = lecun_ablate.run(file, trainer="torch", device="cpu")
    assert len(frame) == 22 and frame.run_id.nunique() == 22
    killed = stored()
    elsewhere = file.parent / "undisturbed"
    elsewhere.mkdir()
    shutil.copy(empty_store, elsewhere / "mlflow.db")
    monkeypatch.chdir(elsewhere)
    undisturbed = lecun_ablate.run(file, trainer="torch", device="cpu")
    assert arms(stored()) == arms(killed) and stored().keys == killed.keys
    columns = ["arm", "seed", "train_loss", "test_loss", "test_misses", "status"]
    assert frame[columns].equals(undisturbed[columns])


def test_arms_that_are_not_to_be_trained_now_end_the_path(file, trained):
    execute(file, only=["baseline", "lr"])
    assert {made for made, _ in trained} == {frozenset(), frozenset({"lr"})}
    assert arms(stored()) == [*BEGINNING, "winner"]
    execute(file, only=["lr+init"])
    assert len(trained) == 4, "it is not there yet"
    evidence = execute(file)
    assert arms(evidence.plan) == PATH and len(trained) == 22


def test_seeds_grow_first(file, trained, monkeypatch):
    monkeypatch.setattr("lecun_ablate.statistics.stopping.FIRST_LOOK", 3)
    monkeypatch.setattr("lecun_ablate.statistics.stopping.BLOCK", 2)
    file.write_text(YAML.replace("seeds: 2", "seeds: {until: {halfwidth: 0.001, at_most: 5}}"))
    evidence = execute(file)
    assert [seed for made, seed in trained if len(made) == 2][-1] == 4
    assert {len(runs) for runs in evidence.arms.values()} == {5}
    singles = [seed for made, seed in trained if len(made) == 1]
    assert singles == sorted(singles), "three, then two more"
    number = len(trained)
    assert execute(file).worth == evidence.worth and len(trained) == number


def test_two_changes_have_all_combinations(file, trained):
    file.write_text(YAML.replace("init: fan_in, momentum: 0.5", ""))
    evidence = execute(file)
    assert len(evidence.arms) == 4 and len(evidence.worth.path) == 2
    assert {one.change for one in evidence.worth.contributions} == {"activation", "lr"}


def test_every_command_takes_a_path(workplace, command):
    """Six changes, which are too many for `all`, trained in truth."""
    (workplace / "six.yaml").write_text(
        "name: six\ndata: tiny\nrecipe: {epochs: 1}\nseeds: 2\nablate: {to: {activation: relu, "
        "lr: 0.1, init: fan_in, momentum: 0.5, dropout: 0.1, average: 0.5}, arms: path}\n"
    )
    options = ("--trainer", "torch", "--device", "cpu")
    status, out, err = command("run", "six.yaml", *options, "--dry-run")
    assert status == 0, err
    assert "16 to do" in out and "22 arms at most, 44 runs with these seeds" in out
    status, out, err = command("run", "six.yaml", *options, "--json")
    assert status == 0, err
    found = json.loads(out)
    errors = lecun_ablate.load_results("six").groupby(["arm", "seed"]).test_error.last().unstack(0)
    assert [one["arm"] for one in found["arms"]] == list(dict.fromkeys(stored_arms("six")))
    assert {one["what"] for one in found["worth"]} == {"step"} and len(found["worth"]) == 6
    whole = (errors.winner - errors.baseline).mean()
    assert sum(one["value"] for one in found["worth"]) == pytest.approx(whole)
    first = min(
        ("activation", "average", "dropout", "init", "lr", "momentum"),
        key=lambda change: (errors[change] - errors.baseline).mean(),
    )
    assert found["worth"][0]["choice"] == first
    dry = json.loads(command("run", "six.yaml", *options, "--dry-run", "--json")[1])
    assert dry["todo"] == 0 and dry["arms_at_most"] == 22 and len(dry["arms"]) == len(errors.T)
    assert set(dry["trainers"]) == set(dry["arms"])

    title = "The path of the largest gains"
    folder = workplace / "reports/six/tiny"
    for text in (
        command("show", "six")[1],
        (folder / "report.md").read_text(),
        (folder / "report.html").read_text(),
        command("export", "six", "--latex", "--output", "-")[1],
    ):
        assert title in text
    assert len((folder / "worth.csv").read_text().splitlines()) == 1 + 6
    assert f"{len(errors.T)} arms, 2 seeds" in command("list")[1]
    for again in (
        ("report", "six"),
        ("power", "six", "--effect", "1"),
        ("compare", "six:baseline", "six:winner"),
        ("run", "six.yaml", *options, "--only", first),
    ):
        status, _, err = command(*again)
        assert status == 0, err
    status, _, err = command("run", "six.yaml", *options, "--only", "lr+inti")
    assert status == 2 and "did you mean 'lr+init'?" in err
    store = View()
    note = store.client.get_run(store.find("six").run_id).data.tags["mlflow.note.content"]
    assert "winner" in note


def stored_arms(name: str) -> list[str]:
    store = View()
    return arms(store.plan(store.find(name)))
