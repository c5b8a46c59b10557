"""Sections with two real sites on this machine (tests/lab/hflab.py), TLS
between them, a journal that is synced before a batch counts as durable.

protected  a protected volume beside our own unprotected one and the peers
mirror     the same beside qemu-storage-daemon's write-blocking blockdev-mirror
sync       the first sync of a used image beside nbdcopy
memory     resident memory of the replicators with several VPGs under load
           (VPGS, MINUTES; LOAD_MB_S each, 0: as fast as it goes; JOURNAL_MB: their
           journals' limit, so that a long run promotes, 0: none)

What a protected volume holds in its newest checkpoint is compared with the
volume itself after the load: other data ends the run.
"""

import calendar
import json
import os
import re
import socket
import statistics
import threading
import time

import hflab
from benchlib import (MIB, QUICK, REPS, SECS, SIZE_MB, BenchError, Server, fio, fio_args, free_port,
                      nbd_server, nbdkit_file, qemu_nbd, quarter_file, random_file, rss_mib, run, setting,
                      spread, take_turns, wait_for)
from hflab import ApiError, LabError  # noqa: F401 (for run)

LOAD_SECS = setting("LOAD_SECS", 6, 1)  # of the load RPO is measured under
SYNC_MB = setting("SYNC_MB", 2048, 64)
VPGS = setting("VPGS", 4, 1)
MINUTES = setting("MINUTES", 0.5, 0.02)
LOAD_MB_S = setting("LOAD_MB_S", 0, 0)
JOURNAL_MB = setting("JOURNAL_MB", 0, 0)
RING_MB = 256


def moment(stamp):
    """Seconds since 1970 of 2026-11-22T03:32:48.123Z."""
    whole, _, part = stamp.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float("0." + (part or "0"))


class Sites:
    """London with some VMs of one volume each, and Paris."""

    def __init__(self, where, vms, size):
        self.base = os.path.join(where, "lab")
        os.mkdir(self.base, 0o700)
        self.lab = hflab.Lab(self.base, vpg=vms[0], vm=vms[0], volumes=(("disk", size),),
                             ring_size="%dMiB" % RING_MB)
        first = self.lab.volumes[0]
        self.paths = {vm: first["path"].replace(vms[0] + "-disk", vm + "-disk") for vm in vms}
        self.lab.volumes = [dict(first, path=self.paths[vm]) for vm in vms]  # images that up() makes
        self.lab.london.vms = [{"name": vm, "volumes": [v]} for vm, v in zip(vms, self.lab.volumes)]
        self.ids, self.uris = {}, {}

    def up(self):
        try:
            self.lab.up(protect=False)
            self.lab.pair()
            self.uris = self.exports()
        except LabError as e:
            raise LabError("%s\n%s" % (e, self.lab.logs())) from None
        return self

    def down(self):
        self.lab.down()

    def protect(self, vm):
        self.ids[vm] = self.lab.protect(name=vm, vms=[vm])

    def wait_synced(self, vm, seconds=180):
        try:
            hflab.wait_until("the first checkpoint of " + vm, lambda: self.newest(vm), seconds, 0.05)
        except LabError as e:
            raise LabError("%s\n%s" % (e, self.lab.logs())) from None

    def newest(self, vm, api=None, since=3600):
        """The newest checkpoint that Paris offers: (identifier, seconds since 1970)."""
        start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - since))
        points = (api or self.lab.paris.api).get("/v1/vpgs/%s/checkpoints" % self.ids[vm], startDate=start)
        if not points:
            return None
        best = max(points, key=lambda p: int(p["CheckpointIdentifier"]))
        return best["CheckpointIdentifier"], moment(best["TimeStamp"])

    def settle(self, vm, stopped, seconds=60):
        """Seconds from a moment until a checkpoint taken after it is offered."""
        def there():
            p = self.newest(vm, since=30)
            return p and p[1] >= stopped
        hflab.wait_until("a checkpoint of " + vm + " after the load", there, seconds, 0.05)
        return time.time() - stopped

    def own_api(self):
        """A second session with Paris, for another thread."""
        s = self.lab.paris
        return hflab.Api(s.url, s.ca_file, s.user, s.password())

    def pids(self):
        return [s.pid("replicator") for s in self.lab.sites]

    def exports(self):
        """{vm: URI} of volumes that are not protected yet; protection does not change them."""
        api = self.lab.london.api
        here = api.get("/v1/localsite")["SiteIdentifier"]
        return {v["VmName"]: v["Volumes"][0]["NbdUri"]
                for v in api.get("/v1/virtualizationsites/%s/vms" % here)}

    def log_lines(self, site, pattern):
        """[(seconds since 1970, line)]"""
        with open(site.log, encoding="utf-8", errors="replace") as f:
            return [(moment(line.split()[0]), line) for line in f if re.search(pattern, line)]

    def last_log(self, pattern):
        """When London last logged it."""
        lines = self.log_lines(self.lab.london, pattern)
        if not lines:
            raise BenchError("nothing in the log of london matches: " + pattern)
        return lines[-1][0]

    def compare(self, vm):
        """The newest checkpoint against the volume, which must be idle; seconds the view took to open."""
        api = self.lab.paris.api
        path = "/v1/vpgs/%s/views" % self.ids[vm]
        begun = time.monotonic()
        task = api.post(path, {"CheckpointIdentifier": self.newest(vm)[0]})
        api.wait_task(task, 60)
        seconds = time.monotonic() - begun
        view = next(v for v in api.get(path) if v["ViewIdentifier"] == task.partition(".")[0])
        copy = os.path.join(self.base, "compared.img")
        try:
            run(["nbdcopy", view["NbdUri"], copy])
            run(["cmp", copy, self.paths[vm]])
        finally:
            if os.path.exists(copy):
                os.unlink(copy)
            api.do("DELETE", "%s/%s" % (path, view["ViewIdentifier"]))
        return seconds


