"""Parameters of components: in signatures, in recipes, in files and in keys."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from pydantic import Field, ValidationError

from lecun_ablate.config.experiment import load_experiment
from lecun_ablate.config.recipe import ADDED, Recipe
from lecun_ablate.config.study import load_study
from lecun_ablate.errors import ConfigError
from lecun_ablate.parameters import parse, spell
from lecun_ablate.plan.keys import run_key
from lecun_ablate.registry import Registry, registry
from lecun_ablate.trainers.base import Identity

TRAINER = Identity("torch", "cpu", "avx2", 1)


@pytest.fixture
def power():
    """An activation of the user's own with every type of parameter."""

    @registry.register("activation")
    def power(
        x,
        *,
        exponent: Annotated[float, Field(gt=0, le=3)] = 1.5,
        terms: Annotated[int, Field(ge=1)] = 2,
        signed=True,
        ends: Literal["open", "closed"] = "open",
    ):
        return x.abs() ** exponent * (x.sign() if signed else 1)

    return power


def fields_of(text: str, tmp_path: Path) -> list[dict]:
    file = tmp_path / "made_up.yaml"
    file.write_text(f"name: made-up\nseeds: 1\n{text}\n")
    return [arm.recipe.model_dump() for arm in load_experiment(file).arms]


@pytest.mark.parametrize(
    "value",
    [
        "power(exponent=2, signed=false)",
        " power ( signed = False , exponent = 2.0 )",
        {"power": {"signed": False, "exponent": 2}},
        "power(signed=false, ends=open, exponent=2, terms=2)",
        "power(signed=false, ends='open', exponent=2)",
    ],
)
def test_every_spelling_of_a_component_is_one_value(power, value):
    assert Recipe(activation=value).activation == "power(exponent=2.0, signed=false)"


def test_a_parameter_at_its_default_is_no_difference(power):
    for value in ("power()", {"power": None}, {"power": {}}, "power(exponent=1.5, ends=open)"):
        assert Recipe(activation=value).activation == "power"
    plain, same = Recipe(activation="leaky_relu"), Recipe(activation="leaky_relu(slope=0.01)")
    assert run_key(plain, 0, {}, TRAINER) == run_key(same, 0, {}, TRAINER)
    other = Recipe(activation="leaky_relu(slope=0.2)")
    assert run_key(plain, 0, {}, TRAINER) != run_key(other, 0, {}, TRAINER)


