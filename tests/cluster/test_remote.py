"""A trainer on a cluster that is made up: nodes die, freeze and answer late as a test says."""

import itertools
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from cuda_on_cpu import Cpu

from lecun_ablate.cluster import address, admission, crew, dispatch, pace, worker
from lecun_ablate.cluster.crew import Crew
from lecun_ablate.cluster.engine import Answer, Place
from lecun_ablate.cluster.joining import joined
from lecun_ablate.cluster.remote import RemoteTrainer
from lecun_ablate.cluster.travel import Data, PackedSplit, slim
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.data.digits import Split
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.registry import registry
from lecun_ablate.trainers import native
from lecun_ablate.trainers.base import Identity, Run
from lecun_ablate.trainers.cuda import CudaTrainer
from lecun_ablate.trainers.torch_trainer import TorchTrainer

pytestmark = pytest.mark.usefixtures("plain_reports")
PLAIN = (Recipe(),)
FEW = Split(np.random.default_rng(0).integers(0, 256, (40, 16, 16)) / 127.5 - 1, np.arange(40) % 10)
HELD = FEW.take(np.arange(15))


class MadeUpEngine:
    """Calls are done in this process when they are waited for; everything passes through pickle.

    `fault(place, function, arguments)` may return why a call is lost, FROZEN, or None.
    """

    def __init__(self, slots: dict[str, int], fault=lambda place, function, arguments: None):
        self.slots, self.fault = slots, fault
        self.alive: dict[str, Place] = {}
        self.queues: dict[str, list] = {}
        self.lost: list[Answer] = []
        self.done: Counter[str] = Counter()  # groups, by node
        self.made = itertools.count()
        self.tickets = itertools.count()
        self.sent = 0  # bytes

    def places(self, without):
        for node, wanted in self.slots.items():
            there = sum(place.node == node for place in self.alive.values())
            for _ in range(wanted - there if node not in without else 0):
                place = Place(f"{node}/{next(self.made)}", node, node)
                self.alive[place.id], self.queues[place.id] = place, []
        return list(self.alive.values())

    def share(self, value):
        return pickle.dumps(value)

    def submit(self, place, function, *arguments):
        ticket = next(self.tickets)
        # as with a real one, the place may have died without anybody having noticed
        self.queues.setdefault(place.id, []).append((ticket, function, pickle.dumps(arguments)))
        return ticket

    def wait(self, seconds):
        answers, self.lost = self.lost, []
        for place in list(self.alive.values()):
            if not self.queues[place.id]:
                continue
            ticket, function, packed = self.queues[place.id][0]
            arguments = [
                pickle.loads(one) if isinstance(one, bytes) else one for one in pickle.loads(packed)
            ]
            fault = self.fault(place, function, arguments)
            if fault is FROZEN:
                continue
            if fault:
                self.cancel(place, fault)
                continue
            del self.queues[place.id][0]
            value = pickle.dumps(function(*arguments))
            self.sent += len(value)
            self.done[place.node] += function is worker.train
            answers.append(Answer(ticket, pickle.loads(value)))
        if not answers:
            time.sleep(0.01)
        return answers

    def cancel(self, place, why="killed"):
        self.alive.pop(place.id, None)
        for ticket, *_ in self.queues.pop(place.id, []):
            self.lost.append(Answer(ticket, lost=why))

    def close(self):
        pass


FROZEN = object()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(crew, "LOOKS", 0)
    monkeypatch.setattr(dispatch, "NOBODY", 0.2)
    monkeypatch.setattr(dispatch, "REFUSED", 0.2)


@pytest.fixture
def said():
    return []


def remote(engine, said=None, trainer=None, recipes=PLAIN):
    said = [] if said is None else said
    trainer = trainer or TorchTrainer("cpu", threads=1)
    return RemoteTrainer(trainer, recipes, Crew(engine, said.append, said.append))