class Export:
    """A volume of the lab as something to compare."""

    def __init__(self, sites, label, vm, protected):
        self.sites, self.label, self.vm = sites, label, vm
        self.protected, self.uri = protected, sites.uris[vm]

    def pids(self):
        return self.sites.pids()


class Rpo(threading.Thread):
    """Samples of now minus the newest checkpoint."""

    def __init__(self, sites, vm):
        super().__init__()
        self.sites, self.vm, self.samples, self.error = sites, vm, [], None
        self.ended = threading.Event()

    def run(self):
        try:
            api = self.sites.own_api()
            while not self.ended.wait(0.2):
                p = self.sites.newest(self.vm, api, since=60)
                self.samples.append(time.time() - p[1] if p else 60.0)
            api.close()
        except (LabError, ApiError, OSError) as e:
            self.error = e

    def stop(self):
        self.ended.set()
        self.join()
        if self.error or not self.samples:
            raise BenchError("sampling the RPO: %s" % (self.error or "no sample"))


def two_volumes(scratch, medium):
    """Sites with a protected and an unprotected volume of random data."""
    sites = Sites(scratch.dir(medium), ["guarded", "plain"], SIZE_MB * MIB)
    try:
        sites.up()
        for path in sites.paths.values():
            run(["dd", "if=/dev/urandom", "of=" + path, "bs=1M", "count=%d" % SIZE_MB, "conv=notrunc,fsync",
                 "status=none"])
        sites.protect("guarded")
        sites.wait_synced("guarded")
    except BaseException:
        sites.down()
        raise
    return sites


class Turns:
    """Between two runs nothing of the one before may still be going on."""

    def __init__(self, sites, medium):
        self.sites, self.disk, self.waits = sites, medium == "disk", []

    def __call__(self, _):
        self.waits.append(self.sites.settle("guarded", time.time()))
        if self.disk:
            os.sync()


def rows(report, figures):
    report.table("job", "export", "IOPS", "MB/s", "mean us", "p99 us", "CPU us/IO")
    for job, by_label in figures.items():
        for label, f in by_label.items():
            report.row(job, label, spread(f.all("iops")), "%.0f" % f.median("mb_s"), spread(f.all("mean_us"), "%.1f"),
                       "%.0f" % f.median("p99_us"), "%.1f" % f.median("cpu_us"))


def resyncs(sites):
    return len(sites.log_lines(sites.lab.london, "in-band sync of"))


def under_load(report, sites):
    """RPO while it is written to, how soon everything is safe, and that it is."""
    rpo = Rpo(sites, "guarded")
    rpo.start()
    try:
        f = fio(sites.uris["guarded"], "randw4k q32", sites.pids(), LOAD_SECS)
        stopped = time.time()
    finally:
        rpo.stop()
    settled = sites.settle("guarded", stopped)
    view_s = sites.compare("guarded")
    report.table("under %s s of randw4k q32" % LOAD_SECS, "", "target")
    report.fact("IOPS", "%.0f (%.0f MB/s)" % (f["iops"], f["mb_s"]))
    worst = max(rpo.samples)
    report.fact("RPO, s", "%.2f (%.2f .. %.2f)" % (statistics.median(rpo.samples), min(rpo.samples), worst),
                "< 2", worst < 2)
    report.fact("newest checkpoint holds everything after, s", "%.2f" % settled, "< 2", settled < 2)
    report.fact("a view of it through the API, s", "%.2f" % view_s)
    report.fact("times that the ring overflowed", resyncs(sites))
    report.fact("newest checkpoint and volume", "identical")


