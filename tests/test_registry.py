"""The registry: names, errors, and files of components."""

import re
import subprocess
import sys

import pytest
import torch

from lecun_ablate.errors import ConfigError
from lecun_ablate.registry import KINDS, Registry, registry


def test_every_builtin_has_a_summary_with_a_source():
    for kind in KINDS:
        if kind == "data":
            continue
        assert registry.names(kind)
        for name in registry.names(kind):
            component = registry.get(kind, name)
            assert component.builtin
            assert len(component.summary) > 20, (kind, name)
            assert re.search(r"(19|20)\d\d", component.function.__doc__), f"{name} names no year"


def test_unknown_names_list_the_nearest_and_all_valid_ones():
    with pytest.raises(ConfigError, match=r"'tahn'.*did you mean 'tanh'.*valid: tanh, .*identity"):
        registry.get("activation", "tahn")
    with pytest.raises(ConfigError, match=r"'activaton'.*did you mean 'activation'"):
        registry.get("activaton", "tanh")


def test_a_taken_name_is_an_error_that_says_who_has_it():
    fresh = Registry()

    @fresh.register("activation")
    def square(x):
        return x * x

    with pytest.raises(ConfigError, match=r"activation 'square' is already registered"):
        fresh.register("activation", "square")(lambda x: x)
    with pytest.raises(ConfigError, match="activation 'tanh' is already built in"):
        registry.register("activation", "tanh")(lambda x: x)


def test_components_may_leave_out_trailing_arguments_but_not_ask_for_more():
    fresh = Registry()
    fresh.register("connectivity", "none")(lambda: "no argument")
    fresh.register("connectivity", "one")(lambda g: g)
    assert fresh.get("connectivity", "none")(7) == "no argument"
    assert fresh.get("connectivity", "one")(7) == 7
    with pytest.raises(ConfigError, match=r"wrong arguments: expected loss\(outputs, targets\)"):
        fresh.register("loss", "one")(lambda outputs: outputs)
    with pytest.raises(ConfigError, match="wrong arguments"):
        fresh.register("activation", "two")(lambda x, y: x)


def test_a_class_is_registered_as_an_instance():
    fresh = Registry()

    @fresh.register("activation", "shifted")
    class Shifted:
        def __init__(self):
            self.by = 3

        def __call__(self, x):
            return x + self.by

    assert fresh.get("activation", "shifted")(torch.ones(1)) == 4


def test_a_file_is_loaded_once_and_again_when_it_changed(tmp_path):
    file = tmp_path / "mine.py"
    source = "from lecun_ablate import register\n@register('activation')\ndef mine(x):\n return x"
    file.write_text(source)
    registry.load(file)
    first = registry.get("activation", "mine")
    registry.load(file)
    assert registry.get("activation", "mine") is first
    assert first.file == file and not first.builtin
    file.write_text(source + " * 2")
    registry.load(file)
    second = registry.get("activation", "mine")
    assert second(3) == 6 and second.digest != first.digest


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "no such component file"),
        ("x = 1", "registers no component"),
        ("x = (", r"mine.py:1: SyntaxError"),
        ("\n\nraise ValueError('no')", r"mine.py:3: ValueError: no"),
        (
            "from lecun_ablate import register\n"
            "@register('activation', 'tanh')\ndef f(x):\n    return x",
            r"mine.py:2: activation 'tanh' is already built in",
        ),
        (
            "from lecun_ablate import register\n"
            "for _ in range(2):\n    @register('activation', 'twice')\n    def f(x): return x",
            r"mine.py:3: activation 'twice' is already registered by .*mine.py:3",
        ),
        (
            "import sys\nsys.exit(0)",
            r"mine.py:2: expected a file that runs to its end, got an exit",
        ),
        (
            "from lecun_ablate import register\nregister('activation')(3)",
            r"mine.py:2: activation without a name",
        ),
        (
            "from lecun_ablate import register\n\n@register('activaton')\ndef f(x):\n    return x",
            r"mine.py:3: unknown kind of component 'activaton': did you mean 'activation'",
        ),
        (
            "from lecun_ablate import register\n\n@register('activation')\ndef f():\n    return 1",
            r"mine.py:3: activation 'f' has the wrong arguments: .*got f\(\)",
        ),
    ],
)
def test_bad_files_of_components(tmp_path, source, message):
    file = tmp_path / "mine.py"
    if source is not None:
        file.write_text(source)
    before = {kind: registry.names(kind) for kind in KINDS}
    for _ in range(2):  # the second time as the first
        with pytest.raises(ConfigError, match=message):
            registry.load(file)
    assert {kind: registry.names(kind) for kind in KINDS} == before


@pytest.mark.parametrize("end", ["raise ValueError('no')", "raise SystemExit(0)", "1 +"])
def test_a_file_that_fails_half_way_leaves_nothing(tmp_path, end):
    file = tmp_path / "mine.py"
    source = "from lecun_ablate import register\n@register('activation')\ndef mine(x):\n return x\n"
    file.write_text(source + end)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"mine.py:5: "):
            registry.load(file)
        assert "mine" not in registry.names("activation")
    file.write_text(source)
    registry.load(file)
    good = registry.get("activation", "mine")
    file.write_text(source + end)
    with pytest.raises(ConfigError):
        registry.load(file)
    assert registry.get("activation", "mine") is good


def test_a_missing_file_of_components_names_its_neighbours(tmp_path):
    (tmp_path / "components.py").write_text("")
    with pytest.raises(ConfigError, match=r"did you mean '.*components.py'"):
        registry.load(tmp_path / "component.py")


def test_built_in_names_are_taken_before_anything_is_imported(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from lecun_ablate import register\n"
        "from lecun_ablate.registry import registry\n"
        "@register('activation')\ndef mine(x):\n    return x\n"
        "for name in ('tanh', 'mine'):\n"
        "    try:\n        register('activation', name)(lambda x: x)\n"
        "    except Exception as error:\n        print(error)\n"
        "print(registry.get('activation', 'mine').origin)\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        f"{script}:8: activation 'tanh' is already built in: give yours another name",
        f"{script}:8: activation 'mine' is already registered by {script}:3: give yours another "
        "name",
        f"{script}:3",
    ]
