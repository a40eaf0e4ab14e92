#!/usr/bin/env bash
# Installs what memfs needs: Debian packages, and the package itself into .venv of this checkout.
#
#   tools/setup.sh            what mounting takes
#   tools/setup.sh --nodes    and what a database of names takes, the server included
#   tools/setup.sh --tests    and what the test suite takes
#
# Does again only what is missing; needs root where Debian packages are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# pyfuse3 has no wheel: it is compiled against libfuse's and Python's headers.
packages=(fuse3 libfuse3-dev pkg-config gcc python3-dev python3-venv attr)
extras=s3,pyfuse3
lock=mount
if [[ ${1:-} == --tests ]]; then
    packages+=(acl chromium chromium-driver dbench fio git lz4 ncdu postgresql rsync sqlite3 strace stress-ng systemd util-linux xfsprogs zstd)
    extras+=,gcs,azure,encryption,traces,hot,cuda,torch,values,aio,web,postgresql,dev,examples,docs,dev-torch
    lock=tests
elif [[ ${1:-} == --nodes ]]; then
    packages+=(postgresql util-linux)
    extras+=,postgresql
    # The smallest lock that has it.
    lock=daemon
elif [[ $# -gt 0 ]]; then
    fail "no option $1; see the head of $0"
fi

is_installed() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'
}

install_packages() {
    local missing=() package attempt
    for package in "${packages[@]}"; do
        is_installed "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    command -v apt-get >/dev/null ||
        fail "no apt-get here; install these by hand, then run this again: ${missing[*]}"
    [[ $EUID -eq 0 ]] || fail "not root; as root: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    [[ " ${missing[*]} " != *" postgresql "* ]] || without_own_cluster
    # The package lists of a fresh machine are empty or old; mirrors fail now and then.
    for attempt in 1 2 3; do
        [[ $attempt -eq 1 ]] || { apt-get update -qq || true; }
        if DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            -o DPkg::Lock::Timeout=300 "${missing[@]}" >/dev/null; then
            return 0
        fi
    done
    fail "apt-get could not install ${missing[*]}"
}

# Tests and the tour run servers of their own; Debian's package would make and start one for the machine.
without_own_cluster() {
    local settings=/etc/postgresql-common/createcluster.d
    mkdir -p "$settings"
    echo 'create_main_cluster = false' >"$settings/memfs.conf"
    trap 'rm -f /etc/postgresql-common/createcluster.d/memfs.conf' EXIT
}

install_venv() {
    local python mark
    mark=.venv/.setup-$(cat pyproject.toml "locks/$lock.txt" | sha256sum | cut -c1-16)-$extras
    [[ ! -e $mark ]] || return 0
    python=$(command -v python3) || fail "no python3; as root: apt-get install python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old; memfs needs 3.11 or newer"
    say "installing memfs into .venv"
    [[ -x .venv/bin/python ]] || "$python" -m venv .venv
    # What pip says is of interest only if it fails.
    install_python_packages >.venv/setup.log 2>&1 ||
        { cat .venv/setup.log >&2; fail "pip could not install memfs"; }
    touch "$mark"
}

# First what is locked, each file by its hash; then memfs itself, and torch, which is in no lock.
install_python_packages() {
    local pip=(.venv/bin/python -m pip install --disable-pip-version-check) isolation=()
    if .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
        "${pip[@]}" --require-hashes --requirement "locks/$lock.txt" || return
        # What builds memfs is locked as well.
        isolation=(--no-build-isolation)
    else
        say "the locks are for Python 3.11: taking what pyproject.toml lets in"
    fi
    "${pip[@]}" "${isolation[@]}" --editable ".[$extras]"
}

# An npm package for tests: NAME VERSION. Node itself comes with `dev`.
install_npm() {
    local name=$1 version=$2 target=.venv/$1 mark attempt
    mark=$target/.setup-$version
    [[ ! -e $mark ]] || return 0
    say "installing $name into $target"
    mkdir -p "$target"
    for attempt in 1 2 3; do
        if PATH="$PWD/.venv/bin:$PATH" npm install --prefix "$target" --no-fund --no-audit \
            --no-save "$name@$version" >".venv/$name.log" 2>&1; then
            touch "$mark"
            return 0
        fi
    done
    cat ".venv/$name.log" >&2
    fail "npm could not install $name"
}

install_packages
install_venv
if [[ $extras == *dev* ]]; then
    install_npm azurite 3.35.0 # the server that the Azure tests run against
    install_npm axe-core 4.14.1 # rules of accessibility, for pages in tests; it ships with nothing
fi
