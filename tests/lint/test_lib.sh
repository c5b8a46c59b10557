#!/bin/sh
# tests/lib.sh and tests/fuzz/run: what the other tests lean on.
. "${0%/*}/../lib.sh"

# try STATUS: run the script on standard input on lib.sh, as a test of its own, into out.
try() {
    { echo ". '$TOP/tests/lib.sh'"; cat; } >script.sh
    expect_status "$1" sh ./script.sh >out 2>&1
}

# Ending: status, reason, and cleanups in reverse order with their words intact, whatever one of them returns.
try 0 <<'S'
cleanup_fn echo "first  'quoted' \$HOME"
cleanup_fn false
cleanup_fn echo last
S
printf 'last\nfirst  %s\n' "'quoted' \$HOME" | cmp - out || fail "cleanups went wrong: $(cat out)"
try 1 <<'S'
cleanup_fn echo cleaned
fail "two and two"
S
expect_text out "FAILED: two and two"
expect_text out cleaned
try 1 <<'S'
cleanup_fn echo cleaned
false
echo "not reached"
S
! grep -q "not reached" out || fail "a failing command did not end the script"
expect_text out cleaned
try 77 <<'S'
requires sh no-such-program-here
S
expect_text out "no-such-program-here is not installed"
try 77 <<'S'
requires_that "the moon is down" false
S
expect_text out "the moon is down"
try 143 <<'S'
cleanup_fn echo cleaned
kill -TERM $$
S
expect_text out cleaned

# Waiting ends early when it can, and at the deadline when it must.
start=$(now_ms)
(sleep 0.3; : >there) &
wait_until 20 test -e there || fail "wait_until did not see the file"
[ $(($(now_ms) - start)) -lt 10000 ] || fail "wait_until waited for its deadline"
! wait_until 1 false || fail "wait_until made a success of a failure"
try 1 <<'S'
must_wait 1 test -e nothing
S
expect_text out "not within 1 s: test -e nothing"

# Processes: a willing one, a deaf one, one that has gone, and one that is not ours to forget.
for n in 1 2 3 4 5 6 7 8; do
    spawn log sleep 600
    stop_pid "$spawned" 5 || fail "a willing process was killed"
done
: >ready
rm ready
sh -c 'trap "" TERM; : >ready; while :; do sleep 0.1; done' &
deaf=$!
must_wait 10 test -e ready
! stop_pid "$deaf" 1 || fail "a deaf process ended on SIGTERM"
process_gone "$deaf" || fail "a deaf process is still there"
stop_pid "$deaf" || fail "stopping what has gone is no failure"
try 0 <<'S'
spawn log sleep 600
echo "$spawned"
S
process_gone "$(cat out)" || fail "spawn left its process"

# Ports and sockets.
# shellcheck disable=SC2046 # words
set -- $(free_ports 3)
[ "$1" != "$2" ] && [ "$2" != "$3" ] && [ "$1" != "$3" ] || fail "ports $* are not different"
! port_open "$1" || fail "port $1 is open before anybody listens"
spawn log /usr/bin/python3 -m http.server --bind 127.0.0.1 "$1"
must_wait 20 port_open "$1"
path=$(socket_path s.sock)
! socket_open "$path" || fail "a socket that is not there is open"

# JSON and content.
echo '{"a": {"b": 7}, "f": false}' >x.json
[ "$(json x.json .a.b)" = 7 ] || fail "json"
json_is x.json .a.b 7 || fail "json_is"
! json_is x.json .a.b 8 || fail "json_is of another value"
try 1 <<S
json "$PWD/x.json" .nothing
S
try 1 <<S
same_content "$PWD/x.json" /dev/null
S
try 1 <<S
expect_status 0 false
S
expect_text out "status 1 instead of 0: false"

# The fuzz runner keeps what crashed its target, and replays it before it searches.
mkdir -p fz/tests/fuzz fz/build
cp "$TOP/tests/fuzz/run" fz/tests/fuzz/run
cat >fz/fuzz_fake <<'S'
#!/bin/sh
for arg in "$@"; do
    case $arg in
    -artifact_prefix=*) prefix=${arg#*=} ;;
    -max_total_time=*) search=yes ;;
    */crash-1) echo "replayed"; exit 1 ;;
    esac
done
[ -z "${search:-}" ] && exit 0
echo "stat::peak_rss_mb: 1"
[ -e "$CALM" ] && exit 0
echo boom >"${prefix}crash-1"
exit 77
S
chmod +x fz/fuzz_fake
CALM=$PWD/calm
export CALM
: >calm
expect_status 0 fz/tests/fuzz/run fz/fuzz_fake 1 >out 2>&1
expect_text out "peak_rss_mb"
rm calm
expect_status 1 fz/tests/fuzz/run fz/fuzz_fake 1 >out 2>&1
expect_text out "kept as tests/fuzz/corpus/fake/crash-1"
[ "$(cat fz/tests/fuzz/corpus/fake/crash-1)" = boom ] || fail "the crash was not kept"
: >calm
expect_status 1 fz/tests/fuzz/run fz/fuzz_fake 1 >out 2>&1
expect_text out "the corpus does not replay"
