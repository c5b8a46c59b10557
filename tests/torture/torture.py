#!/usr/bin/python3
"""Torture: seeded runs of writing, killing and cutting, and after each the
oracle on several points in time.

    torture.py --runs 60 --seed 1            as many runs, from that seed on
    torture.py --expect-violation ...        a planted fault must be found
"""
import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
sys.path.insert(0, os.path.join(TOP, "tests", "torture"))
import hflab  # noqa: E402
import oracle  # noqa: E402

BLOCKS = 1024  # 4 MiB a volume: a whole resync is quick
SIZE = BLOCKS * oracle.BLOCK


class Proxy(threading.Thread):
    """A TCP forwarder whose connections can be cut, or stalled for a while."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.to = port
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(32)
        self.port = self.listener.getsockname()[1]
        self.pairs = []
        self.lock = threading.Lock()
        self.open = threading.Event()
        self.open.set()
        self.cuts = 0
        self.start()

    def run(self):
        while True:
            try:
                a, _ = self.listener.accept()
            except OSError:
                return
            if not self.open.is_set():
                a.close()
                continue
            try:
                b = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                a.close()
                continue
            with self.lock:
                self.pairs.append((a, b))
            for x, y in ((a, b), (b, a)):
                threading.Thread(target=self.pump, args=(x, y), daemon=True).start()

    def pump(self, x, y):
        try:
            while True:
                data = x.recv(1 << 16)
                if not data:
                    break
                self.open.wait()
                y.sendall(data)
        except OSError:
            pass
        for s in (x, y):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        self.cuts += 1
        with self.lock:
            pairs, self.pairs = self.pairs, []
        for a, b in pairs:
            for s in (a, b):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                s.close()

    def close(self):
        self.listener.close()
        self.open.set()
        self.cut()


class Torture:
    def __init__(self, base, seed, plant=None):
        env = {"HOLDFAST_PLANT": plant} if plant else {}
        self.lab = hflab.Lab(base, volumes=(("one", SIZE), ("two", SIZE)), interval=1,
                             ring_size="32MiB", env=env)
        self.proxy = Proxy(self.lab.paris.data_port)
        self.lab.paris.extra = '  advertise_data = "127.0.0.1:%d";\n' % self.proxy.port
        self.seed = seed
        self.history = oracle.History(seed, BLOCKS)
        self.counts = {}
        self.points = self.views = self.blocks = 0
        self.listed = {}

    def up(self):
        self.lab.up()
        self.uris = [self.lab.nbd_uri("one"), self.lab.nbd_uri("two")]

    def close(self):
        try:
            self.lab.down()
        finally:
            self.proxy.close()

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    # --- faults ---

    def fault(self, rng):
        kind = rng.choice(("kill", "kill", "cut", "cut", "stall", "restart", "none"))
        if kind == "kill":
            site = rng.choice(self.lab.sites)
            role = rng.choice(("replicator", "replicator", "manager", "supervisor"))
            self.count("kill -9 %s %s" % (site.name, role))
            if role == "supervisor":
                self.kill_site(site)
            else:
                site.kill(role)
        elif kind == "cut":
            self.count("link cut")
            self.proxy.cut()
        elif kind == "stall":
            self.count("link stalled")
            self.proxy.open.clear()
            time.sleep(rng.uniform(0.05, 1.0))
            self.proxy.open.set()
        elif kind == "restart":
            site = rng.choice(self.lab.sites)
            self.count("restart " + site.name)
            site.stop()
            site.start()
        else:
            self.count("no fault")

    def kill_site(self, site):
        """All of a site at once, as if the power had gone (but for the cache)."""
        old = [site.pid(r) for r in ("supervisor", "manager", "replicator")]
        for pid in old:
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        site.process.wait()
        site.process = None
        site.start()

    # --- one run ---

    def run(self, number):
        rng = random.Random(self.seed * 1000003 + number)
        writers = [oracle.Writer(self.history, v, self.uris[v], rng.random(),
                                 depth=rng.choice((1, 4, 16, 32)), overlap=rng.random() < 0.5)
                   for v in range(2)]
        for w in writers:
            w.start()
        marks = []
        try:
            time.sleep(rng.uniform(0.1, 0.5))
            for _ in range(rng.choice((1, 1, 2))):
                mark = self.tag(number, len(marks))
                if mark:
                    marks.append(mark)
                self.fault(rng)
                time.sleep(rng.uniform(0.1, 0.8))
        finally:
            for w in writers:
                w.stop_it.set()
            for w in writers:
                w.join()
        for w in writers:
            if w.errors:
                raise oracle.Violation("run %d: the volume failed: %s" % (number, w.errors[0]))
        final = hflab.wait_until("a checkpoint after run %d" % number,
                                 lambda: self.tag(number, 99, raising=True), 120, 0.2)
        self.check_listed(number)
        self.check_point(final, "run %d, last" % number, compare=True)
        for mark in marks:
            self.check_point(mark, "run %d, tagged while writing" % number)
        known = sorted(self.listed)
        for cp in rng.sample(known, min(2, len(known))):
            self.check_point((cp, None, None), "run %d, point %d" % (number, cp))

    def tag(self, number, k, raising=False):
        """(checkpoint, tick before asking, tick after it was listed)."""
        asked = self.history.now()
        name = "run %d.%d" % (number, k)
        api = self.lab.london.api
        try:
            api.do("POST", "/v1/vpgs/%s/checkpoints" % self.lab.vpg_id, {"CheckpointName": name},
                   seconds=20 if raising else 5)
            confirmed = self.history.now()
            found = [c for c in self.lab.paris.api.checkpoints(self.lab.vpg_id) if c["Tag"] == name]
        except (hflab.LabError, hflab.ApiError, OSError, hflab.http.client.HTTPException) as e:
            if raising:
                raise hflab.LabError(str(e)) from e
            return None
        if not found:
            raise oracle.Violation("the task of checkpoint %s ended, but paris does not list it" % name)
        return int(found[-1]["CheckpointIdentifier"]), asked, confirmed

    def check_listed(self, number):
        """A point once offered stays (the history is longer than the test)."""
        points = {int(c["CheckpointIdentifier"]): c["TimeStamp"]
                  for c in self.lab.paris.api.checkpoints(self.lab.vpg_id)}
        for cp, stamp in self.listed.items():
            if points.get(cp) != stamp:
                raise oracle.Violation("run %d: checkpoint %d of %s was offered and is gone"
                                       % (number, cp, stamp))
        self.listed = points

    def check_point(self, mark, what, compare=False):
        cp, asked, confirmed = mark
        api = self.lab.paris.api
        path = "/v1/vpgs/%s/views" % self.lab.vpg_id

        def opened():
            views = api.post(path, {"CheckpointIdentifier": str(cp)})
            return views if isinstance(views, list) else self.views_of(views)
        views = hflab.wait_until("the view of point %d" % cp, opened, 30, 0.2)
        try:
            uris = {v["VolumeName"].rsplit("/", 1)[1]: v["NbdUri"] for v in views}
            images = [oracle.read_image(uris[n], SIZE) for n in ("one", "two")]
        finally:
            for view in {v["ViewIdentifier"] for v in views}:
                api.delete("%s/%s" % (path, view))
        self.blocks += self.history.check(images, asked, confirmed, what)
        self.views += 1
        if compare:
            for image, uri in zip(images, self.uris):
                if image != oracle.read_image(uri, SIZE):
                    raise oracle.Violation("%s: the newest point differs from the quiet source" % what)

    def views_of(self, task):
        self.lab.paris.api.wait_task(task)
        return [v for v in self.lab.paris.api.get("/v1/vpgs/%s/views" % self.lab.vpg_id)
                if v["Mode"] == "Mount"]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--runs", type=int, default=60)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--seconds", type=float, default=0, help="stop after this time")
    ap.add_argument("--plant", help="switch a fault on in a PLANTS=1 build")
    ap.add_argument("--expect-violation", action="store_true")
    ap.add_argument("--keep", action="store_true", help="leave the folder of a failed run")
    args = ap.parse_args()
    base = tempfile.mkdtemp(prefix="holdfast-torture-")
    t = Torture(os.path.join(base, "lab"), args.seed, args.plant)
    os.makedirs(t.lab.base)
    start = time.monotonic()
    done, violation = 0, None
    try:
        t.up()
        for n in range(args.runs):
            t.run(n)
            done += 1
            if args.seconds and time.monotonic() - start > args.seconds:
                break
    except oracle.Violation as e:
        violation = e
    except BaseException as e:
        print("the run itself failed: %r\n%s" % (e, t.lab.logs()))
        raise
    finally:
        try:
            t.close()
        finally:
            if violation and args.keep:
                print("left in " + base)
            elif not args.keep:
                shutil.rmtree(base, ignore_errors=True)
    print("seed %d: %d runs, %d writes, %d views, %d blocks checked, %.0f s" % (
        args.seed, done, len(t.history.writes) - 1, t.views, t.blocks, time.monotonic() - start))
    print(", ".join("%s: %d" % kv for kv in sorted(t.counts.items())))
    if violation:
        print("VIOLATION in run %d: %s" % (done, violation))
    if args.expect_violation:
        print("the planted fault %s was %s" % (args.plant, "found" if violation else "NOT found"))
        return 0 if violation else 1
    return 1 if violation else 0


sys.exit(main())
