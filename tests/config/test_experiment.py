"""Experiment files: what they mean, and every way in which they can be wrong."""

import errno
import os
import re
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from lecun_ablate.config import experiment
from lecun_ablate.config.experiment import load_experiment, parse_experiment
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.config.source import Overrides, read
from lecun_ablate.errors import ConfigError, LecunAblateError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "experiments").rglob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / "x.yaml"
        file.write_text(text)
        return file

    return write


def problems(file, **options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(file, **options)
    assert caught.value.exit_status == 2
    return caught.value.problems


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_experiments_are_valid_and_say_how_to_run_them(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    experiment = load_experiment(file)
    assert experiment.name == file.stem
    assert experiment.question.endswith("?")
    assert experiment.data.name == "usps" and experiment.data.fallback == "digits"
    command = f"# python -m lecun_ablate run {file.relative_to(ROOT)}"
    assert file.read_text().splitlines()[0].startswith(command)


def test_the_main_experiment():
    experiment = load_experiment(ROOT / "experiments/activation.yaml")
    names = [arm.name for arm in experiment.arms]
    assert names == ["tanh", "scaled_tanh", "lisht", "sigmoid", "relu"]
    assert {arm.recipe.output_activation for arm in experiment.arms} == {"tanh"}
    assert experiment.baseline == "tanh"
    assert experiment.seeds == tuple(range(10))
    assert experiment.comparisons[0] == ("scaled_tanh", "tanh")
    notebook = load_experiment(ROOT / "experiments/notebook.yaml")
    assert notebook.seeds == (1337,) and notebook.arms[0].recipe.dtype == "float64"


def test_several_keys_mean_the_full_product(write):
    file = write("name: x\nvary:\n  activation: [tanh, relu]\n  lr: [3e-2, 0.1]\n")
    experiment = load_experiment(file)
    assert [arm.name for arm in experiment.arms] == [
        "activation=tanh lr=0.03",
        "activation=tanh lr=0.1",
        "activation=relu lr=0.03",
        "activation=relu lr=0.1",
    ]
    assert experiment.baseline == "activation=tanh lr=0.03"  # the first, where none is named


def test_a_file_with_neither_is_one_arm(write):
    experiment = load_experiment(write("name: x\nrecipe: {lr: 3e-2}\nseeds: [3, 5]\n"))
    assert [arm.name for arm in experiment.arms] == ["x"]
    assert experiment.arms[0].recipe.lr == 0.03
    assert experiment.seeds == (3, 5)


def test_a_ladder_adds_up(write):
    file = write("name: x\nladder:\n- {name: start}\n- {loss: half_sum_squares}\n- {lr: 0.01}\n")
    experiment = load_experiment(file)
    assert [(a.recipe.loss, a.recipe.lr) for a in experiment.arms] == [
        ("mse", 0.03),
        ("half_sum_squares", 0.03),
        ("half_sum_squares", 0.01),
    ]
    assert experiment.comparisons == [("half_sum_squares", "start"), ("0.01", "half_sum_squares")]


def test_options_override_the_file():
    experiment = load_experiment(
        ROOT / "experiments/init.yaml",
        seeds=[4],
        epochs=2,
        dtype="float64",
        data="digits",
        assignments=["recipe.lr=5e-2", "baseline.init=xavier"],
    )
    assert experiment.seeds == (4,)
    assert experiment.data.name == "digits" and experiment.data.fallback is None
    assert experiment.baseline == "xavier"
    for arm in experiment.arms:
        assert (arm.recipe.epochs, arm.recipe.dtype, arm.recipe.lr) == (2, "float64", 0.05)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\nsedes: 3", "x.yaml:2: sedes: unknown key 'sedes': did you mean 'seeds'?"),
        ("question: x?", "x.yaml:1: name: required, but missing"),
        (
            "name: x\nseeds: {until: {halfwidth: 0.2, at_most: 30}}",
            "x.yaml:2: seeds.until: looks at the intervals of comparisons, and a single arm has",
        ),
        (
            "name: x\narms: [{lr: 1}, {lr: 2}]\nseeds: {until: {halfwidth: 0.2, at_most: 30, "
            "at_least: 31}}",
            "x.yaml:3: seeds.until: at_least is 31, above at_most, 30",
        ),
        (
            "name: x\narms: [{lr: 1}, {lr: 2}]\nseeds: {until: {halfwidth: 1, at_most: 30, "
            "at_least: 9}}",
            "x.yaml:3: seeds.until.at_least: expected at least 20, got 9",
        ),
        (
            "name: x\nladder: [{lr: 1}, {lr: 2}]\ncompare: all",
            "x.yaml:3: compare: a ladder compares each step with the one before",
        ),
        ("name: x\ncompare: al", "x.yaml:2: compare: "),
        ("name: x\nmargin: 0", "x.yaml:2: margin: expected more than 0, got 0"),
        ("name: a b", "x.yaml:1: name: "),
        ("name: x\nquestion: 3", "x.yaml:2: question: expected a string, got 3"),
        (
            "name: x\nrecipe: {lrr: 1}",
            "x.yaml:2: recipe.lrr: unknown key 'lrr': did you mean 'lr'?",
        ),
        ("name: x\nrecipe:\n  lr: 0", "x.yaml:3: recipe.lr: expected more than 0, got 0"),
        ("name: x\nrecipe: {lr: .nan}", "x.yaml:2: recipe.lr: expected a finite number, got nan"),
        (
            "name: x\nrecipe: {lr: fast}",
            "x.yaml:2: recipe.lr: expected a number, got 'fast'",
        ),
        ("name: x\nrecipe: {lr: true}", "x.yaml:2: recipe.lr: expected a number, got true"),
        ("name: x\nrecipe: {epochs: 0}", "recipe.epochs: expected at least 1"),
        ("name: x\nrecipe: {dtype: half}", "recipe.dtype: expected 'float32' or 'float64', got"),
        ("name: x\nrecipe: {activation: tahn}", "unknown activation 'tahn': did you mean 'tanh'?"),
        ("name: x\nrecipe: 3", "x.yaml:2: recipe: expected a mapping of keys to values, got 3"),
        ("name: x\nvary: {}", "x.yaml:2: vary: "),
        ("name: x\nvary:", "x.yaml:2: vary: expected something to compare, got nothing"),
        ("name: x\nvary: {lr: []}", "x.yaml:2: vary.lr: expected a list of values, got []"),
        ("name: x\nvary: {lr: 3}", "x.yaml:2: vary.lr: expected a list of values, got 3"),
        ("name: x\nvary:\n  lrr: [1]", "x.yaml:3: vary.lrr: unknown recipe field 'lrr'"),
        ("name: x\nvary:\n  lr: [0.1,\n   -1]", "x.yaml:4: vary.lr.1: expected more than 0"),
        ("name: x\nvary: {lr: [1, 1]}", "x.yaml:2: vary: duplicate arm: '1' is given twice"),
        ("name: x\narms:\n- {name: a}\n- {name: b}", "x.yaml:4: arms.1: duplicate arm: 'b' is the"),
        ("name: x\narms: []", "x.yaml:2: arms: "),
        ("name: x\narms: [3]", "x.yaml:2: arms.0: expected a mapping of keys to values, got 3"),
        ("name: x\narms: [{a: 1}]\nvary: {lr: [1]}", "either vary or arms, not both"),
        ("name: x\nvary: {lr: [1, 2]}\nbaseline: {lr: 3}", "x.yaml:3: baseline: no arm is '3'"),
        ("name: x\nvary: {lr: [1, 2]}\nbaseline: {lrr: 3}", "baseline.lrr: unknown key 'lrr'"),
        ("name: x\narms: [{name: a}, {name: b, lr: 1}]\nbaseline: c", "baseline: no arm is 'c'"),
        (
            "name: x\nvary: {lr: [1, 2], epochs: [1, 2]}\nbaseline: {lr: 1}",
            "x.yaml:3: baseline: fits 2 arms (lr=1 epochs=1, lr=1 epochs=2): name one",
        ),
        ("name: x\nseeds: 0", "x.yaml:2: seeds: expected 1 to 100000 seeds, got 0"),
        ("name: x\nseeds: []", "x.yaml:2: seeds: expected at least one seed, got an empty list"),
        ("name: x\nseeds: [1, 1]", "x.yaml:2: seeds: seed 1 is given twice"),
        ("name: x\nseeds: [1.5]", "x.yaml:2: seeds.0: expected a whole number, got 1.5"),
        ("name: x\nseeds: many", "x.yaml:2: seeds: expected a number of seeds or a list"),
        ("name: x\ndata: uspss", "x.yaml:2: data.name: unknown data 'uspss': did you mean 'usps'?"),
        ("name: x\ndata: {name: usps, fallback: digit}", "unknown data 'digit': did you mean"),
        (
            "name: x\narms:\n- {loss: cross_entropy, target: bipolar}",
            "x.yaml:3: arms.0: arm 'loss=cross_entropy target=bipolar': target bipolar does not go",
        ),
        ("name: x\nrecipe: {loss: cross_entropy, target: bipolar}", "does not go with loss"),
        ("name: x\ncomponents: none.py", "none.py: no such file in the working directory"),
        (
            "name: x\ncomponents: none.py",
            "x.yaml:2: components: none.py: no such file in the working directory",
        ),
        ("name: x\ncomponents:\n- none.py", "x.yaml:3: components.0: none.py: no such file"),
        ("name: x\nname: y", "x.yaml:2: not a YAML file: found duplicate key"),
        ("a: [1,", "not a YAML file"),
        (
            "a: 1\n---\nb: 2",
            "x.yaml:2: not a YAML file: expected a single document in the stream, but",
        ),
        ("", "x.yaml:1: expected a YAML mapping of keys to values, got nothing"),
        ("\n- 1\n- 2", "x.yaml:2: expected a YAML mapping of keys to values, got a list"),
        ("name: x\nquestion: \0", "x.yaml:2: not a YAML file: the character U+0000 is not allowed"),
        (f"name: x\na: {600 * '['}", "x.yaml: line 2: nested too deeply to be read"),
        ("name: x\n~: 3", "x.yaml:2: null: expected a string as a key, got null"),
        (
            "name: x\nrecipe:\n  lr: 1\n  2: 3",
            "x.yaml:4: recipe.2: expected a string as a key, got 2",
        ),
        (
            "name: x\nquestion: !!python/object:os.system a",
            "x.yaml:2: question: expected a plain value, got one with the tag "
            "!!python/object:os.system",
        ),
        (
            "name: x\nrecipe: !own {lr: 1}",
            "x.yaml:2: recipe: expected a plain value, got one with",
        ),
        (
            "name: x\nseeds: [1, !!binary aGk=]",
            "x.yaml:2: seeds.1: expected a plain value, got one",
        ),
        (
            "name: x\nrecipe:",
            "x.yaml:2: recipe: expected a mapping of keys to values, got nothing",
        ),
        ("name: x\ndata: 3", "x.yaml:2: data: expected a mapping of keys to values, got 3"),
        ("name: x\nvary: {}", "x.yaml:2: vary: expected at least 1 item, got {}"),
        (
            "name: x\nvary: [relu]",
            "x.yaml:2: vary: expected a mapping of keys to values, got ['relu']",
        ),
        (
            "name: x\nvary: {activation: tanh}",
            "x.yaml:2: vary.activation: expected a list of values",
        ),
        (
            "name: x\nbaseline: [relu]",
            "x.yaml:2: baseline: expected the name of an arm or its fields",
        ),
        ("name: x\narms: [{name: ''}]", "x.yaml:2: arms.0.name: expected a name, got ''"),
        ("name: x\narms: [{name: ' '}]", "x.yaml:2: arms.0.name: expected a name, got ' '"),
        ("name: x\narms: [{name: 3}]", "x.yaml:2: arms.0.name: expected a name, got 3"),
        ("name: x\nrecipe: {int: 3}", "x.yaml:2: recipe.int: unknown key 'int'"),
        ("name: x\nrecipe: {str: {int: 3}}", "x.yaml:2: recipe.str: unknown key 'str'"),
        ("name: x\nquestion: {int: a}", "x.yaml:2: question: expected a string, got {int: 'a'}"),
    ],
    ids=lambda value: value.replace("\n", "|")[:60],
)
def test_what_is_wrong_is_named_with_its_line(write, text, expected):
    found = problems(write(text))
    assert any(expected in problem for problem in found), found
    for speech in ("dictionary", "pattern", "instance of", "Commented", "unicode string", "[key]"):
        assert speech not in "".join(found)
    places = [re.split(": ", problem)[:2] for problem in found]
    assert len(places) == len({tuple(place) for place in places}), found  # each is said once


