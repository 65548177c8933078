#!/bin/sh
# Profiles two epochs of the CUDA kernels with NVIDIA's ncu: where the cycles of a step go.
#
#     scripts/profile_gpu.sh [NETWORKS]     default 528, four blocks on each of 132 multiprocessors
#
# Writes gpu_profile.ncu-rep into the folder OUT, by default this one (open it with ncu-ui), and
# prints its summary.
set -eu
cd "$(dirname "$0")/.."
command -v ncu >/dev/null || {
    echo "ncu is not installed: it comes with NVIDIA Nsight Compute" >&2
    exit 1
}
report=${OUT:-.}/gpu_profile.ncu-rep
short='
import sys
import numpy as np
from lecun_ablate.data.digits import Split
from lecun_ablate.config.recipe import Recipe
from lecun_ablate.trainers.base import Run
from lecun_ablate.trainers.cuda import CudaTrainer
rng = np.random.default_rng(0)
fit, test = (Split(rng.uniform(-1, 1, (n, 16, 16)), rng.integers(0, 10, n)) for n in (500, 512))
runs = [Run(Recipe(epochs=2), seed) for seed in range(int(sys.argv[1]))]
list(CudaTrainer(threads=1).train(runs, fit, {"test": test}))  # one batch, which fills the GPU
'
ncu --set full --clock-control none --kernel-name 'regex:train|evaluate' --launch-count 4 \
    --force-overwrite --export "$report" "${PYTHON:-python}" -c "$short" "${1:-528}"
ncu --import "$report" --page details
