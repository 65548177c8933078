"""YAML files whose problems are all reported at once, each with its file and line."""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, CommentedSet, TaggedScalar
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarbool import ScalarBoolean

from lecun_ablate.errors import ConfigError, nearest, neighbours, unreadable
from lecun_ablate.system.text import is_invisible, visible

Keys = tuple[str | int, ...]
LARGEST = 100_000  # bytes of a file
MOST_VALUES = 50_000  # after all aliases are expanded
FOLDERS = ("experiments", "studies")  # the usual folders, for hints
DEEPEST = 100  # levels of nesting
M = TypeVar("M", bound=BaseModel)


class YamlFile:
    """A YAML mapping as plain values, with the line of every key.

    `problems` collects what is wrong; `check()` raises all of it as one ConfigError.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.problems: list[tuple[int, str]] = []
        self._options: dict[Keys, str] = {}
        try:
            if self.path.is_file() and (size := self.path.stat().st_size) > LARGEST:
                raise ConfigError(f"{path}: expected at most {LARGEST:,} bytes, got {size:,}")
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            places = [self.path, *(Path(folder) / self.path.name for folder in FOLDERS)]
            hints = [neighbours(place, "*.yaml") for place in places]
            raise ConfigError(f"{path}: no such file{next(filter(None, hints), '')}") from None
        except OSError as error:
            raise unreadable(path, error, "not a readable text file") from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            byte = f"the byte 0x{error.object[error.start]:02x}"
            raise ConfigError(
                f"{path}:{line}: not a readable text file: expected UTF-8, got {byte}"
            ) from None
        try:
            self._marked = _load(text)
            content = _plain(self._marked)
        except MarkedYAMLError as error:
            mark = error.problem_mark
            place = f":{mark.line + 1}" if mark else ""
            rest = str(error.problem).startswith("but ")
            words = f"{error.context}, {error.problem}" if rest else error.problem
            raise ConfigError(f"{path}{place}: not a YAML file: {words}") from None
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            character = f"U+{ord(text[error.position]):04X}"
            raise ConfigError(
                f"{path}:{line}: not a YAML file: the character {character} is not allowed"
            ) from None
        except RecursionError:
            raise ConfigError(f"{path}: nested too deeply to be read") from None
        except _TooMuch as error:
            raise ConfigError(f"{path}: {error}") from None
        except AttributeError:  # in ruamel: the mapping to merge is unfinished
            raise ConfigError(
                f"{path}: not a YAML file: a merge (<<) is inside the mapping that it merges"
            ) from None
        except (YAMLError, ValueError, TypeError, LookupError) as error:
            raise ConfigError(f"{path}: not a YAML file: {error}") from None
        if not isinstance(self._marked, CommentedMap):
            kinds = {type(None): "nothing", CommentedSeq: "a list", str: "a string"}
            got = kinds.get(type(self._marked), repr(self._marked))
            line = (getattr(getattr(self._marked, "lc", None), "line", None) or 0) + 1
            raise ConfigError(
                f"{path}:{line}: expected a YAML mapping of keys to values, got {got}"
            )
        self.content: dict[str, Any] = content
        self._refuse_oddities(self._marked, ())
        self.check()

    def _refuse_oddities(self, marked: Any, keys: Keys) -> None:
        """Note tags, keys that are not strings, and strings with control characters."""
        if tag := _tag(marked):
            self.problem(keys, f"expected a plain value, got one with the tag {tag}")
        elif isinstance(marked, str):
            if odd := [c for c in marked if is_invisible(c) and c not in "\n\t"]:
                self.problem(keys, f"the character U+{ord(odd[0]):04X} is not allowed in a string")
        elif isinstance(marked, dict | list):
            for key in marked if isinstance(marked, dict) else range(len(marked)):
                if isinstance(marked, dict) and not isinstance(key, str):
                    got = "null" if key is None else key
                    self.problem((*keys, key), f"expected a string as a key, got {got}")
                self._refuse_oddities(marked[key], (*keys, key))

    def set(self, keys: Keys, value: Any, option: str) -> None:
        """Override a value from the command line; `option` names it in problems."""
        inner: dict[Any, Any] = self.content
        for key in keys[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        inner[keys[-1]] = value
        self._options[keys] = option
        self._refuse_oddities(value, keys)

    def where(self, keys: Keys = ()) -> str:
        """Return 'file:line' of a key, or the command-line option that set it."""
        for set_keys, option in self._options.items():
            shared = min(len(keys), len(set_keys))
            if shared and keys[:shared] == set_keys[:shared] and not self._in_file(keys):
                return option
        return f"{self.path}:{self._line(keys)}"

    def _in_file(self, keys: Keys) -> bool:
        """Return whether the value at `keys` is still the one in the file."""
        inner: Any = self.content
        own: Any = self._marked
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
        names = ["null" if key is None else str(key) for key in keys]
        label = f"{visible('.'.join(names), keep='')}: " if keys else ""
        if where.startswith("--"):
            named = where.removeprefix("--set ").lstrip("-").partition("=")[0]
            if label.startswith(f"{named}: ") or (label == f"{named}.name: " and named == "data"):
                label = ""  # --seeds: seeds: ..., --data: data.name: ...
        entry = (self._line(keys), f"{where}: {label}{message}")
        if entry not in self.problems:
            self.problems.append(entry)

    def validate(self, model: type[M], content: Any, keys: Keys = ()) -> M | None:
        """Return `content` as a model, or note its problems under `keys` and return None."""
        try:
            return model.model_validate(content)
        except ValidationError as error:
            for keys_below, message in explain(error, model):
                self.problem(keys + keys_below, message)
            return None

    def check(self) -> None:
        """Raise a ConfigError with all problems noted so far, in the order of the lines."""
        if self.problems:
            raise ConfigError([message for _, message in sorted(self.problems)])


def explain(error: ValidationError, model: type[BaseModel]) -> Iterable[tuple[Keys, str]]:
    """Yield the keys and a plain message for every problem in a pydantic error.

    The models have no unions except with None: for others, pydantic reports every branch, with the
    branch's name among the keys.
    """
    for problem in error.errors():
        keys, got = tuple(problem["loc"]), problem["input"]
        if problem["type"] == "extra_forbidden":
            fields = _fields_at(model, keys[:-1])
            yield keys, f"unknown key {str(keys[-1])!r}: {_known(str(keys[-1]), fields)}"
        elif problem["type"] == "missing":
            yield keys, "required, but missing"
        elif problem["type"] == "value_error":
            yield keys, str(problem["ctx"]["error"])
        elif problem["type"] == "invalid_key":
            yield keys[:-2], f"expected a string as a key, got {written(got)}"
        elif isinstance(got, float) and not math.isfinite(got):
            yield keys, f"expected a finite number, got {got}"
        else:
            yield keys, f"{_plain_words(problem)}, got {written(got)}"


def written(value: Any) -> str:
    """Return a value as messages show it: in YAML's notation, not Python's."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        inner = ", ".join(f"{key}: {written(one)}" for key, one in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return repr(value)