def runs(n=6, epochs=2, **fields):
    return [Run(Recipe(epochs=epochs, **fields), seed, arm="plain") for seed in range(n)]


def bits(reports):
    """Return everything about reports but when and where, in an order of its own."""
    return sorted(
        (
            r.index, r.epoch, r.diverged, r.last,
            [(k, s.loss, s.misses, s.images, s.predictions.tobytes()) for k, s in r.scores.items()],
            sorted((k, v.tobytes()) for k, v in (r.state.parameters | r.state.optimizer).items()),
        )
        for r in reports
    )  # fmt: skip


def train(trainer, runs, on_epoch=None):
    return list(trainer.train(runs, FEW, {"fit": FEW, "held": HELD}, on_epoch))


def collect(found, trainer, runs):
    """Append the reports one by one, so that they are there if an error follows."""
    for report in trainer.train(runs, FEW, {"fit": FEW}):
        found.append(report)


# ---- the same bits


@pytest.mark.parametrize(
    "fields",
    [{}, {"optimizer": "adamw", "lr": 1e-3, "average": 0.9, "dropout": 0.25}, {"dtype": "float64"}],
)
def test_reports_are_those_of_the_trainer_itself(fields):
    wanted = train(TorchTrainer("cpu", threads=1), runs(**fields))
    engine = MadeUpEngine({"one": 2, "two": 1})
    trainer = remote(engine, recipes=[Recipe(**fields)])
    assert bits(train(trainer, runs(**fields), on_epoch=lambda report: None)) == bits(wanted)
    assert set(engine.done) == {"one", "two"}
    assert trainer.identity() == trainer.inner.identity()
    # without anybody who looks at every epoch, the last alone is whole
    assert bits(train(trainer, runs(**fields))) == bits(r if r.last else slim(r) for r in wanted)


def test_a_run_goes_on_from_a_state():
    whole = [r for r in train(TorchTrainer("cpu", threads=1), runs(2, 4)) if r.last]
    trainer = remote(MadeUpEngine({"one": 1}))
    part = {
        r.index: r for r in train(trainer, [Run(r.recipe, r.seed, until=2) for r in runs(2, 4)])
    }
    assert {r.epoch for r in part.values()} == {2} and all(r.last for r in part.values())
    rest = [Run(r.recipe, r.seed, part[i].state) for i, r in enumerate(runs(2, 4))]
    assert bits(r for r in train(trainer, rest) if r.last) == bits(whole)


def test_on_epoch_ends_a_run():
    trainer = remote(MadeUpEngine({"one": 1}))
    found = train(trainer, runs(3, 4), on_epoch=lambda r: r.index == 1 and r.epoch == 2)
    assert Counter(r.index for r in found) == {0: 4, 1: 2, 2: 4}
    assert [r.epoch for r in found if r.last] == [4, 2, 4]


def test_a_run_that_diverges_is_a_result():
    with np.errstate(all="ignore"):
        found = train(
            remote(MadeUpEngine({"one": 1})), runs(1, 5, lr=1e6, output_activation="relu")
        )
    assert found[-1].diverged and found[-1].last and found[-1].epoch < 5


def test_environments_name_the_node():
    found = train(remote(MadeUpEngine({"one": 1})), runs(1))
    assert found[-1].environment["machine"].endswith(" of one")


# ---- what travels


@pytest.mark.parametrize(
    ("images", "dtype"),
    [
        (FEW.images, np.uint8),
        (np.random.default_rng(1).uniform(-1, 1, (9, 16, 16)).astype(np.float32), np.float32),
        (np.random.default_rng(1).uniform(-1, 1, (9, 16, 16)), np.float64),
    ],
)
def test_splits_keep_their_bits(images, dtype):
    split = Split(images.astype(np.float64), np.arange(len(images)) % 10)
    packed = PackedSplit.of(split)
    assert packed.images.dtype == dtype
    again = packed.unpacked()
    assert again.images.dtype == np.float64 and again.labels.dtype == np.int64
    assert again.images.tobytes() == split.images.tobytes()
    assert (again.labels == split.labels).all()


