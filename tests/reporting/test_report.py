"""The report: a page that needs nothing else, the same from the same results, always whole."""

import base64
import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from made_up import IMAGES, LABELS, results
from matplotlib.collections import PolyCollection
from PIL import Image
from scipy import stats

from lecun_ablate.data import Digits, Split
from lecun_ablate.evidence.weighing import weigh
from lecun_ablate.reporting import answers, figures, pictures
from lecun_ablate.reporting.page import build

BASE = [20, 22, 19, 21, 23, 20, 18, 22, 21, 20, 19, 21]
VOID = {"meta", "link", "img", "br", "hr", "path", "use", "input"}


def digits():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (IMAGES, 16, 16))
    split = Split(images, LABELS.astype(np.int64))
    return Digits("digits", split, split, "made up")


def report(*args, pictured=True, **options):
    found, store = results(*args, **options)
    return build(weigh(found, store), digits() if pictured else None, store)


class Page(HTMLParser):
    """Checks that every element is closed in its place, and gathers what the page refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "srcset")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        self.text.append(data)


def table(files, name):
    return list(csv.DictReader(io.StringIO(files[name].decode())))


@pytest.fixture(scope="module")
def usual():
    return report({"base": BASE, "good": [count - 6 for count in BASE], "bad": [60] * 12})


def test_the_page_needs_nothing_else(usual):
    text = usual["report.html"].decode()
    page = Page(text)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert len(page.links) > 20, "pictures are inlined"
    assert not {"link", "iframe", "object"} & set(page.tags)
    assert text.count("<script>") == 1 and "<script " not in text and "fetch(" not in text
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    ids = set(re.findall(r'id="([^"]+)"', text))
    assert {link[1:] for link in page.links if link.startswith("#")} <= ids
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    assert len(text) < 400_000


def test_the_same_results_give_the_same_bytes(usual):
    again = report({"base": BASE, "good": [count - 6 for count in BASE], "bad": [60] * 12})
    assert again == usual
    other = report({"base": BASE, "good": [count - 5 for count in BASE], "bad": [60] * 12})
    assert all(other[name] != usual[name] for name in ("report.html", "report.md", "arms.csv"))


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_page_and_twin_hold_what_a_reader_wants(usual, name):
    text = usual[name].decode().replace("\N{MINUS SIGN}", "-")
    for words in (
        "What comes of it?", "better: good by 3.00 points [-3.00, -3.00]", "Better by 3.00 points"
        if name == "report.html" else "better by 3.00 points", "The same holds for new images",
        "10.25", "30.00", "0123456789abcdef", "0 to 11", "python -m lecun_ablate run x.yaml",
        "c0ffee", "python 3.11.0", "torch (cpu, avx2)", "untuned", "P(better)", "80 % power",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_details_of_a_comparison(usual, name):
    text = usual[name].decode().replace("\N{MINUS SIGN}", "-")
    assert text.count("1.00 [0.72, 1.00]") == 2, "P(better) with its interval: table and details"
    assert "detectable" in text and "by the BCa bootstrap, a cross-check" in text
    (row,) = (row for row in table(usual, "comparisons.csv") if row["arm"] == "bad")
    joint = [100 * float(row[f"difference_new_images_{end}"]) for end in ("low", "high")]
    widest = [100 * float(row[f"difference_new_images_widest_{end}"]) for end in ("low", "high")]
    assert widest[0] <= joint[0] < joint[1] <= widest[1]
    assert f"[+{joint[0]:.2f}, +{joint[1]:.2f}]; at most [+{widest[0]:.2f}, " in text


def test_what_too_few_seeds_can_detect_is_said_in_words():
    files = report({"base": BASE[:3], "good": [count - 9 for count in BASE[:3]]})
    for name in ("report.html", "report.md"):
        words = "nothing with 3 seeds, however large; it takes 6 seeds"
        assert words in files[name].decode()
    (row,) = table(files, "comparisons.csv")
    assert row["detectable"] == "" and row["fewest_seeds"] == "6"


def test_learning_curves_and_confusions_stand_in_csv(usual):
    epochs = table(usual, "epochs.csv")
    assert len(epochs) == 3 * 12 * 3
    assert [row["epoch"] for row in epochs[:3]] == ["1", "2", "3"]
    assert float(epochs[0]["test_error"]) == BASE[0] / IMAGES
    matrix = table(usual, "confusions.csv")
    assert len(matrix) == 3 * 10 * 11
    of_bad = {
        (row["label"], row["answer"]): float(row["images"]) for row in matrix if row["arm"] == "bad"
    }
    assert sum(of_bad.values()) == pytest.approx(IMAGES)
    assert sum(of_bad[str(d), str((d + 1) % 10)] for d in range(10)) == pytest.approx(60)
    assert of_bad["3", "none"] == 0


def test_effects_without_diverged_runs_are_on_the_page():
    levels = {"activation": ["tanh", "relu"], "padding": [-1.0, 0.0]}
    arms = {
        f"{a} {p:g}": {"activation": a, "padding": p}
        for a in levels["activation"]
        for p in levels["padding"]
    }
    misses = {arm: [count + 2 * k for count in BASE] for k, arm in enumerate(arms)}
    files = report(misses, overrides=arms, factors=levels, status={("relu 0", 5): "diverged"})
    words = (
        "with 1 seed a run failed (one that diverged counts as error 0.9); without: +2.00 points"
    )
    for name in ("report.html", "report.md"):
        assert words in files[name].decode().replace("\N{MINUS SIGN}", "-")
    effects = table(files, "effects.csv")
    assert {row["seeds_sound"] for row in effects} == {"11"}


def test_csv_agrees_with_the_runs(usual):
    runs, arms = table(usual, "runs.csv"), table(usual, "arms.csv")
    assert len(runs) == 36
    of_good = [float(row["test_error"]) for row in runs if row["arm"] == "good"]
    assert of_good == [(count - 6) / IMAGES for count in BASE]
    (good,) = (row for row in arms if row["arm"] == "good")
    assert float(good["test_error_mean"]) == pytest.approx(np.mean(of_good))
    (pair,) = (row for row in table(usual, "comparisons.csv") if row["arm"] == "good")
    assert float(pair["difference"]) == pytest.approx(-6 / IMAGES)


def test_per_digit_errors_and_confusions_count_every_run():
    found, store = results({"base": BASE, "other": [60] * 12})
    counted = answers.count(weigh(found, store))
    own = [store.answers[run_id] for run_id in found.final[found.final.arm == "other"].run_id]
    wrong = np.array(own) != LABELS
    expected = [wrong[:, digit == LABELS].mean() for digit in range(10)]
    assert counted.per_digit()[1] == pytest.approx(expected)
    matrix = counted.confusion()[1]
    # a made-up run that misses a digit calls it the next one
    assert matrix.sum() == pytest.approx(IMAGES)
    assert np.trace(matrix) == pytest.approx(IMAGES - 60)
    assert sum(matrix[d, (d + 1) % 10] for d in range(10)) == pytest.approx(60)


def test_hard_digits_are_those_that_most_runs_of_every_arm_or_of_some_miss():
    found, store = results({"a": [0] * 5, "b": [0] * 5, "odd": [0] * 5})
    runs = found.final
    for run_id in runs.run_id:  # image 7: all wrong
        store.answers[run_id][7] = 0
    for run_id in runs[runs.arm == "b"].run_id.iloc[:3]:  # image 8: most runs of b
        store.answers[run_id][8] = 255
    for run_id in runs[runs.arm == "a"].run_id.iloc[:2]:  # image 9: too few runs of a
        store.answers[run_id][9] = 1
    found.frame.loc[found.frame.arm == "odd", "status"] = "collapsed"
    found.frame["test_error"] = [
        np.mean(store.answers[run_id] != LABELS) for run_id in found.frame.run_id
    ]
    shown = weigh(found, store)
    every, some = answers.count(shown).hard()
    assert (every.tolist(), some.tolist()) == ([7], [8])
    files = build(shown, digits(), store)
    hard = table(files, "hard_digits.csv")
    assert [(row["image"], row["label"], row["wrong_in"]) for row in hard] == [
        ("7", "7", "every arm"),
        ("8", "8", "some"),
    ]
    assert hard[0]["a: answer"] == "0" and hard[1]["b: answer"] == "none"
    assert float(hard[1]["b: share wrong"]) == 0.6
    assert "odd: answer" not in hard[0], "a collapsed arm has no say"
    assert "∅" in files["report.html"].decode(), "no answer has a column of its own"


def test_pictures_show_the_numbers():
    def pixels(data):
        content = base64.b64decode(data.removeprefix("data:image/png;base64,"))
        return np.array(Image.open(io.BytesIO(content)))

    ramp = np.linspace(-1, 1, 256).reshape(16, 16)
    assert (pixels(pictures.digit(ramp))[:, :, 3].ravel() == np.arange(256)).all()
    weights = np.zeros((12, 5, 5))
    weights[0, 0, 0], weights[7, 4, 4] = 2, -1
    drawn = pixels(pictures.kernels(weights))
    assert tuple(drawn[0, 0]) == (*pictures.POSITIVE, 255)
    assert tuple(drawn[10, 10]) == (*pictures.NEGATIVE, 128)
    assert np.count_nonzero(drawn[:, :, 3]) == 2
    seen = np.zeros((12, 12), bool)
    seen[3, 5] = True
    strong = pixels(pictures.connectivity(seen))[:, :, 3] == 255
    assert strong.sum() == 9 and strong[12:15, 20:23].all()


def test_the_page_escapes_what_names_may_hold():
    odd = ["<b>&", "a|b", "$x$ \\ \"y\" 'z'"]
    files = report(dict.fromkeys(odd, BASE))
    Page(files["report.html"].decode())
    assert "<b>&" not in files["report.html"].decode()
    tables = re.findall(r"(?:^\|.*\n)+", files["report.md"].decode(), re.M)
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in lines.splitlines()}) == 1, lines
    assert len(tables) == 5
    assert "a\\|b" in files["report.md"].decode()


@pytest.mark.parametrize(
    ("misses", "options"),
    [
        ({"alone": [20]}, {}),
        ({"alone": BASE}, {}),
        ({"base": [20], "other": [22]}, {}),
        ({"base": BASE, "other": BASE}, {"status": {("other", s): "diverged" for s in range(12)}}),
        ({"base": BASE, "other": BASE}, {"status": {("other", s): "collapsed" for s in range(12)}}),
        (
            {"base": BASE, "other": BASE},
            {"status": {(a, s): "diverged" for a in ("base", "other") for s in range(12)}},
        ),
        ({"base": [0] * 4, "other": [0] * 4}, {"epochs": 1}),
        ({"base": BASE, "other": BASE}, {"absent": ("later",)}),
        ({"base": BASE, "step": BASE, "next": [180] * 12}, {"ladder": True}),
        ({f"arm {k}": BASE for k in range(14)}, {}),
        ({"base": BASE}, {"pictured": False}),
    ],
)
def test_the_page_is_whole_whatever_the_results_are(misses, options):
    files = report(misses, **options)
    text = files["report.html"].decode()
    Page(text)
    assert "nan" not in re.sub(r"[\w+/=]{60,}", "", text).lower().split()
    if options.get("pictured") is False:
        assert "The pictures are left out" in text
    if "absent" in options:
        assert "12 of 36 runs are still to be trained" in text
    if options.get("status"):
        assert "diverged" in text


def test_diverged_runs_are_noticed_on_the_page():
    files = report({"base": BASE, "other": BASE}, status={("other", 3): "diverged"})
    for name in ("report.html", "report.md"):
        text = files[name].decode()
        assert "failed with 1 of 12: 8 % [0, 39] (1 diverged); equal failure rates: p = 1" in text
        assert "are left out here; in comparisons they count as error 0.9" in text


def test_facts_count_in_the_singular_and_do_not_repeat_the_recipes():
    text = report({f"arm {k}": BASE[:6] for k in range(9)}, epochs=1)["report.md"].decode()
    assert "9 arms, 6 seeds each, 1 epoch, digits" in text
    assert "every arm at its own lr, untuned" in text


def test_long_names_may_break_on_the_page_where_their_parts_end():
    odd = "activation=scaled_tanh <&"
    text = report({"base": BASE, odd: BASE})["report.html"].decode()
    assert "activation=<wbr>scaled_<wbr>tanh &lt;&amp;</span>" in text


def test_what_lies_beyond_the_forest_plot_is_written_with_its_interval():
    files = report({"base": BASE, "good": [c - 6 for c in BASE], "lost": [170 + c for c in BASE]})
    assert "+85.0 [+85.0, +85.0]" in files["differences.svg"].decode()


def test_figures_take_their_ink_from_the_page(usual):
    drawn = usual["learning_curves_test.svg"].decode()
    assert "currentColor" in drawn and "prefers-color-scheme:dark" in drawn
    for name, content in usual.items():
        if name.endswith(".svg"):
            assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", content.decode()), name
            assert "font-family" not in content.decode().split(">", 1)[1], name
    assert usual["learning_curves_test.svg"].decode().count(">good</text>") == 1


def test_colours_differ_and_the_baseline_has_the_ink():
    palette = figures.colours([f"arm {k}" for k in range(40)], "arm 3")
    assert palette["arm 3"] == figures.INK
    assert len(set(palette.values())) == 40


def test_the_interval_of_the_mean_is_that_of_scipy():
    values = pd.Series([3.0, 5.0, 4.0, 9.0])
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert figures._mean_interval(values) == pytest.approx((low, high), rel=1e-12)
    assert figures._mean_interval(values[:1]) == (3, 3)


def curves(arms, epochs, split="test", seeds=4):
    frame = pd.DataFrame(
        [
            (f"arm {k}", seed, epoch, (1 + seed + k) / epoch / 100)
            for k in range(arms)
            for seed in range(seeds)
            for epoch in range(1, epochs + 1)
        ],
        columns=["arm", "seed", "epoch", f"{split}_error"],
    )
    palette = figures.colours(list(frame.arm.unique()), "arm 0")
    return figures.learning_curves(frame, split, palette, (0.1, 50)).axes[0]


def bands(axes):
    return [one for one in axes.collections if isinstance(one, PolyCollection)]


def test_learning_curves_of_few_epochs_have_bars_and_whole_ticks():
    axes = curves(arms=2, epochs=1)
    assert axes.get_xticks().tolist() == [1]
    assert not bands(axes)
    (bar, _) = (one.get_segments()[0] for one in axes.collections)
    errors = pd.Series([1.0, 2.0, 3.0, 4.0])
    assert bar[:, 1] == pytest.approx(figures._mean_interval(errors))
    assert abs(bar[0, 0] - 1) < 0.2
    assert curves(arms=1, epochs=3).get_xticks().tolist() == [1, 2, 3]


def test_many_learning_curves_are_not_hidden_under_bands():
    assert len(bands(curves(arms=6, epochs=8))) == 2 * 6
    assert not bands(curves(arms=7, epochs=8))


def test_the_legend_names_every_arm_once_and_on_one_of_the_figures():
    names = [text.get_text() for text in curves(arms=3, epochs=1).get_legend().get_texts()]
    assert names == ["arm 0", "arm 1", "arm 2"]
    assert curves(arms=3, epochs=1, split="train").get_legend() is None


def test_learning_curves_show_the_mean_of_the_runs():
    frame = pd.DataFrame(
        [
            ("a", seed, epoch, (1 + seed**3) / epoch / 100)
            for seed in range(4)
            for epoch in range(1, 6)
        ],
        columns=["arm", "seed", "epoch", "test_error"],
    )
    axes = figures.learning_curves(frame, "test", {"a": "#3b82c4"}, (0.1, 50)).axes[0]
    mean = axes.lines[0].get_ydata()
    assert mean == pytest.approx(100 * frame.groupby("epoch").test_error.mean().to_numpy())
    astray = [line for line in axes.lines if line.get_linewidth() == 0.6]
    assert len(astray) == 1
    assert astray[0].get_ydata() == pytest.approx([28 / epoch for epoch in range(1, 6)])


def many_rates(number=30):
    """Return the report of `number` learning rates, the middle one best."""
    misses = {f"lr={k / 100:g}": [20 + abs(k - number // 2) + s for s in (0, 1, 2)]
              for k in range(1, number + 1)}  # fmt: skip
    factors = {"lr": [k / 100 for k in range(1, number + 1)]}
    overrides = {arm: {"lr": lr} for arm, lr in zip(misses, factors["lr"], strict=True)}
    return report(misses, overrides=overrides, factors=factors, pictured=False)


def test_many_values_of_a_number_are_a_curve_and_tables_fold():
    text = many_rates()["report.html"].decode()
    page = text[text.index("<main>") :]
    assert page.index("Error against lr") < page.index('id="arms"')
    points = set(re.findall(r"<title>lr ([\d.]+): ([\d.]+) %</title>", text))
    assert len(points) == 30 and ("0.15", f"{100 * 21 / IMAGES:.2f}") in points
    arms = page[page.index('id="arms"') : page.index("Errors in %")]
    assert arms.count("<tr>") == 1 + 10 and arms.count('<tr class="more">') == 20
    assert "lr=0.15</span>" in re.sub("<wbr>", "", arms)
    digits = page[page.index("Test error on each digit") :]
    assert digits[: digits.index("</table>")].count('<tr class="more">') == 20
    assert digits.count('class="confusion"') == 10 and "confusions.csv has every arm" in digits
    recipes = page[page.index("Where the recipes differ") :]
    assert recipes.count('<tr class="more">') == 20
    few = many_rates(8)["report.html"].decode()
    assert "Error against" not in few and 'class="more"' not in few


def test_figures_say_what_one_points_at(usual):
    text = usual["report.html"].decode()
    assert re.search(r"<title>good: -3.00 points \[-3.00, -3.00\]</title>", text)
    assert "<title>good: 12 runs, " in text and "<title>good</title>" in text


def test_the_contents_list_names_every_section(usual):
    text = usual["report.html"].decode()
    contents = text[text.index('<nav class="contents"') : text.index("</nav>")]
    headings = re.findall(r'<h2 id="([^"]+)">', text)
    assert re.findall(r'href="#([^"]+)"', contents) == headings
    assert len(headings) == text.count("<h2") == len(set(headings)) >= 6


SHARED = {
    "arms": "Arms",
    "comparisons": "Test error against",
    "effects": "Effects",
    "timing": "Divergence",
}


def words(cell):
    """Return what a cell says, however it is typeset."""
    for typeset, plain in {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": "x",
        "<wbr>": "",
        "(": "",
        ")": "",
    }.items():
        cell = cell.replace(typeset, plain)
    return re.sub(r"<[^>]+>", "", cell).split()


def both_tables(files, heading):
    """Return the first table below a heading, of the page and of its twin: rows of words."""
    below = re.split(rf"<h2[^>]*>{heading}", files["report.html"].decode())[1]
    rows = re.findall(r"<tr.*?</tr>", below[: below.index("</table>")], re.S)
    page = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    below = files["report.md"].decode().split(f"## {heading}")[1]
    head, _, *rows = re.search(r"(?:^\|.*\n)+", below, re.M)[0].splitlines()
    twin = [row.strip("| ").split(" | ") for row in (head, *rows)]
    return [[[words(cell) for cell in row] for row in table] for table in (page, twin)]


FACTORIAL = {
    f"{a} {p:g}": {"activation": a, "padding": p} for a in ("tanh", "relu") for p in (-1.0, 0.0)
}


@pytest.mark.parametrize(
    ("misses", "options", "headings"),
    [
        ({"base": BASE, "good": [c - 6 for c in BASE]}, {}, ("arms", "comparisons", "timing")),
        (
            {"base": BASE, "other": [60] * 12, "lost": BASE},
            {"status": {("lost", s): "diverged" for s in range(12)}},
            ("arms", "comparisons", "timing"),
        ),
        (
            {"base": BASE, "step": BASE, "next": [60] * 12},
            {"ladder": True},
            ("arms", "comparisons", "timing"),
        ),
        (
            {arm: [c + 2 * k for c in BASE] for k, arm in enumerate(FACTORIAL)},
            {
                "overrides": FACTORIAL,
                "factors": {"activation": ["tanh", "relu"], "padding": [-1.0, 0.0]},
            },
            tuple(SHARED),
        ),
        ({"alone": BASE}, {}, ("arms", "timing")),
    ],
)
def test_page_and_twin_show_the_same_tables(misses, options, headings):
    files = report(misses, **options)
    for name in headings:
        of_page, of_twin = both_tables(files, SHARED[name])
        assert of_page == of_twin and len(of_page) > 1, name


def test_a_column_that_is_chosen_reaches_page_and_twin(monkeypatch):
    misses = {"base": BASE, "good": [c - 6 for c in BASE]}
    monkeypatch.setattr("lecun_ablate.reporting.page.COMPARED", ("arm", "p", "conclusion"))
    monkeypatch.setattr("lecun_ablate.reporting.page.ARM_COLUMNS", ("arm", "trainer"))
    files = report(misses)
    compared, of_twin = both_tables(files, SHARED["comparisons"])
    assert compared == of_twin and compared[0] == [["arm"], ["p"], ["conclusion"]]
    assert compared[1][2][:2] == ["better", "by"]
    arms, of_twin = both_tables(files, SHARED["arms"])
    assert (
        arms
        == of_twin
        == [[["arm"], ["trainer"]], [["base", "baseline"], ["torch"]], [["good"], ["torch"]]]
    )


def test_arms_that_are_all_compared_are_named_with_what_they_are_compared_with():
    files = report({"a": BASE, "b": [60] * 12, "c": [c - 6 for c in BASE]}, compare="all")
    of_page, of_twin = both_tables(files, "Test error against every other arm")
    assert of_page == of_twin and of_page[0][1] == ["against"]
    assert [(row[0], row[1]) for row in of_page[1:]] == [
        (["b"], ["a"]), (["c"], ["a"]), (["c"], ["b"])
    ]  # fmt: skip
    assert ">against b</span>" in files["report.html"].decode()
    drawn = files["differences.svg"].decode()
    assert (drawn.count(">against a</text>"), drawn.count(">against b</text>")) == (2, 1)


def test_a_ladder_has_a_figure_of_what_each_step_misses():
    misses = {"base": BASE, "step": [c - 6 for c in BASE], "sick": BASE}
    diverged = {("sick", seed): "diverged" for seed in range(12)}
    files = report(misses, ladder=True, status=diverged)
    drawn = files["ladder.svg"].decode()
    mean = np.mean(BASE)
    for expected in (mean, mean - 6):
        assert f"<title>12 runs miss {expected:.1f} of 200 on average</title>" in drawn
        assert f">{expected:.0f}</text>" in drawn
    assert drawn.count("runs miss") == 2  # a step of which every run diverged has a row alone
    assert ">sick</text>" in drawn
    assert "Step by step" in files["report.html"].decode()
    assert "(ladder.svg)" in files["report.md"].decode()
    assert "ladder.svg" not in report({"base": BASE, "other": BASE})
