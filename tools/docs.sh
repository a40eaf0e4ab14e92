#!/usr/bin/env bash
# Builds the site of docs/ into build/site, and fails on a broken link, anchor or page.
#
#   tools/docs.sh [--serve | ARGUMENTS OF MKDOCS BUILD...]
#
#   --serve   show it at http://127.0.0.1:8000, and again after each change
#
# The result needs no server: open build/site/index.html.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1-} in
-h | --help)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
esac

bin=.venv/bin
if ! $bin/python -c 'import material' 2>/dev/null; then
    [[ -x $bin/python ]] || python3 -m venv .venv
    $bin/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
fi

# It says where its successor is, with each build.
export NO_MKDOCS_2_WARNING=1
if [[ ${1-} == --serve ]]; then
    exec $bin/python -m mkdocs serve --strict
fi
exec $bin/python -m mkdocs build --strict --quiet "$@"
