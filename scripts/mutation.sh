#!/bin/sh
# Plant faults in a module, one at a time, and see which of them the tests do not notice.
#
#     pip install cosmic-ray
#     scripts/mutation.sh lecun_ablate/statistics/failures.py tests/statistics/test_statistics_failures.py
#     ONE_IN=10 scripts/mutation.sh lecun_ablate/statistics tests/statistics/test_*.py
#
# The first argument is the module (or a folder of them), the others are what pytest runs for each
# fault; a test that is named after the module comes first. Prints the score and the faults that
# survive. With ONE_IN, only one fault in so many is planted, drawn at random, the same each time.
# The module is changed in place and restored; it must have no changes of its own. Takes as long as
# the tests do, times some hundred.
set -eu

module=$1
shift
if [ -n "$(git status --porcelain -- "$module")" ]; then
    echo "$module has changes that are not committed" >&2
    exit 2
fi
folder=$(mktemp -d)
trap 'git checkout -q -- "$module"; rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

cat > "$folder/tests.sh" <<EOF
name=\$(basename "\$(git diff --name-only -- "$module")" .py)
first= others=
for test in $*; do
    case "\$test" in
        *_"\$name".py) first=\$test ;;
        *) others="\$others \$test" ;;
    esac
done
exec python -m pytest -x -q -n 0 -p no:cacheprovider \$first \$others
EOF
cat > "$folder/config.toml" <<EOF
[cosmic-ray]
module-path = "$module"
timeout = 300.0
excluded-modules = ["**/__init__.py"]
test-command = "sh $folder/tests.sh"
[cosmic-ray.distributor]
name = "local"
EOF
cosmic-ray init "$folder/config.toml" "$folder/session.sqlite"
cosmic-ray baseline "$folder/config.toml"
# annotations are no code, and a decorator that only caches changes no result
cat > "$folder/filter.toml" <<EOF
[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*", "core/RemoveDecorator"]
EOF
cr-filter-operators "$folder/session.sqlite" "$folder/filter.toml"
python - "$folder/session.sqlite" "${ONE_IN:-1}" <<EOF
import random
import sqlite3
import sys

with sqlite3.connect(sys.argv[1]) as session:
    place = "module_path, operator_name, start_pos_row, start_pos_col, occurrence, job_id"
    rows = sorted(session.execute(f"SELECT {place} FROM mutation_specs"))
    filtered = {job for (job,) in session.execute("SELECT job_id FROM work_results")}
    faults = [job for *_, job in rows if job not in filtered]
    kept = set(random.Random(0).sample(faults, -(-len(faults) // int(sys.argv[2]))))
    gone = [(job,) for *_, job in rows if job not in kept]
    for table in ("work_results", "mutation_specs"):
        session.executemany(f"DELETE FROM {table} WHERE job_id = ?", gone)
    session.executemany("DELETE FROM work_items WHERE job_id = ?", gone)
print(f"{len(faults)} faults, {len(kept)} of them planted", flush=True)
EOF
cosmic-ray exec "$folder/config.toml" "$folder/session.sqlite"
cr-report --surviving-only --show-diff "$folder/session.sqlite"