_PLAIN_WORDS = {  # by pydantic's error type
    "string_pattern_mismatch": "letters, digits, '_', '.' and '-', with a letter or a digit first",
    "string_type": "a string",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
}


def _plain_words(problem: Mapping[str, Any]) -> str:
    """Return pydantic's message without Python's terms."""
    if problem["type"] in _PLAIN_WORDS:
        return f"expected {_PLAIN_WORDS[problem['type']]}"
    words = re.sub(
        r"^(Input|String|List|Dictionary|Value) should (be|have) ", "expected ", problem["msg"]
    )
    words = re.sub(r" after validation, not \d+$", "", words)
    for python, plain in {
        "greater than or equal to": "at least",
        "less than or equal to": "at most",
        "greater than": "more than",
    }.items():
        words = words.replace(python, plain)
    return words


def _known(key: str, fields: list[str]) -> str:
    """Return the nearest valid key; one of a recipe's own fields belongs under `recipe`."""
    if "recipe" in fields:
        from lecun_ablate.config.recipe import Recipe

        if key in Recipe.model_fields:
            return f"did you mean 'recipe.{key}'? valid here: {', '.join(fields)}"
    return nearest(key, fields)


def _fields_at(model: type[BaseModel], keys: Keys) -> list[str]:
    for key in keys:
        field = model.model_fields.get(str(key))
        inner = getattr(field, "annotation", None)
        options = [inner, *getattr(inner, "__args__", ())]
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not models:
            break
        model = models[0]
    return [field.alias or name for name, field in model.model_fields.items()]


