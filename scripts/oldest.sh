#!/usr/bin/env bash
# Proves the lower bounds in pyproject.toml: installs the lowest version of every direct dependency
# into a fresh environment, then runs the main job and a study on a small budget, some tests, and the
# compiler of the CUDA kernels. Needs uv (pip install uv). PyTorch's lowest version brings CUDA
# libraries of several gigabytes.
#
#     scripts/oldest.sh
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export MLFLOW_DISABLE_TELEMETRY=true

echo "== install the lowest versions"
uv venv --quiet --python "$(command -v python3)" "$work/venv"
python=$work/venv/bin/python
"$python" - >"$work/build.txt" <<'PYTHON'
import tomllib

with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["build-system"]["requires"]).replace(">=", "=="))
PYTHON
uv pip install --quiet --python "$python" --resolution lowest-direct \
    --build-constraints "$work/build.txt" "$root[test,postgres,cuda]"
"$python" - <<'PYTHON'
import sys
import tomllib
from importlib.metadata import version

from packaging.requirements import Requirement
from packaging.version import Version

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
del extras["dev"]  # style and types are checked against today's libraries
for text in sum(extras.values(), project["dependencies"]):
    requirement = Requirement(text)
    (bound,) = (part.version for part in requirement.specifier if part.operator == ">=")
    found = version(requirement.name)
    print(f"{text:32}{found}")
    if Version(found) != Version(bound):
        sys.exit(f"expected the lowest version that {text!r} admits, got {found}")
PYTHON

cp -r experiments studies tests pyproject.toml "$work"
cd "$work" # so that the installed package is imported, not the sources
command=("$python" -m lecun_ablate)
echo "== main job"
"${command[@]}" run experiments/activation.yaml --data digits --seeds 2 --epochs 2
echo "== study"
"${command[@]}" study studies/learning_rate.yaml --data digits --set trials=2 --set seeds=1
echo "== tests"
"$python" -m pytest -n 1 \
    tests/tracking/test_tracking.py tests/test_registry.py tests/data/test_data_loading.py
"$python" -c "import psycopg; print('psycopg', psycopg.__version__)"
"$python" -c "
from lecun_ablate.cuda.compiler import Choices, compile_kernels
compile_kernels(Choices('float32', 'tanh', 'tanh', 'mse', False), 'sm_90', fresh=True)
print('CUDA kernels compiled')"