def test_the_component_is_called_with_its_parameters(power):
    x = torch.tensor([-2.0, 3.0])
    assert Recipe(activation="power(exponent=2)").component("activation")(x).tolist() == [-4, 9]
    leaky = Recipe(activation="leaky_relu(slope=0.25)").component("activation")
    assert leaky(x).tolist() == [-0.5, 3]
    assert leaky.values == {"slope": 0.25}
    softened = Recipe(target="bipolar(value=0.8)").component("target")(torch.tensor([1]))
    assert softened[0, :3].tolist() == pytest.approx([-0.8, 0.8, -0.8])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("power(exponnent=2)", r"no parameter 'exponnent': did you mean 'exponent'\? valid: "
         r"exponent \(a number > 0 and <= 3; default 1.5\), terms \(a whole number >= 1; default 2"
         r"\), signed \(true or false; default true\), ends \(open or closed; default open\)"),
        ("power(exponent=0)", "parameter exponent: expected greater than 0, got 0"),
        ("power(exponent=4)", "parameter exponent: expected less than or equal to 3, got 4"),
        ("power(exponent=true)", "parameter exponent: expected a valid number, got True"),
        ("power(exponent=1e999)", "parameter exponent: expected a finite number, got inf"),
        ("power(terms=1.5)", "parameter terms: expected a valid integer, got 1.5"),
        ("power(signed=1)", "parameter signed: expected a valid boolean, got 1"),
        ("power(ends=half)", "parameter ends: expected 'open' or 'closed', got 'half'"),
        ("tanh(slope=1)", "activation 'tanh' has no parameters, got 'slope'"),
        ("powr(exponent=2)", "unknown activation 'powr': did you mean 'power'"),
        ("power(2)", r"expected NAME or NAME\(PARAMETER=VALUE, ...\)"),
        ("power(exponent=2", r"expected NAME or NAME\(PARAMETER=VALUE, ...\)"),
        ("power(exponent=2)(3)", r"expected NAME or NAME\(PARAMETER=VALUE, ...\)"),
        ("power(**{})", r"expected NAME or NAME\(PARAMETER=VALUE, ...\)"),
        ("power(exponent=__import__('os'))", r"expected NAME or NAME\(PARAMETER=VALUE, ...\)"),
        ("power(exponent=1, exponent=2)", r"expected NAME or NAME\(PARAMETER=VALUE, ...\)"),
        ({"power": 3}, r"expected {NAME: {PARAMETER: VALUE}}"),
        ({"power": {}, "tanh": {}}, r"expected {NAME: {PARAMETER: VALUE}}"),
        ({"power": {"terms": 0}}, "parameter terms: expected greater than or equal to 1, got 0"),
        (3, "valid string"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(power, value, message):
    with pytest.raises(ValidationError, match=message):
        Recipe(activation=value)


def test_what_is_written_can_be_read():
    values = {"a": 1e-05, "b": 3, "c": True, "d": "word", "e": "two words", "f": "true", "g": -2.5}
    assert parse(spell("f-1.x", values)) == ("f-1.x", values)


def test_a_signature_that_declares_no_usable_parameter():
    fresh = Registry()
    for wrong, message in (
        (lambda x, *, a=None: x, "parameter 'a': expected a number, a bool, a string"),
        (lambda x, *, a=float("nan"): x, "the default of parameter 'a': expected a finite number"),
    ):
        with pytest.raises(ConfigError, match=message):
            fresh.register("activation", "wrong")(wrong)
    with pytest.raises(ConfigError, match="wrong arguments"):
        fresh.register("activation", "wrong")(lambda x, *, a: x)


def test_a_class_has_parameters_too():
    @registry.register("activation", "scaled")
    class Scaled:
        """A class."""

        def __call__(self, x, *, by: float = 2.0):
            return x * by

    assert Recipe(activation="scaled(by=3)").component("activation")(2) == 6


# ---- in files -----------------------------------------------------------------------------------


def test_vary_arms_and_ladders_reach_parameters(power, tmp_path):
    varied = fields_of(
        "recipe: {activation: power}\nvary: {activation.exponent: [1, 1.5, 2]}", tmp_path
    )
    assert [f["activation"] for f in varied] == ["power(exponent=1.0)", "power",
                                                 "power(exponent=2.0)"]  # fmt: skip
    arms = fields_of(
        "arms: [{activation: 'power(terms=3)', activation.exponent: 2}, "
        "{activation: {leaky_relu: {slope: 0.2}}}]",
        tmp_path,
    )
    expected = ["power(exponent=2.0, terms=3)", "leaky_relu(slope=0.2)"]
    assert [f["activation"] for f in arms] == expected
    steps = fields_of(
        "ladder: [{activation: power}, {activation.exponent: 2}, {activation.terms: 3}, "
        "{activation: leaky_relu}]",
        tmp_path,
    )
    assert [f["activation"] for f in steps] == [
        "power",
        "power(exponent=2.0)",
        "power(exponent=2.0, terms=3)",
        "leaky_relu",
    ]


def test_names_and_baselines_of_arms_with_parameters(power, tmp_path):
    file = tmp_path / "named.yaml"
    file.write_text(
        "name: named\nseeds: 1\nrecipe: {activation: power}\nvary: {activation.exponent: [1, 2]}\n"
        "baseline: {activation.exponent: 2}\n"
    )
    experiment = load_experiment(file)
    assert [arm.name for arm in experiment.arms] == ["1.0", "2.0"]
    assert experiment.baseline == "2.0"
    more = load_experiment(file, assignments=["recipe.activation.terms=5"])
    assert more.arms[0].recipe.activation == "power(exponent=1.0, terms=5)"
    assignment = "recipe.activation=power(terms=5)"
    assert load_experiment(file, assignments=[assignment]).arms == more.arms
    file.write_text(file.read_text().replace("baseline: {activation.exponent: 2}", ""))
    file.write_text("name: named\nseeds: 1\nvary: {activation: [tanh, {leaky_relu: {slope: .2}}]}")
    assert [arm.name for arm in load_experiment(file).arms] == ["tanh", "leaky_relu(slope=0.2)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vary: {activation.exponent: [1, 9]}",
         r"made_up.yaml:3: vary.activation.exponent.1: expected less than or equal to 3, got 9"),
        ("vary: {activation.expo: [1, 2]}",
         r":3: .*no activation has a parameter 'expo': did you mean 'exponent'"),
        ("vary: {activation.exponent: [1, 2]}",
         r":3: .*arm '1.0': activation.exponent: activation 'tanh' has no parameters"),
        ("recipe: {activation: power(exponent=9)}",
         r":3: recipe.activation: activation 'power': parameter exponent: expected less than"),
        ("arms: [{activation: power}, {activation: power(terms=2)}]", "same recipe as 'power'"),
        ("recipe: {optimiser.mu: 1}", "unknown key 'optimiser.mu'"),
    ],
)  # fmt: skip
def test_bad_parameters_in_files_name_their_line(power, tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        fields_of(text, tmp_path)


def study_of(text: str, tmp_path: Path):
    file = tmp_path / "study.yaml"
    file.write_text(f"name: made-up\ntrials: 4\n{text}\n")
    return load_study(file)


def test_a_study_searches_parameters(power, tmp_path):
    study = study_of(
        "arms: [{activation: power}, {activation: power(terms=3)}]\n"
        "search: {activation.exponent: {low: 0.5, high: 2, log: true}}",
        tmp_path,
    )
    assert study.own_values(study.arms[1]) == {"activation.exponent": 1.5}
    recipe = study.recipe(study.arms[1], {"activation.exponent": 0.7})
    assert recipe.activation == "power(exponent=0.7, terms=3)"
    assert study.recipe(study.arms[1], {"activation.exponent": 1.5}) == study.arms[1].recipe
    tuned = study_of(
        "arms: [{activation: power(exponent=0.9)}]\nsearch: {activation.exponent: [1, 2]}",
        tmp_path,
    )
    assert tuned.definition(tuned.arms[0], "d")["recipe"]["activation"] == "power"
    assert tuned.search == {"activation.exponent": (1.0, 2.0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arms: [{activation: power}, {activation: power(exponent=2)}]\n"
         "search: {activation.exponent: [1, 2]}", "differ only in what is searched"),
        ("search: {activation.exponent: {low: 1, high: 2}}", "'tanh' has no parameters"),
        ("recipe: {activation: power}\nsearch: {activation.exponent: {low: 1, high: 9}}",
         "less than or equal to 3"),
        ("recipe: {activation: power}\nsearch: {activation.signed: {low: 0, high: 1}}",
         "expected a list of choices"),
        ("search: {activation.expo: [1, 2]}", "no activation has a parameter 'expo'"),
    ],
)  # fmt: skip
def test_bad_searches_of_parameters(power, tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        study_of(text, tmp_path)


def test_whole_parameters_are_searched_as_whole_numbers(power, tmp_path):
    from optuna.distributions import FloatDistribution, IntDistribution

    from lecun_ablate.studies.arm_search import _distribution

    study = study_of(
        "recipe: {activation: power}\nsearch: {activation.terms: {low: 1, high: 9}, "
        "activation.exponent: {low: 1, high: 2}}",
        tmp_path,
    )
    kinds = [type(_distribution(name, values)) for name, values in study.search.items()]
    assert kinds == [IntDistribution, FloatDistribution]


@pytest.mark.parametrize("field", ADDED)
def test_fields_that_were_added_are_in_keys_only_where_they_are_used(field):
    other = {"schedule": "cosine", "schedule_per": "step", "batch_size": 8, "augmentation": "shift"}
    used = Recipe(**{field: other.get(field, 0.25)})
    assert set(used.stored) - set(Recipe().stored) == {field}
    assert run_key(used, 0, {}, TRAINER) != run_key(Recipe(), 0, {}, TRAINER)