def run_protected(scratch, report):
    jobs = ["randw4k q1", "randw4k q32"] if QUICK else \
        ["randw4k q1", "randw4k q32", "randw4k q32 x4", "seqw1m", "randr4k q32"]
    report.head("protected: both sites on these cores, TLS on",
                "`protected` and `unprotected` are two volumes of one agent; CPU is that of the replicators of both "
                "sites. Client: fio %s --uri=..." % " ".join(fio_args(jobs[1], SECS)))
    for medium in os.environ.get("MEDIA", "tmpfs" if QUICK else "tmpfs disk").split():
        where = scratch.dir(medium)
        peer_file = os.path.join(where, "peer.img")
        random_file(peer_file, SIZE_MB)
        peers = [nbdkit_file(scratch, where, peer_file)]
        if not QUICK:
            peers.append(nbd_server(scratch, where, peer_file))
        report.note("### %s" % medium)
        report.block(p.command() for p in peers)
        sites = two_volumes(scratch, medium)
        try:
            for p in peers:
                p.start()
            servers = [Export(sites, "protected", "guarded", True), Export(sites, "unprotected", "plain", False)] + peers
            turns = Turns(sites, medium)
            figures = take_turns(servers, jobs, between=turns)
            rows(report, figures)
            report.note("The ring overflowed %d times; a row during which it did shows writes that were not kept but "
                        "are synced afterwards." % resyncs(sites))
            report.table(medium, "", "target")
            for job, by_label in figures.items():
                best = max((p.label for p in peers), key=lambda x: by_label[x].median("iops"))
                ratio = by_label["protected"].median("iops") / by_label[best].median("iops")
                own = by_label["protected"].median("iops") / by_label["unprotected"].median("iops")
                if " q1" in job:
                    extra = by_label["protected"].median("mean_us") - by_label["unprotected"].median("mean_us")
                    report.fact("%s: protection adds, us" % job, "%.1f" % extra, "<= 60", extra <= 60)
                else:
                    report.fact("%s: beside the fastest peer (%s)" % (job, best), "%.2f" % ratio, ">= 0.5", ratio >= 0.5)
                    report.fact("%s: beside our own unprotected one" % job, "%.2f" % own)
            sites.down()
        except BaseException:
            print(sites.lab.logs(), flush=True)
            sites.down()
            raise
        finally:
            for p in peers:
                p.stop()
        scratch.clear(medium)
        # On sites of their own: a journal of all the rows above would fill most of this machine's memory.
        sites = two_volumes(scratch, medium)
        try:
            under_load(report, sites)
            sites.down()
        except BaseException:
            print(sites.lab.logs(), flush=True)
            sites.down()
            raise
        scratch.clear(medium)


# ---- QEMU's own way --------------------------------------------------------


class Qmp:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(path)
        self.file = self.sock.makefile("rw", encoding="utf-8")
        self.events = []
        self.file.readline()
        self.command("qmp_capabilities")

    def read(self):
        line = self.file.readline()
        if not line:
            raise BenchError("qemu-storage-daemon has gone")
        return json.loads(line)

    def command(self, name, **args):
        self.file.write(json.dumps({"execute": name, "arguments": args}) + "\n")
        self.file.flush()
        while True:
            answer = self.read()
            if "event" in answer:
                self.events.append(answer["event"])
            elif "error" in answer:
                raise BenchError("%s: %s" % (name, answer["error"]["desc"]))
            else:
                return answer["return"]

    def wait(self, event):
        while event not in self.events:
            answer = self.read()
            if "event" in answer:
                self.events.append(answer["event"])


