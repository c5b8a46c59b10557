#!/usr/bin/python3
"""Torture: seeded runs of writing, killing and cutting, and after each the
oracle on several points in time.

    torture.py --runs 60 --seed 1            as many runs, from that seed on
    torture.py --expect-violation ...        a planted fault must be found

The seed also chooses the lab: how disks are reached, how the link is packed and
who dials, how large the ring is, and whether the journal has a limit so low that
promotion and recycling go on all the time.
"""
import argparse
import glob
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
sys.path.insert(0, os.path.join(TOP, "tests", "torture"))
import hflab  # noqa: E402
import nbd  # noqa: E402
import oracle  # noqa: E402

BLOCKS = 1024  # 4 MiB a volume: a whole resync is quick
SIZE = BLOCKS * oracle.BLOCK
NAMES = ("one", "two")
PATIENCE = float(os.environ.get("TORTURE_SLOW", "1"))  # sanitizers take their time

# What must never stand in a log, whatever is killed: a target that lost what it had acknowledged
# or holds another history, damage, a rule of the stream broken, a crash, a report of a sanitizer.
NEVER = re.compile(
    r"STR-00(?:09|11|13|14)|JNL-00(?:02|03|04|05|07|11|13|50|51|54|57|58|59|61)"
    r"|Sanitizer|runtime error:|[Aa]ssertion"
    r"|was ended by signal (?!9\b|15\b)\d+|ended with status [1-9]")

# A target that says DURABLE too early is sent more than its credit.  That gives the plant away
# before any harm is done, which is not what is to be shown.
PLANTED = re.compile(r"JNL-0013")


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


class Log:
    """What a site's log has said since the last look."""

    def __init__(self, site):
        self.site, self.at = site, 0

    def news(self):
        try:
            with open(self.site.log, "rb") as f:
                f.seek(self.at)
                data = f.read()
        except FileNotFoundError:
            return []
        self.at += data.rfind(b"\n") + 1
        return data[:data.rfind(b"\n") + 1].decode("utf-8", "replace").splitlines()


