#!/usr/bin/env bash
# Shows in a few minutes what barman does, on a throwaway PostgreSQL that is gone afterwards:
# two backups, a dropped table, and the table back as it was the moment before.
#
#     scripts/demo.sh [PATH_OF_BARMAN]
#
# Nothing outside of one temporary folder is touched and nothing listens on the network. PostgreSQL 15 to 18
# is used where installed, else Debian's is installed. As root, everything runs as the user postgres.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$project/scripts/lib.sh"

built=${1:-${CARGO_TARGET_DIR:-$project/target}/release/barman}
scale=20              # 100 000 accounts each
transactions=10000    # between two looks at the database
port=54321            # these only name Unix sockets in the demo's folder
restored_port=54322
servers=()            # process ids of what was started

main() {
  [ -x "$built" ] || die "there is no $built: run 'make build' first"
  find_postgres
  # A restore looks there for the programs that the server will be started with.
  PATH=$bin:$PATH
  prepare_folder
  tell "This is $("$demo/barman" --version | head -n 1), with $("$bin/postgres" --version)."
  make_cluster
  make_repository
  first_backup
  second_backup
  accident
  restore
  check_repository
  summary
}

# Sets $bin to the newest PostgreSQL here.
find_postgres() {
  local version variable candidate
  for version in 18 17 16 15; do
    variable=BARMAN_TEST_PG_$version
    for candidate in "${!variable:-}" "/usr/lib/postgresql/$version/bin" "$cache/postgres/$version/bin"; do
      if [ -x "$candidate/initdb" ] && [ -x "$candidate/pgbench" ]; then
        bin=$candidate
        if is_root && ! id postgres >/dev/null 2>&1; then continue; fi
        if ! can_reach "$candidate/initdb"; then continue; fi
        return
      fi
    done
  done
  need_debian_postgres "the demo"
  bin=/usr/lib/postgresql/15/bin
}

prepare_folder() {
  demo=$(mktemp -d /tmp/barman-demo.XXXXXX)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  chmod 755 "$demo"
  # A copy, because the user postgres may not be allowed into the folder it was built in.
  cp "$built" "$demo/barman"
  if is_root; then chown postgres: "$demo"; fi
  cd "$demo"
}

make_cluster() {
  tell "Making a PostgreSQL cluster with $((scale * 100000)) accounts in it (pgbench)."
  quietly as_owner "$bin/initdb" -D "$demo/data" -U postgres -A trust --data-checksums
  as_owner tee -a "$demo/data/postgresql.conf" >/dev/null <<END
listen_addresses = ''
unix_socket_directories = '$demo'
timezone = 'UTC'
max_wal_size = 4GB
archive_mode = on
archive_command = '$demo/barman -c $demo/barman.conf wal-archive main %p'
END
  as_owner tee "$demo/barman.conf" >/dev/null <<END
[barman]
barman_user = $(as_owner id -un)
barman_home = $demo/home
repository = $demo/repository
repository_key_file = $demo/repository.key
repository_reserve = 0

[main]
description = The demo's cluster
conninfo = host=$demo port=$port user=postgres dbname=postgres
streaming_conninfo = host=$demo port=$port user=postgres dbname=postgres
backup_method = postgres
archiver = on
immediate_checkpoint = true
END
}

make_repository() {
  tell "Creating the encrypted repository: barman repo init"
  barman repo init
  tell "Starting the server; from now on it hands every WAL segment to: barman wal-archive main %p"
  start_server "$demo/data" $port
  quietly as_owner "$bin/pgbench" -h "$demo" -p $port -U postgres -i -q -s $scale postgres
  archive_wal
  tell "Is everything as it should be? barman check main"
  barman check main
}

first_backup() {
  database_size=$(sql "SELECT sum(pg_database_size(oid)) FROM pg_database")
  tell "Backing up $(human "$database_size"): barman backup main --wait"
  timed backup barman backup main --wait
  first_time=$seconds first_size=$(stored)
}

second_backup() {
  tell "Working on: $transactions transactions."
  work
  tell "Backing up again; only what changed is stored: barman backup main --wait"
  local before
  before=$(stored)
  timed backup barman backup main --wait
  second_time=$seconds second_size=$(($(stored) - before))
}

