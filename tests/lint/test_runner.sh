#!/bin/sh
# The runner is tested like anything else: what fails, hangs, skips, crashes or stays behind must be told as such.
. "${0%/*}/../lib.sh"

unset CI
mkdir t b
allowed=$PWD/allowed
: >allowed

script() {
    cat >"t/$1"
    chmod +x "t/$1"
}

# run_it STATUS OPTION/FILE...: into out; the status and the place of the closing line are checked here.
run_it() {
    want=$1
    shift
    expect_status "$want" "$TOP/tests/run" --build "$PWD/b" --allowed-skips "$allowed" "$@" >out 2>&1 || {
        cat out >&2
        exit 1
    }
    tail -n 1 out | grep -qE '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' || fail "no closing line"
    [ "$(grep -cE '^[0-9]+ passed, ' out)" -eq 1 ] || fail "more than one closing line"
}

closes_with() {
    [ "$(tail -n 1 out)" = "$1" ] || {
        sed 's/^/    /' out >&2
        fail "closing line '$(tail -n 1 out)' instead of '$1'"
    }
}

# tests/run's own children are gone and their directories with them
nothing_left() {
    ! pgrep -f "$1" >/dev/null || fail "$1 is still running"
}

script pass <<'S'
#!/bin/sh
env >"$OUT_ENV"
S
sed -i "s|\$OUT_ENV|$PWD/env|" t/pass
script broken <<'S'
#!/bin/sh
echo "the reason is here"
exit 3
S
script skipped <<'S'
#!/bin/sh
echo "no such device"
exit 77
S
script crash <<'S'
#!/bin/sh
kill -SEGV $$
S

# A pass: alone in the world, in a directory that goes away.
SECRET_OF_THE_CALLER=1 run_it 0 t/pass
closes_with "1 passed, 0 failed, 0 skipped"
! grep -q SECRET_OF_THE_CALLER env || fail "the environment is not clean"
for var in LC_ALL=C.UTF-8 TZ=UTC "TOP=$TOP" "BUILD=$PWD/b" HOLDFAST_SLOW=1; do
    grep -qxF "$var" env || fail "no $var in the environment"
done
home=$(sed -n 's/^HOME=//p' env)
[ -n "$home" ] && [ ! -e "$home" ] || fail "HOME '$home' was not removed"

# Many that end at once: no end may be missed.
script quick <<'S'
#!/bin/sh
exit 0
S
# shellcheck disable=SC2046 # a list of words
run_it 0 -j 4 $(yes t/quick | head -n 60)
closes_with "60 passed, 0 failed, 0 skipped"

# Failures of every kind.
run_it 1 t/pass t/broken t/crash
closes_with "1 passed, 2 failed, 0 skipped"
expect_text out "exit status 3"
expect_text out "| the reason is here"
expect_text out "SIGSEGV"
run_it 1 t/nosuch
closes_with "0 passed, 1 failed, 0 skipped"
run_it 1 --step good true --step bad 'echo why; false'
closes_with "1 passed, 1 failed, 0 skipped"
expect_text out "| why"
run_it 1 t/pass --step good true t/broken
closes_with "2 passed, 1 failed, 0 skipped"

# Skips: told with the reason; under CI only those on the list.
run_it 0 t/skipped
closes_with "0 passed, 0 failed, 1 skipped"
expect_text out "no such device"
CI=true
export CI
run_it 1 t/skipped
closes_with "0 passed, 1 failed, 0 skipped"
echo "skip* # needs a device" >allowed
run_it 0 t/skipped
closes_with "0 passed, 0 failed, 1 skipped"
unset CI

# cmocka programs: each case counts; one that was begun and never ended has failed, whatever the exit status says.
script cases <<'S'
#!/bin/sh
echo '[==========] tests: Running 3 test(s).'
echo '[ RUN      ] one'
echo '[       OK ] one'
echo '[ RUN      ] two'
echo '[  SKIPPED ] two'
echo '[ RUN      ] three'
echo '[  FAILED  ] three'
echo '[==========] tests: 3 test(s) run.'
echo '[  FAILED  ] tests: 1 test(s), listed below:'
echo '[  FAILED  ] three'
exit 77
S
run_it 1 t/cases
closes_with "1 passed, 1 failed, 1 skipped"
script died <<'S'
#!/bin/sh
echo '[ RUN      ] one'
echo '[       OK ] one'
echo '[ RUN      ] two'
kill -ABRT $$
S
run_it 1 t/died
closes_with "1 passed, 1 failed, 0 skipped"
expect_text out "failed: two"
script teardown <<'S'
#!/bin/sh
echo '[ RUN      ] one'
echo '[       OK ] one'
exit 1
S
run_it 1 t/teardown
closes_with "1 passed, 1 failed, 0 skipped"

