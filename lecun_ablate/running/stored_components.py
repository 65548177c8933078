"""Components stored with a run: which files it was trained with, and which may be run.

A store may come from anyone, and component files are code. A file is run only if the run's key says
that the run was trained with it, and only if it is also in the working directory or the user trusts
it explicitly. The same holds for the modules that it imports.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import tempfile
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lecun_ablate import imports
from lecun_ablate.config.recipe import COMPONENT_FIELDS, Recipe, stored_form
from lecun_ablate.errors import ConfigError, LecunAblateError
from lecun_ablate.parameters import parse
from lecun_ablate.plan.keys import content_hash
from lecun_ablate.plan.plan import SPLIT
from lecun_ablate.registry import registry
from lecun_ablate.tracking.address import DATABASE, artifact_folder
from lecun_ablate.tracking.names import MODULES
from lecun_ablate.tracking.records import SeedRun
from lecun_ablate.tracking.store import Store

MOST_WAYS = 10_000  # of assigning files to components, at most
MOST_FILES = 10_000  # to search for a copy in the working directory, at most


def load(store: Store, run: SeedRun, trusted: bool) -> list[str]:
    """Load the components of a run that are not registered; return notes on those that differ.

    Raises LecunAblateError, before anything is run, if the run's key does not match the files, or
    if they are neither in the working directory nor `trusted`.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = store.files.component_files(run.run_id, Path(folder))
        modules = Path(folder, MODULES).resolve()
        used = {file: imports.imported(file.read_bytes(), [modules]) for file in files}
        digests = {file: _digest(file, used[file]) for file in files}
        missing = _missing(run)
        if missing:
            needed = _needed(run, digests, missing)
            run_files = {one for file in needed for one in (file, *used[file].values())}
            plain = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in run_files}
            unknown = {f: d for f, d in plain.items() if not (trusted or _is_here(d))}
            if unknown:
                raise _untrusted(run, unknown)
            with _first_on_path(modules):
                for file in sorted(needed):
                    registry.load(file)
        return _other_code(run, digests)


def _digest(file: Path, used: Mapping[str, Path]) -> str:
    modules = {name: module.read_bytes() for name, module in used.items()}
    return imports.digest(file.read_bytes(), modules)


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _missing(run: SeedRun) -> dict[str, str]:
    """Return the fields of a run's recipe that name components which are not registered."""
    return {
        field: run.params[field]
        for field, kind in COMPONENT_FIELDS.items()
        if field in run.params and _name(run.params[field]) not in registry.names(kind)
    }


def _name(text: str) -> str:
    """Return the name of a component as a recipe writes it, without its parameters."""
    return parse(text)[0]


def _needed(run: SeedRun, digests: Mapping[Path, str], missing: Mapping[str, str]) -> set[Path]:
    """Return the files that the run's key was made with, without running any."""
    # with built-in components in their place, so that the rest can be parsed
    fields = recipe_of(run, without=missing).model_dump() | dict(missing)
    try:
        trainer: dict[str, Any] = {
            "name": run.params["trainer"],
            "device": run.params["device"],
            "instruction_set": run.params["instruction_set"],
            "numerics": int(run.params["numerics"]),
        }
        if "compiler" in run.params:
            trainer["compiler"] = run.params["compiler"]
        data = {"digest": run.params["data_digest"], "split": SPLIT}
    except (KeyError, ValueError) as error:
        raise ConfigError(f"run {run.run_id}: its params are not those of a run: {error}") from None
    known = {
        f"{kind}/{registry.get(kind, fields[field]).name}": registry.get(kind, fields[field]).digest
        for field, kind in COMPONENT_FIELDS.items()
        if field not in missing and not registry.get(kind, fields[field]).builtin
    }
    names = sorted({f"{COMPONENT_FIELDS[field]}/{_name(text)}" for field, text in missing.items()})
    ways = itertools.product(digests, repeat=len(names))
    for way in itertools.islice(ways, MOST_WAYS):
        components = known | {name: digests[file] for name, file in zip(names, way, strict=True)}
        content = {
            "recipe": stored_form(fields),
            "components": components,
            "seed": run.seed,
            "data": data,
            "trainer": trainer,
        }
        if content_hash(content) == run.key:
            return set(way)
    words = ", ".join(f"{COMPONENT_FIELDS[field]} {name!r}" for field, name in missing.items())
    held = ", ".join(sorted(file.name for file in digests)) or "none"
    raise LecunAblateError(
        f"run {run.run_id}: {words}: expected a component file that the run was trained with, "
        f"got {held}: nothing was run. If you have the file, name it with --components"
    )


def recipe_of(run: SeedRun, without: Container[str] = ()) -> Recipe:
    """Parse the recipe of a run from its params, which are strings; some stay at their defaults."""
    fields: dict[str, Any] = {}
    name = ""
    try:
        for name, field in Recipe.model_fields.items():
            if name in run.params and name not in without:
                adapter: TypeAdapter[Any] = TypeAdapter(field.annotation or str)
                fields[name] = adapter.validate_strings(run.params[name])
        name = ""
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = name or ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"run {run.run_id}: its recipe is no longer valid: {place}: {first['msg']}; load "
            "your own components with --components"
        ) from None


def _is_here(digest: str) -> bool:
    """Return whether the working directory, without the store's own files, has such a file."""
    files = itertools.islice(Path.cwd().rglob("*.py"), MOST_FILES)
    for file in files:
        if artifact_folder(Path(DATABASE)).name in file.parts:
            continue
        try:
            if hashlib.sha256(file.read_bytes()).hexdigest() == digest:
                return True
        except OSError:
            continue
    return False


def _untrusted(run: SeedRun, files: Mapping[Path, str]) -> LecunAblateError:
    listed = "; ".join(f"{file.name} (SHA-256 {digest})" for file, digest in files.items())
    return LecunAblateError(
        f"run {run.run_id}: was trained with code that is in the store but not in the working "
        f"directory: {listed}. Nothing was run. Inspect it in MLflow, among the run's artifacts "
        "under components/; if you trust it, repeat the command with --trust-components"
    )


def _other_code(run: SeedRun, digests: Mapping[Path, str]) -> list[str]:
    """Return which registered components come from a file with different content, in words."""
    if not digests:
        return []
    then = ", ".join(sorted({file.name for file in digests}))
    found = {}
    for field, kind in COMPONENT_FIELDS.items():
        name = _name(run.params.get(field, "-"))
        if name not in registry.names(kind):
            continue
        here = registry.get(kind, name)
        if not here.builtin and here.digest not in digests.values():
            found[kind, name] = f"{kind} {name!r}: of {then} then, {here.origin} now: other code"
    return list(found.values())
