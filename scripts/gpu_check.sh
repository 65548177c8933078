#!/bin/sh
# Measures everything about the CUDA trainer that takes a GPU, the most telling stages first.
#
#     scripts/gpu_check.sh OUT [STAGE...]     STAGE: 1 to 6; default all
#
# Each stage has a time limit of its own, writes OUT/STAGE-NAME.txt, and does not stop the next one
# when it fails. The last thing printed is a table: stage, exit status, seconds. Ends with status 0 if
# every stage did.
set -u
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
shift
stages=${*:-1 2 3 4 5 6}
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
table=$out/table.txt
failed=0
: >"$table"

# stage NUMBER NAME SECONDS COMMAND...
stage() {
    number=$1 name=$2 limit=$3
    shift 3
    case " $stages " in *" $number "*) ;; *) return ;; esac
    echo "== $number $name"
    log=$out/$number-$name.txt
    began=$(date +%s)
    timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1
    status=$?
    tail -n 30 "$log"
    printf '%s %-20s status %-3s %4s s\n' "$number" "$name" "$status" "$(($(date +%s) - began))" \
        >>"$table"
    [ "$status" -eq 0 ] || failed=1
}

stage 1 machine 60 "$python" scripts/gpu_first_number.py --machine
stage 2 first-number 150 "$python" scripts/gpu_first_number.py
stage 3 tests 400 "$python" -m pytest -m gpu -q -p no:cacheprovider -n 8 --dist load
stage 4 benchmark 300 "$python" benchmarks/gpu.py
stage 5 sanitizer 180 env PYTHON="$python" scripts/compute_sanitizer.sh
stage 6 profile 120 env PYTHON="$python" OUT="$out" scripts/profile_gpu.sh
echo "== table"
cat "$table"
exit $failed
