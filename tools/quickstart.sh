#!/usr/bin/env bash
# Shows memfs at work on this machine: installs it, mounts a demonstration directory, fills it, moves
# files between the tiers, and reads everything back against checksums, also after a remount.
#
#   tools/quickstart.sh       as root, on Debian 12 or the like
#
# Leaves nothing behind but the installed packages and .venv of this checkout.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

[[ $EUID -eq 0 ]] || fail "run this as root: it installs packages and mounts"
[[ $(uname -s) == Linux ]] || fail "memfs needs Linux"
[[ -e /dev/fuse ]] || modprobe fuse 2>/dev/null || true
[[ -e /dev/fuse ]] ||
    fail "there is no /dev/fuse: load the module (modprobe fuse), or give the container the device (--device /dev/fuse)"

tools/setup.sh
memfs=$PWD/.venv/bin/memfs

area=$(mktemp -d /var/tmp/memfs-quickstart.XXXXXX)
data=$area/data
cleanup() {
    "$memfs" umount "$data" 2>/dev/null || umount --lazy "$data" 2>/dev/null || true
    rm -rf --one-file-system "$area"
}
trap cleanup EXIT
mkdir "$data"
# The configuration of the demonstration: files move at once, not after days.
mount_it() { "$memfs" mount --state "$area/state" -o policy.interval=200ms "$data"; }

# Waits until every regular file below $1 is in tier $2.
await_tier() {
    local deadline=$((SECONDS + 120)) waiting
    while ((SECONDS < deadline)); do
        waiting=$(find "$data/$1" -type f -size +0 -exec \
            getfattr --absolute-names --only-values -n user.memfs.tier {} \; -printf '\n' |
            grep -cvx "$2" || true)
        [[ $waiting -ne 0 ]] || return 0
        sleep 0.2
    done
    "$memfs" status "$data" >&2
    fail "$waiting files of $1 did not reach the $2 tier in time"
}

say "==> mounting $data"
mount_it || fail "the mount failed; its reason is above"

library=$("$PWD/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
say "==> copying the Python standard library into it, from $library"
tar -C "$library" --exclude=./site-packages --exclude=./dist-packages --exclude=__pycache__ -cf - . |
    tar -C "$data" -xf -
(cd "$data" && find . -type f -exec sha256sum {} + >"$area/checksums")
check() { (cd "$data" && sha256sum --check --quiet "$area/checksums") || fail "bytes differ: $1"; }

say "==> pinning json to warm, email to cold, asyncio to glacier"
"$memfs" pin warm "$data/json"
setfattr -n user.memfs.tier -v cold "$data/email"
setfattr -n user.memfs.tier -v glacier "$data/asyncio"
await_tier json warm
await_tier email cold
await_tier asyncio glacier
"$memfs" status "$data"
"$memfs" why "$data/asyncio/tasks.py"

say "==> reading everything back, from whatever tier"
check "on the first mount"
say "==> unmounting, mounting again, reading again"
"$memfs" umount "$data"
mount_it
check "after the remount"
"$memfs" umount "$data"
"$memfs" fsck "$area/state"
say "memfs works here: $(wc -l <"$area/checksums") files went through three tiers and a remount, and every byte came back."
