# shellcheck shell=sh
# What system tests share.  Source it first:
#
#     . "${0%/*}/../lib.sh"
#     requires jq nbdcopy
#
# tests/run gives TOP and BUILD (absolute) and a directory of its own as working directory; run by hand, a script makes
# and removes one itself.  A test ends with 0, by `fail` or by `skip`; everything given to cleanup_fn is run in reverse
# order on the way out, also on SIGTERM.  Nothing here sleeps for a fixed time: it polls, up to a deadline.

set -eu

test_name=${0##*/}
if [ -z "${TOP:-}" ]; then
    TOP=$(cd "${0%/*}/../.." && pwd)
    [ -f "$TOP/Makefile" ] || { echo "$test_name: cannot find the top of the tree: set TOP" >&2; exit 2; }
    own_dir=$(mktemp -d "${TMPDIR:-/tmp}/hf.XXXXXX")
    # The script's own path may be relative to where it was started; everything below uses TOP.
    cd "$own_dir"
fi
BUILD=${BUILD:-$TOP/build}
export TOP BUILD

HOLDFAST=$BUILD/holdfast
HOLDFASTD=$BUILD/holdfastd
export HOLDFAST HOLDFASTD

# ---- Ending -------------------------------------------------------------------------------------------------------

cleanup_count=0

# cleanup_fn COMMAND [ARG...]: run it at the end, last given first.  Its failure changes nothing.
cleanup_fn() {
    cleanup_count=$((cleanup_count + 1))
    cleanup_text=
    for cleanup_word in "$@"; do
        cleanup_text="$cleanup_text '$(printf '%s' "$cleanup_word" | sed "s/'/'\\\\''/g")'"
    done
    eval "cleanup_$cleanup_count=\$cleanup_text"
}

run_cleanups() {
    status=$?
    trap '' INT TERM HUP
    trap - EXIT
    set +e
    while [ "$cleanup_count" -gt 0 ]; do
        eval "cleanup_text=\$cleanup_$cleanup_count"
        cleanup_count=$((cleanup_count - 1))
        eval "$cleanup_text"
    done
    if [ -n "${own_dir:-}" ]; then
        cd / && rm -rf "$own_dir"
    fi
    exit "$status"
}
trap run_cleanups EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
    echo "$test_name: FAILED: $*" >&2
    exit 1
}

# The reason is the last line of output: that is what the runner prints.
skip() {
    echo "$test_name: $*"
    exit 77
}

# requires COMMAND...: skip unless each is installed.
requires() {
    for requires_word in "$@"; do
        command -v "$requires_word" >/dev/null 2>&1 || skip "$requires_word is not installed"
    done
}

# requires_that REASON COMMAND [ARG...]: skip with the reason unless the command succeeds.
requires_that() {
    requires_reason=$1
    shift
    "$@" >/dev/null 2>&1 || skip "$requires_reason"
}

requires_root() {
    [ "$(id -u)" -eq 0 ] || skip "needs root"
}

# ---- Waiting ------------------------------------------------------------------------------------------------------

now_ms() {
    # The monotonic clock, which nobody sets: /proc/uptime has hundredths of a second.
    read -r now_up _ </proc/uptime
    echo "${now_up%.*}${now_up#*.}0"
}

# wait_until SECONDS COMMAND [ARG...]: poll until the command succeeds; 1 when it did not in time, which grows with
# tests/run --slow.
wait_until() {
    wait_slow=${HOLDFAST_SLOW:-1}
    wait_end=$(($(now_ms) + $1 * 1000 * ${wait_slow%%.*}))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(now_ms)" -lt "$wait_end" ] || return 1
        sleep 0.05
    done
}

# must_wait SECONDS COMMAND [ARG...]: the same, and the test fails when it did not.
must_wait() {
    wait_until "$@" || fail "not within $1 s: $(shift; echo "$*")"
}

process_gone() {
    # A zombie is gone: its parent may be this shell, which has not looked yet.
    [ ! -d "/proc/$1" ] || [ "$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null || echo Z)" = Z ]
}

# stop_pid PID [SECONDS]: SIGTERM, and SIGKILL when that did not help in time (10 s); 1 in that case.
stop_pid() {
    kill -TERM "$1" 2>/dev/null || return 0
    # a stopped process cannot act on the signal
    kill -CONT "$1" 2>/dev/null || :
    if wait_until "${2:-10}" process_gone "$1"; then
        return 0
    fi
    kill -KILL "$1" 2>/dev/null || :
    wait_until 5 process_gone "$1" || :
    return 1
}

# A child of the shell has the shell's own handlers until it has become its program: a SIGTERM that comes earlier is lost.
spawn_begun() {
    [ "$(readlink "/proc/$1/exe")" = "$(readlink "/proc/$$/exe")" ] || return 0
    spawn_caught=$(sed -n 's/^SigCgt:.*\(....\)$/\1/p' "/proc/$1/status") || return 0
    [ $((0x${spawn_caught:-0} & 0x4000)) -eq 0 ]
}

# spawn LOGFILE COMMAND [ARG...]: start in the background; its process id is in $spawned; stopped at the end.
spawn() {
    spawn_log=$1
    shift
    "$@" </dev/null >"$spawn_log" 2>&1 &
    # shellcheck disable=SC2034 # for the caller
    spawned=$!
    wait_until 1 spawn_begun "$spawned" || :
    cleanup_fn stop_pid "$spawned"
}

# ---- Ports, sockets, JSON -----------------------------------------------------------------------------------------

# free_ports N: as many TCP ports on 127.0.0.1 that nobody has now, all different, on one line.
free_ports() {
    /usr/bin/python3 "$TOP/tests/lab/ports.py" "$1"
}

free_port() {
    free_ports 1
}

# port_open PORT / socket_open PATH: does somebody listen?
port_open() {
    /usr/bin/python3 -c '
import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1).close()' "$1" 2>/dev/null
}

socket_open() {
    /usr/bin/python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])' "$1" 2>/dev/null
}

# socket_path NAME: an absolute path in the working directory, short enough for a Unix socket (107 bytes).
socket_path() {
    [ "${#PWD}" -lt "$((106 - ${#1}))" ] || fail "$PWD/$1 is too long for a socket"
    echo "$PWD/$1"
}

# json FILE FILTER [JQ ARG...]: raw output; the test fails when the filter yields null, false or nothing.
json() {
    json_file=$1
    json_filter=$2
    shift 2
    jq -er "$@" "$json_filter" "$json_file" || fail "$json_file: no $json_filter"
}

# json_is FILE FILTER VALUE: true when that is what is there; for wait_until as well.
json_is() {
    [ "$(jq -r "$2" "$1" 2>/dev/null)" = "$3" ]
}

# ---- Checking -----------------------------------------------------------------------------------------------------

# expect_status N COMMAND [ARG...]: it must end with exactly this status.
expect_status() {
    expect_want=$1
    shift
    expect_got=0
    "$@" || expect_got=$?
    [ "$expect_got" -eq "$expect_want" ] || fail "status $expect_got instead of $expect_want: $*"
}

# expect_text FILE TEXT: the file must hold this text.
expect_text() {
    grep -qF -e "$2" -- "$1" || {
        sed 's/^/    /' "$1" >&2
        fail "$1: no '$2'"
    }
}

# digest FILE: SHA-256 of its content; same_content A B compares byte by byte.
digest() {
    sha256sum <"$1" | cut -d' ' -f1
}

same_content() {
    cmp -- "$1" "$2" || fail "$1 and $2 differ"
}
