"""report, compare, power and reproduce, through the real command line on runs that were trained."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow_view import View

import lecun_ablate
from lecun_ablate import api, data
from lecun_ablate.data import Digits
from lecun_ablate.registry import registry
from lecun_ablate.running.reproduce import Reproduction, _side_by_side
from lecun_ablate.running.two_runs import compare_runs
from lecun_ablate.statistics import compare, look_level, seeds_needed, stopping
from lecun_ablate.tracking.records import SeedRun
from lecun_ablate.trainers import native
from lecun_ablate.trainers.torch_trainer import TorchTrainer

YAML = """
# python -m lecun_ablate run pair.yaml
name: pair
question: Does it matter?
data: digits
recipe: {epochs: 1}
vary: {activation: [tanh, relu]}
seeds: 3
"""
OWN = """
import torch
from lecun_ablate import register

@register("activation")
def bent(x):
    '''x + tanh(x), made up.'''
    return x + torch.tanh(x)
"""
GROWING = """
name: growing
data: tiny
recipe: {epochs: 1}
vary: {activation: [tanh, relu]}
seeds: {until: {halfwidth: HALFWIDTH, at_most: 7}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, empty_store):
    """A folder in which pair.yaml has been run."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "pair.yaml").write_text(YAML)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        lecun_ablate.run("pair.yaml", device="cpu")
    return folder


@pytest.fixture
def pair(trained, monkeypatch):
    """The same folder to work in, and its results."""
    monkeypatch.chdir(trained)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("LECUN_ABLATE_DATA", raising=False)
    return lecun_ablate.load_results("pair")


def run_id(frame, arm, seed):
    return frame[(frame.arm == arm) & (frame.seed == seed)].run_id.iloc[0]


def files():
    return {path.name: path.read_bytes() for path in Path("reports/pair/digits").iterdir()}


def test_reporting_again_gives_the_same_files(pair, command):
    first = files()
    assert {"report.html", "report.md", "arms.csv", "comparisons.csv", "runs.csv"} <= set(first)
    shutil.rmtree("reports")
    status, out, _ = command("report", "pair")
    assert (status, out.splitlines()[0]) == (0, "reports/pair/digits/report.html")
    assert files() == first
    store = View()
    top = store.find("pair").run_id
    assert {name: store.files.read(top, name) for name in first} == first
    assert command("report", "pair.yaml")[0] == 0
    assert files() == first


def test_the_page_says_how_to_do_it_again(pair):
    page = files()["report.html"].decode()
    assert "python -m lecun_ablate run pair.yaml" in page
    assert data.load("digits").digest in page
    assert f"lecun_ablate {lecun_ablate.__version__}" in page and "torch 2." in page
    assert "0 to 2" in page


def test_other_digits_are_no_test_set_of_these_runs(pair, command, monkeypatch):
    real, before = data.load("digits"), files()
    other = Digits("digits", real.train, real.test.take(np.arange(399)), "made up")
    del registry._components["data"]["digits"]
    registry.register("data", "digits")(lambda: other)
    status, out, err = command("report", "pair")
    assert status == 3 and out == ""
    assert f"with digest {real.digest}, got digest {other.digest}" in err
    assert files() == before, "nothing was written"
    assert command("report", "pair", "--no-pictures")[0] == 0
    assert b"The pictures are left out" in files()["report.html"]
    assert files()["runs.csv"] == before["runs.csv"]
    for name, content in before.items():
        Path("reports/pair/digits", name).write_bytes(content)


def test_json_and_arm_runs_hold_the_comparison(pair, command):
    shown = json.loads(command("show", "pair", "--json")[1])
    (pair_,) = shown["comparisons"]
    by_seed = {arm: rows.set_index("seed").test_error for arm, rows in pair.groupby("arm")}
    assert pair_["difference"] == pytest.approx((by_seed["relu"] - by_seed["tanh"]).mean())
    assert (pair_["arm"], pair_["baseline"], pair_["seeds"]) == ("relu", "tanh", 3)
    assert shown["answer"].startswith("Nothing can be concluded yet")
    store = View()
    top = store.find("pair")
    note = store.client.get_run(top.run_id).data.tags["mlflow.note.content"]
    assert shown["answer"] in note and "| relu | " in note
    assert store.experiment("pair/digits").tags["mlflow.note.content"] == note
    arms = store.search(top.experiment_id, lecun_ablate__level="arm")
    (relu,) = (run for run in arms if run.data.tags["lecun_ablate.arm"] == "relu")
    for name in ("difference", "difference_low", "difference_high", "p_adjusted"):
        assert relu.data.metrics[name] == pytest.approx(pair_[name]), name
    assert relu.data.metrics["test_error_mean"] == pytest.approx(by_seed["relu"].mean())
    assert relu.data.tags["verdict"] == pair_["verdict"] == "undecided"
    assert relu.data.tags["conclusion"] == pair_["verdict_text"]


def test_compare_counts_the_digits_on_which_two_runs_differ(pair, command):
    ids = run_id(pair, "tanh", 0), run_id(pair, "relu", 1)
    store = View()
    labels = store.files.labels(ids[0])
    one, two = (store.files.predictions(i) for i in ids)
    status, out, _ = command("compare", *ids, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["only_first_right"] == np.sum((one == labels) & (two != labels))
    assert found["both_wrong"] == np.sum((one != labels) & (two != labels))
    assert found["first"] == {
        "run_id": ids[0],
        "arm": "tanh",
        "seed": 0,
        "error": np.mean(one != labels),
    }
    rows = [row["image"] for row in found["differing_digits"]]
    assert rows == np.flatnonzero(one != two).tolist()
    assert all(isinstance(row[k], int) for row in found["differing_digits"] for k in row)
    text = " ".join(command("compare", *ids)[1].split())
    assert text.startswith("tanh seed 0: ") and "tanh seed 0 minus relu seed 1: " in text
    assert command("compare", "pair:tanh:0", ids[1][:8])[1] == command("compare", *ids)[1]
    assert "McNemar" in text and "tanh seed 0" in text and "which takes several seeds" in text


@pytest.mark.usefixtures("tiny")
def test_compare_refuses_runs_on_other_digits_and_what_is_no_run(pair, command, workplace):
    (workplace / "other.yaml").write_text(YAML.replace("digits", "tiny").replace("pair", "other"))
    (workplace / "pair.yaml").write_text(YAML)
    other = lecun_ablate.run("other.yaml", device="cpu", seeds=1)
    mine = lecun_ablate.run("pair.yaml", device="cpu", seeds=1, epochs=1)
    status, _, err = command("compare", other.run_id[0], mine.run_id[0])
    assert status == 1
    assert "different digits" in err and "tiny (digest" in err and "digits (digest" in err
    status, _, err = command("compare", "0" * 32, mine.run_id[0])
    assert status == 1 and "no run" in err
    top = View().find("pair").run_id
    status, _, err = command("compare", top, mine.run_id[0])
    assert status == 1 and "one of level experiment" in err


def test_power_says_what_an_effect_takes(pair, command):
    status, out, _ = command("power", "pair", "--effect", "0.5", "--json")
    (found,) = json.loads(out)
    by_seed = {arm: rows.set_index("seed").test_error for arm, rows in pair.groupby("arm")}
    spread = compare(by_seed["relu"], by_seed["tanh"]).sd
    assert status == 0
    assert found["paired"] == seeds_needed(0.005, spread, alpha=look_level(2))
    assert found["sd"] == pytest.approx((by_seed["relu"] - by_seed["tanh"]).std())
    assert "0.50 points" in command("power", "pair", "--effect", "0.5")[1]
    assert command("power", "pair", "--effect", "-1")[0] == 2


def test_a_run_is_reproduced_bit_for_bit(pair, command):
    status, out, _ = command("reproduce", run_id(pair, "relu", 2))
    assert status == 0
    assert "relu seed 2 is reproduced, bit for bit: 6 numbers over 1 epoch" in out


@pytest.mark.skipif(native.availability() is not None, reason="the native trainer is not built")
def test_another_trainer_reproduces_a_run_within_bounds(pair, command):
    status, out, _ = command("reproduce", run_id(pair, "tanh", 1), "--trainer", "torch")
    assert status == 0
    assert "trainer: native then, torch now" in out and "losses may differ by" in out
    assert "is reproduced, within these bounds" in out


def test_a_metric_that_differs_by_one_bit_is_not_reproduced(pair, command):
    wrong = run_id(pair, "tanh", 2)
    loss = pair[pair.run_id == wrong].test_loss.item()
    sql = "UPDATE metrics SET value = ? WHERE run_uuid = ? AND key = 'test_loss'"

    def write(value):
        with closing(sqlite3.connect("mlflow.db")) as database, database:
            database.execute(sql, (value, wrong))

    write(float(np.nextafter(loss, 1)))
    try:
        status, out, _ = command("reproduce", wrong)
    finally:
        write(loss)
    assert status == 1
    assert "1 of 6 numbers over 1 epoch differ" in out and "test_loss" in out
    assert "tanh seed 2 is NOT reproduced" in out


def test_a_metric_that_one_of_the_times_lacks_is_not_reproduced(pair, command):
    wrong = run_id(pair, "relu", 1)
    where = f"WHERE run_uuid = '{wrong}' AND key = 'train_loss'"
    with closing(sqlite3.connect("mlflow.db")) as database, database:
        (row,) = database.execute(f"SELECT * FROM metrics {where}").fetchall()
        database.execute(f"DELETE FROM metrics {where}")
    try:
        status, out, err = command("reproduce", wrong)
    finally:
        with closing(sqlite3.connect("mlflow.db")) as database, database:
            database.execute(f"INSERT INTO metrics VALUES ({', '.join('?' * len(row))})", row)
    assert status == 1, err
    assert not out and f"run {wrong}: some of its metrics are gone" in err


def test_an_epoch_that_one_of_the_times_lacks_is_shown():
    whole = pd.DataFrame({"epoch": [1, 2], "test_loss": [0.3, 0.2], "test_error": [0.2, 0.1]})
    table = _side_by_side(whole, whole[:1])
    lacking = table[table.then.notna() & table.now.isna()]
    assert lacking[["epoch", "metric"]].values.tolist() == [[2, "test_error"], [2, "test_loss"]]


@pytest.mark.parametrize(
    ("metric", "then", "now", "near"),
    [
        ("test_error", 0.05, 0.059, True),
        ("test_error", 0.05, 0.061, False),
        ("test_misses", 20, 23, True),
        ("test_misses", 20, 25, False),
        ("train_misses", 20, 25, True),
        ("train_misses", 20, 31, False),
        ("test_loss", 0.2, 0.209, True),
        ("test_loss", 0.2, 0.211, False),
        ("test_loss", 0.2, np.nan, False),
        ("test_loss", np.nan, np.nan, True),
    ],
)
def test_every_metric_is_held_to_the_bounds(metric, then, now, near):
    table = pd.DataFrame(
        [(1, metric, then, now, now - then)],
        columns=["epoch", "metric", "then", "now", "difference"],
    )
    found = Reproduction(None, False, [], table, (1, 1), (0.05, 0.01), {"train": 1000, "test": 400})
    assert found.reproduced == near
    exact = replace(found, exact=True)
    assert exact.reproduced == (then == now or np.isnan([then, now]).all())


@pytest.mark.usefixtures("tiny")
def test_components_of_ones_own_come_from_the_store(workplace, command):
    (workplace / "own.py").write_text(OWN)
    (workplace / "own.yaml").write_text(
        "name: own\ndata: tiny\ncomponents: own.py\nrecipe: {activation: bent, epochs: 2}\nseeds: 1"
    )
    frame = lecun_ablate.run("own.yaml", device="cpu")
    (workplace / "own.py").unlink()
    status, out, err = command("reproduce", frame.run_id[0])
    assert status == 0, err
    assert "'bent'" not in out, "its file is gone, but the code is the same"
    del registry._components["activation"]["bent"]
    status, _, err = command("reproduce", frame.run_id[0])
    assert status == 1 and "own.py (SHA-256 " in err and "--trust-components" in err
    assert "bent" not in registry.names("activation"), "nothing was run"
    status, out, err = command("reproduce", frame.run_id[0], "--trust-components")
    assert status == 0, err
    assert "is reproduced, bit for bit: 12 numbers over 2 epochs" in out
    del registry._components["activation"]["bent"]
    (workplace / "own.py").write_text(OWN.replace("tanh(x)\n", "tanh(2 * x)\n"))
    status, out, _ = command("reproduce", frame.run_id[0], "--components", "own.py")
    assert status == 1
    assert "activation 'bent': of own.py then," in out and re.search(
        r"own.py:\d+ now: other code", out
    )


EVIL = """
from pathlib import Path
Path("owned").touch()
from lecun_ablate import register
@register("activation")
def bent(x): return x
@register("activation")
def evil(x): return x
"""


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("activation", ["tanh", "bent"])
def test_files_that_a_run_was_not_trained_with_are_never_run(workplace, command, activation):
    """Whoever can write to a server's artifacts must not run code here."""
    (workplace / "own.py").write_text(OWN)
    (workplace / "own.yaml").write_text(
        f"name: own\ndata: tiny\ncomponents: own.py\nseeds: 1\n"
        f"recipe: {{activation: {activation}, epochs: 1}}\n"
    )
    frame = lecun_ablate.run("own.yaml", device="cpu")
    (artifacts,) = workplace.glob(f"mlruns/*/{frame.run_id[0]}/artifacts")
    (artifacts / "components").mkdir(exist_ok=True)
    for name in ("evil.py", *(["own.py"] if activation == "bent" else [])):
        (artifacts / "components" / name).write_text(EVIL)
    del registry._components["activation"]["bent"]
    status, out, err = command("reproduce", frame.run_id[0], "--trust-components")
    assert not Path("owned").exists() and "evil" not in registry.names("activation")
    if activation == "tanh":
        assert status == 0 and "is reproduced" in out
    else:
        assert status == 1 and "nothing was run" in err and "evil.py" in err


