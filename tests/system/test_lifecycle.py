#!/usr/bin/python3
# limit: 180
"""The life of a VPG: points that both managers show alike, pause and resume, forced
sync, restarts of every process and of whole sites (a clean one is exact, kill -9
leads to a sync during which the earlier points stay and no new one is offered), a
ring that overflows, deletion with and without the recovery volumes, and a new start."""
import os
import signal
import sys
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hflab  # noqa: E402
import nbd  # noqa: E402
from labtest import (MIB, Failed, View, check, lab, log_end, logged, main, noise, numbers, points,  # noqa: E402
                     refused, same, say, tag, vpg, wait_logged, wait_until, when, write_pattern)
from proxy import Proxy  # noqa: E402

SIZE = 64 * MIB


def quiet(it, path):
    """An action that ends as a task."""
    body = {"CheckpointName": "not now"} if path == "checkpoints" else {}
    return it.london.api.do("POST", "/v1/vpgs/%s/%s" % (it.vpg_id, path), body)


def newest_is_source(it, name):
    point = wait_until("a checkpoint %s" % name, lambda: tag_or_none(it, name), 90, 0.2)
    with View(it, point) as v:
        for volume in ("files", "db"):
            check("%s: volume %s of the newest point is the source" % (name, volume),
                  same(v.uri[volume], it.nbd_uri(volume)))
    return point


def tag_or_none(it, name):
    try:
        return tag(it, "%s %d" % (name, time.monotonic_ns()), 40)
    except (hflab.ApiError, hflab.LabError):
        return None


def both_managers(it):
    point = tag(it, "for both")
    for site in it.sites:
        listed = [c for c in site.api.checkpoints(it.vpg_id) if c["Tag"] == "for both"]
        check("%s lists the tagged point" % site.name, len(listed) == 1
              and listed[0]["CheckpointIdentifier"] == point["CheckpointIdentifier"]
              and listed[0]["TimeStamp"] == point["TimeStamp"], listed)
    wait_until("older points", lambda: len(points(it)) > 4)
    older = points(it)[:-2]
    there = {c["CheckpointIdentifier"]: (c["TimeStamp"], c["Tag"])
             for c in it.london.api.checkpoints(it.vpg_id)}
    check("both managers list the same points", older and all(
        there.get(c["CheckpointIdentifier"]) == (c["TimeStamp"], c["Tag"]) for c in older), len(older))
    check("under one identifier and name", {v["VpgIdentifier"] for s in it.sites for v in
                                            s.api.get("/v1/vpgs")} == {it.vpg_id})
    first, last = older[0]["TimeStamp"], older[-1]["TimeStamp"]
    ranged = points(it, startDate=first, endDate=last)
    check("a range lists just what lies in it", [c["CheckpointIdentifier"] for c in ranged]
          == [c["CheckpointIdentifier"] for c in older], (len(ranged), len(older)))
    stats = it.london.api.get("/v1/vpgs/%s/checkpoints/stats" % it.vpg_id)
    check("stats name the earliest and the latest", stats["Earliest"]["CheckpointIdentifier"]
          == older[0]["CheckpointIdentifier"] and stats["Latest"], stats)
    ids = [int(c["CheckpointIdentifier"]) for c in points(it)]
    check("numbers rise with time", ids == sorted(set(ids)))


def tag_waits_for_paris(it, proxy):
    """The task of a tag ends only when the recovery site lists the point."""
    proxy.allow(0)
    try:
        path = "/v1/vpgs/%s/checkpoints" % it.vpg_id
        task = it.london.api.post(path, {"CheckpointName": "held up"})
        wait_until("the cut to be made", lambda: it.london.api.get("/v1/tasks/" + task)["Generation"] >= 1)
        last = numbers(it)[-1]
        wait_until("the managers to look again", lambda: vpg(it.london, it)["LagBytes"] > 0
                   or it.london.api.get("/v1/tasks/" + task)["Status"]["State"] != 1, 20)
        check("with the link stalled it goes on", it.london.api.get("/v1/tasks/" + task)["Status"]["State"] == 1)
        check("and paris does not list it", numbers(it)[-1] == last)
    finally:
        proxy.allow(None)
    it.london.api.wait_task(task)
    check("when it ends, paris lists it", any(c["Tag"] == "held up" for c in points(it)))


