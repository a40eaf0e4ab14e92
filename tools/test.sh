#!/usr/bin/env bash
# Sets everything up, then checks format, lint and types, and runs the test suite.
#
#   tools/test.sh [--fast] [ARGUMENTS OF PYTEST...]
#
#   --fast   only the unit tests, and the system calls under the kernel driver
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
# Quiet up to the failures; the slowest ones are where time can be won.
exec $bin/python -m pytest -q --durations=15 "${arguments[@]}"
