# shellcheck shell=bash
# What the other scripts share; to be sourced.  Expects $project, the project's folder.

cache=${project:?}/.cache

# One line about what is being done; in colour only where someone watches.
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
say() { printf '%s\n' "$bold$*$plain"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

is_root() { [ "$(id -u)" = 0 ]; }

# need_packages REASON PACKAGE...: Debian packages are there afterwards, or the script ends.
need_packages() {
  local reason=$1 package missing=()
  shift
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "$reason needs (as Debian calls them) ${missing[*]}: install them by hand"
  is_root || die "$reason needs ${missing[*]}; run as root: apt-get install ${missing[*]}"
  say "Installing ${missing[*]}"
  mkdir -p "$cache"
  install_packages "${missing[@]}" >"$cache/apt.log" 2>&1 || {
    cat "$cache/apt.log" >&2
    die "could not install ${missing[*]}"
  }
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -q --no-install-recommends "$@" ||
    { apt-get update -q && apt-get install -y -q --no-install-recommends "$@"; }
}

# need_debian_postgres REASON: Debian's own server programs, without the cluster that the package would start.
need_debian_postgres() {
  local settings=/etc/postgresql-common/createcluster.d
  if is_root; then
    mkdir -p "$settings"
    echo 'create_main_cluster = false' >"$settings/barman-test.conf"
  fi
  (need_packages "$1" postgresql-15) || { forget_settings "$settings"; exit 1; }
  forget_settings "$settings"
}

forget_settings() {
  if is_root; then
    rm -f "$1/barman-test.conf"
    rmdir "$1" 2>/dev/null || true
  fi
}

# can_reach PATH: whether the user that servers run as can; only root runs them as another one.
can_reach() {
  if is_root; then setpriv --reuid=postgres --regid=postgres --init-groups test -x "$1"; else test -x "$1"; fi
}

# need_compiler: what Rust's linker and the C parts of the dependencies ask for.
need_compiler() {
  if ! command -v cc >/dev/null || ! [ -e /usr/include/stdlib.h ]; then need_packages "building" gcc libc6-dev; fi
  if ! command -v cargo >/dev/null; then PATH=$HOME/.cargo/bin:$PATH; fi
  command -v cargo >/dev/null || die "cargo is missing: install Rust 1.95 or newer, e.g. with rustup"
}

# A Python environment in $1 with the requirements in file $2 (wheels only), made once for each state of the file.
need_python() {
  local venv=$1 requirements=$2 python=python3
  cmp -s "$requirements" "$venv/requirements.txt" && return
  [ -x /usr/bin/python3 ] && python=/usr/bin/python3
  "$python" -c 'import ensurepip' 2>/dev/null || { need_packages "a Python environment" python3-venv; python=/usr/bin/python3; }
  say "Installing $(grep -v '^#' "$requirements" | paste -sd' ')"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: -r "$requirements"
  cp "$requirements" "$venv/requirements.txt"
}
