#!/usr/bin/env bash
# Shows one directory on two nodes, both on this machine: a PostgreSQL server of its own has the
# names, one node writes, and the other one reads what was written, at once. Then the daemon that
# writes is killed, and comes back; at last the other node takes over from it for good.
#
#   tools/quickstart-nodes.sh [--no-setup]     as root, on Debian 12 or the like
#
#   --no-setup   install nothing: .venv and PostgreSQL are there
#
# Leaves nothing behind but the installed packages and .venv of this checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

[[ $# -eq 0 || ($# -eq 1 && $1 == --no-setup) ]] || fail "no option ${*@Q}; see the head of $0"
[[ $EUID -eq 0 ]] || fail "run this as root: it installs packages and mounts"
[[ $(uname -s) == Linux ]] || fail "memfs needs Linux"
[[ -e /dev/fuse ]] || modprobe fuse 2>/dev/null || true
[[ -e /dev/fuse ]] ||
    fail "there is no /dev/fuse: load the module (modprobe fuse), or give the container the device (--device /dev/fuse)"

[[ $# -eq 1 ]] || tools/setup.sh --nodes
memfs=$PWD/.venv/bin/memfs
python=$PWD/.venv/bin/python

# The newest of Debian's versions, or what is on the path.
postgres=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort --version-sort | tail -n 1)
[[ -x $postgres ]] || postgres=$(command -v initdb) || fail "there is no PostgreSQL server: apt-get install postgresql"
postgres=$(dirname "$(readlink -f "$postgres")")
# The server refuses to run as root.
user=postgres
id "$user" >/dev/null 2>&1 || user=nobody
as_user() { setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"; }

area=$(mktemp -d "${TMPDIR:-/var/tmp}/memfs-nodes.XXXXXX")
chmod 755 "$area"
writer=$area/writer/data reader=$area/reader/data

cleanup() {
    trap '' INT TERM HUP
    local place process
    for place in "$reader" "$writer"; do
        "$memfs" umount "$place" >/dev/null 2>&1 || umount --lazy "$place" 2>/dev/null || true
    done
    [[ ! -e $area/postgres/data/postmaster.pid ]] ||
        as_user "$postgres/pg_ctl" -D "$area/postgres/data" -m immediate -w -s stop || true
    # What was being started when this was cut short.
    for process in /proc/[0-9]*; do
        if tr '\0' '\n' 2>/dev/null <"$process/cmdline" | grep --quiet --fixed-strings "$area/"; then
            kill -KILL "${process#/proc/}" 2>/dev/null || true
        fi
    done
    for place in "$reader" "$writer"; do umount --lazy "$place" 2>/dev/null || true; done
    rm -rf --one-file-system "$area"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "==> starting PostgreSQL $("$postgres/postgres" --version | grep -o '[0-9.]*' | head -n 1) in $area"
install -d -o "$user" "$area/postgres"
cd "$area/postgres"
as_user "$postgres/initdb" -D data -U memfs -A trust -E UTF8 --locale=C --no-sync >initdb.log 2>&1 ||
    { cat initdb.log >&2; fail "the database could not be made"; }
as_user "$postgres/pg_ctl" -D data -w -s -l "$area/postgres/data/log" \
    -o "-k '$area/postgres' -c listen_addresses= -c fsync=off -c dynamic_shared_memory_type=mmap" start ||
    { cat data/log >&2; fail "the server does not start"; }
"$postgres/createdb" -h "$area/postgres" -U memfs memfs
cd "$area"

say "==> formatting the mount: names in the database, bytes in $area/objects"
url="postgresql://memfs@/memfs?host=$area/postgres"
mkdir objects
"$memfs" format "$url" --store "file://$area/objects"

# One configuration for each node; on two machines each would have its own.
configure() {
    mkdir -p "$area/$1/data"
    cat >"$area/$1/memfs.toml" <<TOML
[metadata]
url = "$url"

[nodes]
name = "$1"
role = "$2"
commit_timeout = "60s"

[glacier]
url = "file://$area/objects"
TOML
}
mount_it() { "$memfs" mount -c "$area/$1/memfs.toml" --state "$area/$1/state" "$area/$1/data"; }

say "==> mounting both nodes: $writer and $reader"
configure writer writer
configure reader reader
mount_it writer || fail "the node that writes does not start; the reason is above"
mount_it reader || fail "the node that reads does not start; the reason is above"

say "==> making directories on one, listing them on the other at once"
mkdir "$writer/names"
for number in {1..20}; do
    mkdir "$writer/names/$number"
    [[ $(ls "$reader/names" | wc -l) -eq $number ]] || fail "directory $number is missing on the node that reads"
done

library=$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
say "==> copying parts of the Python standard library into one, reading all of it on the other"
cp -r "$library/json" "$library/email" "$writer"
(cd "$writer" && find json email -type f -exec sha256sum {} + >"$area/checksums")
check() { (cd "$reader" && sha256sum --check --quiet "$area/checksums") || fail "bytes differ: $1"; }
check "on the node that reads"

say "==> writing a file again and again, reading it on the other node at once"
for number in 1 2 3; do
    printf 'version %s\n' "$number" >"$writer/file"
    [[ $(<"$reader/file") == "version $number" ]] || fail "the node that reads has an old version"
done

say "==> the node that reads takes no changes:"
if touch "$reader/refused" 2>"$area/refused"; then
    fail "the node that reads has made a file"
fi
sed "s,$area/,," "$area/refused"

say "==> killing the daemon that writes; the other node goes on reading, and tells what it knows:"
pid=$("$memfs" status --json "$writer" | "$python" -c 'import json, sys; print(json.load(sys.stdin)["pid"])')
kill -KILL "$pid"
while [[ -e /proc/$pid ]]; do sleep 0.1; done
umount --lazy "$writer"
check "while nobody writes"
"$memfs" status "$reader"
"$memfs" node list "$url"

say "==> mounting it again, writing, reading on the other node"
mount_it writer
printf 'after the kill\n' >"$writer/file"
[[ $(<"$reader/file") == "after the kill" ]] || fail "the node that reads has an old version"

say "==> the first node goes for good, and the other one takes over:"
"$memfs" barrier --level remote "$writer" >/dev/null
"$memfs" umount "$writer"
"$memfs" node promote reader "$url"
"$memfs" umount "$reader"
configure reader writer
mount_it reader
check "after the take-over"
printf 'by the other node\n' >"$reader/file"
[[ $(<"$reader/file") == "by the other node" ]] || fail "what was written is not there"
"$memfs" node list "$url"
"$memfs" umount "$reader"
say "memfs works here on two nodes: $(wc -l <"$area/checksums") files and 20 directories were read where they were not written, and each was as it was then."