def test_data_travel_once_and_are_told_apart():
    same, other = Data.of(FEW, {"fit": FEW, "held": HELD}), Data.of(HELD, {"held": HELD})
    assert len(same.splits) == 2 and same.key != other.key
    fit, evaluate = same.unpacked()
    assert evaluate["fit"] is fit and len(evaluate["held"]) == len(HELD)
    assert same.key == Data.of(FEW, {"fit": FEW, "held": HELD}).key
    swapped = Split(FEW.images, FEW.labels[::-1].copy())
    assert Data.of(swapped, {"fit": swapped, "held": HELD}).key != same.key


def test_an_answer_is_small():
    engine = MadeUpEngine({"one": 1})
    train(remote(engine), runs(10, 5))
    assert engine.sent / 10 < 50_000  # the weights are 39,040 bytes


def test_components_travel_as_source(tmp_path, monkeypatch):
    (tmp_path / "half.py").write_text("HALF = 0.5\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "from lecun_ablate import register\nfrom half import HALF\n\n"
        "@register('activation')\ndef halved(x):\n    return (HALF * x).tanh()\n"
    )
    registry.load(file)
    wanted = train(TorchTrainer("cpu", threads=1), runs(2, activation="halved"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sent = registry.get("activation", "halved")

    def forgets(place, function, arguments):  # as another machine would not know it
        if function is worker.train:
            registry._components["activation"].pop("halved", None)
            sys.modules.pop("half", None)
            monkeypatch.setattr(worker, "_trainers", {})

    engine = MadeUpEngine({"one": 1}, forgets)
    trainer = remote(engine, recipes=[Recipe(activation="halved")])
    file.unlink()
    assert bits(train(trainer, runs(2, activation="halved"), lambda r: None)) == bits(wanted)
    there = registry.get("activation", "halved")
    assert there.digest == sent.digest and there.file != sent.file
    assert there.file.parent.name == sent.digest


def test_components_without_a_file_are_refused():
    registry.register("activation", "lambda")(eval("lambda x: x.tanh()"))
    with pytest.raises(ConfigError, match=r"activation 'lambda' cannot travel.*put it into a file"):
        remote(MadeUpEngine({"one": 1}), recipes=[Recipe(activation="lambda")])


@pytest.mark.skipif(not native.instruction_sets(), reason="no compiled kernel")
def test_a_trainer_arrives_as_it_was_or_says_why_not(monkeypatch):
    oldest = native.instruction_sets()[-1]
    packed = pickle.dumps(native.NativeTrainer(threads=3, instruction_set=oldest))
    there = pickle.loads(packed)
    assert (there.threads, there.instruction_set) == (3, oldest)
    monkeypatch.setattr(native.kernel, "INSTRUCTION_SETS", ("other",))
    with pytest.raises(ConfigError, match="is not available"):
        pickle.loads(packed)


@pytest.mark.parametrize("own", [True, False])
def test_a_trainer_that_compiles_own_components_still_does_when_it_arrives(own):
    trainers = [CudaTrainer(Cpu(), threads=2, own_components=own)]
    if native.instruction_sets():
        trainers.append(native.NativeTrainer(threads=2, own_components=own))
    for trainer in trainers:
        there = pickle.loads(pickle.dumps(trainer))
        assert there.identity() == trainer.identity()
        assert (there.threads, there.own_components) == (2, own)


def test_like_runs_travel_together():
    """The torch trainer advances like runs at once: a group that mixes arms would be slow."""
    groups = []

    def note(place, function, arguments):
        if function is worker.train:
            groups.append({run.arm for run in arguments[2]})

    arms = {"a": Recipe(epochs=1), "b": Recipe(epochs=1, activation="relu")}
    mixed = [Run(recipe, seed, arm=arm) for seed in range(64) for arm, recipe in arms.items()]
    trainer = remote(MadeUpEngine({"one": 1, "two": 1}, note), recipes=list(arms.values()))
    assert len(train(trainer, mixed)) == 128
    assert sum(len(group) > 1 for group in groups) <= 1, groups


def test_ray_is_imported_by_nothing_but_its_engine():
    code = (
        "import sys, lecun_ablate.cli, lecun_ablate.api, lecun_ablate.cluster.joining; "
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "lecun_ablate.cluster.ray_engine", raising=False)
    with (
        pytest.raises(ConfigError, match=r"pip install 'lecun-ablate\[ray\]'"),
        joined("127.0.0.1:6379", print, print) as cluster,
    ):
        cluster.spread(TorchTrainer("cpu", threads=1), PLAIN)


# ---- what goes wrong


def test_what_a_dead_place_had_is_trained_elsewhere():
    wanted = bits(train(TorchTrainer("cpu", threads=1), runs(8)))
    died = Counter()

    def once(place, function, arguments):
        if function is worker.train and place.node == "bad" and not died["bad"]:
            died["bad"] += 1
            return "WorkerCrashedError"
        return None

    found = train(remote(MadeUpEngine({"bad": 1, "good": 1}, once)), runs(8), lambda r: None)
    assert died["bad"] == 1 and bits(found) == wanted


def test_a_group_that_is_lost_is_tried_again_run_by_run(monkeypatch):
    """One run that ends its process takes no other with it, and is named with its arm."""
    groups = []

    def crashes(place, function, arguments):
        if function is worker.train:
            groups.append([run.seed for run in arguments[2]])
            if 3 in groups[-1]:
                return "WorkerCrashedError: signal 11"
        return None

    trainer = remote(MadeUpEngine({"one": 1, "two": 1}, crashes))
    found = []
    with pytest.raises(LecunAblateError) as caught:
        collect(found, trainer, runs(8))
    assert str(caught.value).startswith("arm 'plain', seed 3: lost 4 times, most recently: ")
    assert "signal 11" in str(caught.value)
    assert {r.index for r in found if r.last} == set(range(8)) - {3}
    assert sum(3 in group for group in groups) == dispatch.TRIES
    assert groups.count([3]) == dispatch.TRIES - 1


def test_a_frozen_node_costs_its_deadline(monkeypatch):
    monkeypatch.setattr(dispatch, "DEADLINE", 0.3)
    frozen = []

    def fault(place, function, arguments):
        if function is worker.train and place.node == "ice":
            frozen.append(place)
            return FROZEN
        return None

    wanted = bits(train(TorchTrainer("cpu", threads=1), runs(6)))
    found = train(remote(MadeUpEngine({"ice": 1, "fire": 1}, fault)), runs(6), lambda r: None)
    assert frozen and bits(found) == wanted


def test_a_late_answer_counts_once(monkeypatch):
    monkeypatch.setattr(dispatch, "DEADLINE", 0.2)
    slow = threading.Event()

    class Late(MadeUpEngine):
        """Ends no process when asked to: its answers come after all."""

        def cancel(self, place, why="killed"):
            slow.set()

    def fault(place, function, arguments):
        late = function is worker.train and place.node == "slow" and not slow.is_set()
        return FROZEN if late else None

    engine = Late({"slow": 1, "fast": 1}, fault)
    wanted = bits(train(TorchTrainer("cpu", threads=1), runs(6)))
    assert bits(train(remote(engine), runs(6), lambda r: None)) == wanted


def test_work_that_waits_behind_a_crash_is_no_try_of_its_own(monkeypatch):
    crashes = Counter()

    def fault(place, function, arguments):
        if function is worker.train and 0 in [run.seed for run in arguments[2]]:
            crashes[place.id] += 1
            return "WorkerCrashedError"
        return None

    monkeypatch.setattr(pace, "SHORTEST", 0)
    monkeypatch.setattr(pace, "LONGEST", 0)  # run by run
    trainer = remote(MadeUpEngine({"one": 1}, fault), trainer=Single())
    found = []
    with pytest.raises(LecunAblateError, match=r"^arm 'plain', seed 0: lost 4 times"):
        collect(found, trainer, runs(12))
    assert {r.index for r in found} == set(range(1, 12))


class Single(TorchTrainer):
    """Trains run by run, however short."""

    def __init__(self):
        super().__init__("cpu", threads=1)
        self.together = 1


def test_an_error_of_a_component_is_not_tried_again(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(
        "from lecun_ablate import register\n\n@register('schedule')\ndef late(progress):\n"
        "    if progress.max() > 0.5:\n        raise ArithmeticError('too late')\n"
        "    return progress * 0 + 1\n"
    )
    registry.load(file)
    groups = Counter()

    def count(place, function, arguments):
        groups["train"] += function is worker.train

    recipes = [Recipe(schedule="late", epochs=4), Recipe(epochs=4)]
    mixed = [Run(recipe, 0, arm=f"arm{i}") for i, recipe in enumerate(recipes)]
    trainer = remote(MadeUpEngine({"one": 1}, count), trainer=Single(), recipes=recipes[1:])
    found = []
    with pytest.raises(LecunAblateError, match="arm 'arm0', seed 0: ArithmeticError: too late"):
        collect(found, trainer, mixed)
    assert [r.index for r in found if r.last] == [1]
    assert groups["train"] == 3, "both together, then each alone"


def test_a_cluster_that_can_train_nothing_is_told_about():
    with pytest.raises(LecunAblateError, match="no cores to give"):
        train(remote(MadeUpEngine({})), runs(1))


def test_a_node_whose_processes_never_start_is_left_out(said):
    def fault(place, function, arguments):
        return "No module named 'lecun_ablate'" if place.node == "bare" else None

    engine = MadeUpEngine({"bare": 2, "whole": 1}, fault)
    assert len(train(remote(engine, said), runs(2, 1))) == 2
    with pytest.raises(LecunAblateError, match="can train; bare: No module named"):
        train(remote(MadeUpEngine({"bare": 1}, fault), said), runs(1))
    assert "bare is left out: bare: No module named 'lecun_ablate'" in said


def test_closing_the_reports_ends_the_work():
    engine = MadeUpEngine({"one": 1, "two": 1})
    trainer = remote(engine, trainer=Single())
    reports = trainer.train(runs(40), FEW, {"fit": FEW})
    next(reports)
    reports.close()
    assert not any(engine.queues.values())
    assert len(train(trainer, runs(2))) == 4, "the trainer can be used again"


def test_a_slow_reader_is_not_taken_for_a_slow_node(monkeypatch):
    monkeypatch.setattr(dispatch, "DEADLINE", 0.05)
    calls = Counter()

    def count(place, function, arguments):
        calls["train"] += function is worker.train

    trainer = remote(MadeUpEngine({"one": 1}, count), trainer=Single())
    monkeypatch.setattr(pace, "SHORTEST", 0)
    for _ in trainer.train(runs(4, 1), FEW, {"fit": FEW}):
        time.sleep(0.1)
    assert calls["train"] == 4


# ---- admission


class OtherBits(MadeUpEngine):
    """The node "odd" rounds in another way."""

    def wait(self, seconds):
        answers = super().wait(seconds)
        return [
            Answer(a.ticket, self.change(a.value)) if isinstance(a.value, admission.Probed) else a
            for a in answers
        ]

    def change(self, probed):
        self.probes = getattr(self, "probes", 0) + 1
        return self.changed(probed) if self.probes == 1 else probed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: {"bits": ("0" * 64,)}, "it gives other bits for 1 of 1 recipes"),
        (lambda p: {"identity": Identity("torch", "cpu", "sse", 2)}, "instruction set"),
        (lambda p: {"refusal": "OSError: no space", "identity": None}, "cannot train there: OSE"),
    ],
)
def test_a_node_with_other_bits_is_left_out_by_name(said, change, words):
    engine = OtherBits({"odd": 2, "same": 1})
    engine.changed = lambda probed: replace(probed, **change(probed))
    assert len(train(remote(engine, said), runs(6, 1))) == 6
    assert engine.done["odd"] == 0 and engine.done["same"] > 0
    (left_out,) = [text for text in said if "left out" in text]
    assert left_out.startswith("odd is left out: ") and words in left_out
    assert not any(place.node == "odd" for place in engine.alive.values())