def test_models_of_yaml_files_have_no_unions():
    """Where there is one, pydantic puts the name of a branch among the keys of a problem."""
    from lecun_ablate.config import study

    models = [
        m
        for m in (*vars(experiment).values(), *vars(study).values(), Recipe)
        if isinstance(m, type) and issubclass(m, BaseModel)
    ]
    assert len(models) >= 8
    for model in models:
        for name, field in model.model_fields.items():
            branches = [b for b in get_args(field.annotation) if b is not type(None)]
            is_union = get_origin(field.annotation) in (Union, UnionType)
            assert not (is_union and len(branches) > 1), (model, name)


def test_every_problem_is_reported_at_once(write):
    file = write(
        "name: x\nsedes: 3\nrecipe: {lr: -1, lrr: 2}\nvary:\n  activation: [tanh, tahn, relu]\n"
        "baseline: {activation: gelu}\nseeds: 0\n"
    )
    found = problems(file)
    lines = [problem.split("x.yaml:")[1].split(":")[0] for problem in found]
    assert lines == ["2", "3", "3", "5", "6", "7"], found


def test_bad_options_are_named():
    file = ROOT / "experiments/init.yaml"
    for options, expected in [
        ({"epochs": 0}, "--epochs: expected at least 1, got 0"),
        ({"dtype": "f16"}, "--dtype: expected 'float32' or 'float64', got 'f16'"),
        ({"seeds": 0}, "--seeds: expected 1 to 100000 seeds, got 0"),
        ({"data": "mnist"}, "--data: unknown data 'mnist'"),
        ({"assignments": ["recipe.lr"]}, "--set recipe.lr: expected KEY=VALUE"),
        ({"assignments": ["recipe.lr=x"]}, "--set recipe.lr=x: expected a number"),
        ({"assignments": ["recip.lr=1"]}, "--set recip.lr=1: recip: unknown key 'recip'"),
        (
            {"assignments": ["baseline={? }"]},
            "--set baseline={? }: baseline.null: expected a string as a key, got null",
        ),
        (
            {"assignments": ["question=a\x1bb"]},
            "--set question=a\x1bb: the character U+001B is not allowed in a string",
        ),
    ]:
        found = problems(file, **options)
        assert any(problem.startswith(expected) for problem in found), found


