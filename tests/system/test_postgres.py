#!/usr/bin/python3
# limit: 170
"""PostgreSQL recovered at ten checkpoints made while pgbench and a bookkeeper
write: each time it starts, its indexes and heaps check out, every transaction
acknowledged before the checkpoint is there, and none begun after it was confirmed."""
import os
import random
import subprocess
import sys
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hfmount  # noqa: E402
from labtest import MIB, Failed, View, check, lab, main, points, say, tag, wait_until, when  # noqa: E402

POINTS = 10


class Bookkeeper(threading.Thread):
    """Commits numbered rows one after another; knows which are acknowledged and which begun."""

    def __init__(self, pg):
        super().__init__(daemon=True)
        self.pg = pg
        self.lock = threading.Lock()
        self.begun = self.acked = 0
        self.stop_it = threading.Event()
        self.error = None

    def run(self):
        p = subprocess.Popen(
            ["runuser", "-u", "postgres", "--", "psql", "-h", self.pg.sock, "-U", "postgres", "-qAtX",
             "-v", "ON_ERROR_STOP=1", "-d", "postgres"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, bufsize=1, cwd="/")
        try:
            while not self.stop_it.is_set():
                with self.lock:
                    self.begun += 1
                    n = self.begun
                p.stdin.write("INSERT INTO ledger VALUES (%d, md5('%d')) RETURNING id;\n" % (n, n))
                p.stdin.flush()
                if p.stdout.readline().strip() != str(n):
                    raise Failed("insert %d: %s" % (n, p.stderr.readline()))
                with self.lock:
                    self.acked = n
        except (OSError, Failed) as e:
            self.error = e
        finally:
            p.stdin.close()
            p.wait()
            p.stdout.close()
            p.stderr.close()

    def numbers(self):
        with self.lock:
            return self.acked, self.begun


def tagged(it, book, n):
    acked, _ = book.numbers()
    point = tag(it, "point %d" % n)
    return point, acked, book.numbers()[1]


def automatic(it, book):
    """The first checkpoint of the clock that was made after now."""
    acked, _ = book.numbers()
    now = time.time()

    def newer():
        return [c for c in points(it) if c["Tag"] is None and when(c["TimeStamp"]) > now + 0.001]
    point = wait_until("a checkpoint of the clock", newer)[0]
    return point, acked, book.numbers()[1]


def work(it, pg):
    pg.psql("CREATE EXTENSION amcheck; CREATE TABLE ledger (id bigint PRIMARY KEY, proof text NOT NULL)")
    bench = os.path.join(pg.bin, "pgbench")
    pg.as_postgres(bench, "-h", pg.sock, "-U", "postgres", "-q", "-i", "-s", "2", "postgres")
    load = subprocess.Popen(
        ["runuser", "-u", "postgres", "--", bench, "-h", pg.sock, "-U", "postgres", "-c", "2", "-T", "300",
         "postgres"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")
    book = Bookkeeper(pg)
    book.start()
    rng = random.Random(7)
    marks = []
    try:
        wait_until("rows", lambda: book.error or book.numbers()[0] >= 100, 60)
        for n in range(POINTS):
            goal = book.numbers()[0] + rng.randrange(20, 200)
            wait_until("more rows", lambda g=goal: book.error or book.numbers()[0] >= g, 60)
            marks.append(tagged(it, book, n) if n % 2 else automatic(it, book))
        after = book.numbers()[0] + 20
        wait_until("rows after the last point", lambda: book.error or book.numbers()[0] >= after, 60)
        check("pgbench ran all the time", load.poll() is None)
    finally:
        book.stop_it.set()
        book.join()
        load.terminate()
        load.wait()
    if book.error:
        raise book.error
    return marks


def recovered(it, n, mark):
    point, acked, begun = mark
    with View(it, point) as view:
        mount = hfmount.Mount(view.uri["db"], it.base)
        try:
            pg = hfmount.Postgres(os.path.join(mount.path, "data"), it.base)
            try:
                start = time.monotonic()
                pg.start()
                took = time.monotonic() - start
                rows = pg.psql("SELECT count(*), coalesce(max(id), 0), "
                               "count(*) FILTER (WHERE proof <> md5(id::text)) FROM ledger").split("|")
                count, top, wrong = (int(x) for x in rows)
                pg.psql("SELECT bt_index_check(c.oid, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
                        "WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p'")
                bad = pg.psql("SELECT count(*) FROM pg_class c, LATERAL verify_heapam(c.oid) v "
                              "WHERE c.relkind = 'r' AND c.relpersistence = 'p'")
                sums = pg.psql("SELECT (SELECT sum(abalance) FROM pgbench_accounts) = "
                               "(SELECT sum(delta) FROM pgbench_history) OR NOT EXISTS "
                               "(SELECT 1 FROM pgbench_history)")
            finally:
                pg.close()
        finally:
            mount.close()
    check("point %d (%s): it starts, heaps and indexes are sound" % (n, point["Tag"] or "of the clock"),
          bad == "0", "%.1f s" % took)
    check("point %d: pgbench's books balance" % n, sums == "t")
    check("point %d: every row acknowledged before it, whole and without a gap" % n,
          count == top >= acked and wrong == 0, "%d acknowledged, 1 to %d there" % (acked, top))
    check("point %d: no row begun after it was confirmed" % n, top <= begun, "%d of %d" % (top, begun))
    return top


def postgres():
    with lab(volumes=(("db", 768 * MIB),)) as it:
        mount = hfmount.Mount(it.nbd_uri("db"), it.base, mkfs=["mkfs.ext4", "-q"])
        try:
            pg = hfmount.Postgres(os.path.join(mount.path, "data"), it.base)
            try:
                pg.initdb()
                pg.start()
                marks = work(it, pg)
            finally:
                pg.close()
        finally:
            mount.close()
        say("recovering")
        tops = [recovered(it, n, m) for n, m in enumerate(marks)]
        check("each point is a moment of its own", tops == sorted(set(tops)), tops)


if hfmount.missing():
    print(hfmount.missing())
    sys.exit(77)
main(postgres)
