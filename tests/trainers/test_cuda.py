"""The CUDA kernels: their arithmetic on the CPU, their compilation, and what a GPU must confirm.

That they train as the reference does is shown in test_conformance.py, with the kernels compiled
for the CPU (cuda_on_cpu.cpp). Here: no result depends on who runs which task when.
"""

import ctypes
import hashlib
import importlib
import io
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import torch
from cuda_on_cpu import COMPILER, Cpu, library

from lecun_ablate.config.recipe import Recipe
from lecun_ablate.cuda import compiler, gpu
from lecun_ablate.cuda.compiler import (
    ACTIVATIONS,
    LOSSES,
    OPTIMIZERS,
    PAIRS,
    THREADS,
    Choices,
    compile_kernels,
)
from lecun_ablate.cuda.gpu import Gpu
from lecun_ablate.cuda.method import method_type
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.network import initial
from lecun_ablate.registry import registry
from lecun_ablate.trainers import choice as trainers
from lecun_ablate.trainers import cuda, native
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.cuda import CudaTrainer
from lecun_ablate.trainers.torch_trainer import TorchTrainer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
on_cpu = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def split(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    return Split(rng.uniform(-1, 1, (n, 16, 16)), rng.integers(0, 10, n))


FIT, TEST = split(6, 0), split(40, 1)  # TEST takes more than one block
RECIPES = {
    "notebook": {},
    "momentum": {"momentum": 0.9, "lr": 0.005, "activation": "silu", "connectivity": "random_8"},
    "cross-entropy": {"loss": "cross_entropy", "output_activation": "identity", "lr": 0.01,
                      "activation": "gelu", "connectivity": "full", "order": "shuffled"},
}  # fmt: skip
# Every optimizer, with everything else that a step by a method may have. No cosine schedule: its
# bits are not the same on all processors.
METHODS = {
    "sgd": {"batch_size": 4, "weight_decay": 0.01, "schedule": "linear", "schedule_per": "step"},
    "nesterov": {"momentum": 0.9, "lr": 0.003, "dropout": 0.25, "connectivity": "random_8"},
    "adam": {"lr": 0.001, "weight_decay": 0.01, "batch_size": 2, "average": 0.9},
    "adamw": {"lr": 0.001, "dropout": 0.25, "schedule": "linear", "average": 0.9,
              "augmentation": "shift", "label_smoothing": 0.1, "order": "shuffled"},
    "rmsprop": {"lr": 0.001, "activation": "leaky_relu(slope=0.2)", "connectivity": "full"},
    "lion": {"lr": 0.0001, "schedule": "linear", "loss": "cross_entropy",
             "output_activation": "identity"},
    "sdlm": {"lr": 0.001, "momentum": 0.5, "augmentation": "shift", "loss": "cross_entropy",
             "output_activation": "identity"},
    "sdlm(estimate=running, patterns=4, gamma=0.1)": {"lr": 0.001, "dropout": 0.25,
                                                      "batch_size": 4},
}  # fmt: skip
METHODS = {name: {"optimizer": name, **fields} for name, fields in METHODS.items()}
EVERY = RECIPES | METHODS


def bits(launcher, runs, fit=FIT, test=TEST) -> list[bytes]:
    """Return all that is known of each run after each epoch, as bytes."""
    found = [b""] * len(runs)
    for report in CudaTrainer(launcher).train(runs, fit, {"test": test} if test else {}):
        for score in report.scores.values():
            found[report.index] += score.predictions.tobytes() + np.float64(score.loss).tobytes()
        for tensors in (report.state.parameters, report.state.optimizer):
            found[report.index] += b"".join(t.tobytes() for t in tensors.values())
    return found


# ---- the same source on the CPU ----------------------------------------------------------------


@on_cpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_tasks_within_a_phase_does_not_matter(name, dtype):
    """A task that read what another of its phase writes would show here: a race on a GPU."""
    runs = [Run(Recipe(**EVERY[name], dtype=dtype, epochs=1), 3)]
    expected = bits(Cpu(), runs)
    for schedule in (1, 2, 3):  # in reverse, shuffled, shuffled otherwise
        assert bits(Cpu(schedule), runs) == expected


STEP_BARRIERS = 12  # in Network::train of step.hpp, those of one warp included
METHOD_BARRIERS = STEP_BARRIERS + 1  # after all weights have changed
LEFT_OUT = [(which, of) for of in (STEP_BARRIERS, METHOD_BARRIERS) for which in range(of)]


@on_cpu
@pytest.mark.parametrize(("which", "of"), LEFT_OUT)
def test_no_barrier_of_a_step_can_be_left_out(which, of):
    """Else the test above would see nothing: without any one of them, some order gives other bits.

    One barrier, which stays, comes before the first step: number 0 is the last one of a step.
    """
    method = {"optimizer": "nesterov"} if of == METHOD_BARRIERS else {}
    recipe = Recipe(loss="cross_entropy", output_activation="identity", epochs=1, **method)
    runs = [Run(recipe, 3)]
    expected = bits(Cpu(), runs, test=None)
    library().leave_out_barrier(which, of)
    try:
        found = [bits(Cpu(schedule), runs, test=None) for schedule in (1, 2, 3)]
    finally:
        library().leave_out_barrier(-1, 1)
    assert any(other != expected for other in found)


@on_cpu
@pytest.mark.parametrize("name", EVERY)
def test_the_number_of_threads_does_not_matter(name):
    runs = [Run(Recipe(**EVERY[name], epochs=1), 3)]
    assert bits(Cpu(-3), runs, test=FIT) == bits(Cpu(), runs, test=FIT)


@on_cpu
def test_batches_of_any_size_give_the_same_bits():
    recipe = Recipe(epochs=2)
    runs = [Run(recipe.model_copy(update={"lr": 0.01 * (1 + s), "order": o}), s)
            for s in range(3) for o in ("fixed", "shuffled")]  # fmt: skip
    together = bits(Cpu(resident=100), runs)
    assert bits(Cpu(resident=1), runs) == together
    assert bits(Cpu(resident=4), runs[::-1])[::-1] == together


@on_cpu
def test_one_batch_is_drawn_after_the_other(monkeypatch):
    """All at once, under Python's lock, they would all start as late as the last."""
    drawn, start = [], initial.start

    def noted(recipe, seed):
        drawn.append(seed)
        time.sleep(0.01)  # the other threads' turn
        return start(recipe, seed)

    monkeypatch.setattr(initial, "start", noted)
    bits(Cpu(resident=4), [Run(Recipe(epochs=1), seed) for seed in range(6)], test=None)
    batches = [drawn[i : i + 2] for i in range(0, 6, 2)]
    assert sorted(batches) == [[0, 1], [2, 3], [4, 5]]


# The bits of the scores and weights below, on every processor, by every compiler: a change calls
# for a new `numerics` in CudaTrainer.
GOLDEN = {"float32": "b7a9e8f54a39c464", "float64": "3b873fbd112e3abc"}


@on_cpu
@pytest.mark.parametrize("dtype", GOLDEN)
def test_the_numbers_are_still_the_same(dtype):
    sha = hashlib.sha256()
    for activation in ACTIVATIONS[:10]:  # those that the record knows
        for fields in RECIPES.values():
            recipe = Recipe(**{**fields, "activation": activation, "lr": 0.003}, dtype=dtype)
            sha.update(*bits(Cpu(), [Run(recipe, 5, until=1)]))
    assert CudaTrainer.numerics == 3
    assert sha.hexdigest()[:16] == GOLDEN[dtype]


GOLDEN_METHODS = {"float32": "0e4fc675471482eb", "float64": "65b3cf35a8734efb"}


@on_cpu
@pytest.mark.parametrize("dtype", GOLDEN_METHODS)
def test_the_numbers_of_methods_are_still_the_same(dtype):
    sha = hashlib.sha256()
    for fields in METHODS.values():
        sha.update(*bits(Cpu(), [Run(Recipe(**fields, epochs=2, dtype=dtype), 5)]))
    assert CudaTrainer.numerics == 3
    assert sha.hexdigest()[:16] == GOLDEN_METHODS[dtype]


@on_cpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elementary_functions(dtype):
    """Within a few units in the last place of the true values, as computed in long double."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, s, 2000) for s in (1e-3, 0.3, 3, 15)]).astype(dtype)
    found = np.empty((4, x.size), dtype)
    name = {"float32": "float", "float64": "double"}[dtype]
    pointers = [ctypes.c_void_p(row.ctypes.data) for row in (x, *found)]
    getattr(library(), f"functions_{name}")(ctypes.c_int(x.size), *pointers)
    wide = x.astype(np.longdouble)
    normal = scipy.special.ndtr(x.astype("f8"))
    expected = [np.exp(wide), np.tanh(wide), normal, np.log(np.clip(wide, 1, 16))]
    found[3][(x < 1) | (x > 16)] = expected[3][(x < 1) | (x > 16)]  # it is for these alone
    # relative to the value itself, but for the normal distribution function, whose tail is small
    floors = [0, 0, 1, 0]
    for ours, true, floor in zip(found, expected, floors, strict=True):
        unit = np.finfo(dtype).eps * (np.abs(true) + floor) + np.finfo(dtype).tiny
        assert (np.abs(ours - true) / unit).max() < 4


@on_cpu
def test_elementary_functions_at_the_ends():
    x = np.array([-1e30, -200, 0, 200, 1e30, np.inf, -np.inf, np.nan], "f4")
    found = np.empty((4, x.size), "f4")
    pointers = [ctypes.c_void_p(row.ctypes.data) for row in (x, *found)]
    library().functions_float(ctypes.c_int(x.size), *pointers)
    infinite = np.inf
    np.testing.assert_array_equal(found[0], [0, 0, 1, infinite, infinite, infinite, 0, np.nan])
    np.testing.assert_array_equal(found[1], [-1, -1, 0, 1, 1, 1, -1, np.nan])
    np.testing.assert_allclose(found[2], [0, 0, 0.5, 1, 1, 1, 0, np.nan], rtol=2e-7)


@on_cpu
def test_the_host_knows_the_layout_of_the_kernels():
    found = (ctypes.c_int * 11)()
    library().sizes(found)
    expected = [
        compiler.TRAINING_BYTES["float32"], compiler.TRAINING_BYTES["float64"],
        compiler.EVALUATION_BYTES["float32"], compiler.EVALUATION_BYTES["float64"],
        cuda._settings_type("float32").itemsize, cuda._settings_type("float64").itemsize,
        method_type("float32").itemsize, method_type("float64").itemsize,
        compiler.MASK_BYTES, compiler.PARAMETERS, cuda.IMAGES_PER_BLOCK,
    ]  # fmt: skip
    assert list(found) == expected
    assert sum(int(np.prod(shape)) for shape in initial.SHAPES.values()) == compiler.PARAMETERS


@pytest.mark.skipif(native.kernel is None, reason="the native trainer is not built")
def test_the_one_list_of_names_is_read_as_the_compiler_reads_it():
    kernel = native.kernel
    assert list(kernel.ACTIVATIONS) == list(ACTIVATIONS) and len(ACTIVATIONS) > 9
    assert list(kernel.LOSSES) == list(LOSSES) and list(kernel.OPTIMIZERS) == list(OPTIMIZERS)


@on_cpu
@pytest.mark.slow
def test_every_combination_under_sanitizers():
    script = Path(__file__).parents[2] / "scripts" / "compute_sanitizer.sh"
    done = subprocess.run(["sh", script, "--cpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("1284 combinations, no error found") == 2


# ---- what it supports, and who chooses it ------------------------------------------------------


def test_unsupported_recipes():
    trainer = CudaTrainer(Cpu())
    assert trainer.unsupported(Recipe(connectivity="random_8", init="xavier")) is None
    registry.register("activation", "own")(lambda x: x * x)
    assert "activation 'own'" in trainer.unsupported(Recipe(activation="own"))

    class Small(Cpu):
        def kernels(self, choices, pairs):
            raise LecunAblateError("too little shared memory")

    assert CudaTrainer(Small()).unsupported(Recipe()) == "too little shared memory"
    with pytest.raises(ConfigError, match="too little"):
        list(CudaTrainer(Small()).train([Run(Recipe(), 0)], FIT, {}))


def test_choosing_it(monkeypatch):
    recipes = {"a": Recipe(), "b": Recipe(activation="relu")}
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"--trainer cuda: .*no CUDA device") as raised:
            trainers.choose(recipes, "cuda")
        other = "" if native.availability() else ", native"
        assert str(raised.value).endswith(f"; valid here: auto, torch{other}")
    with pytest.raises(ConfigError, match="--trainer cuda: it does not run on device cpu"):
        trainers.choose(recipes, "cuda", "cpu")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "availability", lambda: None)
    monkeypatch.setattr(cuda, "CudaTrainer", lambda **more: CudaTrainer(Cpu(), **more))
    for trainer, device in (("auto", "auto"), ("cuda", "auto"), ("auto", "cuda")):
        chosen, notices = trainers.choose(recipes, trainer, device)
        assert {t.name for t in chosen.values()} == {"cuda"}
        assert notices == []
    with pytest.raises(
        ConfigError, match=r"native: it does not run on device cuda; .* torch, cuda$"
    ):
        trainers.choose(recipes, "native", "cuda")
    registry.register("activation", "own")(lambda x: x - x.mean())
    recipes["b"] = Recipe(activation="own")
    chosen, notices = trainers.choose(recipes)
    assert {(t.name, t.device) for t in chosen.values()} == {("torch", "cuda")}
    assert "b: the cuda trainer cannot compile activation 'own': it mixes elements" in notices[0]
    chosen, _ = trainers.choose(recipes, "mixed")
    assert {arm: t.name for arm, t in chosen.items()} == {"a": "cuda", "b": "torch"}
    with pytest.raises(ConfigError, match="arm 'b'"):
        trainers.choose(recipes, "cuda")

    monkeypatch.setattr(cuda, "availability", lambda: "no compiler")
    chosen, notices = trainers.choose(recipes)
    assert chosen["a"].name == "torch"
    assert "The cuda trainer is not available (no compiler)" in notices[0]
    monkeypatch.setattr(native, "availability", lambda: None)
    _, notices = trainers.choose(recipes)
    assert notices[0].endswith("the native trainer may be faster: --device cpu.")


# ---- compilation, which takes no GPU -----------------------------------------------------------


@pytest.fixture(scope="module")
def nvrtc():
    pytest.importorskip("cuda.core", reason="NVIDIA's compiler is not installed")


NOTEBOOK = Choices("float32", "tanh", "tanh", "mse", False)
COMPILED = {
    "notebook": NOTEBOOK,
    "momentum": replace(NOTEBOOK, momentum=True),
    "cross-entropy": replace(NOTEBOOK, activation="gelu", output_activation="identity",
                             loss="cross_entropy"),
    "float64": replace(NOTEBOOK, dtype="float64", activation="silu"),
    **{name: replace(NOTEBOOK, method=name) for name in OPTIMIZERS},
    "float64 adamw": replace(NOTEBOOK, dtype="float64", activation="silu", method="adamw"),
    "float64 sdlm": replace(NOTEBOOK, dtype="float64", activation="silu", method="sdlm"),
}  # fmt: skip
# per multiprocessor, from NVIDIA's tables of compute capabilities
REGISTERS = 65_536
SHARED = {"sm_80": 167_936, "sm_90": 233_472, "sm_100": 233_472}  # bytes
RESERVED = 1024  # bytes of shared memory that each block takes for the system
BLOCKS = {  # that are to be resident on a multiprocessor
    ("notebook", "sm_80"): 2, ("notebook", "sm_90"): 4, ("notebook", "sm_100"): 4,
    ("momentum", "sm_80"): 1, ("momentum", "sm_90"): 2, ("momentum", "sm_100"): 2,
    ("cross-entropy", "sm_80"): 2, ("cross-entropy", "sm_90"): 4, ("cross-entropy", "sm_100"): 4,
    ("float64", "sm_80"): 1, ("float64", "sm_90"): 2, ("float64", "sm_100"): 2,
    # whatever an optimizer keeps of each weight
    **{(name, architecture): blocks for name in OPTIMIZERS
       for architecture, blocks in (("sm_80", 1), ("sm_90", 2), ("sm_100", 2))},
    **{(f"float64 {name}", architecture): 1 for name in ("adamw", "sdlm")
       for architecture in ("sm_90", "sm_100")},
}  # fmt: skip


def blocks_per_sm(registers: int, shared: int, architecture: str) -> int:
    """Return how many blocks fit: registers are given out to warps in units of 256."""
    warps = THREADS // 32
    by_registers = REGISTERS // (-(-registers * 32 // 256) * 256 * warps)
    by_shared = SHARED[architecture] // (-(-shared // 128) * 128 + RESERVED)
    return min(by_registers, by_shared, 64 // warps)


# what is compiled for sm_90 in every run of the tests
QUICK = ("cross-entropy", "momentum", "float64", "adamw", "sdlm")


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("notebook", "sm_80"), ("notebook", "sm_90"), ("notebook", "sm_100"),
        *((name, "sm_90") for name in QUICK),
        *(pytest.param(*key, marks=pytest.mark.slow) for key in BLOCKS
          if key[0] != "notebook" and (key[1] != "sm_90" or key[0] not in QUICK)),
    ],
)  # fmt: skip
def test_kernels_compile_without_spills_for_the_intended_occupancy(name, architecture):
    choices, log = COMPILED[name], io.StringIO()
    code = compile_kernels(choices, architecture, log)
    assert code.code[:4] == b"\x7fELF"
    report = log.getvalue()
    entries = re.split(r"Compiling entry function", report)[1:]
    assert sorted(re.findall(r"entry function '(\w+)'", report)) == ["evaluate", choices.kernel]
    for entry in entries:
        assert re.findall(r"(\d+) bytes stack frame", entry)
        assert set(re.findall(r"(\d+) bytes (?:stack frame|spill)", entry)) == {"0"}
        registers = int(re.search(r"Used (\d+) registers", entry).group(1))
        training = f"'{choices.kernel}'" in entry.splitlines()[0]
        shared = (choices.training_bytes if training else choices.evaluation_bytes)(PAIRS[0])
        found = blocks_per_sm(registers, shared, architecture)
        assert found == BLOCKS[name, architecture] or (not training and found > 1)


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_compiles_without_spills(activation, dtype):
    for choices in (
        Choices(dtype, activation, activation, "cross_entropy", True),
        Choices(dtype, activation, activation, "cross_entropy", False, method="sdlm"),
    ):
        log = io.StringIO()
        compile_kernels(choices, "sm_90", log)
        assert set(re.findall(r"(\d+) bytes (?:stack frame|spill)", log.getvalue())) == {"0"}


@pytest.mark.usefixtures("nvrtc")
def test_the_cache_of_compiled_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def kept() -> int:
        return sum(path.is_file() for path in tmp_path.rglob("entries/**/*"))

    monkeypatch.setattr(compiler, "source", lambda own="": _TINY)
    compile_kernels(NOTEBOOK, "sm_90")
    (entry,) = (path for path in tmp_path.rglob("entries/**/*") if path.is_file())
    entry.write_bytes(b"\x7fELF, but another one")
    assert compile_kernels(NOTEBOOK, "sm_90").code == b"\x7fELF, but another one"
    monkeypatch.setattr(compiler, "source", lambda own="": _TINY + "\n")
    compile_kernels(NOTEBOOK, "sm_90")  # another source
    assert kept() == 2
    compile_kernels(NOTEBOOK, "sm_80")  # another architecture
    assert kept() == 3
    compile_kernels(replace(NOTEBOOK, loss="cross_entropy"), "sm_80")  # another option
    assert kept() == 4


_TINY = 'extern "C" __global__ void train() {} extern "C" __global__ void evaluate() {}'


def full(*arguments):
    raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("what", ["no home", "no right", "no room", "not readable"])
def test_where_nothing_can_be_kept_the_kernels_are_compiled_all_the_same(
    what, tmp_path, monkeypatch
):
    from cuda.core.utils import FileStreamProgramCache

    monkeypatch.setattr(compiler, "source", lambda own="": _TINY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if what == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")

        def homeless():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
    elif what == "no right":
        (tmp_path / "cuda-python").write_text("a file where the folder would be")
    elif what == "no room":
        monkeypatch.setattr(FileStreamProgramCache, "__setitem__", full)
    else:
        monkeypatch.setattr(FileStreamProgramCache, "__getitem__", full)
    assert compile_kernels(NOTEBOOK, "sm_90").code[:4] == b"\x7fELF"


def test_the_oldest_compiler_that_is_supported_takes_the_source():
    """NVRTC 13.0 refuses a lambda with an `auto` parameter as a host function; 13.5 does not."""
    assert not re.search(r"\]\s*\([^)]*\bauto\b", compiler.source())


@pytest.mark.usefixtures("nvrtc")
def test_a_compiler_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(compiler, "source", lambda own="": "__device__ int x = y;")
    with pytest.raises(LecunAblateError, match=r'for sm_90: error: identifier "y" is undefined'):
        compile_kernels(NOTEBOOK, "sm_90", io.StringIO())


# ---- the launcher, with a stand-in for the driver ----------------------------------------------


class CUDAError(Exception):
    """As cuda.core raises them: not a RuntimeError, and of no public name."""


@pytest.fixture
def fake_gpu(nvrtc, monkeypatch, tmp_path):
    """What cuda.core and cuda.bindings are asked on a GPU; a test may change the answers."""
    import cuda.core
    from cuda.bindings import driver

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "source", lambda own="": _TINY)
    fake = SimpleNamespace(version=13_000, launches=[], attributes=[], damaged=b"", broken=None)

    class Device:
        name, device_id, compute_capability = "fake GPU", 0, (9, 0)
        properties = SimpleNamespace(
            max_shared_memory_per_block_optin=232_448, multiprocessor_count=132
        )

        def __init__(self, index):
            if fake.broken:
                raise CUDAError(fake.broken)

        def set_current(self):
            pass

    def set_attribute(attribute, value, handle, device_id):
        fake.attributes.append((handle, attribute.name, value))
        return (driver.CUresult.CUDA_SUCCESS,)

    class Code:
        def __init__(self, code):
            self.code = code

        def get_kernel(self, name):
            if self.code == fake.damaged:
                raise CUDAError("CUDA_ERROR_INVALID_IMAGE: the image is cut")
            occupancy = SimpleNamespace(max_active_blocks_per_multiprocessor=lambda *_: 4)
            return SimpleNamespace(name=name, handle=name, occupancy=occupancy)

    def compile_or_read(*arguments, **options):
        return Code(compile_kernels(*arguments, **options).code)

    monkeypatch.setattr(gpu, "compile_kernels", compile_or_read)
    monkeypatch.setattr(cuda.core, "Device", Device)
    monkeypatch.setattr(cuda.core, "launch", lambda *given: fake.launches.append(given))
    monkeypatch.setattr(cuda.core, "LaunchConfig", lambda **options: options)
    monkeypatch.setattr(driver, "cuDriverGetVersion", lambda: (0, fake.version))
    monkeypatch.setattr(driver, "cuKernelSetAttribute", set_attribute)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda *_: SimpleNamespace(cuda_stream=0xABC0)
    )
    return fake


def test_both_kernels_may_take_all_the_shared_memory(fake_gpu):
    kernels = Gpu().kernels(NOTEBOOK, 96)
    assert kernels.resident(96) == 528
    for name, shared in (
        ("train", NOTEBOOK.training_bytes(144)),
        ("evaluate", NOTEBOOK.evaluation_bytes(144)),
    ):
        start = "CU_FUNC_ATTRIBUTE_"
        assert (name, f"{start}MAX_DYNAMIC_SHARED_SIZE_BYTES", shared) in fake_gpu.attributes
        assert (name, f"{start}PREFERRED_SHARED_MEMORY_CARVEOUT", 100) in fake_gpu.attributes


@pytest.mark.parametrize("name", ["notebook", *METHODS])
def test_a_launch_passes_what_the_kernels_take(fake_gpu, name):
    """Number and kind of the arguments, against the kernels' source; the stream by its handle."""
    import cuda.core

    launcher = Gpu()
    launcher.torch_device = torch.device("cpu")  # which holds the memory here
    recipe = Recipe(epochs=1, **EVERY[name])
    list(CudaTrainer(launcher).train([Run(recipe, 0)], FIT, {"test": TEST}))
    trains = "train" if name == "notebook" else "train_by"
    text = (compiler.HERE / "kernels.cu").read_text()
    assert [kernel.name for _, _, kernel, *_ in fake_gpu.launches] == [trains, "evaluate"]
    for stream, config, kernel, *arguments in fake_gpu.launches:
        assert isinstance(stream, cuda.core.Stream)
        assert int(stream.handle) == 0xABC0
        assert config["block"] == THREADS
        assert config["grid"] == {trains: 1, "evaluate": 2}[kernel.name]  # 40 images, 32 a block
        taken = re.search(rf"\n{kernel.name}\((.*?)\) {{", text, re.DOTALL).group(1).split(",")
        for parameter, argument in zip(taken, arguments, strict=True):
            if "*" in parameter:
                assert type(argument) is int
            else:
                assert parameter.split()[0] == "int"
                assert type(argument) is np.int32


def test_a_connectivity_may_take_more_than_a_gpu_has(fake_gpu):
    import cuda.core

    cuda.core.Device.properties.max_shared_memory_per_block_optin = 60_000
    trainer = CudaTrainer()
    assert trainer.unsupported(Recipe(connectivity="random_8")) is None
    assert trainer.unsupported(Recipe(connectivity="full")) == (
        "a network in float32 takes 61,872 bytes of shared memory; fake GPU has 60,000 for a block"
    )


def test_a_damaged_program_is_compiled_again(fake_gpu, tmp_path):
    compile_kernels(NOTEBOOK, "sm_90")
    (entry,) = (path for path in tmp_path.rglob("entries/**/*") if path.is_file())
    fake_gpu.damaged = b"\x7fELF, cut off"
    entry.write_bytes(fake_gpu.damaged)
    assert Gpu().kernels(NOTEBOOK, 96).resident(96) == 528
    assert entry.read_bytes() != fake_gpu.damaged  # nor is it met again


def test_kernels_that_do_not_load_leave_the_torch_trainer(fake_gpu):
    fake_gpu.damaged = compile_kernels(NOTEBOOK, "sm_90").code
    reason = "fake GPU does not load the CUDA kernels: CUDA_ERROR_INVALID_IMAGE: the image is cut"
    assert CudaTrainer().unsupported(Recipe()) == reason
    chosen, notices = trainers.choose({"a": Recipe()})
    assert {(t.name, t.device) for t in chosen.values()} == {("torch", "cuda")}
    assert reason in notices[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 12_080}, "it needs a driver for CUDA 13.0 or later, and this one is for 12.8"),
        ({"broken": "CUDA_ERROR_NO_DEVICE"}, "the GPU cannot be used: CUDA_ERROR_NO_DEVICE"),
    ],
)
def test_a_gpu_that_cannot_be_used_leaves_the_torch_trainer(fake_gpu, change, reason):
    assert cuda.availability() is None
    vars(fake_gpu).update(change)
    assert cuda.availability() == reason
    chosen, notices = trainers.choose({"a": Recipe()})
    assert {(t.name, t.device) for t in chosen.values()} == {("torch", "cuda")}
    assert reason in notices[0]
    with pytest.raises(ConfigError, match=re.escape(f"--trainer cuda: {reason}; valid here: auto")):
        trainers.choose({"a": Recipe()}, "cuda")


