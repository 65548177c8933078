#!/bin/sh
# Looks for memory errors and races in the CUDA kernels.
#
#     scripts/compute_sanitizer.sh          on a GPU, with NVIDIA's compute-sanitizer
#     scripts/compute_sanitizer.sh --cpu    the same source compiled for the CPU, with the
#                                           compiler's sanitizers; takes no GPU
#
# Ends with status 0 where nothing was found.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python}

if [ "${1:-}" = "--cpu" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    fma=$(grep -q ' fma ' /proc/cpuinfo 2>/dev/null && echo -mfma || true)
    for sanitizer in address,undefined thread; do
        echo "== $sanitizer"
        ${CXX:-g++} -std=c++20 -O1 -g $fma -ffp-contract=off -Wno-unknown-pragmas \
            -fsanitize=$sanitizer -fno-sanitize-recover=all -pthread \
            -Ilecun_ablate/cuda -Ilecun_ablate/native scripts/sanitized_steps.cpp -o "$folder/steps"
        "$folder/steps"
    done
    exit
fi

command -v compute-sanitizer >/dev/null || {
    echo "compute-sanitizer is not installed: it comes with the CUDA toolkit" >&2
    exit 1
}
short='
import numpy as np
from lecun_ablate.data.digits import Split
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.cuda import CudaTrainer
rng = np.random.default_rng(0)
fit, test = (Split(rng.uniform(-1, 1, (n, 16, 16)), rng.integers(0, 10, n)) for n in (20, 40))
recipes = [
    Recipe(epochs=2),
    Recipe(epochs=2, momentum=0.9, connectivity="random_8"),
    Recipe(epochs=2, dtype="float64", connectivity="full"),
    Recipe(epochs=2, loss="cross_entropy", output_activation="identity", activation="gelu"),
    Recipe(epochs=2, optimizer="adamw", lr=1e-3, dropout=0.25, average=0.9, batch_size=3),
    Recipe(epochs=2, optimizer="sdlm(estimate=running)", lr=1e-3, augmentation="shift"),
]
runs = [Run(recipe, seed) for recipe in recipes for seed in range(3)]
print(len(list(CudaTrainer().train(runs, fit, {"test": test}))), "reports")
'
# Calls that the CUDA driver refuses are not looked at: libraries try which functions it has.
for tool in memcheck racecheck synccheck; do
    echo "== $tool"
    compute-sanitizer --tool $tool --report-api-errors no --error-exitcode 1 "$python" -c "$short"
done