def lost_tag(it, proxy):
    """A tag whose writes were only in the source's memory when that died: the task is about this point, so
    it fails, although newer ones are listed soon."""
    path = "/v1/vpgs/%s/checkpoints" % it.vpg_id
    proxy.allow(0)
    try:
        write_pattern(it.nbd_uri("files"), 3 * MIB, noise("lost", MIB))
        task = it.london.api.post(path, {"CheckpointName": "lost"})
        wait_until("the cut to be made", lambda: it.london.api.get("/v1/tasks/" + task)["Generation"] >= 1)
        old = it.london.kill("replicator", signal.SIGKILL)
        wait_until("another replicator", lambda: it.london.pid("replicator") not in (None, old))
    finally:
        proxy.allow(None)
    try:
        it.london.api.wait_task(task, 60)
    except hflab.LabError as e:
        check("the task of a lost tag fails and says so", "REP-0022" in str(e) and "lost" in str(e), e)
    else:
        raise Failed("the task of a lost tag succeeded")
    newest_is_source(it, "after the lost tag")
    check("it is not listed", not any(c["Tag"] == "lost" for c in points(it)))


def pause_and_resume(it):
    quiet(it, "pause")
    wait_until("both sites to say so", lambda: all(vpg(s, it)["SubStatus"] == 25 for s in it.sites))
    kept = numbers(it)
    refused_task(it, "a checkpoint while paused", "checkpoints", "REP-0011")
    refused_task(it, "a forced sync while paused", "forcesync", "REP-0011")
    write_pattern(it.nbd_uri("files"), MIB, noise("paused", MIB))
    before = log_end(it.london)
    quiet(it, "resume")
    wait_logged(it.london, "sync", before)
    newest_is_source(it, "after the pause")
    check("the points of before are still there", set(kept) <= set(numbers(it)))


def refused_task(it, what, path, code):
    try:
        quiet(it, path)
    except hflab.LabError as e:
        check("%s: refused" % what, code in str(e), e)
    except hflab.ApiError as e:
        check("%s: refused" % what, e.code == code, e)
    else:
        raise Failed("%s: taken" % what)


def forced(it):
    kept = numbers(it)
    before = log_end(it.london)
    quiet(it, "forcesync")
    wait_logged(it.london, "sync complete", before)
    newest_is_source(it, "after a forced sync")
    check("forced sync: the earlier points stay", set(kept) <= set(numbers(it)))


def restarts_of_processes(it):
    """Managers may come and go: the data path does not notice."""
    for site in it.sites:
        before, start = numbers(it)[-1], log_end(it.london)
        old = site.kill("manager", signal.SIGKILL)
        wait_until("another manager of %s" % site.name, lambda s=site, o=old: s.pid("manager") not in (None, o))
        site.wait_api()
        wait_until("points to go on", lambda b=before: numbers(it)[-1] > b + 1)
        check("kill -9 of %s's manager: no sync, points go on" % site.name,
              not logged(it.london, "sync", start))
    wait_until("both sites to show it as well", lambda: all(
        vpg(s, it)["Status"] == 1 for s in it.sites), 40)
    kept, start = numbers(it), log_end(it.london)
    old = it.paris.kill("replicator", signal.SIGKILL)
    wait_until("another replicator", lambda: it.paris.pid("replicator") not in (None, old))
    newest_is_source(it, "after kill -9 of paris's replicator")
    check("nothing was synced: the lane went on from what was durable",
          not logged(it.london, "sync of", start))
    check("all points stay", set(kept) <= set(numbers(it)))


