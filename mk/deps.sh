#!/bin/sh
# Install what is missing of mk/packages.  Usage: mk/deps.sh build|all
#
# A machine that has everything pays one dpkg-query.  Without the right to install, it says what to install; a
# package that is needed to compile is then an error, one that only tests need is not.
set -eu

kind=${1:-all}
list=$(dirname "$0")/packages

wanted() {
    sed 's/#.*//' "$list" | awk -v kind="$1" 'NF == 2 && (kind == "all" || $1 == kind) { print $2 }' | sort
}

missing() {
    wanted "$1" >"$tmp/wanted"
    # dpkg-query complains about names it never saw: those are missing, and so what is asked here
    xargs dpkg-query -W -f '${Package} ${db:Status-Status}\n' <"$tmp/wanted" 2>/dev/null |
        awk '$2 == "installed" { print $1 }' | sort -u >"$tmp/have" || true
    comm -23 "$tmp/wanted" "$tmp/have"
}

command -v dpkg-query >/dev/null 2>&1 || {
    echo "deps: no dpkg here: install what mk/packages names by this system's own means" >&2
    exit 0
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

need=$(missing "$kind" | tr '\n' ' ')
[ -n "$need" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "deps: missing: ${need% }" >&2
    echo "deps: as root: apt-get install --no-install-recommends ${need% }" >&2
    [ -z "$(missing build)" ] || exit 1
    exit 0
fi

echo "deps: installing ${need% }"
export DEBIAN_FRONTEND=noninteractive
apt() {
    apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >"$tmp/log" 2>&1
}
# shellcheck disable=SC2086 # a list of words
apt install -y --no-install-recommends $need ||
    { apt update && apt install -y --no-install-recommends $need; } ||
    {
        cat "$tmp/log" >&2
        echo "deps: could not install: ${need% }" >&2
        exit 1
    }