def test_a_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "activation.yaml").write_text("name: x")
    (found,) = problems(tmp_path / "activaton.yaml")
    assert "no such file" in found and "did you mean" in found and "activation.yaml" in found


def test_a_file_that_is_no_text(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_bytes(b"name: x\n\xff\xfe\x00")
    assert problems(file) == [
        f"{file}:2: not a readable text file: expected UTF-8, got the byte 0xff"
    ]
    assert problems(tmp_path) == [f"{tmp_path}: not a readable text file: Is a directory"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_a_file_that_the_disk_does_not_give_is_no_bad_configuration(tmp_path, monkeypatch, number):
    (tmp_path / "x.yaml").write_text("name: x")
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(Path, "read_text", Mock(side_effect=error))
    with pytest.raises(LecunAblateError, match=os.strerror(number)) as caught:
        load_experiment(tmp_path / "x.yaml")
    assert caught.value.exit_status == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 30) | st.floats() | st.sampled_from(["tanh", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["lr", "activation", "name", "z"]), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from(
    ["name", "question", "data", "recipe", "vary", "arms", "ladder", "baseline", "seeds", "zz"]
)


@given(st.dictionaries(keys, values, max_size=6))
@settings(deadline=None, max_examples=150)
def test_whatever_stands_in_a_file_it_is_an_experiment_or_a_config_error(tmp_path_factory, content):
    from ruamel.yaml import YAML

    file = tmp_path_factory.mktemp("fuzz") / "x.yaml"
    with file.open("w") as stream:
        YAML().dump(content, stream)
    try:
        experiment = load_experiment(file)
    except ConfigError as error:
        assert error.problems and all(
            "x.yaml:" in problem or "x.yaml: " in problem for problem in error.problems
        )
    else:
        assert experiment.arms and experiment.seeds
        assert len({arm.name for arm in experiment.arms}) == len(experiment.arms)
        assert experiment.baseline in {arm.name for arm in experiment.arms}


ABLATE = """name: x
ablate:
  from: {activation: tanh}
  to: {activation: relu, lr: 0.1, init: fan_in}
"""


def test_ablate_makes_every_combination_of_the_changes(write):
    experiment = load_experiment(write(ABLATE))
    arms = {arm.name: arm.recipe for arm in experiment.arms}
    assert list(arms) == [
        "baseline", "activation", "lr", "init", "activation+lr", "activation+init", "lr+init",
        "winner",
    ]  # fmt: skip
    assert experiment.baseline == "baseline" and arms["baseline"] == Recipe()
    assert arms["winner"] == Recipe(activation="relu", lr=0.1, init="fan_in")
    assert arms["lr+init"] == Recipe(lr=0.1, init="fan_in")
    assert experiment.comparisons == [
        ("winner", "baseline"), ("activation", "baseline"), ("lr", "baseline"),
        ("init", "baseline"),
    ]  # fmt: skip
    assert experiment.ablation.sets["lr+init"] == ("lr", "init")


def test_ablate_leaves_out_one_change_at_a_time(write):
    experiment = load_experiment(write(ABLATE + "  arms: leave_one_out\n"))
    arms = {arm.name: arm.recipe for arm in experiment.arms}
    assert list(arms) == ["baseline", "without activation", "without lr", "without init", "winner"]
    assert arms["without lr"] == Recipe(activation="relu", init="fan_in")
    assert experiment.comparisons == [
        ("winner", "baseline"), ("without activation", "winner"), ("without lr", "winner"),
        ("without init", "winner"),
    ]  # fmt: skip


def test_what_from_leaves_out_is_as_in_the_recipe(write):
    file = write(
        "name: x\nrecipe: {lr: 0.1}\nablate: {to: {lr: 0.1, activation: relu, momentum: 0.9}}\n"
    )
    experiment = load_experiment(file)
    assert experiment.ablation.changes == ("activation", "momentum")
    assert {arm.recipe.lr for arm in experiment.arms} == {0.1}


def test_a_path_begins_with_each_change_alone(write):
    """The arms that it may still come to are known, and join in the order of `all`."""
    every = load_experiment(write(ABLATE))
    path = load_experiment(write(ABLATE + "  arms: path\n"))
    assert [arm.name for arm in path.arms] == ["baseline", "activation", "lr", "init", "winner"]
    assert [arm.name for arm in path.further] == ["activation+lr", "activation+init", "lr+init"]
    assert path.comparisons == every.comparisons and path.most_arms == 7
    grown = path.with_sets([{"init", "lr"}]).with_sets([("lr", "activation"), ()])
    assert [arm.name for arm in grown.arms] == [
        "baseline", "activation", "lr", "init", "activation+lr", "lr+init", "winner"
    ]  # fmt: skip
    assert grown.ablation.sets["lr+init"] == ("lr", "init")
    assert [arm.name for arm in grown.further] == ["activation+init"]
    assert grown.comparisons == path.comparisons
    by_name = {arm.name: arm for arm in grown.possible_arms}
    assert by_name == {arm.name: arm for arm in every.arms}


MANY = "lr: 0.1, init: fan_in, momentum: 0.9, epochs: 9, dropout: 0.1, weight_decay: 0.1"


def test_many_changes_are_left_out_one_at_a_time(write):
    experiment = load_experiment(write(f"name: x\nablate: {{to: {{{MANY}}}}}\n"))
    assert experiment.ablation.arms == "leave_one_out" and len(experiment.arms) == 8
    path = load_experiment(write(f"name: x\nablate: {{to: {{{MANY}}}, arms: path}}\n"))
    assert len(path.arms) == 8 and len(path.possible_arms) == 64 and path.most_arms == 22


@pytest.mark.parametrize(
    ("ablate", "said"),
    [
        (f"{{to: {{{MANY}}}, arms: all}}", "6 changes have 64 combinations: expected 5 changes"),
        ("{to: {lr: 0.1}}", "expected two or more changes against `from`, got 1"),
        ("{to: {lr: 0.03, activation: relu}}", "expected two or more changes"),
        ("{from: {}}", "ablate.to: required, but missing"),
        ("{form: {}, to: {lr: 1}}", "unknown key 'form': did you mean 'from'?"),
        ("{to: {lr: 0.1, activation: rleu}}", "ablate.to.activation: unknown activation 'rleu'"),
        ("{from: {lr: -1}, to: {lr: 0.1, epochs: 3}}", "ablate.from.lr: expected more than 0"),
        (f"{{to: {{{MANY}}}, arms: all}}", "changes at most, or arms: path or leave_one_out"),
        (
            f"{{to: {{{MANY}, padding: 0.0, average: 0.9, order: shuffled}}, arms: path}}",
            "ablate.arms: path: 9 changes have 512 combinations: expected 8 changes at most, or "
            "arms: leave_one_out",
        ),
        (
            "{to: {lr: 1, epochs: 3}, arms: most}",
            "ablate.arms: expected 'all', 'leave_one_out' or 'path'",
        ),
        ("{to: {lr: 1, epochs: 3}, arms: path}\ncompare: all", "compare: the results choose"),
        ("{to: {init: fan_in}, arms: path}", "expected two or more changes"),
        ("{to: {init: fan_in, dropout: 0.1}, arms: path}\ntuned: a.yaml", "tuned: the results"),
        ("{to: {lr: 1, epochs: 3}}\nbaseline: winner", "`ablate: from` is the baseline"),
        ("{to: {lr: 1, epochs: 3}}\narms: [{lr: 1}]", "either arms or ablate, not both"),
    ],
)
def test_what_is_wrong_with_an_ablation_is_said_with_its_line(write, ablate, said):
    file = write(f"name: x\nablate: {ablate}\n")
    found = problems(file)
    assert any(said in problem and f"{file}:" in problem for problem in found), found


@pytest.mark.parametrize("arms", ["path", "leave_one_out"])
def test_of_changes_that_do_not_go_together_the_fewest_are_named(write, arms):
    changes = "{lr: 0.1, momentum: 0.9, init: fan_in, optimizer: adamw}"
    found = problems(write(f"name: x\nablate: {{to: {changes}, arms: {arms}}}\n"))
    names = {"path": ["momentum+optimizer"], "leave_one_out": ["without init", "without lr"]}
    assert len(found) == len(names[arms])
    for name, problem in zip(names[arms], found, strict=True):
        assert f"arm {name!r}: optimizer adamw takes no momentum" in problem


def test_all_pairs_compares_every_arm_with_every_other(write):
    file = write("name: x\narms: [{lr: 0.1}, {lr: 0.2}, {lr: 0.3}]\n")
    overrides = Overrides(all_pairs=True)
    every = parse_experiment(read(file, overrides), overrides)
    assert every.compare == "all" and len(every.comparisons) == 3
    assert str(every.command).endswith("x.yaml --all-pairs")
    assert every.variant == "--all-pairs"
    both = Overrides(all_pairs=True, epochs=3, seeds=2)
    command = parse_experiment(read(file, both), both).command
    assert command.options("--epochs", "--all-pairs") == "--all-pairs --epochs 3"
    assert str(command.without("--all-pairs", "--epochs")).endswith("x.yaml --seeds 2")
    file = write("name: x\nladder: [{name: a}, {lr: 0.2}]\n")
    with pytest.raises(ConfigError, match="--all-pairs: compare: a ladder compares each step"):
        parse_experiment(read(file, overrides), overrides)


def test_tuned_values_are_no_good_where_the_split_is_resampled(write):
    file = write("name: x\ndata: {name: usps, split: resampled}\ntuned: y.yaml\narms: [{lr: 1}]\n")
    (problem,) = problems(file)
    assert f"{file}:2: data.split: tuned values were chosen on images" in problem
    file = write("name: x\ndata: {name: usps, split: new}\narms: [{lr: 1}]\n")
    assert "expected 'known' or 'resampled', got 'new'" in problems(file)[0]