def clean_restarts(it):
    for site in (it.london, it.paris):
        write_pattern(it.nbd_uri("files"), 2 * MIB, noise("clean " + site.name, MIB))
        kept, start = numbers(it), log_end(it.london)
        site.stop()
        check("%s says that it ended" % site.name, logged(site, "ended") or logged(site, "drained"))
        site.start()
        site.wait_api()
        newest_is_source(it, "after a clean restart of %s" % site.name)
        check("the restart of %s was exact: nothing was synced" % site.name,
              not logged(it.london, "sync of", start), logged(it.london, "sync", start))
        if site is it.london:
            check("and says so", logged(it.london, "exact start", start))
        check("all points stay", set(kept) <= set(numbers(it)))


class Pourer(threading.Thread):
    """Writes as fast as it is let, reconnecting; for syncs that take a while."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.uri = uri
        self.stop_it = threading.Event()
        self.count = 0

    def run(self):
        block = noise("pour", 256 * 1024)
        while not self.stop_it.is_set():
            try:
                h = nbd.NBD()
                h.connect_uri(self.uri)
                while not self.stop_it.is_set():
                    h.pwrite(block, self.count * len(block) % (SIZE - len(block)))
                    self.count += 1
                h.shutdown()
            except nbd.Error:
                self.stop_it.wait(0.02)


def killed_source(it, proxy, whole):
    """kill -9 of london's replicator, or of all of london: whatever was in its
    ring is gone, so everything is synced, with the old points kept and none new
    offered until that is done."""
    what = "all of london" if whole else "london's replicator"
    # Half of the disk holds something that does not compress to nothing.
    write_pattern(it.nbd_uri("files"), 0, noise(what, 32 * MIB))
    # Twice the ring: a link slower than the writer makes a sync of it, during which no tag is taken.
    wait_until("a tag", lambda: tag(it, "before kill of %s" % what), 60, 0.5)
    proxy.allow(0)
    write_pattern(it.nbd_uri("db"), 0, noise("on the way", MIB))
    start = log_end(it.london)
    if whole:
        for role in ("supervisor", "manager", "replicator"):
            it.london.kill(role, signal.SIGKILL)
        it.london.process.wait()
        it.london.process = None
        wait_until("its processes to end", lambda: not any(
            it.london.pid(r) and alive(it.london.pid(r)) for r in ("manager", "replicator")))
        it.london.start()
    else:
        old = it.london.kill("replicator", signal.SIGKILL)
        wait_until("another replicator", lambda: it.london.pid("replicator") not in (None, old))
    kept = numbers(it)
    proxy.allow(8 * MIB)
    proxy.cut()
    it.london.wait_api()
    wait_until("the sync to be under way", lambda: logged(it.london, "sync of", start) and proxy.stalled(), 40)
    wait_until("both sites to say so", lambda: all(vpg(s, it)["SubStatus"] in (4, 6, 23) for s in it.sites), 20)
    check("%s killed: earlier points stay, none new is offered during the sync" % what,
          numbers(it) == kept, (len(kept), len(numbers(it))))
    with View(it, kept[-1]) as v:
        check("and can be opened", len(v.uri) == 2)
    refused_task(it, "a tag during the sync", "checkpoints", "STR-0016")
    check("still none", numbers(it) == kept)
    proxy.allow(None)
    wait_logged(it.london, "sync complete", start, 60)
    newest_is_source(it, "after kill -9 of %s" % what)
    check("the earlier points stayed", set(kept) <= set(numbers(it)))


def killed_replicator(it, proxy):
    killed_source(it, proxy, False)


def killed_site(it, proxy):
    killed_source(it, proxy, True)


def alive(pid):
    try:
        os.kill(pid, 0)
        with open("/proc/%d/stat" % pid, encoding="utf-8") as f:
            return f.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def overflow(it, proxy):
    """The ring is 16 MiB, the link stands still, and the writer does not wait."""
    tag(it, "before the overflow")
    proxy.allow(0)
    p = Pourer(it.nbd_uri("files"))
    p.start()
    try:
        # 256 KiB each: twice the ring and what the sockets hold.
        wait_until("the writer not to be held up by the dead link", lambda: p.count > 300, 30)
        wait_until("the overflow to be said", lambda: vpg(it.london, it)["SourceState"] == "Collapsed", 20)
        kept, over = numbers(it), time.time()
        proxy.allow(4 * MIB)
        wait_until("the link to stall in the sync", proxy.stalled)
        # One made before the overflow may have been on its way: what lay in the ring then is delivered exactly.
        now = points(it)
        check("overflow: earlier points stay, none made after it is offered", set(kept) <= set(numbers(it))
              and all(when(c["TimeStamp"]) <= over for c in now), (over, now[-2:]))
        proxy.allow(None)
    finally:
        p.stop_it.set()
        p.join()
    newest_is_source(it, "after the overflow")
    check("the earlier points stayed", set(kept) <= set(numbers(it)))


def replicas(it):
    out = []
    for root, _, names in os.walk(it.paris.store):
        out += [os.path.join(root, n) for n in names]
    return sorted(out)


def delete_and_create(it):
    api = it.london.api
    old = it.vpg_id
    api.do("DELETE", "/v1/vpgs/" + old, {"KeepRecoveryVolumes": True})
    wait_until("both sites to forget it", lambda: not any(s.api.get("/v1/vpgs") for s in it.sites))
    left = replicas(it)
    check("the recovery volumes were kept, the journal was not",
          left and sum(os.path.getsize(f) == SIZE for f in left) == 2
          and not any("seg." in f for f in left), left)
    with open(it.volumes[0]["path"], "rb") as f:
        check("the protected disk is as it was", len(f.read()) == SIZE)
    write_pattern(it.nbd_uri_of_inventory("files"), MIB, noise("unprotected", MIB))
    it.protect(name="second")
    check("created again under another identifier", it.vpg_id != old)
    it.wait_synced()
    newest_is_source(it, "of the second VPG")
    with View(it) as v:
        refused_or_failed(it, "deleting it with a view open")
        v.close()
    before = set(replicas(it))
    api.do("DELETE", "/v1/vpgs/" + it.vpg_id, {"KeepRecoveryVolumes": False})
    wait_until("both sites to forget it", lambda: not any(s.api.get("/v1/vpgs") for s in it.sites))
    wait_until("nothing of it to be left", lambda: set(replicas(it)) <= set(left))
    check("deleted without its recovery volumes", before - set(left) and not set(replicas(it)) - set(left))
    it.protect(name="third")
    it.wait_synced()
    newest_is_source(it, "of the third VPG")
    refused("a checkpoint of the first VPG", lambda: api.get("/v1/vpgs/%s/checkpoints" % old), "API-0013")


def refused_or_failed(it, what):
    try:
        it.london.api.do("DELETE", "/v1/vpgs/" + it.vpg_id, {})
    except (hflab.LabError, hflab.ApiError) as e:
        check("%s: refused" % what, "REP-0015" in str(e) or "view" in str(e), e)
        wait_until("it to be protected as before", lambda: vpg(it.london, it)["Status"] == 1, 40)
    else:
        raise Failed("%s: taken" % what)


def life(*steps):
    proxies = []

    def before(it):
        proxy = Proxy(it.paris.data_port)
        it.paris.extra = '  advertise_data = "127.0.0.1:%d";\n' % proxy.port
        proxies.append(proxy)
    try:
        with lab(before=before, volumes=(("files", SIZE), ("db", SIZE)), ring_size="16MiB") as it:
            for step in steps:
                say("-- " + step.__name__)
                step(it) if step.__code__.co_argcount == 1 else step(it, proxies[0])
    finally:
        for p in proxies:
            p.close()


def calm():
    life(both_managers, tag_waits_for_paris, pause_and_resume, forced, delete_and_create)


def restarts():
    life(restarts_of_processes, lost_tag, clean_restarts, killed_replicator, killed_site, overflow)


main(calm, restarts)