class Mirror(Server):
    """An export whose every write goes to a second export before it is answered."""

    def __init__(self, scratch, where, cache):
        self.where = where
        src, self.dst = os.path.join(where, "mirror-src.img"), os.path.join(where, "mirror-dst.img")
        random_file(src, SIZE_MB)
        run(["cp", src, self.dst])
        options = ("--cache=none", "--aio=native") if cache == "direct" else ()
        self.target = qemu_nbd(scratch, where, self.dst, "mirror-target", *options)
        self.qmp_path = os.path.join(where, "qmp.sock")
        sock = os.path.join(where, "mirror.sock")
        how = ",cache.direct=on,aio=native" if cache == "direct" else ""
        super().__init__(scratch, "mirror " + cache, [
            "qemu-storage-daemon", "--blockdev", "driver=file,node-name=f,filename=%s%s" % (src, how),
            "--blockdev", "driver=raw,node-name=src,file=f",
            "--nbd-server", "addr.type=unix,addr.path=%s,max-connections=0" % sock,
            "--export", "type=nbd,id=e,node-name=src,name=e,writable=on",
            "--chardev", "socket,id=c,path=%s,server=on,wait=off" % self.qmp_path, "--monitor", "chardev=c"], sock)

    def start(self):
        self.target.start()
        super().start()
        wait_for("the monitor", lambda: os.path.exists(self.qmp_path))
        self.qmp = Qmp(self.qmp_path)
        self.qmp.command("blockdev-add", driver="nbd", **{"node-name": "tgt", "export": "e", "server": {
            "type": "unix", "path": self.target.sock}})
        self.qmp.command("blockdev-mirror", **{"job-id": "m", "device": "src", "target": "tgt", "sync": "none",
                                               "copy-mode": "write-blocking"})
        self.qmp.wait("BLOCK_JOB_READY")
        return self

    def stop(self):
        super().stop()
        self.target.stop()

    def pids(self):
        return [self.pid, self.target.pid]


def run_mirror(scratch, report):
    jobs = ["randw4k q1", "randw4k q32"] if QUICK else ["randw4k q1", "randw4k q32", "randw4k q1 fsync", "seqw1m"]
    report.head("mirror: beside QEMU's own way",
                "blockdev-mirror sync=none copy-mode=write-blocking to a second export on a Unix socket, plain and in "
                "memory of the same machine; ours crosses TLS and is durable in a journal. CPU is that of both ends.")
    for medium in os.environ.get("MEDIA", "tmpfs" if QUICK else "tmpfs disk").split():
        where = scratch.dir(medium)
        mirror = Mirror(scratch, where, "direct")
        report.note("### %s" % medium)
        report.block([mirror.command(), mirror.target.command()])
        sites = two_volumes(scratch, medium)
        try:
            mirror.start()
            figures = take_turns([Export(sites, "protected", "guarded", True), mirror], jobs,
                                 between=Turns(sites, medium))
            rows(report, figures)
            report.table(medium, "ours beside the mirror", "target")
            for job, by_label in figures.items():
                ratio = by_label["protected"].median("iops") / by_label[mirror.label].median("iops")
                report.fact(job, "%.2f" % ratio, "> 1", ratio > 1)
            sites.settle("guarded", time.time())
            sites.compare("guarded")
            sites.down()
        except BaseException:
            print(sites.lab.logs(), flush=True)
            sites.down()
            raise
        finally:
            mirror.stop()
        scratch.clear(medium)


# ---- First sync --------------------------------------------------------------


def nbdcopy_once(scratch, where, image):
    """Seconds; over TCP, as the copy to another site would."""
    out, port = os.path.join(where, "copied.img"), free_port()
    hflab.make_image(out, SYNC_MB * MIB)
    src = qemu_nbd(scratch, where, image, "copy-src", "-r", "--cache=none", "--aio=native").start()
    dst = scratch.spawn(["qemu-nbd", "-t", "-e", "8", "-x", "e", "-b", "127.0.0.1", "-p", str(port), "-f", "raw",
                         "--cache=none", "--aio=native", "--discard=unmap", "--detect-zeroes=off", out],
                        os.path.join(where, "copy-dst.log"))
    try:
        def answers():
            with socket.socket() as s:
                return s.connect_ex(("127.0.0.1", port)) == 0
        wait_for("qemu-nbd", answers)
        begun = time.monotonic()
        run(["nbdcopy", "--connections=1", "--destination-is-zero", "--flush", src.uri, "nbd://127.0.0.1:%d/e" % port])
        seconds = time.monotonic() - begun
        run(["cmp", image, out])
    finally:
        src.stop()
        scratch.end(dst)
        os.unlink(out)
    return seconds