class _TooMuch(Exception):
    """A text that expands to more than a machine can hold."""


def _load(text: str) -> Any:
    """Return the marked values of a YAML text; _TooMuch if there are too many, or no end."""
    depth = 0
    for event in YAML(typ="rt", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1
            raise _TooMuch(f"line {line}: nested too deeply to be read: more than {DEEPEST} levels")
    marked = YAML(typ="rt", pure=True).load(text)
    _size(marked, {})
    return marked


def _size(node: Any, known: dict[int, int | None]) -> int:
    """Return how many values a node has with its aliases expanded, without expanding them."""
    if not isinstance(node, Mapping | list | tuple | set):
        return 1
    if id(node) in known:
        size = known[id(node)]
        if size is None:
            raise _TooMuch("an alias (*) is inside the value that it repeats")
        return size
    known[id(node)] = None
    inner = list(node.values()) if isinstance(node, Mapping) else list(node)
    size = 1 + sum(_size(value, known) for value in inner)
    if size > MOST_VALUES:
        raise _TooMuch(f"has more than {MOST_VALUES:,} values, after expanding aliases (*)")
    known[id(node)] = size
    return size


def _plain(node: Any) -> Any:
    """Return ruamel's marked values as ordinary Python ones."""
    if isinstance(node, TaggedScalar):
        return node.value
    if isinstance(node, ScalarBoolean):  # one with an anchor is not a Python bool
        return bool(node)
    if isinstance(node, datetime.date):
        return str(node)
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


def _tag(node: Any) -> str | None:
    """Return the tag of a node, such as !!python/object; None for those that YAML itself knows."""
    if isinstance(node, bytes):
        return "!!binary"
    if isinstance(node, CommentedSet):
        return "!!set"
    tag = str(getattr(getattr(node, "tag", None), "value", None) or "")
    short = tag.replace("tag:yaml.org,2002:", "!!")
    return short if tag and short not in ("!!str", "!!map", "!!seq") else None


def parse_scalar(text: str) -> Any:
    """Read one YAML value, such as the one after the '=' of --set; other text is kept."""
    try:
        marked = _load(text[:LARGEST])
        return text if _tag(marked) else _plain(marked)
    except (YAMLError, ValueError, TypeError, AttributeError, LookupError):
        return text
    except (RecursionError, _TooMuch):
        return text


def find_file(name: str | Path, file: Path | None) -> Path:
    """Return the file that a YAML file names.

    Names are relative to the working directory. A file that is not there is looked for in the
    project, the parent of the YAML file's folder. Raises ConfigError if it is in neither.
    """
    here = Path.cwd()
    project = Path(os.path.abspath(file)).parent.parent if file else here
    for folder in (Path(), project):
        if (folder / name).exists():
            return folder / name
    places = f"the working directory {here}" + (f" or in {project}" if project != here else "")
    nearby = neighbours(name, f"*{Path(name).suffix}")
    raise ConfigError(f"{name}: no such file in {places}{nearby}")