accident() {
  tell "Working on: another $transactions transactions."
  work
  contents=$(fingerprint $port)
  quietly sql "SELECT pg_create_restore_point('before_the_accident')"
  moment=$(sql "SELECT clock_timestamp()")
  tell "It is $moment; the accounts are $contents."
  sleep 1
  tell "The accident: DROP TABLE pgbench_accounts"
  quietly sql "DROP TABLE pgbench_accounts"
  quietly sql "CREATE TABLE life_goes_on AS SELECT generate_series(1, 10000)"
  archive_wal
  wal_size=$(sql "SELECT archived_count * (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')
                  FROM pg_stat_archiver")
}

restore() {
  tell "Back to that moment: barman restore main auto restored --target-time '$moment'"
  timed restore barman restore main auto "$demo/restored" --target-time "$moment" --target-action promote
  restore_time=$seconds
  tell "Starting the restored server beside the other one; it replays the WAL up to the moment."
  timed recovery start_restored
  recovery_time=$seconds
  local found
  found=$(fingerprint $restored_port)
  [ "$found" = "$contents" ] || die "the restored accounts are $found, they should be $contents"
  tell "Proof: the accounts are $found, the same as before the accident."
}

start_restored() {
  start_server "$demo/restored" $restored_port -c "listen_addresses=" -c "unix_socket_directories=$demo" -c archive_mode=off
  for _ in $(seq 600); do
    [ "$(sql_at $restored_port "SELECT pg_is_in_recovery()")" = t ] || return 0
    sleep 0.2
  done
  die "the restored server does not come out of recovery"
}

check_repository() {
  tell "Reading back every byte of the repository: barman repo check --read-data"
  timed check barman repo check --read-data
  check_time=$seconds
}

summary() {
  tell "Done. Everything is stopped and removed now."
  printf '\n%sIn numbers%s\n' "$bold" "$plain"
  row "" "size" "took"
  row "the database" "$(human "$database_size")"
  row "the first backup, in the repository" "$(human "$first_size")" "$first_time s"
  row "the second, $transactions transactions later" "$(human "$second_size") more" "$second_time s"
  row "$(human "$wal_size") of WAL, in the repository" "$(human "$(size_of "$demo/repository/wal")")"
  row "restoring" "" "$restore_time s"
  row "replaying WAL up to the moment" "" "$recovery_time s"
  row "reading the whole repository back" "$(human "$(size_of "$demo/repository")")" "$check_time s"
  printf '\nEach of the two backups is whole: either can be deleted and the other still restores.\n'
}

row() { printf '  %-42s %16s %10s\n' "$1" "$2" "${3:-}"; }

# --- helpers ---------------------------------------------------------------------------------------------------

# A step, with the seconds since the beginning before it.
tell() { printf '%s%4d s%s  %s\n' "$bold" "$SECONDS" "$plain" "$*"; }

as_owner() {
  if is_root; then
    setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$demo" LC_ALL=C.UTF-8 "$@"
  else
    LC_ALL=C.UTF-8 "$@"
  fi
}

# Runs a command and shows what it said only if it fails.
quietly() {
  "$@" >"$demo/said" 2>&1 && return
  local status=$?
  cat "$demo/said" >&2
  die "failed (exit code $status): $*"
}

barman() { quietly as_owner "$demo/barman" -c "$demo/barman.conf" "$@"; }

# timed NAME COMMAND...: sets $seconds to what the command took.
timed() {
  local start=${EPOCHREALTIME/./}
  "${@:2}"
  seconds=$(awk -v us=$((${EPOCHREALTIME/./} - start)) 'BEGIN { printf "%.1f", us / 1e6 }')
}

# start_server DATA PORT [OPTION...]
start_server() {
  local data=$1
  quietly as_owner "$bin/pg_ctl" start -w -t 120 -D "$data" -l "$data.log" -o "-p $2 ${*:3}"
  servers+=("$(head -n 1 "$data/postmaster.pid")")
}

sql() { sql_at $port "$1"; }
sql_at() { as_owner "$bin/psql" -X -q -A -t -v ON_ERROR_STOP=1 -h "$demo" -p "$1" -U postgres -d postgres -c "$2"; }

work() { quietly as_owner "$bin/pgbench" -h "$demo" -p $port -U postgres -n -c 4 -j 2 -t $((transactions / 4)) postgres; }

# How many accounts there are, and a checksum of all their rows.
fingerprint() {
  sql_at "$1" "SELECT count(*) || ' rows with checksum ' || to_hex(bit_xor(hashtextextended(a::text, 0)))
               FROM pgbench_accounts AS a"
}

# Closes the current WAL segment and waits until it has been archived.
archive_wal() {
  local segment
  segment=$(sql "SELECT pg_walfile_name(pg_switch_wal())")
  for _ in $(seq 300); do
    [ "$(sql "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver")" = t ] && return
    sleep 0.2
  done
  tail -n 20 "$demo/data.log" >&2
  die "the server could not archive $segment; above is what it logged"
}

# Bytes in the repository, without the archived WAL.
stored() { echo $(($(size_of "$demo/repository") - $(size_of "$demo/repository/wal"))); }
size_of() { if [ -e "$1" ]; then du -sb "$1" | cut -f 1; else echo 0; fi; }
human() { numfmt --to=si --suffix=B --format='%.1f' "$1" | sed 's/\([0-9]\)\([A-Za-z]\)/\1 \2/'; }

clean_up() {
  local status=$? server
  trap - EXIT
  for server in "${servers[@]}"; do kill -QUIT "$server" 2>/dev/null || true; done
  for server in "${servers[@]}"; do
    for _ in $(seq 100); do
      kill -0 "$server" 2>/dev/null || break
      sleep 0.1
    done
  done
  cd /
  rm -rf "$demo"
  exit $status
}

main