# A test that hangs is ended at its limit, with all that it started, also in a session of its own; its own cleanup runs.
mark=31$$
script hang <<S
#!/bin/sh
# limit: 1
trap 'echo cleaned >"$PWD/cleaned"; exit 1' TERM
setsid sleep $mark &
sleep $mark &
wait
S
run_it 1 t/hang
closes_with "0 passed, 1 failed, 0 skipped"
expect_text out "no end within 1 s"
[ -f cleaned ] || fail "the test's own cleanup did not run"
nothing_left "sleep $mark"
script deaf <<S
#!/bin/sh
trap '' TERM
echo \$PWD >"$PWD/deaf.dir"
while :; do sleep 0.1; done
S
start=$(now_ms)
run_it 1 -t 0.5 --grace 1 t/deaf
[ $(($(now_ms) - start)) -lt 15000 ] || fail "a test that ignores SIGTERM took $(($(now_ms) - start)) ms to end"
[ ! -e "$(cat deaf.dir)" ] || fail "its directory is still there"

# What a test leaves running is ended, and it has failed.
script daemon <<S
#!/bin/sh
setsid sleep $mark </dev/null >/dev/null 2>&1 &
S
run_it 1 t/daemon
closes_with "0 passed, 1 failed, 0 skipped"
expect_text out "left running: sleep $mark"
nothing_left "sleep $mark"

# A sanitizer's report is a failure and is shown, also when it is about a program whose end nobody looked at.
script report <<'S'
#!/bin/sh
for options in "$ASAN_OPTIONS" "$UBSAN_OPTIONS" "$TSAN_OPTIONS" "$LSAN_OPTIONS"; do
    echo "what it found" >"${options##*log_path=}.$$"
done
S
run_it 1 t/report
closes_with "0 passed, 1 failed, 0 skipped"
expect_text out "1 sanitizer reports"
expect_text out "| what it found"
script report_of_cases <<'S'
#!/bin/sh
echo '[ RUN      ] one'
echo "what it found" >"${ASAN_OPTIONS##*log_path=}.1"
echo '[       OK ] one'
S
ASAN_OPTIONS=halt_on_error=1:log_path=/nowhere/to/be/seen run_it 1 t/report_of_cases
closes_with "1 passed, 1 failed, 0 skipped"

# In parallel, except for one that wants to be alone.
for n in 1 2; do
    script meet$n <<S
#!/bin/sh
touch "$PWD/here$n"
i=0
until [ -e "$PWD/here$((3 - n))" ]; do
    i=\$((i + 1))
    [ \$i -lt 200 ] || exit 1
    sleep 0.05
done
S
    script lone$n <<S
#!/bin/sh
# alone
mkdir "$PWD/lock" || exit 1
sleep 0.2
rmdir "$PWD/lock"
S
done
run_it 0 -j 2 t/meet1 t/meet2
closes_with "2 passed, 0 failed, 0 skipped"
run_it 0 -j 4 t/lone1 t/lone2 t/pass
closes_with "3 passed, 0 failed, 0 skipped"

# Interrupted: everything ends, directories too, and the closing line still comes.
script long <<S
#!/bin/sh
pwd >"$PWD/long.dir"
sleep $mark
S
"$TOP/tests/run" --build "$PWD/b" -j 1 t/long t/pass >out 2>&1 &
runner=$!
cleanup_fn stop_pid "$runner"
must_wait 10 test -s long.dir
kill -TERM "$runner"
must_wait 20 process_gone "$runner"
status=0
wait "$runner" || status=$?
[ "$status" -eq 130 ] || fail "status $status after an interruption"
expect_text out "1 not run"
closes_with "0 passed, 1 failed, 0 skipped"
nothing_left "sleep $mark"
[ ! -e "$(cat long.dir)" ] || fail "the interrupted test's directory is still there"

# Killed outright, the runner takes its tests with it.
rm long.dir
"$TOP/tests/run" --build "$PWD/b" t/long >out 2>&1 &
runner=$!
must_wait 10 test -s long.dir
kill -KILL "$runner"
wait "$runner" || :
long_dir=$(cat long.dir)
must_wait 20 test ! -e "$long_dir"
nothing_left "sleep $mark"