@pytest.mark.skipif(native.kernel is None, reason="no compiled kernel")
def test_another_instruction_set_is_named_with_the_one_that_both_have():
    trainer = native.NativeTrainer(threads=1)
    here = admission.probed(trainer, admission.Probe.of([Recipe()], FEW))
    if len(here.instruction_sets) < 2:
        pytest.skip("this CPU has one instruction set only")
    fewer = here.instruction_sets[1:]
    there = admission.Probed("ConfigError: not available", instruction_sets=fewer)
    assert f"--instruction-set {fewer[0]}" in admission.objection(here, there)
    assert admission.objection(here, here) is None
    older = native.NativeTrainer(threads=1, instruction_set=fewer[0])
    other = admission.probed(older, admission.Probe.of([Recipe()], FEW))
    assert other.bits != here.bits, "64 patterns do not tell instruction sets apart"


# ---- groups


def test_groups_become_shorter_towards_the_end():
    assert pace.group_seconds(1e6, 10) == pace.LONGEST
    assert pace.group_seconds(60, 10) == 2
    assert pace.group_seconds(1, 10) == pace.SHORTEST
    assert pace.least_runs(1000, 4, 32) == 32 and pace.least_runs(10, 4, 32) == 3
    assert pace.least_runs(10, 4, 1) == 1