@pytest.mark.usefixtures("tiny")
def test_files_that_are_here_as_well_need_no_word(workplace, command):
    (workplace / "own.py").write_text(OWN)
    (workplace / "own.yaml").write_text(
        "name: own\ndata: tiny\ncomponents: own.py\nrecipe: {activation: bent, epochs: 1}\nseeds: 1"
    )
    frame = lecun_ablate.run("own.yaml", device="cpu")
    del registry._components["activation"]["bent"]
    status, out, err = command("reproduce", frame.run_id[0])
    assert status == 0 and "is reproduced" in out, err


def test_image_255_is_no_digit_without_answer():
    """An answer of 255 is none, but the image of that number is one like any other."""

    class Made:
        @property
        def files(self):
            return self

        def seed_run(self, run_id):
            params = {"data_digest": "x", "data": "made up"}
            return SeedRun(run_id, "tanh", 0, "key", params, None, {})

        def labels(self, run_id):
            return np.full(300, 3, np.uint8)

        def predictions(self, run_id):
            answers = np.full(300, 3, np.uint8)
            if run_id == "b" * 32:
                answers[[7, 255]] = 255, 4
            return answers

    found = compare_runs(Made(), "a" * 32, "b" * 32).as_json()["differing_digits"]
    assert found == [
        {"image": 7, "label": 3, "first": 3, "second": None},
        {"image": 255, "label": 3, "first": 3, "second": 4},
    ]


