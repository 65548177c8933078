"""Losses and misses on the real digits, from an independent implementation in float64.

It was written in C++ and agrees with PyTorch's autograd, and with torch.optim.AdamW, in all digits.
"""

import os
from pathlib import Path

import pytest
from cuda_on_cpu import COMPILER, Cpu

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.usps import read_folder
from lecun_ablate.trainers import native
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.cuda import CudaTrainer
from lecun_ablate.trainers.native import NativeTrainer
from lecun_ablate.trainers.torch_trainer import TorchTrainer

pytestmark = pytest.mark.usps

PAPER = {
    "activation": "scaled_tanh",
    "output_activation": "scaled_tanh",
    "target": "bipolar",
    "init": "fan_in",
    "loss": "half_sum_squares",
    "lr": 3e-4,
}
SOFTMAX = {"output_activation": "identity", "loss": "cross_entropy", "output_bias": 0.0}
DECAYED = {"schedule": f"linear(to={1 / 3})", "epochs": 46}

# name: (recipe, (train loss, train misses, test loss, test misses) after each pass)
ANSWERS = {
    "A, sdlm on the notebook's net": (
        {"optimizer": "sdlm", "lr": 0.002},
        [
            (2.2432854921e-02, 568, 2.8715931715e-02, 244),
            (1.2377015834e-02, 336, 1.9001278682e-02, 190),
            (9.6350023914e-03, 261, 1.6403075722e-02, 177),
        ],
    ),
    "B, sdlm on the paper's net": (
        {**PAPER, "optimizer": "sdlm"},
        [
            (0.38815502220, 583, 0.50639263062, 252),
            (0.18045665828, 265, 0.31693837446, 173),
            (0.13934744456, 201, 0.28029377288, 152),
        ],
    ),
    "B, running sdlm on the paper's net": (
        {**PAPER, "optimizer": "sdlm(estimate=running, gamma=0.002)"},
        [
            (0.2526355978, 335, 0.3618118748, 177),
            (0.1578661262, 187, 0.2762115540, 146),
            (0.1223351336, 142, 0.2454148992, 136),
        ],
    ),
    "adamw, decayed": (
        {**SOFTMAX, **DECAYED, "optimizer": "adamw", "lr": 3e-4},
        [
            (0.19949573889, 341, 0.34836146511, 195),
            (0.13090348019, 229, 0.29225004733, 161),
            (0.10281132557, 191, 0.27147109499, 156),
        ],
    ),
    "adamw, constant": (
        {**SOFTMAX, "optimizer": "adamw", "lr": 3e-4},
        [
            (0.19949573889, 341, 0.34836146511, 195),
            (0.13064515819, 227, 0.29216296378, 162),
            (0.10256380374, 190, 0.27160707141, 156),
        ],
    ),
    "sgd, cross-entropy": (
        {**SOFTMAX, "lr": 0.01},
        [
            (0.13619116830, 272, 0.30084466208, 174),
            (0.08516428340, 156, 0.27275660787, 151),
            (0.06913651417, 124, 0.27456257660, 143),
        ],
    ),
}


def check(trainer, recipe, answers):
    digits = read_folder(Path(os.environ["LECUN_ABLATE_DATA"]))
    splits = {"train": digits.train, "test": digits.test}
    run = Run(Recipe(dtype="float64", **recipe), 1337, until=len(answers))
    reports = list(trainer.train([run], digits.train, splits))
    for report, (train_loss, train_misses, test_loss, test_misses) in zip(
        reports, answers, strict=True
    ):
        # to the digits of the answers; none of the steps is chaotic
        assert report.scores["train"].loss == pytest.approx(train_loss, rel=5e-10)
        assert report.scores["test"].loss == pytest.approx(test_loss, rel=5e-10)
        misses = {name: score.misses for name, score in report.scores.items()}
        assert misses == {"train": train_misses, "test": test_misses}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_native_trainer_gives_the_known_answers(name):
    if native.availability():
        pytest.skip(native.availability())
    recipe, answers = ANSWERS[name]
    check(NativeTrainer(), recipe, answers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_the_torch_trainer_gives_the_known_answers(name):
    recipe, answers = ANSWERS[name]
    check(TorchTrainer(threads=1), recipe, answers)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("name", ANSWERS)
def test_the_cuda_kernels_give_the_known_answers(name):
    recipe, answers = ANSWERS[name]
    check(CudaTrainer(Cpu()), recipe, answers)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ANSWERS)
def test_the_cuda_trainer_gives_the_known_answers(name):
    recipe, answers = ANSWERS[name]
    check(CudaTrainer(), recipe, answers)
