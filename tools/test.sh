#!/usr/bin/env bash
# Sets everything up, then checks format, lint and types, and runs the test suite.
#
#   tools/test.sh [--fast] [ARGUMENTS OF PYTEST...]
#
#   --fast   only the unit tests, and the system calls under the kernel driver
#
#   MEMFS_TEST_WORKERS     test processes at a time (default 2); 0: none but this one
#   MEMFS_TEST_POSTGRESQL  a directory with PostgreSQL's initdb and postgres, of the version to test
#                          with (default: the newest that is installed)
set -euo pipefail
cd "$(dirname "$0")/.."

arguments=()
for argument in "$@"; do
    case $argument in
    -h | --help)
        sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
        exit 0
        ;;
    --fast) arguments+=(-m "not slow" --places kernel tests/unit tests/posix) ;;
    *) arguments+=("$argument") ;;
    esac
done

tools/setup.sh --tests
bin=.venv/bin
export PATH="$PWD/$bin:$PATH"

$bin/ruff format --check .
$bin/ruff check .
$bin/mypy
$bin/mypy tests
# Quiet up to the failures; the slowest ones are where time can be won. Most tests wait: two
# processes take half the time of one. Each begins with half of the tests, in order, and takes half
# of what the other has left when it is done: both end together, and few files are parted.
exec $bin/python -m pytest -q --durations=15 -n "${MEMFS_TEST_WORKERS:-2}" --dist worksteal \
    "${arguments[@]}"