@pytest.mark.usefixtures("tiny")
def test_components_are_stored_as_they_were_trained(workplace, command):
    """Two files of one name, one of them edited while its runs are in training."""
    for folder, text in {"a": OWN, "b": OWN.replace("bent", "curved")}.items():
        (workplace / folder).mkdir()
        (workplace / folder / "own.py").write_text(text)
    (workplace / "own.yaml").write_text(
        "name: own\ndata: tiny\ncomponents: [a/own.py, b/own.py]\nseeds: 1\n"
        "recipe: {activation: bent, output_activation: curved, epochs: 2}\n"
    )

    class Editing:
        def begin(self, work):
            (workplace / "a/own.py").write_text(OWN.replace("tanh(x)\n", "tanh(2 * x)\n"))

        def epoch(self, *arguments):
            (workplace / "b/own.py").unlink(missing_ok=True)

        def end(self):
            pass

    frame = lecun_ablate.run("own.yaml", device="cpu", progress=Editing())
    for name in ("bent", "curved"):
        del registry._components["activation"][name]
    status, out, err = command("reproduce", frame.run_id[0], "--trust-components")
    assert status == 0, out + err
    for name in ("bent", "curved"):
        del registry._components["activation"][name]


@pytest.mark.usefixtures("tiny")
def test_seeds_grow_until_intervals_are_narrow_and_resume_alike(workplace, monkeypatch, command):
    monkeypatch.setattr(stopping, "FIRST_LOOK", 4)  # 20 in truth
    monkeypatch.setattr(stopping, "BLOCK", 2)
    (workplace / "growing.yaml").write_text(GROWING.replace("HALFWIDTH", "0.5"))
    dry = command("run", "growing.yaml", "--device", "cpu", "--dry-run")[1]
    assert (
        "8 to do" in dry
        and "until every 95 % interval among sound runs is within +-0.5 points, 7 at" in dry
    )
    first = lecun_ablate.run("growing.yaml", device="cpu")
    assert sorted(first.seed.unique()) == list(range(7)), "4, 6, then up to at_most"
    store = View()
    (top,) = store.plans(store.find("growing").experiment_id)
    assert store.plan(top).experiment.seeds == tuple(range(7)), "one plan, extended"
    monkeypatch.setattr(TorchTrainer, "train", lambda *_: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(lecun_ablate.run("growing.yaml", device="cpu"), first)
    (workplace / "growing.yaml").write_text(GROWING.replace("HALFWIDTH", "60"))
    enough = lecun_ablate.run("growing.yaml", device="cpu")
    assert sorted(enough.seed.unique()) == list(range(4)), "narrow enough at the first look"
    assert "within ±60 points, at most 7" in api.page_of(store.plan(top)).read_text()


def test_all_arms_compared_with_each_other(workplace, command, tiny):
    """An arm has several comparisons; the description in MLflow shows the one with the baseline."""
    Path("every.yaml").write_text(
        "name: every\nquestion: Which?\ndata: tiny\nrecipe: {epochs: 1}\ncompare: all\n"
        "vary: {activation: [tanh, relu, lisht]}\nseeds: 3\n"
    )
    status, out, err = command("run", "every.yaml", "--device", "cpu")
    assert status == 0, err
    assert "Test error against every other arm" in out
    shown = json.loads(command("show", "every", "--json")[1])["comparisons"]
    pairs = [(pair["arm"], pair["baseline"]) for pair in shown]
    assert pairs == [("relu", "tanh"), ("lisht", "tanh"), ("lisht", "relu")]
    store = View()
    note = store.client.get_run(store.find("every").run_id).data.tags["mlflow.note.content"]
    (row,) = (line for line in note.splitlines() if line.startswith("| lisht"))
    assert f"{100 * shown[1]['difference']:+.2f}" in row
    assert shown[1]["difference"] != shown[2]["difference"]
    for again in ("report", "power", "export"):
        options = {"power": ("--effect", "0.25"), "export": ("--latex",)}.get(again, ())
        status, _, err = command(again, "every", *options)
        assert status == 0, err


@pytest.mark.usefixtures("tiny")
def test_all_pairs_ranks_the_arms_and_trains_nothing_again(workplace, command):
    Path("three.yaml").write_text(
        "name: three\ndata: tiny\nrecipe: {epochs: 1}\nseeds: 2\n"
        "vary: {activation: [tanh, relu, sigmoid]}\n"
    )
    assert command("run", "three.yaml")[0] == 0
    status, out, err = command("run", "three.yaml", "--all-pairs", "--json")
    assert status == 0, err
    found = json.loads(out)["comparisons"]
    assert [(one["arm"], one["baseline"]) for one in found] == [
        ("relu", "tanh"), ("sigmoid", "tanh"), ("sigmoid", "relu")
    ]  # fmt: skip
    assert "6 runs, 6 done before, 0 to train" in err
    assert Path("reports/three/tiny/all-pairs/report.html").is_file()
    status, out, _ = command("show", "three", "--json")
    assert status == 0 and len(json.loads(out)["comparisons"]) == 2


@pytest.mark.usefixtures("tiny")
def test_an_ablation_runs_through_the_whole_job(workplace, command):
    Path("between.yaml").write_text(
        "name: between\ndata: tiny\nrecipe: {epochs: 1}\nseeds: 3\n"
        "ablate: {from: {activation: tanh}, to: {activation: relu, lr: 0.1}}\n"
    )
    status, out, err = command("run", "between.yaml", "--json")
    assert status == 0, err
    found = json.loads(out)
    frame = lecun_ablate.load_results("between")
    errors = frame.groupby(["arm", "seed"]).test_error.last().unstack(0)
    assert set(errors) == {"baseline", "activation", "lr", "winner"}
    worth = {one["choice"]: one for one in found["worth"] if one["what"] == "contribution"}
    whole = (errors.winner - errors.baseline).mean()
    assert sum(one["value"] for one in worth.values()) == pytest.approx(whole)
    by_hand = (errors.lr - errors.baseline + errors.winner - errors.activation).mean() / 2
    assert worth["lr"]["value"] == pytest.approx(by_hand)
    page = Path("reports/between/tiny/report.md").read_text()
    assert "What each change contributes" in page and "lr: 0.03 to 0.1" in page
    status, out, _ = command("show", "between")
    assert status == 0 and "What each change contributes" in out
    assert command("report", "between", "--latex")[0] == 0
    assert "What each change contributes" in Path("reports/between/tiny/report.tex").read_text()