def run_sync(scratch, report):
    report.head("sync: first sync of %d MiB, 4 MiB of random data in every 16" % SYNC_MB,
                "nbdcopy --connections=1 --destination-is-zero --flush, from qemu-nbd on a Unix socket to qemu-nbd on TCP "
                "(--cache=none --aio=native), without TLS; ours from the export in use through TLS into the replica, "
                "timed from the agent's log, and until the first checkpoint is offered.")
    vms = ["image%d" % i for i in range(REPS)]
    for medium in os.environ.get("MEDIA", "tmpfs").split():
        where = scratch.dir(medium)
        sites = Sites(where, vms, SYNC_MB * MIB)
        copy, ours, offered = [], [], []
        try:
            sites.up()
            for path in sites.paths.values():
                quarter_file(path, SYNC_MB)
            for vm in vms:
                copy.append(nbdcopy_once(scratch, where, sites.paths[vm]))
                sites.protect(vm)
                sites.wait_synced(vm)
                begin = sites.last_log(r"sync of \d+ bytes begins")
                end = sites.last_log("sync complete")
                ours.append(end - begin)
                offered.append(sites.newest(vm)[1] - begin)
                sites.compare(vm)
            sites.down()
        except BaseException:
            print(sites.lab.logs(), flush=True)
            sites.down()
            raise
        mb = SYNC_MB * MIB / 1e6
        report.table(medium, "s", "MB/s of image")
        for label, s in (("nbdcopy", copy), ("holdfast, sync", ours), ("holdfast, until the first checkpoint", offered)):
            report.row(label, spread(s, "%.2f"), "%.0f" % (mb / statistics.median(s)))
        ratio = statistics.median(copy) / statistics.median(ours)
        report.table("", "ratio", "target")
        report.fact("sync beside nbdcopy", "%.2f" % ratio, ">= 0.5", ratio >= 0.5)
        scratch.clear(medium)


# ---- Memory ------------------------------------------------------------------


def run_memory(scratch, report):
    report.head("memory: resident memory of the replicators",
                "%d VPGs, all written to at once (randw4k q32, %s MB/s each, %s minutes); ring %d MiB; journals of at "
                "most %s MB." % (VPGS, LOAD_MB_S or "all", MINUTES, RING_MB, JOURNAL_MB or "any"))
    where = scratch.dir("tmpfs")
    vms = ["vm%d" % i for i in range(VPGS)]
    size = min(SIZE_MB, 256) * MIB
    sites = Sites(where, vms, size)
    if JOURNAL_MB:
        sites.lab.limits = {"HardLimitInMB": JOURNAL_MB, "WarningThresholdInMB": 0}
    try:
        sites.up()
        idle = [rss_mib(p) for p in sites.pids()]
        for vm in vms:
            sites.protect(vm)
        for vm in vms:
            sites.wait_synced(vm)
        synced = [rss_mib(p) for p in sites.pids()]
        samples, threads, failed = [], [], []

        def load(uri):
            try:
                rate = ["--rate=%dk" % (LOAD_MB_S * 1000)] if LOAD_MB_S else []
                fio(uri, "randw4k q32", secs=MINUTES * 60, more=rate)
            except BenchError as e:
                failed.append(e)

        for vm in vms:
            threads.append(threading.Thread(target=load, args=(sites.uris[vm],)))
            threads[-1].start()
        while any(t.is_alive() for t in threads):
            samples.append([rss_mib(p) for p in sites.pids()])
            threads[0].join(0.25)
        if failed:
            raise failed[0]
        stopped = time.time()
        settled = max(sites.settle(vm, stopped, 120) for vm in vms)
        rest = [rss_mib(p) for p in sites.pids()]
        for vm in vms:
            sites.compare(vm)
        overflows = resyncs(sites)
        sites.down()
    except BaseException:
        print(sites.lab.logs(), flush=True)
        sites.down()
        raise
    bound = RING_MB + 16 * VPGS
    half = len(samples) // 2
    report.table("replicator", "idle MiB", "synced MiB", "most under load MiB", "after MiB", "target",
                 "growth in the second half MiB", "target")
    for i, name in enumerate(("protected site", "recovery site")):
        most = max(s[i] for s in samples)
        early = max(s[i] for s in samples[:half] or samples)
        growth = max(s[i] for s in samples[half:]) - early
        report.row(name, "%.0f" % idle[i], "%.0f" % synced[i], "%.0f" % most, "%.0f" % rest[i],
                   report.target("%s: %.0f MiB" % (name, most), "<= %d" % bound, most <= bound),
                   "%.1f" % growth, report.target("%s grows %.1f MiB" % (name, growth), "<= 16", growth <= 16))
    report.note("Newest checkpoints held everything %.1f s after the load; the ring overflowed %d times." % (
        settled, overflows))
