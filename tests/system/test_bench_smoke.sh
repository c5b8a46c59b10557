#!/bin/sh
# limit: 300
# alone
# The benchmarks work: each section runs for a moment, and its tables come out.  Figures are no concern of this test.

. "${0%/*}/../lib.sh"
requires fio qemu-nbd qemu-storage-daemon nbdkit nbd-server nbdcopy

[ -d /dev/shm ] || skip "no /dev/shm"
BENCH_DISK=$PWD QUICK=1 "$TOP/tests/bench/run" >bench.out 2>&1 || {
    cat bench.out >&2
    fail "a section did not work"
}
for section in nbd protected mirror sync view restart memory; do
    expect_text bench.out "## $section"
done
expect_text bench.out "| randw4k q32 | holdfast |"
expect_text bench.out "| newest checkpoint and volume | identical |"
expect_text bench.out " targets met, "
grep -q '^ *did not work' bench.out && fail "a section did not work"
exit 0
