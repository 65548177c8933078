"""The conformance suite, for every trainer of ours; and that the suite covers what it should."""

import itertools
import re
import subprocess
import sys
from collections import Counter
from functools import partial

import pytest
from cuda_on_cpu import COMPILER, Cpu

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.testing import ALONE, PAIRS, ExactTrainerConformance, TrainerConformance
from lecun_ablate.testing.trainer import (
    FIELDS,
    INGREDIENTS,
    MIXES,
    PLAIN,
    allowed,
    name_of,
    recipe_of,
    values,
)
from lecun_ablate.trainers import native
from lecun_ablate.trainers.cuda import CudaTrainer
from lecun_ablate.trainers.native import NativeTrainer
from lecun_ablate.trainers.torch_trainer import TorchTrainer

SETS = () if native.availability() else native.kernel.INSTRUCTION_SETS


class Supports:
    """Recipes that are not supported are skipped: of ours, only those named here may be."""

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_every_built_in_component_is_supported(self, make, dtype):
        trainer = make()
        choices = ALONE + PAIRS + MIXES
        assert len(choices) > 100
        for choice in choices:
            recipe = recipe_of(choice).model_copy(update={"dtype": dtype})
            assert trainer.unsupported(recipe) is None, choice


class LongPairsAreSlow:
    """Every pair after one step is in the fast suite, after 200 steps in the slow one."""

    @pytest.mark.slow
    @pytest.mark.parametrize("choice", PAIRS)
    def test_every_pair_of_values_after_200_steps(self, make, choice):
        super().test_every_pair_of_values_after_200_steps(make, choice)


@pytest.mark.skipif(bool(native.availability()), reason=str(native.availability()))
class TestNative(LongPairsAreSlow, ExactTrainerConformance, Supports):
    """With the fastest instruction set of this CPU."""

    @pytest.fixture
    def make(self):
        return NativeTrainer


@pytest.mark.slow
class TestNativeInstructionSets(ExactTrainerConformance, Supports):
    """With the others: the same source, compiled for other registers."""

    @pytest.fixture(params=SETS[1:])
    def make(self, request):
        return partial(NativeTrainer, instruction_set=request.param)


@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
class TestCudaOnCpu(LongPairsAreSlow, ExactTrainerConformance, Supports):
    """The CUDA kernels, compiled for the CPU."""

    @pytest.fixture
    def make(self):
        return partial(CudaTrainer, Cpu())


@pytest.mark.gpu
class TestCuda(ExactTrainerConformance, Supports):
    @pytest.fixture
    def make(self):
        return CudaTrainer


class TestTorch(LongPairsAreSlow, ExactTrainerConformance, Supports):
    @pytest.fixture
    def make(self):
        return TorchTrainer


@pytest.mark.gpu
class TestTorchOnCuda(TrainerConformance, Supports):
    """On CUDA, the library of matrix products may choose an algorithm by the size of a batch."""

    @pytest.fixture
    def make(self):
        return partial(TorchTrainer, "cuda")


@pytest.mark.parametrize(("rows", "fields"), [(PAIRS, PLAIN), (MIXES, INGREDIENTS)])
def test_the_pairs_are_all_pairs(rows, fields):
    held = {frozenset(pair) for row in rows for pair in itertools.combinations(row.items(), 2)}
    for f, g in itertools.combinations(fields, 2):
        for a, b in itertools.product(values(f), values(g)):
            if (rows is MIXES) and "activation" in (f, g) and {a, b}.isdisjoint({"tanh", "relu"}):
                continue
            assert (frozenset({(f, a), (g, b)}) in held) == allowed({f: a, g: b}), (f, a, g, b)


def test_every_field_of_a_recipe_is_tested():
    others = {"lr", "epochs", "dtype", "padding", "output_bias", "init_seed", "order_seed"}
    assert set(FIELDS) | others == set(Recipe.model_fields)


USERS_FILE = """
import pytest
from lecun_ablate.testing import TrainerConformance
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.torch_trainer import TorchTrainer

class Sound(TorchTrainer):
    pass

class Hasty(TorchTrainer):
    def train(self, runs, fit, evaluate, on_epoch=None):
        faster = [run.recipe.model_copy(update={"lr": run.recipe.lr * (1 + 1e-9)}) for run in runs]
        runs = [Run(recipe, r.seed, r.state, r.until) for recipe, r in zip(faster, runs)]
        return super().train(runs, fit, evaluate, on_epoch)

class Picky(TorchTrainer):
    def unsupported(self, recipe):
        return "it has no momentum" if recipe.momentum else super().unsupported(recipe)

class Useless(TorchTrainer):
    def unsupported(self, recipe):
        return "it supports nothing"

class TestSound(TrainerConformance):
    make = pytest.fixture(lambda self: Sound)

class TestHasty(TrainerConformance):
    make = pytest.fixture(lambda self: Hasty)

class TestPicky(TrainerConformance):
    make = pytest.fixture(lambda self: Picky)

class TestUseless(TrainerConformance):
    make = pytest.fixture(lambda self: Useless)
"""


def test_a_users_trainer_passes_only_if_it_conforms(tmp_path):
    (tmp_path / "test_users.py").write_text(USERS_FILE)
    words = ("relu", "cross_entropy", "bipolar", "0.9")  # some values, momentum among them
    some = f"(every_value_alone and ({' or '.join(words)})) or default_recipe"
    command = [sys.executable, "-m", "pytest", "-rA", "--tb=no", "--no-fold-skipped"]
    command += ["--assert=plain", "-k", some]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    outcomes = Counter(re.findall(r"^(PASSED|FAILED|SKIPPED)[^:]*::Test(\w+)::", done.stdout, re.M))
    chosen = sum(any(word in name_of(choice) for word in words) for choice in ALONE)
    others = 1
    assert outcomes == {
        ("PASSED", "Sound"): chosen + others,
        ("FAILED", "Hasty"): chosen,
        ("PASSED", "Hasty"): others,
        ("SKIPPED", "Picky"): 1,
        ("PASSED", "Picky"): chosen - 1 + others,
        ("SKIPPED", "Useless"): chosen,
        ("FAILED", "Useless"): others,  # a trainer that skips everything does not pass
    }, done.stdout