def test_pace_is_that_of_the_arm_then_of_all_then_a_guess():
    reports = train(TorchTrainer("cpu", threads=1), runs(1, 3))
    known = sum(r.seconds for r in reports)
    one = pace.Pace(lambda run: 7.0)
    run, other = Run(Recipe(epochs=6), 0, arm="a"), Run(Recipe(epochs=3), 0, arm="b")
    assert one.of(run) == 42
    one.learn("a", reports)
    assert one.of(run) == pytest.approx(2 * known)
    one.learn("b", [*reports, *reports])
    assert one.of(other) == pytest.approx(known)
    assert one.of(Run(Recipe(epochs=3), 0, arm="c")) == pytest.approx(known)


# ---- the address


@pytest.mark.parametrize("text", ["host", "host:", ":6379", "host:0", "host:70000", "http://h:1"])
def test_addresses_are_a_host_and_a_port(text):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        address.reachable(text)


def test_ray_client_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"Ray Client is not supported.*ray job submit"):
        address.reachable("ray://127.0.0.1:10001")


def test_nobody_listens(monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(LecunAblateError, match=f"--on {name}: no Ray cluster answers"):
            address.reachable(name)
        monkeypatch.setenv("RAY_ADDRESS", name)
        with pytest.raises(LecunAblateError, match=f"--on {name}: no Ray cluster answers"):
            address.reachable("auto")
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ConfigError, match="ray start --head"):
        address.reachable("auto")


def test_something_else_listens(monkeypatch):
    monkeypatch.setattr(address, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(LecunAblateError, match="timed out"):  # it says nothing
            address.reachable(name)

        def answer():
            for _ in range(2):
                connection, _ = server.accept()
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(LecunAblateError, match="something else listens there"):
            address.reachable(name)
        thread.join(2)
