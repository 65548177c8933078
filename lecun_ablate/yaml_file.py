"""YAML files whose problems are all reported at once, each with its file and line."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from lecun_ablate.errors import ConfigError, nearest, neighbours

Keys = tuple[str | int, ...]


class YamlFile:
    """A YAML mapping as plain values, which knows the line of every key.

    `problems` gathers what is wrong; `check()` raises them all as one ConfigError.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.problems: list[tuple[int, str]] = []
        self._options: dict[Keys, str] = {}
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file{neighbours(path, '*.yaml')}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a readable text file: {error}") from None
        try:
            self._marked = YAML(typ="rt").load(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark
            line = f":{mark.line + 1}" if mark else ""
            raise ConfigError(f"{path}{line}: not a YAML file: {error.problem}") from None
        except (YAMLError, ValueError) as error:
            raise ConfigError(f"{path}: not a YAML file: {error}") from None
        if not isinstance(self._marked, CommentedMap):
            kinds = {type(None): "nothing", CommentedSeq: "a list", str: "a text"}
            came = kinds.get(type(self._marked), repr(self._marked))
            raise ConfigError(f"{path}: expected a YAML mapping of keys to values, came {came}")
        self.content: dict[str, Any] = _plain(self._marked)

    def set(self, keys: Keys, value: Any, option: str) -> None:
        """Override a value from the command line; `option` names it in problems."""
        inner = self.content
        for key in keys[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inner[keys[-1]] = value
        self._options[keys] = option

    def where(self, keys: Keys = ()) -> str:
        """Return 'file:line' of a key, or the command-line option that set it."""
        for set_keys, option in self._options.items():
            shared = min(len(keys), len(set_keys))
            if shared and keys[:shared] == set_keys[:shared] and not self._in_file(keys):
                return option
        return f"{self.path}:{self._line(keys)}"

    def _in_file(self, keys: Keys) -> bool:
        """Tell whether the value at `keys` is still the one that stands in the file."""
        inner, own = self.content, self._marked
        for key in keys:
            try:
                inner, own = inner[key], own[key]
            except (KeyError, IndexError, TypeError):
                return False
        return bool(inner == own)

    def _line(self, keys: Keys) -> int:
        node, line = self._marked, 1
        for key in keys:
            position = getattr(getattr(node, "lc", None), "data", None) or {}
            if key not in position:
                break
            line = position[key][0] + 1
            node = node[key]
        return line

    def problem(self, keys: Keys, message: str) -> None:
        """Note a problem at a key."""
        where = self.where(keys)
        label = f"{'.'.join(map(str, keys))}: " if keys else ""
        entry = (self._line(keys), f"{where}: {label}{message}")
        if entry not in self.problems:
            self.problems.append(entry)

    def validate(self, model: type[BaseModel], content: Any, keys: Keys = ()) -> BaseModel | None:
        """Return `content` as a model, or note its problems under `keys` and return None."""
        try:
            return model.model_validate(content)
        except ValidationError as error:
            for keys_below, message in explain(error, model):
                self.problem(keys + keys_below, message)
            return None

    def check(self) -> None:
        """Raise a ConfigError with every problem noted so far, in the order of the lines."""
        if self.problems:
            raise ConfigError([message for _, message in sorted(self.problems)])


def explain(error: ValidationError, model: type[BaseModel]) -> Iterable[tuple[Keys, str]]:
    """Yield the keys and the plain words of every problem in a pydantic error."""
    for problem in error.errors():
        keys = tuple(key for key in problem["loc"] if not _is_type_tag(key, problem["loc"], model))
        came = problem["input"]
        if problem["type"] == "extra_forbidden":
            fields = _fields_at(model, keys[:-1])
            yield keys, f"unknown key {str(keys[-1])!r}: {nearest(str(keys[-1]), fields)}"
        elif problem["type"] == "missing":
            yield keys, "required, but missing"
        elif problem["type"] == "value_error":
            yield keys, str(problem["ctx"]["error"])
        elif isinstance(came, float) and not math.isfinite(came):
            yield keys, f"expected a finite number, came {came}"
        else:
            yield keys, f"{_plain_words(problem)}, came {came!r}"


def _plain_words(problem: Mapping[str, Any]) -> str:
    """Return what pydantic expected, in words that do not speak of Python."""
    if problem["type"] == "string_pattern_mismatch":
        return "expected letters, digits, '_', '.' and '-', with a letter or a digit first"
    words = re.sub(r"^(Input|String|List|Dictionary|Value) should (be|have) ", "expected ",
                   problem["msg"])  # fmt: skip
    return re.sub(r" after validation, not \d+$| or instance of \w+$", "", words)


def _is_type_tag(key: str | int, location: Sequence[str | int], model: type[BaseModel]) -> bool:
    """Tell the branch names that pydantic puts into the location of a union from real keys."""
    return isinstance(key, str) and location.index(key) > 0 and key in _UNION_TAGS


_UNION_TAGS = {"int", "str", "list[int]", "function-after", "dict[str,any]"}


def _fields_at(model: type[BaseModel], keys: Keys) -> list[str]:
    for key in keys:
        field = model.model_fields.get(str(key))
        inner = getattr(field, "annotation", None)
        options = [inner, *getattr(inner, "__args__", ())]
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not models:
            break
        model = models[0]
    return list(model.model_fields)


def _plain(node: Any) -> Any:
    """Return ruamel's marked values as ordinary Python ones."""
    if isinstance(node, TaggedScalar):
        return node.value
    if isinstance(node, Mapping):
        return {_plain(key): _plain(value) for key, value in node.items()}
    if isinstance(node, bool) or node is None:
        return node
    if isinstance(node, str):
        return str(node)
    if isinstance(node, Sequence):
        return [_plain(value) for value in node]
    for kind in (int, float):
        if isinstance(node, kind):
            return kind(node)
    return node


def parse_scalar(text: str) -> Any:
    """Read one YAML value, as after the '=' of an option; a text that is no YAML stays a text."""
    try:
        return _plain(YAML(typ="rt").load(text))
    except YAMLError:
        return text


def find_file(name: str | Path, file: Path | None) -> Path:
    """Return the file that a YAML file names.

    Names start at the working directory; what is not there is sought in the project, the folder
    above the YAML file's own. Raises ConfigError where neither has it.
    """
    here = Path.cwd()
    project = Path(os.path.abspath(file)).parent.parent if file else here
    for folder in (Path(), project):
        if (folder / name).exists():
            return folder / name
    places = f"the working directory {here}" + (f" or in {project}" if project != here else "")
    nearby = neighbours(name, f"*{Path(name).suffix}")
    raise ConfigError(f"{name}: no such file in {places}{nearby}")
