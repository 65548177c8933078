"""Files and options that are hostile, or hold anything at all: refused soon, with a message."""

import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lecun_ablate.config.yaml_file import YamlFile, parse_scalar
from lecun_ablate.errors import ConfigError


def levels(first: str, repeat: str, number: int) -> str:
    """Return anchors each of which repeats the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {repeat.replace('*', f'*a{i - 1}')}" for i in range(1, number)]
    return "\n".join(lines)


HOSTILE = {
    "lists of lists": (levels("[x, x]", "[*, *, *, *, *, *, *, *, *]", 12), "50,000 values"),
    "maps of maps": (levels("{x: 1}", "{p: *, q: *}", 40), "50,000 values"),
    "merge of itself": ("recipe: &r {<<: *r}", "a merge (<<) is inside the mapping that it merges"),
    "merge of what follows": ("a: &a {<<: *b}\nb: &b {<<: *a}", "undefined alias 'b'"),
    "brackets": ("a: " + "[" * 50_000, "nested too deeply"),
    "braces": ("{a: " * 20_000, "nested too deeply"),
    "dashes": ("- " * 40_000, "nested too deeply"),
    "large": ("a: " + "x" * 2_000_000, "expected at most 100,000 bytes, got 2,000,003"),
    "digits": ("a: " + "9" * 5000, "not a YAML file"),
    "tab": ("name: x\n\tseeds: 1", ":2: not a YAML file"),
    "double": ("name: x\nname: y", 'found duplicate key "name"'),
    "code": ("a: !!python/object/apply:os.system [ls]", "got one with the tag !!python"),
    "list as key": ("? [a, b]\n: 1", "not a YAML file"),
    "map as key": ("? {a: b}\n: 1", "not a YAML file"),
    "two documents": ("a: 1\n---\nb: 2", "expected a single document"),
    "date": ("a: 2001-01-01 25:99:99", "not a YAML file"),
    "cut": ("name: 'x", "not a YAML file"),
}
HARMLESS = {
    "byte order mark": "\ufeffname: x",
    "Windows lines": "name: x\r\nseeds: 2\r\n",
    "ninety levels": "a: " + "[" * 90 + "]" * 90,
    "many merges": levels("{x: 1}", "{<<: [*, *, *]}", 30),
    "long text": "a: " + "x" * 90_000,
    "infinite": "a: 1e99999",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_hostile_is_refused(tmp_path, text):
    content, said = HOSTILE[text]
    (tmp_path / "x.yaml").write_text(content)
    before = time.process_time()
    with pytest.raises(ConfigError) as refused:
        YamlFile(tmp_path / "x.yaml")
    assert said in str(refused.value)
    assert time.process_time() - before < 5
    parse_scalar(content)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_odd_is_read(tmp_path, text):
    (tmp_path / "x.yaml").write_text(HARMLESS[text], newline="")
    assert YamlFile(tmp_path / "x.yaml").content


def test_little_memory_is_enough_to_refuse_what_is_hostile(tmp_path):
    """200 MB beside Python itself, as a limit of the system."""
    for i, (content, _) in enumerate(HOSTILE.values()):
        (tmp_path / f"{i}.yaml").write_text(content)
    code = """
import sys, resource
from lecun_ablate.config.yaml_file import YamlFile
from lecun_ablate.errors import ConfigError
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
for file in sys.argv[1:]:
    try:
        YamlFile(file)
    except ConfigError:
        continue
    sys.exit(f"{file} was read")
"""
    files = [str(path) for path in sorted(tmp_path.glob("*.yaml"))]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ---- anything at all

WORDS = ["name", "recipe", "vary", "arms", "seeds", "data", "components", "ladder", "baseline"]
VALUES = [
    "lr",
    "tanh",
    "usps",
    "0.1",
    "-1",
    "true",
    "null",
    "~",
    "&a x",
    "*a",
    "<<: *a",
    "!!set {a}",
]
PIECES = st.sampled_from(
    [
        *WORDS,
        *VALUES,
        ": ",
        "\n",
        "  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "'",
        '"',
        "#",
        "|",
        ">",
        "%",
        *(
            "---\n",
            "...\n",
            "\t",
            "\r\n",
            "\ufeff",
            "\x00",
            "\x1b",
            "\u2028",
            "é",
            "? ",
            "!",
            "@",
            "`",
        ),
    ]
)
JSONLIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
OFTEN = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(file):
    """Read a file as an experiment; only a ConfigError may come of it."""
    from lecun_ablate.config.experiment import load_experiment

    try:
        load_experiment(file)
    except ConfigError as error:
        assert all(str(file) in problem or "nearest" in problem for problem in error.problems)


@OFTEN
@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    read(tmp_path / "x.yaml")


@OFTEN
@given(pieces=st.lists(PIECES, max_size=30))
def test_any_pieces_of_yaml(tmp_path, pieces):
    (tmp_path / "x.yaml").write_bytes("".join(pieces).encode())
    read(tmp_path / "x.yaml")


@OFTEN
@given(content=st.dictionaries(st.sampled_from(WORDS), JSONLIKE, max_size=6))
def test_any_values_of_the_keys(tmp_path, content):
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    with open(tmp_path / "x.yaml", "w", encoding="utf-8", errors="surrogateescape") as file:
        try:
            YAML().dump(content, file)
        except (YAMLError, UnicodeError):
            return
    read(tmp_path / "x.yaml")


@OFTEN
@given(
    keys=st.lists(st.sampled_from([*WORDS, "lr", "x", "", "0"]), max_size=5),
    value=st.lists(PIECES, max_size=8),
)
def test_any_assignment(tmp_path, keys, value):
    from lecun_ablate.config.experiment import load_experiment

    (tmp_path / "x.yaml").write_text("name: x\ndata: digits\nrecipe: {epochs: 1}\n")
    assignment = ".".join(keys) + "=" + "".join(value)
    try:
        load_experiment(tmp_path / "x.yaml", assignments=[assignment])
    except ConfigError as error:
        assert error.problems


@pytest.mark.parametrize(
    "source",
    [
        "(" * 10_000,
        "-" * 100_000 + "1",
        "\x00",
        "def f(:",
        "raise SystemExit(3)",
        "raise KeyError",
        "import nothing_of_this_name",
        "f" + "(1)" * 5000,
        "1/0",
        "exit()",
        "x = 'unclosed",
        "# -*- coding: nonsense -*-",
        "'\\ud800'.encode()",
        "def f(): f()\nf()",
        "[0] * 10**14",
        "async def f(): pass",
    ],
)
def test_any_component_file(tmp_path, source):
    from lecun_ablate.registry import registry

    file = tmp_path / "mine.py"
    file.write_bytes(source.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match=r"mine\.py"):
        registry.load(file)


@OFTEN
@given(content=st.binary(max_size=100))
def test_any_bytes_as_a_component_file(tmp_path, content):
    from lecun_ablate.registry import registry

    file = tmp_path / "mine.py"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.py"):
        registry.load(file)
