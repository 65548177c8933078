#!/usr/bin/env bash
# Runs the native trainer's tests with AddressSanitizer and UndefinedBehaviorSanitizer, on the
# layouts of all x86-64 instruction sets (compiled for any CPU). Takes minutes.
#
#     scripts/sanitize.sh [pytest arguments]
#
# The exit status is 0 if no error was found. The golden test is left out, since these layouts round
# differently without fused multiply-adds. Needs GCC, CMake, nanobind and the installed package. The
# tests on USPS run if LECUN_ABLATE_DATA is set.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cmake -S . -B "$folder" -DSKBUILD_PROJECT_NAME=lecun_ablate -DLECUN_EVERY_LAYOUT=ON \
    -DPython_EXECUTABLE="$(command -v "$python")" -DCMAKE_BUILD_TYPE=Debug \
    -DCMAKE_CXX_COMPILER="${CXX:-g++}" -DKERNEL_OPTIMIZATION=-O1 -DCMAKE_CXX_FLAGS="-DALWAYS_INLINE= \
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
cmake --build "$folder" --parallel

export LD_PRELOAD
LD_PRELOAD="$("${CXX:-g++}" -print-file-name=libasan.so) $("${CXX:-g++}" -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1  # Python itself leaks at exit
"$python" - "$folder" -n 0 -q -p no:cacheprovider -k "native and not still_the_same" \
    tests/trainers/test_native.py tests/trainers/test_conformance.py "$@" <<'PYTHON'
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

folder, *arguments = sys.argv[1:]
(library,) = Path(folder).glob("_native*.so")
spec = spec_from_file_location("lecun_ablate.trainers._native", library)
sys.modules[spec.name] = module = module_from_spec(spec)  # in place of the installed one
spec.loader.exec_module(module)
sys.exit(pytest.main(arguments))
PYTHON
