"""What each choice is worth, from results to the tables of every reader."""

import csv
import io

import numpy as np
import pytest
from made_up import IMAGES, results

from lecun_ablate import statistics as st
from lecun_ablate.config.ablation import Ablation
from lecun_ablate.evidence.records import evidence_record
from lecun_ablate.evidence.weighing import weigh
from lecun_ablate.reporting import evidence_tables
from lecun_ablate.reporting.latex import latex
from lecun_ablate.reporting.page import build
from lecun_ablate.terminal.experiments import results as print_results

SETS = {
    "baseline": (),
    "activation": ("activation",),
    "lr": ("lr",),
    "winner": ("activation", "lr"),
}
ABLATION = Ablation(("activation", "lr"), "all", SETS)
OVERRIDES = {
    "baseline": {"activation": "tanh", "lr": 0.03},
    "activation": {"activation": "relu", "lr": 0.03},
    "lr": {"activation": "tanh", "lr": 0.1},
    "winner": {"activation": "relu", "lr": 0.1},
}
BASE = np.array([20, 22, 19, 21, 23, 20, 18, 22])
MISSES = {
    "baseline": BASE.tolist(),
    "activation": (BASE - 2 - np.arange(8) % 2).tolist(),
    "lr": (BASE + 1).tolist(),
    "winner": (BASE - 6 + np.arange(8) % 3).tolist(),
}


def ablated(**options):
    found, store = results(MISSES, overrides=OVERRIDES, ablation=ABLATION, **options)
    return weigh(found, store), store


def test_an_ablation_shows_what_each_change_contributes_over_all_orders():
    evidence, _ = ablated()
    errors = {SETS[arm]: np.array(row) / IMAGES for arm, row in MISSES.items()}
    by_hand = {
        "activation": (errors["activation",] - errors[()]) / 2
        + (errors["activation", "lr"] - errors["lr",]) / 2,
        "lr": (errors["lr",] - errors[()]) / 2
        + (errors["activation", "lr"] - errors["activation",]) / 2,
    }
    found = {one.change: one for one in evidence.worth.contributions}
    level = 1 - evidence.comparisons.alpha
    for change, values in by_hand.items():
        assert found[change].effect == pytest.approx(values.mean())
        assert found[change].interval.low == pytest.approx(st.seed_interval(values, level).low)
    assert [step.change for step in evidence.worth.path] == ["activation", "lr"]
    assert sum(one.share for one in evidence.worth.shares) == pytest.approx(1)
    assert [(pair.arm, pair.baseline) for pair in evidence.comparisons.pairs] == (
        ABLATION.comparisons
    )


def test_every_reader_is_shown_what_choices_are_worth(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    evidence, store = ablated()
    table = evidence_tables.contributions(evidence)
    by_change = {row["change"]: row for row in table.records()}
    row = by_change["activation: tanh to relu"]
    (contribution,) = (c for c in evidence.worth.contributions if c.change == "activation")
    assert row["contribution"] == f"{100 * contribution.effect:+.2f}"
    assert row["alone"] == "-1.25" and row["last"] == f"{100 * contribution.last:+.2f}"

    print_results(evidence, "", None)
    shown = capsys.readouterr().out
    files = build(evidence, None, store)
    page, twin = files["report.html"].decode(), files["report.md"].decode()
    paper = latex(evidence)
    titles = ["What each change contributes", "The path of the largest gains",
              "How much each choice matters"]  # fmt: skip
    for title in titles:
        assert title in shown and title in page and title in twin and title in paper
    for text in (shown, twin):
        assert "activation: tanh to relu" in text and row["contribution"] in text
    assert "activation: tanh to relu" in page
    assert f"{{{row['contribution']}}}" in paper, "a number of LaTeX is a macro"
    rows = list(csv.DictReader(io.StringIO(files["worth.csv"].decode())))
    assert [r["what"] for r in rows].count("contribution") == 2
    record = evidence_record(evidence, "")["worth"]
    assert float(rows[0]["value"]) == record[0]["value"]
    shares = [one["value"] for one in record if one["what"] == "share"]
    assert len(shares) == 3 and sum(shares) == pytest.approx(1)


def test_a_factorial_shows_shares_and_no_contributions():
    factors = {"activation": ["tanh", "relu"], "lr": [0.03, 0.1]}
    found, store = results(MISSES, overrides=OVERRIDES, factors=factors)
    evidence = weigh(found, store)
    assert [t.title for t in evidence_tables.worth_tables(evidence)] == [
        "How much each choice matters"
    ]
    errors = [np.array(row) / IMAGES for row in MISSES.values()]
    expected = st.variance_shares(
        list(OVERRIDES.values()), errors, level=1 - evidence.comparisons.alpha
    )
    assert list(evidence.worth.shares) == expected


def test_failed_runs_and_missing_arms_are_not_hidden():
    evidence, _ = ablated(status={("lr", 3): "diverged", ("winner", 3): "collapsed"})
    table = evidence_tables.shares(evidence)
    assert "with 1 seed of 8 a run failed" in table.caption
    found, store = results(
        {arm: MISSES[arm] for arm in ("baseline", "activation", "winner")},
        overrides=OVERRIDES,
        ablation=ABLATION,
        absent=("lr",),
    )
    assert weigh(found, store).worth.contributions == ()


def test_leaving_out_one_change_makes_comparisons_and_no_contributions():
    sets = {"baseline": (), "activation": ("lr",), "lr": ("activation",),
            "winner": ("activation", "lr")}  # fmt: skip
    found, store = results(
        MISSES,
        overrides=OVERRIDES,
        ablation=Ablation(("activation", "lr"), "leave_one_out", sets),
    )
    evidence = weigh(found, store)
    assert evidence.worth.contributions == () and evidence.worth.shares == ()
    assert [(pair.arm, pair.baseline) for pair in evidence.comparisons.pairs] == [
        ("winner", "baseline"), ("activation", "winner"), ("lr", "winner")
    ]  # fmt: skip
