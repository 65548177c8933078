"""Study files: what they mean, and every way in which they can be wrong."""

from pathlib import Path

import pytest

from lecun_ablate.config.experiment import load_experiment
from lecun_ablate.config.study import Range, SearchStudy, SeedStudy, load_study
from lecun_ablate.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "studies").rglob("*.yaml"))
SEARCH = """name: x
arms: [{activation: tanh}, {activation: relu}]
search: {lr: {low: 0.001, high: 0.3, log: true}}
trials: 8
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / "x.yaml"
        file.write_text(text)
        return file

    return write


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_studies_are_valid_and_say_how_to_run_them(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study(file)
    assert study.name == file.stem and study.question.endswith("?")
    assert study.data.name == "usps" and study.data.fallback == "digits"
    command = f"# python -m lecun_ablate study {file.relative_to(ROOT)}"
    assert file.read_text().splitlines()[0] == command


def test_the_learning_rate_study(monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study("studies/learning_rate.yaml")
    assert isinstance(study, SearchStudy)
    activation = load_experiment("experiments/activation.yaml")
    assert [(arm.name, arm.recipe) for arm in study.arms] == [
        (arm.name, arm.recipe) for arm in activation.arms
    ]
    assert {arm.recipe.epochs for arm in study.arms} == {23}
    assert study.search == {"lr": Range(low=0.001, high=10, log=True)}
    assert (study.trials, study.seeds, study.pruner) == (32, (0, 1, 2), None)
    assert study.confirm.trials == 5 and study.confirm_seeds == tuple(range(3, 23))


def test_the_tuned_experiment_has_the_arms_of_the_study(monkeypatch):
    monkeypatch.chdir(ROOT)
    tuned = load_experiment("experiments/activation_tuned.yaml")
    study = load_study(tuned.tuned)
    assert [arm.recipe for arm in tuned.arms] == [arm.recipe for arm in study.arms]
    assert tuned.seeds == load_experiment("experiments/activation.yaml").seeds


def test_the_seed_study(monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study("studies/seeds.yaml")
    assert isinstance(study, SeedStudy) and study.seeds == tuple(range(200))
    both, split = study.experiment().arms
    tanh = load_experiment("experiments/activation.yaml").arm("tanh").recipe
    assert both.recipe == tanh and not both.resampled
    assert split.resampled and (split.recipe.init_seed, split.recipe.order_seed) == (0, 0)


def test_what_the_seed_governs(write):
    study = load_study(
        write("name: x\nrecipe: {order: shuffled}\nseeds: 5\ngoverns: [weights, order, both]\n")
    )
    recipes = {arm.name: arm.recipe for arm in study.experiment().arms}
    pins = {name: (recipe.init_seed, recipe.order_seed) for name, recipe in recipes.items()}
    assert pins == {"weights": (None, 0), "order": (0, None), "both": (None, None)}


def test_recipe_and_epochs_override_the_experiment(write, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study(
        write(
            "name: x\nexperiment: experiments/activation.yaml\nrecipe: {loss: cross_entropy}\n"
            "epochs: 5\nsearch: {lr: {low: 0.1, high: 0.2}, momentum: [0, 0.9]}\ntrials: 3\n"
        )
    )
    assert {(a.recipe.loss, a.recipe.epochs) for a in study.arms} == {("cross_entropy", 5)}
    assert study.search["momentum"] == (0, 0.9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("", None),
        ("seed: 3", "unknown key 'seed': did you mean 'seeds'?"),
        ("trials: 0", "trials: expected at least 1, got 0"),
        ("seeds: []", "expected at least one seed"),
        ("search: {lrr: {low: 1, high: 2}}", "no searchable field 'lrr': did you mean 'lr'?"),
        ("search: {init_seed: {low: 1, high: 2}}", "no searchable field 'init_seed'"),
        ("search: {lr: {low: 2, high: 1}}", "expected low < high, got low 2 and high 1"),
        ("search: {lr: {low: -1, high: 1}}", "search.lr.low: expected more than 0"),
        ("search: {lr: {low: 1}}", "search.lr.high: required, but missing"),
        ("search: {lr: {low: 1, hgh: 2}}", "unknown key 'hgh': did you mean 'high'?"),
        ("search: {momentum: {low: 0, high: 0.9, log: true}}", "must start above 0, got low 0"),
        ("search: {lr: 0.1}", "expected {low: ..., high: ...} or a list, got 0.1"),
        ("search: {init: {low: 0, high: 1}}", "search.init: expected a list of choices"),
        ("search: {init: [sqrt_fan_in]}", "two or more different choices"),
        ("search: {init: [sqrt_fan_in, nonsense]}", "unknown init 'nonsense'"),
        ("search: {activation: [tanh, relu]}", "'tanh' and 'relu' differ only in what is searched"),
        (
            "recipe: {loss: cross_entropy}\nsearch: {target: [one_hot, bipolar]}",
            "with bipolar: target bipolar does not go with loss cross_entropy",
        ),
        ("pruner: {first: 23}", "expected a rung before the last epoch (23), got 23"),
        ("pruner: {first: 3, factor: 1}", "at least 2, got 1"),
        ("pruner: {first: 3}\nsearch: {epochs: {low: 5, high: 20}}", "epochs are searched"),
        ("sampler: grid", "expected 'tpe' or 'random', got 'grid'"),
        ("searches: 0", "searches: expected at least 1, got 0"),
        ("searches: 2\nseeds: [999990]", "expected seeds of trials and confirmation below that"),
        ("confirm: {seeds: 1}", "confirm.seeds: expected at least 2, got 1"),
        ("data: nonsense", "unknown data 'nonsense'"),
        ("experiment: experiments/activation.yaml", "either experiment or arms, not both"),
        ("governs: weights", "either `search` (values to try) or `governs`"),
        ("name: a b", "name: expected letters, digits, '_', '.' and '-', with a letter or a digit"),
        ("arms: []", "arms: expected at least 1 item, got []"),
        ("pruner: 3", "pruner: expected a mapping of keys to values, got 3"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(write, monkeypatch, changes, said):
    monkeypatch.chdir(ROOT)
    keys = {line.split(":")[0] for line in changes.splitlines()}
    kept = [line for line in SEARCH.splitlines() if line.split(":")[0] not in keys]
    file = write("\n".join([*kept, changes, ""]))
    if said is None:
        assert isinstance(load_study(file), SearchStudy)
        return
    with pytest.raises(ConfigError) as caught:
        load_study(file)
    assert any(said in problem and f"{file}:" in problem for problem in caught.value.problems), (
        caught.value.problems
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ngoverns: order\n", "order: the order 'fixed' does not depend on a seed"),
        ("name: x\ngoverns: [weights, both]\n", "weights and both are the same"),
        ("name: x\ngoverns: everything\n", "expected 'weights', 'order', 'both' or 'split'"),
        ("name: x\ngoverns: []\n", "at least 1 item"),
        ("name: x\ngoverns: both\nrecipe: {lr: 0}\n", "recipe.lr: expected more than 0"),
        ("name: x\n", "got neither"),
    ],
)
def test_what_is_wrong_with_a_study_of_seeds_is_said(write, text, said):
    with pytest.raises(ConfigError) as caught:
        load_study(write(text))
    assert any(said in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("text", "came"), [("- a\n- b\n", "a list"), ("words\n", "a string"), ("", "nothing")]
)
def test_what_is_no_mapping_is_said_in_plain_words(write, text, came):
    with pytest.raises(ConfigError, match=f"expected a YAML mapping .* got {came}$"):
        load_study(write(text))


def test_an_experiment_is_found_from_the_project_of_the_study(tmp_path, monkeypatch):
    for folder in ("project/studies", "project/experiments", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
    file = tmp_path / "project/studies/x.yaml"
    file.write_text(
        SEARCH.replace(
            "arms: [{activation: tanh}, {activation: relu}]", "experiment: experiments/e.yaml"
        )
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ConfigError) as missing:
        load_study(file)
    assert missing.value.problems == [
        f"{file}:2: experiment: experiments/e.yaml: no such file in the working directory "
        f"{tmp_path}/elsewhere or in {tmp_path}/project"
    ]
    (tmp_path / "project/experiments/e.yaml").write_text("name: e\nrecipe: {lr: 0.07}\n")
    assert load_study(file).arms[0].recipe.lr == 0.07
    # the working directory comes first
    Path("experiments").mkdir()
    Path("experiments/e.yaml").write_text("name: e\nrecipe: {lr: 0.08}\n")
    assert load_study(file).arms[0].recipe.lr == 0.08
    # what is wrong there has two places, each with the key that leads on
    Path("experiments/e.yaml").write_text("name: e\nrecipe: {lr: -1}\n")
    with pytest.raises(ConfigError) as wrong:
        load_study(file)
    assert wrong.value.problems == [
        f"{file}:2: experiment: experiments/e.yaml:2: recipe.lr: expected more than 0, got -1"
    ]


def test_all_problems_are_reported_at_once(write):
    with pytest.raises(ConfigError) as caught:
        load_study(write(SEARCH.replace("8", "0") + "sampler: x\nbatch: 0\nrecipe: {lr: -1}\n"))
    assert len(caught.value.problems) == 4


def test_options_override_the_file(write):
    study = load_study(write(SEARCH), data="digits", assignments=["trials=5", "search.lr.high=0.5"])
    assert study.data.name == "digits" and study.data.fallback is None
    assert study.trials == 5 and study.search["lr"].high == 0.5
    with pytest.raises(ConfigError, match="--set trials=0: expected at least 1, got 0"):
        load_study(write(SEARCH), assignments=["trials=0"])


def test_a_users_component_is_part_of_what_a_study_is_about(write, tmp_path):
    own = tmp_path / "own.py"
    text = '@register("activation")\ndef mine(x):\n    """Mine."""\n    return x\n'
    own.write_text("from lecun_ablate import register\n" + text)
    file = write(SEARCH.replace("relu", "mine") + f"components: {own}\n")
    study = load_study(file)
    definition = study.definition(study.arms[1], "data")
    assert list(definition["components"]) == ["activation/mine"]
    assert definition != study.definition(study.arms[1], "other data")


def test_what_only_one_side_may_say_of_the_split_is_said(write):
    drawn = "data: {name: usps, split: resampled}\n"
    with pytest.raises(ConfigError, match="add split to governs instead"):
        load_study(write(f"name: x\n{drawn}governs: both\n"))
    with pytest.raises(ConfigError, match="a search holds out images of the known training split"):
        load_study(write(f"name: x\n{drawn}search: {{lr: {{low: 1, high: 2}}}}\ntrials: 2\n"))


def test_the_split_varies_alone(write):
    experiment = load_study(write("name: x\ngoverns: [both, split]\nseeds: 3\n")).experiment()
    both, split = experiment.arms
    assert not both.resampled and split.resampled
    assert (split.recipe.init_seed, split.recipe.order_seed) == (0, 0)
    assert (both.recipe.init_seed, both.recipe.order_seed) == (None, None)
