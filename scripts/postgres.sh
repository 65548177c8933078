#!/usr/bin/env bash
# Starts a temporary PostgreSQL server (Debian's), for experiments, studies or the tests:
#   scripts/postgres.sh start FOLDER [PORT]    prints two addresses: of a database for MLflow
#                                              (MLFLOW_TRACKING_URI), and of one for --storage
#   scripts/postgres.sh stop FOLDER
# Everything is in FOLDER (an absolute path), which is created. Only this machine can connect.
set -euo pipefail

usage() { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
action=${1:-}; folder=${2:-}; port=${3:-54329}
[[ -n $folder && $folder == /* ]] || usage

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[[ -x ${bin:-}/initdb ]] || { echo "PostgreSQL is not installed: apt-get install postgresql" >&2; exit 1; }

# PostgreSQL refuses to run as root
user=$(id -un postgres 2>/dev/null || echo nobody)
as_server() { if [[ $EUID -eq 0 ]]; then runuser -u "$user" -- "$@"; else "$@"; fi; }

case $action in
  start)
    mkdir -p "$folder"
    [[ $EUID -eq 0 ]] && chown "$user" "$folder"
    if [[ ! -d $folder/data ]]; then
      as_server "$bin/initdb" -D "$folder/data" -U studies -A trust -E UTF8 --no-sync \
        >"$folder/initdb.log"
    fi
    # -F: without fsync
    as_server "$bin/pg_ctl" -D "$folder/data" -l "$folder/server.log" -w -s \
      -o "-F -p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories='$folder'" start
    for database in mlflow studies; do  # each has a table alembic_version of its own
      as_server "$bin/createdb" -h 127.0.0.1 -p "$port" -U studies $database 2>/dev/null || true
      echo "postgresql+psycopg://studies@127.0.0.1:$port/$database"
    done
    ;;
  stop)
    as_server "$bin/pg_ctl" -D "$folder/data" -m fast -w -s stop
    ;;
  *) usage ;;
esac
