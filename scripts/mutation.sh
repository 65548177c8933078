#!/bin/sh
# Plant faults in a module, one at a time, and see which of them the tests do not notice.
#
#     pip install cosmic-ray
#     scripts/mutation.sh lecun_ablate/statistics/failures.py tests/statistics/test_statistics_failures.py
#
# The first argument is the module (or a folder of them), the others are what pytest runs for each
# fault. Prints the score and the faults that survive. The module is changed in place and restored;
# it must have no changes of its own. Takes as long as the tests do, times some hundred.
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

cat > "$folder/config.toml" <<EOF
[cosmic-ray]
module-path = "$module"
timeout = 300.0
excluded-modules = ["**/__init__.py"]
test-command = "python -m pytest -x -q -n 0 -p no:cacheprovider $*"
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
cosmic-ray exec "$folder/config.toml" "$folder/session.sqlite"
cr-report --surviving-only --show-diff "$folder/session.sqlite"
