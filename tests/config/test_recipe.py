"""Recipes and run keys."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lecun_ablate.config.recipe import COMPONENT_FIELDS, Recipe
from lecun_ablate.plan.keys import content_hash, run_key
from lecun_ablate.registry import registry
from lecun_ablate.trainers.base import Identity

DATA = {"digest": "d", "split": "train/test"}
TRAINER = Identity("torch", "cpu", "avx2", 1)


def key(recipe=None, seed=0, data=None, trainer=None):
    identity = replace(TRAINER, **(trainer or {}))
    return run_key(recipe or Recipe(), seed, DATA | (data or {}), identity)


recipes = st.builds(
    Recipe,
    activation=st.sampled_from(["tanh", "relu", "lisht"]),
    init=st.sampled_from(["fan_in", "xavier"]),
    lr=st.floats(1e-6, 10),
    momentum=st.floats(0, 0.99),
    epochs=st.integers(1, 100),
    dtype=st.sampled_from(["float32", "float64"]),
    padding=st.floats(-2, 2),
    init_seed=st.none() | st.integers(0, 2**62),
)


def test_the_defaults_are_the_notebooks():
    assert Recipe().model_dump() == {
        "activation": "tanh", "output_activation": "tanh", "init": "sqrt_fan_in",
        "connectivity": "blocks", "loss": "mse", "target": "one_hot", "optimizer": "sgd",
        "momentum": 0.0, "order": "fixed", "lr": 0.03, "epochs": 23, "dtype": "float32",
        "padding": -1.0, "output_bias": -1.0, "init_seed": None, "order_seed": None,
        "schedule": "constant", "schedule_per": "epoch", "batch_size": 1, "augmentation": "none",
        "dropout": 0.0, "weight_decay": 0.0, "label_smoothing": 0.0, "average": 0.0,
    }  # fmt: skip


@given(recipes, recipes, st.integers(0, 100), st.integers(0, 100))
def test_equal_keys_mean_equal_runs(a, b, seed_a, seed_b):
    assert (key(a, seed_a) == key(b, seed_b)) == (a == b and seed_a == seed_b)


@given(recipes)
def test_a_recipe_survives_its_own_values(recipe):
    assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_whatever_decides_the_numbers_is_in_the_key(tmp_path):
    keys = [
        key(),
        key(data={"digest": "other"}),
        key(data={"split": "fit/validation"}),
        *(key(trainer={k: "other"}) for k in TRAINER.stored),
    ]
    file = tmp_path / "mine.py"
    for body in ("x", "x * 1"):
        file.write_text(
            "from lecun_ablate import register\n"
            f"@register('activation')\ndef mine(x):\n return {body}"
        )
        registry.load(file)
        keys.append(key(Recipe(activation="mine")))
    assert len(set(keys)) == len(keys)


def test_content_hash_ignores_the_order_of_keys():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0}, {"lr": float("nan")}, {"lr": float("inf")}, {"lr": "0.1"}, {"lr": True},
        {"epochs": 0}, {"epochs": 2.5}, {"momentum": 1}, {"momentum": -0.1}, {"dtype": "float16"},
        {"padding": float("nan")}, {"init_seed": -1}, {"init_seed": 1.5}, {"lrr": 1},
        {"loss": "cross_entropy", "target": "bipolar"},
        {"loss": "cross_entropy", "target": "bipolar(value=0.5)"}, {"batch_size": 0},
        {"dropout": 1}, {"dropout": -0.1}, {"weight_decay": -1}, {"label_smoothing": 1},
        {"average": 1}, {"schedule_per": "batch"}, {"optimizer": "adamw", "momentum": 0.9},
        *({field: "no such"} for field in COMPONENT_FIELDS),
    ],
    ids=str,
)  # fmt: skip
def test_bad_recipes_are_refused(bad):
    with pytest.raises(ValidationError):
        Recipe.model_validate(bad)
