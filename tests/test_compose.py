"""scripts/compose.yaml, checked where no Docker runs: by the schema, and part against part."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "scripts" / "compose.yaml"


@pytest.fixture(scope="module")
def services():
    return YAML(typ="safe").load(FILE)["services"]


def lint(file):
    words = ["check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, check=False
    )


def test_it_follows_the_compose_specification(tmp_path):
    pytest.importorskip("check_jsonschema")
    done = lint(FILE)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(FILE.read_text().replace("depends_on:", "depend_on:"))
    assert lint(wrong).returncode != 0, "the schema is looked at"


def test_what_a_service_needs_is_there(services):
    whole = YAML(typ="safe").load(FILE)
    for name, service in services.items():
        for other in service.get("depends_on", ()):
            assert other in services, (name, other)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source.startswith(".") or source in whole["volumes"], (name, volume)
        for config in service.get("configs", ()):
            assert config["source"] in whole["configs"]
        if build := service.get("build"):
            context = (FILE.parent / build["context"]).resolve()
            assert context == ROOT and (context / build["dockerfile"]).is_file()
    images = {service["image"] for service in services.values()}
    assert images == {"postgres:17", "lecun-ablate"}
    assert sum("build" in service for service in services.values()) == 1, "built once"


def test_the_services_find_one_another(services):
    """Every address inside names a service and a port on which that listens."""
    listens = {
        "postgres": "5432",
        "mlflow": re.search(r"--port=(\d+)", " ".join(services["mlflow"]["command"]))[1],
        "ray-head": re.search(r"--port=(\d+)", " ".join(services["ray-head"]["command"]))[1],
    }
    found = re.findall(r"(?<!image: )\b(postgres|mlflow|ray-head):(\d+)", FILE.read_text())
    assert {name for name, _ in found} == set(listens)
    assert all(listens[name] == port for name, port in found), found
    for name, port in listens.items():
        assert services[name]["ports"] == [f"127.0.0.1:{port}:{port}"], "this machine only"


def test_mlflow_knows_its_options(services):
    """And the address names a driver and a database that are there."""
    from mlflow.cli import cli
    from sqlalchemy import make_url

    program, command, *options = services["mlflow"]["command"]
    assert program == "mlflow"
    known = {o for p in cli.commands[command].params for o in [*p.opts, *p.secondary_opts]}
    given = dict(option.partition("=")[::2] for option in options)
    assert set(given) <= known, set(given) - known
    url = make_url(given["--backend-store-uri"].replace("${POSTGRES_PASSWORD}", "any"))
    about = services["postgres"]["environment"]
    assert (url.database, url.username) == (about["POSTGRES_DB"], about["POSTGRES_USER"])
    assert url.drivername == "postgresql+psycopg"
    assert "psycopg" in (ROOT / "pyproject.toml").read_text()


def test_ray_knows_its_options(services):
    pytest.importorskip("ray")
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for name in ("ray-head", "ray-worker"):
        program, command, *options = services[name]["command"]
        assert (program, command) == ("ray", "start")
        assert {option.partition("=")[0] for option in options} <= known


def test_the_ports_are_those_of_the_documentation():
    text = (ROOT / "docs" / "stores.md").read_text()
    assert "scripts/compose.yaml" in text
    for _, port in re.findall(r"(localhost|127\.0\.0\.1):(\d+)", FILE.read_text()):
        assert f":{port}" in text, port
