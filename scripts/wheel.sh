#!/usr/bin/env bash
# Builds the sdist and, from it, the wheel; installs the wheel without the checkout; and runs the main
# job, on a small budget, in a folder that `init` writes. The environment in use must have the
# package's dependencies and `build` (pip install build), and its own installation of the package is
# replaced. Then the sdist is installed as if there were no compiler, and trains with PyTorch.
#
#     scripts/wheel.sh
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }

try() {
    pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$@"
    rm -rf "$work/start"
    (
        cd "$work"
        python -m lecun_ablate init start
        cd start
        python -m lecun_ablate --quiet run experiments/first.yaml --seeds 2 --epochs 1
        python -m lecun_ablate export first --latex --output -
        python -c 'import lecun_ablate; print(lecun_ablate.__file__)' | grep -q site-packages
    )
}

echo "== the wheel"
try "$work"/dist/*.whl
(cd "$work" && python -c 'from lecun_ablate.trainers import _native')
echo "== the sdist, without a compiler"
CC=false CXX=false try "$work"/dist/*.tar.gz