class Torture:
    def __init__(self, base, seed, plant=None):
        env = {"HOLDFAST_PLANT": plant} if plant else {}
        pick = random.Random(seed)
        self.kind = {
            "io": ("io_uring", "epoll")[seed % 2], "workers": pick.choice((1, 2, 4)),
            "ring": pick.choice(("16MiB", "32MiB")), "cache": pick.choice(("writeback", "none")),
            "compression": pick.choice(("auto", "off", "lz4", "zstd")),
            "limit": pick.choice((0, 320)), "dial": pick.choice(("Protected", "Protected", "Recovery")),
        }
        self.lab = hflab.Lab(base, volumes=[(n, SIZE) for n in NAMES], interval=1, env=env,
                             ring_size=self.kind["ring"], cache=self.kind["cache"])
        self.lab.basic = {"DataDial": self.kind["dial"]}
        self.limited = self.kind["limit"] > 0
        if self.limited:
            self.lab.limits = {"HardLimitInMB": self.kind["limit"], "WarningThresholdInMB": 0}
        self.proxies = []
        for s in self.lab.sites:
            p = Proxy(s.data_port)
            self.proxies.append(p)
            s.extra = ('  advertise_data = "127.0.0.1:%d";\n  io = "%s";\n  workers = %d;\n  link_compression = "%s";\n'
                       % (p.port, self.kind["io"], self.kind["workers"], self.kind["compression"]))
        self.logs = {s: Log(s) for s in self.lab.sites}
        self.seed, self.plant = seed, plant
        self.history = oracle.History(seed, BLOCKS)
        self.counts = {}
        self.views = self.blocks = self.syncs = self.overflows = self.gone = 0
        self.listed = {}
        self.writers = []
        self.sync_excused = True  # the first one

    def up(self):
        self.lab.up()
        self.uris = [self.lab.nbd_uri(n) for n in NAMES]

    def close(self):
        try:
            self.lab.down()
        finally:
            for p in self.proxies:
                p.close()

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    # --- faults ---

    FAULTS = (("kill", 6), ("kill both", 2), ("cut", 4), ("stall", 3), ("hold", 4), ("restart", 2), ("sync", 3),
              ("overflow", 1), ("hang up", 2), ("view", 2), ("anew", 1), ("none", 1))

    def fault(self, rng):
        kind = rng.choices([f for f, _ in self.FAULTS], [w for _, w in self.FAULTS])[0]
        getattr(self, "fault_" + kind.replace(" ", "_"))(rng)

    def fault_none(self, rng):
        self.count("no fault")

    def fault_kill(self, rng, site=None):
        site = site or rng.choice(self.lab.sites)
        role = rng.choice(("replicator", "replicator", "replicator", "manager", "supervisor"))
        self.count("kill -9 %s %s" % (site.name, role))
        if role == "supervisor":
            self.kill_site(site)
        else:
            self.kill(site, role)

    def fault_kill_both(self, rng):
        self.count("kill -9 of both replicators")
        for site in rng.sample(self.lab.sites, 2):
            self.kill(site, "replicator")

    def fault_cut(self, rng):
        for _ in range(rng.choice((1, 1, 3))):
            self.count("link cut")
            for p in self.proxies:
                p.cut()
            time.sleep(rng.uniform(0, 0.3))

    def fault_stall(self, rng, seconds=None):
        self.count("link stalled")
        self.stalled(seconds or rng.uniform(0.05, 1.0))
        if rng.random() < 0.3:
            for p in self.proxies:
                p.cut()

    def stalled(self, seconds):
        for p in self.proxies:
            p.open.clear()
        time.sleep(seconds)
        for p in self.proxies:
            p.open.set()

    def fault_overflow(self, rng):
        """The link stands still until the ring has no room: what was not kept must be synced."""
        self.count("ring filled")
        before = self.overflows
        for p in self.proxies:
            p.open.clear()
        try:
            end = time.monotonic() + 6
            while time.monotonic() < end and self.overflows == before:
                self.look()
                time.sleep(0.1)
        finally:
            for p in self.proxies:
                p.open.set()
        if rng.random() < 0.3:  # in the sync that follows
            time.sleep(rng.uniform(0, 0.2))
            self.fault_kill(rng)

    def fault_hold(self, rng):
        """Stop processes as a debugger or a busy machine would."""
        pids = []
        for site in rng.sample(self.lab.sites, rng.choice((1, 1, 2))):
            role = rng.choice(("replicator", "replicator", "manager"))
            self.count("SIGSTOP " + role)
            pids.append((site, site.kill(role, signal.SIGSTOP)))
        try:
            time.sleep(rng.uniform(0.1, 2.0))
        finally:
            for site, pid in pids:
                if pid and hflab.alive(pid, site.config):
                    os.kill(pid, signal.SIGCONT)

    def fault_restart(self, rng):
        site = rng.choice(self.lab.sites)
        self.count("restart " + site.name)
        self.sync_excused = True  # the link may be too slow to drain, or a sync under way
        site.stop()
        site.start()

    def fault_hang_up(self, rng):
        self.count("client hangs up")
        for w in rng.sample(self.writers, rng.randrange(1, len(self.writers) + 1)):
            w.hang_up.set()

    def fault_sync(self, rng):
        """A forced sync, and something in the middle of it."""
        self.count("forced sync")
        self.sync_excused = True
        try:
            self.lab.london.api.post("/v1/vpgs/%s/forcesync" % self.lab.vpg_id)
        except (hflab.ApiError, OSError, hflab.http.client.HTTPException):
            self.count("forced sync refused")
        time.sleep(rng.uniform(0, 0.4))
        rng.choice((self.fault_kill, self.fault_kill, self.fault_cut, self.fault_hold, self.fault_none))(rng)

    def fault_anew(self, rng):
        """Another VPG for the same volumes, which are in use: a kill during its initial sync."""
        self.count("VPG made anew")
        hflab.wait_until("the deletion of the VPG", self.deleted, 60 * PATIENCE, 0.2)
        self.listed = {}
        self.sync_excused = True
        hflab.wait_until("a new VPG", self.protected, 60 * PATIENCE, 0.2)
        time.sleep(rng.uniform(0, 0.3))
        self.fault_kill(rng)
        self.marks, self.asked = [], {}

    def deleted(self):
        api = self.lab.london.api
        if not api.get("/v1/vpgs", name=self.lab.vpg_name):
            return True
        api.do("DELETE", "/v1/vpgs/" + self.lab.vpg_id, {"KeepRecoveryVolumes": False})
        return not api.get("/v1/vpgs", name=self.lab.vpg_name)

    def protected(self):
        found = self.lab.london.api.get("/v1/vpgs", name=self.lab.vpg_name)
        if found:
            self.lab.vpg_id = found[0]["VpgIdentifier"]
            return True
        return self.lab.protect()

    def fault_view(self, rng):
        """A test view keeps its content, and what was flushed into it, over a kill."""
        paris, path = self.lab.paris, "/v1/vpgs/" + self.lab.vpg_id
        points = hflab.wait_until("the list of points", lambda: (paris.api.checkpoints(self.lab.vpg_id),),
                                  30 * PATIENCE)[0]
        if not points:
            return
        self.count("view over a kill")
        cp = rng.choice(points[len(points) // 2:])["CheckpointIdentifier"]

        def begin():  # the replicator may just be starting
            try:
                paris.api.do("POST", path + "/FailoverTest", {"CheckpointIdentifier": cp}, 30 * PATIENCE)
            except (hflab.LabError, hflab.ApiError):
                if self.is_gone(int(cp)):
                    return "gone"
                raise
            return "begun"
        if hflab.wait_until("a failover test", begin, 60 * PATIENCE, 0.1) == "gone":
            return
        uris = self.view_uris("Test")
        images = [oracle.read_image(uris[n], SIZE) for n in NAMES]
        self.blocks += self.history.check(images, None, None, "test view of point %s" % cp)
        self.views += 1
        for n, image in zip(NAMES, images):
            handle = nbd.NBD()
            handle.connect_uri(uris[n])
            for _ in range(rng.randrange(1, 40)):
                at, data = rng.randrange(BLOCKS * 8) * 512, rng.randbytes(512 * rng.randrange(1, 30))
                data = data[:SIZE - at]
                handle.pwrite(data, at)
                image[at:at + len(data)] = data
            handle.flush()
            del handle
        old = paris.pid("replicator")
        if rng.random() < 0.3:
            self.kill_site(paris)
        else:
            self.kill(paris, "replicator")
        hflab.wait_until("another replicator", lambda: paris.pid("replicator") not in (old, None), 30 * PATIENCE)
        time.sleep(rng.uniform(0, 0.5))

        def again():
            uris = self.view_uris("Test")
            try:
                return len(uris) == 2 and [oracle.read_image(uris[n], SIZE) for n in NAMES]
            except nbd.Error as e:
                raise hflab.LabError(str(e)) from e
        if hflab.wait_until("the view after the kill", again, 30 * PATIENCE, 0.1) != images:
            raise oracle.Violation("the test view of point %s has changed over a kill" % cp)
        hflab.wait_until("the end of the test", lambda: paris.api.do("POST", path + "/FailoverTestStop", {
            "FailoverTestSuccess": True}, 30 * PATIENCE), 60 * PATIENCE, 0.2)

    def view_uris(self, mode):
        rows = self.lab.paris.api.get("/v1/vpgs/%s/views" % self.lab.vpg_id)
        return {v["VolumeName"].rsplit("/", 1)[1]: v["NbdUri"] for v in rows if v["Mode"] == mode}

    def kill(self, site, role):
        if site is self.lab.london and role == "replicator":
            self.sync_excused = True
        site.kill(role)

    def kill_site(self, site):
        """All of a site at once, as if the power had gone (but for the cache)."""
        if site is self.lab.london:
            self.sync_excused = True
        for role in ("supervisor", "manager", "replicator"):
            pid = site.pid(role)
            if pid and hflab.alive(pid, site.config):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        site.process.wait()
        site.process = None
        site.start()

    # --- what the logs say ---

    def look(self):
        for site, log in self.logs.items():
            for line in log.news():
                if NEVER.search(line) and not (self.plant and PLANTED.search(line)):
                    raise oracle.Violation("%s's log: %s" % (site.name, line))
                if "must be synced, reason 1" in line:
                    self.overflows += 1
                elif "must be synced" in line and not self.sync_excused:
                    raise oracle.Violation("a sync that nothing asked for; %s's log: %s" % (site.name, line))
                self.syncs += " sync of " in line

    # --- one run ---

    def run(self, number):
        rng = random.Random(self.seed * 1000003 + number)
        overlap = rng.random() < 0.5
        self.writers = [oracle.Writer(self.history, v % 2, self.uris[v % 2], rng.random(),
                                      depth=rng.choice((1, 4, 16, 32)), overlap=overlap, burst=48 if overlap else 0,
                                      rate=rng.choice((100, 500, 2000, 0)))
                        for v in range(4 if overlap else 2)]
        for w in self.writers:
            w.start()
        self.marks, self.asked = [], {}
        try:
            time.sleep(rng.uniform(0.05, 0.3))
            for _ in range(rng.choice((1, 1, 2))):
                k = len(self.marks) + len(self.asked)
                if rng.random() < 0.7:
                    self.ask(number, k)  # the fault comes in the middle of it
                else:
                    mark = self.tag(number, k)
                    if mark:
                        self.marks.append(mark)
                self.fault(rng)
                time.sleep(rng.uniform(0.05, 0.5))
        finally:
            for w in self.writers:
                w.stop_it.set()
            for w in self.writers:
                w.join()
        for w in self.writers:
            if w.errors:
                raise oracle.Violation("run %d: the volume failed: %s" % (number, w.errors[0]))
        final = self.quiet(number, 99)
        self.check_listed(number)
        for c in self.lab.paris.api.checkpoints(self.lab.vpg_id):
            if c["Tag"] in self.asked:
                self.marks.append((int(c["CheckpointIdentifier"]), self.asked[c["Tag"]], None))
        known = sorted(self.listed)
        checks = [(final, "run %d, last" % number)]
        checks += [(m, "run %d, tagged while writing" % number) for m in self.marks]
        checks += [((cp, None, None), "run %d, point %d" % (number, cp)) for cp in rng.sample(known, min(2, len(known)))]
        self.check_points(checks)

    def quiet(self, number, k):
        """A checkpoint of the volumes at rest; everything works again."""
        try:
            mark = hflab.wait_until("a checkpoint after run %d" % number,
                                    lambda: self.tag(number, k, raising=True), 120 * PATIENCE, 0.1)
        finally:
            self.look()
        self.sync_excused = False
        return mark

    def ask(self, number, k):
        """Ask for a checkpoint and do not wait for it."""
        name = "run %d.%d" % (number, k)
        asked = self.history.now()
        try:
            self.lab.london.api.post("/v1/vpgs/%s/checkpoints" % self.lab.vpg_id, {"CheckpointName": name})
            self.asked[name] = asked
        except (hflab.ApiError, OSError, hflab.http.client.HTTPException):
            pass

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
        if not found and self.limited:  # it may have left already
            return None
        if not found:
            raise oracle.Violation("the task of checkpoint %s ended, but paris does not list it" % name)
        return int(found[-1]["CheckpointIdentifier"]), asked, confirmed

    def points(self):
        return {int(c["CheckpointIdentifier"]): c["TimeStamp"] for c in self.lab.paris.api.checkpoints(self.lab.vpg_id)}

    def is_gone(self, cp):
        """May a point have left because of the journal's limit?  Only the oldest do."""
        return self.limited and cp < min(self.points())

    def check_listed(self, number):
        """A point once offered stays (the history is longer than the test), but for the oldest at the limit."""
        points = self.points()
        oldest = min(points)
        for cp, stamp in self.listed.items():
            if points.get(cp) != stamp:
                if not (self.limited and cp < oldest):
                    raise oracle.Violation("run %d: checkpoint %d of %s was offered and is gone" % (number, cp, stamp))
                self.gone += 1
        self.listed = points

    def check_points(self, checks):
        """All of them open at once."""
        api = self.lab.paris.api
        path = "/v1/vpgs/%s/views" % self.lab.vpg_id
        opened = []
        try:
            for (cp, asked, confirmed), what in checks:
                def one(cp=cp):
                    try:
                        task = api.post(path, {"CheckpointIdentifier": str(cp)})
                        api.wait_task(task)
                    except (hflab.LabError, hflab.ApiError):
                        if self.is_gone(cp):
                            return "gone"
                        raise
                    return task.split(".")[0]
                view = hflab.wait_until("the view of point %d" % cp, one, 30 * PATIENCE, 0.2)
                if view != "gone":
                    opened.append((view, asked, confirmed, what))
            rows = api.get(path)
            for view, asked, confirmed, what in opened:
                uris = {v["VolumeName"].rsplit("/", 1)[1]: v["NbdUri"] for v in rows if v["ViewIdentifier"] == view}
                images = [oracle.read_image(uris[n], SIZE) for n in NAMES]
                self.blocks += self.history.check(images, asked, confirmed, what)
                self.views += 1
                if what.endswith(", last"):
                    self.compare(images, what)
        finally:
            for view in {v["ViewIdentifier"] for v in api.get(path) if v["Mode"] == "Mount"}:
                api.delete("%s/%s" % (path, view))

    def compare(self, images, what):
        for name, image, uri in zip(NAMES, images, self.uris):
            source = oracle.read_image(uri, SIZE)
            if image != source:
                at = [b for b in range(BLOCKS) if image[b * 4096:b * 4096 + 4096] != source[b * 4096:b * 4096 + 4096]]
                raise oracle.Violation("%s: the newest point differs from the quiet source in %d blocks of volume %s, "
                                       "from block %d" % (what, len(at), name, at[0]))

    # --- the end ---

    def last_words(self):
        """A clean restart of both sites needs no sync and keeps every point; the journal is whole."""
        self.quiet(0, 100)
        before = self.points()
        for site in self.lab.sites:
            site.stop()
        self.look()
        syncs = self.syncs
        for site in reversed(self.lab.sites):
            site.start()
        for site in self.lab.sites:
            site.wait_api(60 * PATIENCE)
        final = self.quiet(0, 101)
        if self.syncs != syncs:
            raise oracle.Violation("a clean restart of both sites was followed by a sync")
        after = self.points()
        lost = [cp for cp in before if after.get(cp) != before[cp] and not (self.limited and cp < min(after))]
        if lost:
            raise oracle.Violation("a clean restart lost checkpoint %d" % lost[0])
        self.check_points([(final, "after a clean restart, last")])
        self.close()
        self.look()
        scrub = os.path.join(hflab.build_dir(), "tests", "torture", "scrub")
        dirs = [os.path.dirname(m) for m in glob.glob(self.lab.paris.store + "/**/manifest", recursive=True)]
        if not dirs:
            raise oracle.Violation("no journal lies below " + self.lab.paris.store)
        out = subprocess.run([scrub] + dirs, capture_output=True, text=True, check=False)
        if out.returncode != 0:
            raise oracle.Violation("the scrub: %s%s" % (out.stdout, out.stderr))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--runs", type=int, default=60)
    ap.add_argument("--first", type=int, default=0, help="number of the first run")
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
    done, failed = 0, None
    try:
        t.up()
        for n in range(args.first, args.first + args.runs):
            t.run(n)
            done += 1
            if args.seconds and time.monotonic() - start > args.seconds:
                break
        t.last_words()
    except oracle.Violation as e:
        failed = "VIOLATION: %s" % e
    except (hflab.LabError, hflab.ApiError, OSError, nbd.Error, hflab.http.client.HTTPException) as e:
        traceback.print_exc(file=sys.stdout)
        failed = "did not go on: %r" % e  # hung, or an answer that must not be
        try:
            t.look()
        except oracle.Violation as v:
            failed = "VIOLATION: %s" % v
    finally:
        try:
            t.close()
        except hflab.LabError as e:
            failed = failed or "did not stop: %s" % e
        if failed and not args.expect_violation:
            print(t.lab.logs())
        if failed and args.keep:
            print("left in " + base)
        else:
            shutil.rmtree(base, ignore_errors=True)
    print("seed %d: %d runs, %d writes, %d views, %d blocks checked, %d syncs, %d overflows, %d points left at the limit, "
          "%.0f s" % (args.seed, done, len(t.history.writes) - 1, t.views, t.blocks, t.syncs, t.overflows, t.gone,
                      time.monotonic() - start))
    print(", ".join("%s %s" % kv for kv in t.kind.items()) + "; " +
          ", ".join("%s: %d" % kv for kv in sorted(t.counts.items())))
    if failed:
        print("seed %d, run %d: %s" % (args.seed, args.first + done, failed))
    if args.expect_violation:
        found = failed is not None and failed.startswith("VIOLATION")
        print("the planted fault %s was %s" % (args.plant, "found" if found else "NOT found"))
        return 0 if found else 1
    return 1 if failed else 0


sys.exit(main())
