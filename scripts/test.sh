#!/usr/bin/env bash
# Installs what the tests need, as far as it is missing, and runs them all; arguments go to the test runner.
#
#     scripts/test.sh [ARGUMENT...]
#
# The tests run against PostgreSQL 15 (Debian 12's), 17 and 18 (put into .cache/, or into /var/cache/barman-test
# where the user postgres may not go into this folder). An installed one is taken instead where BARMAN_TEST_PG_15,
# _17 or _18 names its bin folder.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$project/scripts/lib.sh"
cd "$project"

need_server() {
  local version=$1 variable=BARMAN_TEST_PG_$1
  if [ -n "${!variable:-}" ] || [ -x "/usr/lib/postgresql/$version/bin/initdb" ]; then return; fi
  "$project/scripts/install-postgres.sh" "$version" "$servers/$version"
  export "$variable=$servers/$version/bin"
}

need_compiler
# As root, Debian's own: it also brings the user that servers run as.
if is_root; then need_debian_postgres "testing"; fi
# The tests run servers of their own, on loopback.
need_packages "testing" openssh-client openssh-server libfaketime
mkdir -p "$cache"
servers=$cache/postgres
can_reach "$cache" || servers=/var/cache/barman-test
for version in 15 17 18; do need_server "$version"; done
need_python "$cache/python" scripts/python-requirements.txt

# Servers that outlive a killed run would lie here; nothing else writes to it.
TMPDIR=$(mktemp -d /tmp/barman-test.XXXXXX)
export TMPDIR
chmod 755 "$TMPDIR"
trap 'rm -rf "$TMPDIR"' EXIT

say "Testing"
cargo test --locked --workspace --doc --quiet
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --workspace --no-fail-fast "$@"
else
  cargo test --locked --workspace --lib --bins --tests --no-fail-fast "$@"
fi
