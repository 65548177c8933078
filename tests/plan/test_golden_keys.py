"""Stored keys are a promise: the keys of many runs, plans and studies, as they have always been.

`golden/keys.json` was computed once. A key that changes makes every store train its runs again, so
a difference here is a mistake in the code, not in the file. New cases may be added to the file:
`python tests/plan/test_golden_keys.py` writes those that it lacks.
"""

import json
from pathlib import Path

import numpy as np

from lecun_ablate.config.experiment import load_experiment
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.config.study import load_study
from lecun_ablate.data.digits import Digits, Split
from lecun_ablate.plan.keys import content_hash, plan_key, run_key, study_key
from lecun_ablate.plan.plan import Plan
from lecun_ablate.registry import registry
from lecun_ablate.trainers.base import Identity

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
KEYS = GOLDEN / "keys.json"
OWN = str(GOLDEN / "golden.py")  # a component that is not built in
DIGEST = "0123456789abcdef"

IDENTITIES = {
    "native avx512": ("native", "cpu", "avx512", 2),
    "native neon": ("native", "cpu", "neon", 1),
    "torch cpu": ("torch", "cpu", "avx2", 2),
    "torch cuda": ("torch", "cuda", "sm_90", 2),
    "cuda": ("cuda", "cuda", "sm_90", 3),
}
RECIPES = {
    "notebook": {},
    "float64": {"dtype": "float64"},
    "tuned": {"lr": 0.0123456789, "momentum": 0.9},
    "tiny rate": {"lr": 1e-7},
    "softmax": {"loss": "cross_entropy", "output_activation": "identity"},
    "shuffled": {"order": "shuffled", "order_seed": 3, "init_seed": 2**40},
    "other net": {"init": "kaiming", "connectivity": "random_8", "activation": "lisht"},
    "other ends": {"padding": 0.0, "output_bias": -0.5, "epochs": 7, "target": "bipolar"},
    "own": {"activation": "golden"},
}
EXPERIMENTS = {
    "factors": "vary: {activation: [tanh, relu], lr: [0.01, 0.1]}\nseeds: [3, 1, 4]",
    "ladder": "ladder: [{name: '1989'}, {lr: 0.05}, {activation: relu}]\nseeds: 2",
    "baseline": "arms: [{lr: 0.1}, {name: b, lr: 0.2}]\nbaseline: b\nseeds: 1",
    "resampled": "data: {name: usps, split: resampled}\narms: [{lr: 0.1}, {lr: 0.2}]\nseeds: 2",
    "ablate all": "ablate: {to: {lr: 0.1, activation: relu, init: fan_in}}\nseeds: 2",
    "ablate the rest": "ablate: {to: {lr: 0.1, activation: relu}, arms: leave_one_out}\nseeds: 2",
    "ablate a path": "ablate: {to: {lr: 0.1, activation: relu}, arms: path}\nseeds: 2",
    "single": "recipe: {epochs: 2}\nseeds: [1337]",
    "own": "components: golden.py\nvary: {activation: [tanh, golden]}\nseeds: 1",
    "other name": "vary: {activation: [tanh, relu], lr: [0.01, 0.1]}\nseeds: [3, 1, 4]",
}
STUDIES = {
    "rates": "search: {lr: {low: 0.001, high: 1, log: true}}\ntrials: 4\n"
    "arms: [{activation: tanh}, {activation: relu}]",
    "searches": "search: {lr: {low: 0.001, high: 1, log: true}}\ntrials: 4\nsearches: 2",
    "choices": "search: {lr: {low: 0.001, high: 1}, init: [fan_in, xavier]}\ntrials: 2\n"
    "seeds: 2\nbatch: 3\nsampler: random\npruner: {first: 1}\nepochs: 9",
    "own": "components: golden.py\nsearch: {activation: [tanh, golden]}\ntrials: 2",
}
SEED_STUDIES = {
    "both": "governs: both\nseeds: 3",
    "all": "governs: [weights, order, both]\nrecipe: {order: shuffled}\nseeds: 2",
    "split": "governs: [both, split]\nseeds: 2",
}


def identity(name: str) -> Identity:
    return Identity(*IDENTITIES[name])


def digits() -> Digits:
    """Return digits that are the same everywhere."""
    split = Split(np.zeros((10, 16, 16)), np.arange(10))
    return Digits("golden", split, split, "made up")


def keys(folder: Path) -> dict[str, str]:
    """Return every key by the name of its case; `folder` is one to write files to."""
    registry.load(OWN)
    found = {}
    for split in ("train/test", "fit/validation"):
        for trainer in IDENTITIES:
            for name, fields in RECIPES.items():
                for seed in (0, 1337, 2**62):
                    data = {"digest": DIGEST, "split": split}
                    key = run_key(Recipe(**fields), seed, data, identity(trainer))
                    found[f"run: {name}, seed {seed}, {trainer}, {split}"] = key
    files = {path.stem: path for path in sorted((ROOT / "experiments").glob("*.yaml"))}
    for name, text in EXPERIMENTS.items():
        files[f"made up {name}"] = file = folder / f"{name}.yaml"
        title = "other" if name == "other name" else "made-up"
        file.write_text(f"name: {title}\n{text.replace('golden.py', OWN)}\n")
    experiments = {name: load_experiment(file) for name, file in files.items()}
    for name, text in SEED_STUDIES.items():
        file = folder / f"seeds {name}.yaml"
        file.write_text(f"name: made-up\n{text}\n")
        experiments[f"study of seeds, {name}"] = load_study(file).experiment()
    for name, experiment in experiments.items():
        arms = [arm.name for arm in experiment.arms]
        for trainer, trainers in {
            "native avx512": dict.fromkeys(arms, identity("native avx512")),
            "mixed": {
                arm: identity("torch cpu" if i % 2 else "native avx512")
                for i, arm in enumerate(arms)
            },
        }.items():
            plan = Plan.make(experiment, digits(), trainers)
            assert plan.key == plan_key(experiment, digits().digest, trainers)
            found[f"plan: {name}, {trainer}"] = plan.key
            every = {f"{arm}/{seed}": key for (arm, seed), key in plan.keys.items()}
            found[f"runs of the plan: {name}, {trainer}"] = content_hash(every)
    studies = {"learning_rate": ROOT / "studies/learning_rate.yaml"}
    for name, text in STUDIES.items():
        studies[f"made up {name}"] = file = folder / f"study {name}.yaml"
        file.write_text(f"name: made-up\n{text.replace('golden.py', OWN)}\n")
    for name, file in studies.items():
        study = load_study(file)
        for arm in study.arms:
            for one in study.each():
                definition = one.definition(arm, DIGEST)
                found[f"study: {name}, arm {one.label(arm.name)}"] = content_hash(definition)
        key = study_key(study.name, DIGEST, "f" * 32)
        found[f"study's run: {name}"] = key
    return found


def test_every_key_is_the_one_it_has_always_been(tmp_path):
    golden = json.loads(KEYS.read_text())
    found = keys(tmp_path)
    assert found.keys() == golden.keys()
    changed = [name for name in golden if found[name] != golden[name]]
    assert not changed, changed
    runs = [key for name, key in golden.items() if name.startswith("run: ")]
    assert len(set(runs)) == len(runs) == 270


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as work:
        made = keys(Path(work))
    known = json.loads(KEYS.read_text()) if KEYS.exists() else {}
    KEYS.write_text(json.dumps(made | known, indent=1) + "\n")
    print(f"{KEYS}: {len(made.keys() - known.keys())} new keys")