# ---- the benchmark, whose clock is made up here ------------------------------------------------


@pytest.fixture
def bench(monkeypatch):
    """The module benchmarks/gpu.py."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


def test_an_epoch_is_timed_while_all_runs_are_at_work(bench):
    """Two batches, the second later: each alone takes 1 s for an epoch, together 2 s."""
    first, second = [1, 2, 4, 6, 8], [4, 6, 8, 9, 10]  # together from 2 to 8
    assert bench.epoch_seconds(np.array([first] * 3 + [second] * 3, float)) == 2
    assert bench.epoch_seconds(np.array([[5, 7, 9, 11.0]])) == (11 - 5) / 3
    assert bench.epoch_seconds(np.array([[1, 2], [2, 3.0]])) is None


def test_a_training_that_is_too_short_is_timed_again_with_more_epochs(bench, monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "moments", lambda trainer, runs, fit, splits: runs)
    few, many = np.array([[1, 2], [2, 3.0]]), np.array([[5, 7, 9, 11.0]])
    told = {8: few, 32: many}
    assert bench.one_epoch(None, lambda e: asked.append(e) or told[e], None, {}) == 2
    assert asked == [8, 32]
    told[32] = few
    with pytest.raises(RuntimeError, match="never all at work"):
        bench.one_epoch(None, told.get, None, {})


def test_what_the_benchmark_makes_of_an_epoch(bench, monkeypatch):
    """A trainer whose start takes long and never the same time: only its epochs count."""
    now, seen = [0.0], []
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    class Trainer:
        def train(self, runs, fit, splits):
            seen.append(len(fit))
            now[0] += 1000 * len(seen)
            for epoch in range(1, runs[0].last_epoch + 1):
                now[0] += 0.5 + 2e-3 * len(fit) + 1e-3 * sum(map(len, splits.values()))
                for index in range(len(runs)):
                    yield SimpleNamespace(index=index, epoch=epoch, diverged=False)

    found = bench.epoch_of(Trainer(), "float32", 3, (40, 120))
    assert found == pytest.approx((0.5 + 2e-3 * 7291, 1e-3 * (7291 + 2007)))
    assert seen == [40, 40, 120]
    found = bench.epoch_of(Trainer(), "float32", 3, (7291,))
    assert found == pytest.approx((0.5 + 2e-3 * 7291, 1e-3 * (7291 + 2007)))


@on_cpu
def test_the_benchmark_times_every_trainer(bench, monkeypatch):
    monkeypatch.setattr(bench, "random_split", lambda n, seed: split(40, seed))
    monkeypatch.setattr(bench, "TRAIN", 40)
    for trainer in (CudaTrainer(Cpu(resident=100)), TorchTrainer("cpu", threads=1)):
        training, _ = bench.epoch_of(trainer, "float32", 5, (20, 40))
        assert 0 < training < 60
    arrived = bench.moments(trainer, bench.runs_of("float64", 2, epochs=3), FIT, {})
    assert (np.diff(arrived) > 0).all()


@on_cpu
def test_the_benchmark_times_every_ingredient(bench, monkeypatch, capsys):
    monkeypatch.setattr(bench, "random_split", lambda n, seed: FIT)
    monkeypatch.setattr(bench, "CudaTrainer", lambda threads: CudaTrainer(Cpu(resident=300)))
    runs_of = bench.runs_of
    monkeypatch.setattr(bench, "runs_of", lambda *a, **f: runs_of(a[0], 2, *a[2:], **f))
    bench.ingredients()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == len(bench.INGREDIENTS)
    assert all(float(row.split("|")[3]) > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_says_that_there_is_no_gpu():
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert re.fullmatch(r"This needs a GPU: .*\n", done.stderr)
    assert done.stdout == ""


# ---- on a GPU ----------------------------------------------------------------------------------


# every loss, with and without momentum, any connectivity
LEARNING = {
    "mse": {"lr": 0.003},
    "half_sum_squares": {"momentum": 0.9, "connectivity": "random_8", "lr": 0.001},
    "cross_entropy": {"connectivity": "full", "order": "shuffled", "lr": 0.003},
}


def every_choice(activation: str, dtype: str) -> list[list[Run]]:
    """Return runs of each loss, with `activation` in all layers."""
    recipes = [
        Recipe(
            activation=activation,
            output_activation=activation,
            loss=loss,
            **LEARNING[loss],
            dtype=dtype,
            epochs=2,
        )
        for loss in LOSSES
    ]
    return [[Run(recipe, seed) for seed in range(3)] for recipe in recipes]


def by_method(name: str, dtype: str) -> list[list[Run]]:
    """Return runs by a method, on little data; some of them of one launch."""
    recipe = Recipe(**METHODS[name], dtype=dtype, epochs=3)
    return [[Run(recipe, seed) for seed in range(3)]]


COMPARED = [(every_choice, name) for name in ACTIVATIONS] + [(by_method, name) for name in METHODS]


@on_cpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("runs_of", "name"), COMPARED)
def test_what_a_gpu_is_compared_on_stays_finite(runs_of, name, dtype):
    """A GPU's NaN in float32 has other bits than a CPU's: comparing them would compare nothing."""
    for runs in runs_of(name, dtype):
        for report in CudaTrainer(Cpu()).train(runs, FIT, {"test": TEST}):
            assert not report.diverged
            for kept in (report.state.parameters, report.state.optimizer):
                assert all(np.isfinite(t).all() for t in kept.values())


@pytest.mark.gpu
@on_cpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("runs_of", "name"), COMPARED)
def test_a_gpu_computes_the_bits_of_the_cpu(runs_of, name, dtype):
    for runs in runs_of(name, dtype):
        assert bits(Gpu(), runs) == bits(Cpu(), runs)


@pytest.mark.gpu
@pytest.mark.parametrize("method", [{}, METHODS["adamw"]], ids=["plain", "adamw"])
def test_many_networks_on_a_gpu_do_not_disturb_each_other(method):
    recipe = Recipe(**{"epochs": 2, "order": "shuffled", **method})
    runs = [Run(recipe, seed) for seed in range(1000)]
    trainer = CudaTrainer()
    together = bits(trainer.launcher, runs)
    for i in (0, 511, 999):
        assert bits(trainer.launcher, [runs[i]]) == [together[i]]
