#!/usr/bin/python3
# limit: 150
"""Replication end to end: a used volume is synced while it is written to, over a
link that stalls and is cut; then fio verifies what it writes over both exports
while they replicate; and what a view of the newest checkpoint holds is, byte for
byte, the quiet source, trims and zeroes included."""
import hashlib
import os
import sys
import threading

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import nbd  # noqa: E402
from labtest import (MIB, View, check, copy_out, fill_file, lab, main, noise, points, qemu_io,  # noqa: E402
                     read_range, run, same, say, tag, vpg, wait_until, write_pattern)
from proxy import Proxy  # noqa: E402

FILES, DB = 192 * MIB, 96 * MIB
USED = 96  # MiB of volume files that hold data before it is protected


class Scribbler(threading.Thread):
    """Writes small blocks all over a volume until told to stop."""

    def __init__(self, uri, size):
        super().__init__(daemon=True)
        self.uri, self.size = uri, size
        self.stop_it = threading.Event()
        self.writes, self.error = 0, None

    def run(self):
        h = nbd.NBD()
        try:
            h.connect_uri(self.uri)
            while not self.stop_it.is_set():
                where = self.writes * 7919 * 4096 % (self.size - 4096)
                h.pwrite(hashlib.sha256(b"%d" % self.writes).digest() * 128, where // 4096 * 4096)
                self.writes += 1
                self.stop_it.wait(0.002)
            h.shutdown()
        except nbd.Error as e:
            self.error = e


def used_disks(it):
    fill_file(it.volumes[0]["path"], [(i * 2 * MIB, noise(i, MIB)) for i in range(USED)])
    fill_file(it.volumes[1]["path"], [(5 * MIB, noise("db", MIB))])


def progress(it):
    return vpg(it.london, it)["ProgressPercentage"]


def compare_newest(it, name):
    point = tag(it, name)
    with View(it, point) as view:
        for volume in ("files", "db"):
            check("%s: volume %s of the view is the source byte for byte" % (name, volume),
                  same(view.uri[volume], it.nbd_uri(volume)))
        out = os.path.join(it.base, "copy")
        copy_out(view.uri["db"], out)
        with open(out, "rb") as a, open(it.volumes[1]["path"], "rb") as b:
            check("%s: nbdcopy of the view is the file of the source" % name,
                  hashlib.sha256(a.read()).digest() == hashlib.sha256(b.read()).digest())
        os.unlink(out)
    return point


def initial_sync(it, proxy):
    proxy.allow(24 * MIB)
    it.pair()
    scribbler = Scribbler(it.nbd_uri_of_inventory("files"), FILES)
    scribbler.start()
    it.protect()
    wait_until("the link to stall in the middle of the first sync", proxy.stalled)
    first = wait_until("progress of the first sync", lambda: 0 < progress(it) < 100 and progress(it))
    state = vpg(it.london, it)
    check("it is said to be the first sync, and no point is offered",
          (state["Status"], state["SubStatus"]) == (0, 1) and not points(it),
          "%s/%s, %d %%" % (state["StatusDescription"], state["SubStatusDescription"], first))
    check("both managers show it", vpg(it.paris, it)["SubStatus"] == 1)
    check("the volume is written to meanwhile", scribbler.error is None and scribbler.is_alive())
    before = scribbler.writes
    wait_until("writes while the link stands", lambda: scribbler.writes > before + 20)

    sent = proxy.passed
    proxy.cut()
    proxy.allow(24 * MIB)
    wait_until("the link to stall again", proxy.stalled)
    second = wait_until("progress to go on from where it was",
                        lambda: progress(it) > first and progress(it))
    check("it went on after the cut", second > first, "%d %%, then %d %%" % (first, second))
    proxy.allow(None)
    it.wait_synced()
    scribbler.stop_it.set()
    scribbler.join()
    check("the writer saw no error", scribbler.error is None, scribbler.error or scribbler.writes)
    total = proxy.passed
    check("the sync resumed after the cut and skipped the holes",
          total < (USED + 1 + 24) * MIB + scribbler.writes * 8192,
          "%d MiB before the cut, %d MiB in all, %d MiB of data" % (sent // MIB, total // MIB, USED + 1))
    compare_newest(it, "after the first sync")


def fio_verify(it):
    jobs = []
    for volume, size in (("files", 64), ("db", 64)):
        jobs += ["--name=" + volume, "--uri=" + it.nbd_uri(volume), "--size=%dM" % size]
    seen = points(it)[-1]
    out = run("fio", "--ioengine=nbd", "--rw=randwrite", "--bsrange=512-64k", "--bs_unaligned=0",
              "--blockalign=512", "--iodepth=16", "--verify=crc32c", "--do_verify=1",
              "--verify_fatal=1", "--randseed=11", "--norandommap=0", "--loops=1",
              "--serialize_overlap=1", "--fsync=200", *jobs, ok=None, cwd=it.base)
    check("fio's data are right, verified over both exports", out.returncode == 0
          and "verify:" not in out.stderr, (out.stdout + out.stderr)[-600:] if out.returncode else "")
    check("checkpoints went on meanwhile",
          int(points(it)[-1]["CheckpointIdentifier"]) > int(seen["CheckpointIdentifier"]))
    compare_newest(it, "after fio")


def trims_and_zeroes(it):
    uri = it.nbd_uri("files")
    write_pattern(uri, 100 * MIB, noise("t", 16 * MIB))
    before = tag(it, "before the trims")
    qemu_io(uri, "discard 100M 3M", "write -z 104M 1M", "write -z -u 106M 1M", "discard 108544k 4k",
            "write -P 0xa5 101M 4k", "write -P 0x5a 110M 1M", "flush")
    check("a trimmed range reads as zeros at the source", read_range(uri, 102 * MIB, MIB) == bytes(MIB))
    after = compare_newest(it, "after the trims")
    with View(it, before) as view:
        check("the point before them still holds the data",
              read_range(view.uri["files"], 100 * MIB, 16 * MIB) == noise("t", 16 * MIB))
    with View(it, after) as view:
        check("the point behind them holds zeros", read_range(view.uri["files"], 104 * MIB, MIB)
              == bytes(MIB))
        write_pattern(it.nbd_uri("files"), 150 * MIB + 511 * 512, b"x" * 512)
        check("one sector more at the source is seen as a difference",
              not same(view.uri["files"], it.nbd_uri("files")))


def replicate():
    made = []

    def before(it):
        # london dials; its connections go through the proxy.
        proxy = Proxy(it.paris.data_port)
        it.paris.extra = '  advertise_data = "127.0.0.1:%d";\n' % proxy.port
        made.append(proxy)
    try:
        with lab(protect=False, before=before, prepare=used_disks,
                 volumes=(("files", FILES), ("db", DB))) as it:
            initial_sync(it, made[0])
            fio_verify(it)
            trims_and_zeroes(it)
            say("%d bytes crossed the link" % made[0].passed)
    finally:
        for proxy in made:
            proxy.close()


main(replicate)
