#!/usr/bin/env bash
# Compares the native kernel for arm64 (NEON), cross-compiled and run in an emulator, with the
# baseline kernel for x86-64. They may differ by rounding errors only. Needs g++, python3, and
# Debian's packages g++-aarch64-linux-gnu and qemu-user.
#
#     scripts/arm64.sh
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
options=(-std=c++20 -O2 -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi
    -DVECTOR_BYTES=16 -DOPTIONS=\"\" scripts/kernel_steps.cpp lecun_ablate/native/kernel.cpp)

g++ "${options[@]}" -DKERNEL=baseline -DVECTOR_REGISTERS=16 -o "$folder/x86"
aarch64-linux-gnu-g++ -static "${options[@]}" -DKERNEL=neon -DVECTOR_REGISTERS=32 -o "$folder/arm"
"$folder/x86" >"$folder/x86.txt"
qemu-aarch64 "$folder/arm" >"$folder/arm.txt"

python3 - "$folder/x86.txt" "$folder/arm.txt" <<'PYTHON'
import sys

tables = [[list(map(float, line.split())) for line in open(path)] for path in sys.argv[1:]]
assert len(tables[0]) == len(tables[1]) == 120
for size, name, bound in ((4, "float32", 1e-5), (8, "float64", 1e-12)):
    worst = max(
        abs(x - y) / max(abs(x), 1e-3)
        for a, b in zip(*tables, strict=True)
        if a[0] == size
        for x, y in zip(a, b, strict=True)
    )
    print(f"{name}: largest relative difference {worst:.1e}, allowed {bound:.0e}")
    if not worst <= bound:
        sys.exit(1)
PYTHON
