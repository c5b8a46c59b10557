#!/usr/bin/python3
# limit: 700
"""A journal that is truncated, flipped or full, and disks that are: a clear error
with a code, everything else untouched, nothing offered that is not true, and on
again by itself when the reason is gone.  Codes that must be told:
JNL-0004, JNL-0005, JNL-0009, JNL-0010, JNL-0020, JNL-0054, JNL-0057, JNL-0061."""
import glob
import http.client
import json
import os
import re
import ssl
import sys
import threading
import uuid

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hfmount  # noqa: E402
import hflab  # noqa: E402
import nbd  # noqa: E402
from labtest import (MIB, Failed, View, check, cli, cli_json, kill_left, lab, log_end, logged, main, noise,  # noqa: E402
                     numbers, points, read_range, run, same, say, tag, vpg, wait_until, write_pattern)

SIZE = 64 * MIB


def control(site, method, path, body=None):
    """A call of the site's manager to its replicator."""
    d = os.path.join(site.state, "manager")
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname = False
    ctx.load_verify_locations(os.path.join(d, "root.pem"))
    ctx.load_cert_chain(os.path.join(d, "chain.pem"), os.path.join(d, "key.pem"))
    c = http.client.HTTPSConnection("127.0.0.1", site.control_port, context=ctx, timeout=60)
    try:
        c.request(method, "/control/v1/" + path, json.dumps(body) if body is not None else None,
                  {"Content-Type": "application/json"})
        r = c.getresponse()
        text = r.read().decode()
        return r.status, json.loads(text) if text else None
    finally:
        c.close()


def damage_alerts(it):
    return [a for a in it.paris.api.get("/v1/alerts") if a["HelpIdentifier"] == "HF0007"]


def scrub(it):
    """A scrub as the manager does it: the same call begins it and tells how far it is."""
    body = {"ScrubIdentifier": str(uuid.uuid4())}

    def ended():
        status, r = control(it.paris, "POST", "targets/%s/scrub" % it.vpg_id, body)
        return r if status == 200 and r["State"] == "Done" else None
    return wait_until("the scrub", ended, 60)


def store(it):
    return os.path.join(it.paris.store, it.vpg_id)


def tag_or_none(it):
    try:
        return tag(it, "again %d" % log_end(it.london), 30)
    except (hflab.ApiError, hflab.LabError):
        return None


def alike(it, what):
    point = wait_until("a checkpoint " + what, lambda: tag_or_none(it), 90, 0.2)
    with View(it, point) as v:
        for name, uri in v.uri.items():
            check("%s: volume %s of the newest point is the source" % (what, name), same(uri, it.nbd_uri(name)))
    return point


# --- damage ------------------------------------------------------------------------------------------


class Damaged:
    """paris stopped, one of its files changed, paris started; at the end the file as it was."""

    def __init__(self, it, path, change):
        self.it, self.path = it, path
        it.paris.stop()
        with open(path, "rb") as f:
            self.good = f.read()
        change(path)
        self.since = log_end(it.paris)
        it.paris.start()
        it.paris.wait_api()

    def __enter__(self):
        return self

    def told(self, code):
        line = wait_until("%s in the log of paris" % code,
                          lambda: logged(self.it.paris, code, self.since), 20)[0]
        check("%s is told, with the way out" % code, "next:" in line, line[25:])
        return line

    def __exit__(self, *_):
        self.it.paris.stop()
        with open(self.path, "wb") as f:
            f.write(self.good)
        self.it.paris.start()
        self.it.paris.wait_api()


def flip(at):
    def change(path):
        with open(path, "r+b") as f:
            f.seek(at if at >= 0 else os.path.getsize(path) + at)
            byte = f.read(1)[0]
            f.seek(-1, 1)
            f.write(bytes([byte ^ 0x10]))
    return change


def cut_to(length):
    return lambda path: os.truncate(path, length)


def error_of(it):
    e = vpg(it.paris, it)["Error"]
    return e if e and e["Code"].startswith("JNL") and e["NextStep"] else None


def others_go_on(it, other):
    mine = it.vpg_id
    it.vpg_id = other
    try:
        check("the other VPG goes on", wait_until("its point", lambda: tag_or_none(it), 60))
    finally:
        it.vpg_id = mine


def refused_journal(it, other, what, path, change, codes):
    """The journal does not open: said by name, nothing cut off, and all is there when it is mended."""
    kept = numbers(it)
    with Damaged(it, path, change) as d:
        e = wait_until("the VPG to say what is wrong", lambda: error_of(it), 30)
        check("%s: %s, named, with the way out" % (what, e["Code"]), e["Code"] in codes
              and (os.path.basename(path).split(".")[0] in e["Message"] or it.vpg_id in e["Message"]), e)
        check("%s: the status shows it" % what, vpg(it.paris, it)["Status"] == 2)
        d.told(e["Code"])
        write_pattern(it.nbd_uri("files"), 0, noise("meanwhile " + what, 65536))
        others_go_on(it, other)
    alike(it, "after " + what)
    check("%s: mended, every point is back" % what, set(kept) <= set(numbers(it)))


def sealed(it):
    """Segments but the last, which is being written."""
    return sorted(glob.glob(os.path.join(store(it), "seg.*")))[:-1]


def damage():
    def before(it):
        path = os.path.join(it.base, "disks", "other.img")
        it.london.vms.append({"name": "other", "volumes": [{"name": "o", "path": path}]})

    def prepare(it):
        hflab.make_image(os.path.join(it.base, "disks", "other.img"), 16 * MIB)
    with lab(before=before, prepare=prepare, volumes=(("files", SIZE),)) as it:
        mine = it.vpg_id
        other = it.protect(name="other", vms=["other"])
        it.wait_synced()
        it.vpg_id = mine
        for n in range(4):
            write_pattern(it.nbd_uri("files"), 12 * MIB * n, noise("damage %d" % n, 12 * MIB))
            tag(it, "part %d" % n)
        wait_until("runs to be written", lambda: glob.glob(os.path.join(store(it), "run*")), 20)
        say("%s" % sorted(os.listdir(store(it))))
        clean = scrub(it)
        check("the scrub of a sound journal finds nothing", clean["Bad"] == 0 and clean["Batches"] > 0
              and clean["Runs"] > 0, clean)
        as_task(it)
        damaged_data(it, other)
        damaged_run(it)
        manifest = os.path.join(store(it), "manifest")
        refused_journal(it, other, "a flipped manifest", manifest, flip(200), ("JNL-0004",))
        refused_journal(it, other, "a cut manifest", manifest, cut_to(100), ("JNL-0004", "JNL-0005"))
        cut_segment(it)
        refused_journal(it, other, "a short replica", os.path.join(store(it), "replica.000"),
                        cut_to(SIZE // 2), ("JNL-0057",))
        lost_tail(it)


def as_task(it):
    """From either site, beside other tasks; offline with holdfastd; status 1 for damage."""
    for site in it.sites:
        task = site.api.post("/v1/vpgs/%s/scrub" % it.vpg_id)
        tag(it, "beside the scrub of " + site.name)
        site.api.wait_task(task, 60)
        found = site.api.get("/v1/tasks/" + task)["Scrub"]
        check("%s: the task tells what was read" % site.name, found["Bad"] == 0 and found["FirstBad"] is None
              and found["Replicas"] == 1 and found["Bytes"] > 16 * MIB, found)
    row = cli_json(it, "scrub", "ledger")["rows"][0]
    check("holdfast scrub prints it", row["bad"] == 0 and row["state"] == "done" and row["segments"] > 1
          and row["vpg"] == "ledger", row)
    it.paris.stop()
    out = run(hflab.holdfastd(), "scrub", store(it))
    check("holdfastd scrub reads it offline", "bad: 0\n" in out.stdout and "segments: " in out.stdout, out.stdout)
    with open(sealed(it)[0], "r+b") as f:
        good = f.read()
        flip(MIB)(f.name)
        out = run(hflab.holdfastd(), "scrub", store(it), ok=(1,))
        check("and tells damage", "damage: " in out.stderr and "JNL-0061" in out.stderr and "bad: 1\n" in out.stdout,
              out.stderr)
        it.paris.start()
        it.paris.wait_api()
        wait_until("the journal to be open", lambda: not vpg(it.paris, it)["Error"] and points(it), 30)
        out = cli(it, "scrub", "ledger", "--output", "json", ok=(1,))
        row = json.loads(out.stdout)["rows"][0]
        check("holdfast scrub: status 1, and what is damaged", row["bad"] == 1 and row["severity"] == "critical"
              and "seg." in row["first_bad"] and "JNL-0061" in out.stderr, row)
        wait_until("the alert of it", lambda: damage_alerts(it), 20)
        f.seek(0)
        f.write(good)
        f.flush()
        cli(it, "scrub", "ledger")
        wait_until("the alert to go when a scrub finds nothing", lambda: not damage_alerts(it), 20)
        it.paris.stop()
        f.seek(0)
        f.write(good)
    it.paris.start()
    it.paris.wait_api()
    for words, code in ((("scrub",), 2), (("scrub", "/nonexistent"), 1), (("scrub", "a", "b"), 2)):
        run(hflab.holdfastd(), *words, ok=(code,))


def damaged_data(it, other):
    """One bit of one segment: found by the scrub and by whoever reads it; the rest is served."""
    segment = sealed(it)[0]
    with Damaged(it, segment, flip(MIB)) as d:
        wait_until("the journal to be open", lambda: not vpg(it.paris, it)["Error"] and points(it), 30)
        found = scrub(it)
        check("a flipped byte of a segment: the scrub finds it and names the file", found["Bad"] >= 1
              and os.path.basename(segment) in found["FirstBad"], found)
        d.told("JNL-0061")
        damaged = told_points(it)
        with View(it, damaged[-1], AllowDamaged=True) as v:
            bad = 0
            for n in range(48):
                try:
                    got = read_range(v.uri["files"], n * MIB, MIB)
                    if got != read_range(it.nbd_uri("files"), n * MIB, MIB):
                        raise Failed("a view gave wrong data at %d MiB instead of an error" % n)
                except nbd.Error as e:
                    check("reading it is an error", e.errno == "EIO", e)
                    bad += 1
            check("only the damaged place is lost", 1 <= bad <= 2, bad)
        others_go_on(it, other)
        synced_again(it)
    found = scrub(it)
    check("mended: nothing is bad", found["Bad"] == 0, found)
    wait_until("no point to be marked any more", lambda: not [c for c in points(it) if c["Damaged"]], 30)
    alike(it, "after the flipped segment")


def told_points(it):
    """The points that need it are marked in every list, an alert says so, and opening one is refused."""
    damaged = wait_until("points to be marked", lambda: [c for c in points(it) if c["Damaged"]], 30)
    whole = [c for c in points(it) if not c["Damaged"]]
    rows = cli_json(it, "points", "ledger", "--limit", "0")["rows"]
    marked = {r["point"] for r in rows if r["damaged"]}
    check("holdfast points marks the same", {c["CheckpointIdentifier"] for c in damaged} <= marked
          and not marked & {c["CheckpointIdentifier"] for c in whole}, marked)
    check("in text, too", "!" in cli(it, "points", "ledger").stdout)
    worst = damaged[-1]["CheckpointIdentifier"]
    for path in ("views", "FailoverTest"):
        refused_task(it, path, worst)
    out = cli(it, "view", "ledger", "--point", worst, ok=(1,))
    check("holdfast view refuses it with the way out", "JNL-0015" in out.stderr and "bytes at offset" in out.stderr,
          out.stderr)
    row = cli_json(it, "view", "ledger", "--point", worst, "--damaged")["rows"][0]
    cli(it, "unview", "ledger", row["id"])

    def alert():
        return [a for a in it.paris.api.get("/v1/alerts?level=Error&helpIdentifier=HF0007") if a["Code"] == "JNL-0015"]
    text = wait_until("the alert", alert, 20)[0]["Description"]
    # A new point comes every second and is damaged, too: the alert is as old as the last time it was told.
    told = re.search(r"points, (\d+) to (\d+) ", text)
    ids = [c["CheckpointIdentifier"] for c in points(it) if c["Damaged"]]
    check("an error says which points, what, and what to do", told and told[1] == ids[0] and told[2] in ids
          and "bytes at offset" in text and "holdfast sync" in text, (text, ids[0], ids[-1]))
    return damaged


def refused_task(it, path, point):
    try:
        it.paris.api.do("POST", "/v1/vpgs/%s/%s" % (it.vpg_id, path), {"CheckpointIdentifier": point})
    except hflab.LabError as e:
        check("%s of a damaged point is refused, and says what is lost" % path, "JNL-0015" in str(e)
              and "bytes at offset" in str(e), e)
    else:
        raise Failed("%s opened a damaged point" % path)


def synced_again(it):
    """The way out that the alert names: a sync, after which new points are whole and the alert says so."""
    it.london.api.do("POST", "/v1/vpgs/%s/forcesync" % it.vpg_id, {})
    wait_until("a whole point", lambda: not points(it)[-1]["Damaged"], 60)
    point = alike(it, "after the sync that mends")
    check("the new point is whole", not point["Damaged"])
    check("the damaged ones still are", [c for c in points(it) if c["Damaged"]])


def cut_segment(it):
    """What is cut off a segment is missed at the start, and by the scrub."""
    segment = sealed(it)[0]
    with Damaged(it, segment, cut_to(MIB)) as d:
        found = scrub(it)
        check("a cut segment: the scrub finds it and names the file", found["Bad"] >= 1
              and os.path.basename(segment) in found["FirstBad"], found)
        d.told("JNL-0061")
    scrub(it)  # takes its marks back: the file is as it was
    alike(it, "after the cut segment")


def damaged_run(it):
    run_file = sorted(glob.glob(os.path.join(store(it), "run*")))[0]
    kept = numbers(it)
    body = {"ScrubIdentifier": str(uuid.uuid4())}
    with Damaged(it, run_file, flip(4096 + 33)) as d:
        def told():
            status, found = control(it.paris, "POST", "targets/%s/scrub" % it.vpg_id, body)
            if status == 200:
                return found["Bad"] and found["FirstBad"]
            return (error_of(it) or {}).get("Code")
        what = wait_until("the flipped run to be found", told, 20)
        check("a flipped run is found", "run" in what or "JNL-0051" in what, what)
        d.told("JNL-0061" if "JNL" not in what else "JNL-0051")
        check("points are kept", numbers(it)[:len(kept)] == kept)
    alike(it, "after the flipped run")


def lost_tail(it):
    """Acknowledged batches are gone from the end of the journal."""
    write_pattern(it.nbd_uri("files"), 0, noise("tail", 2 * MIB))
    tag(it, "tail")
    last = sorted(glob.glob(os.path.join(store(it), "seg.*")))[-1]
    it.paris.stop()
    since, london, size = log_end(it.paris), log_end(it.london), os.path.getsize(last)
    # Zeros from the first batch on: as if the disk had lost its last writes.
    with open(last, "r+b") as f:
        f.seek(4096)
        f.write(bytes(size - 4096))
    it.paris.start()
    it.paris.wait_api()
    line = wait_until("the lost batches to be missed", lambda: logged(it.paris, "JNL-0020", since), 30)[0]
    check("lost batches are told, with the way out", "next:" in line, line[25:])
    wait_until("the sync that follows", lambda: logged(it.london, "sync complete", london), 60)
    alike(it, "after lost batches")
    check("the damaged segment was not cut", size in [
        os.path.getsize(p) for p in (last, last + ".damaged") if os.path.exists(p)])


# --- a part of the journal is gone ------------------------------------------------------------------


def segments(it):
    return sorted(glob.glob(os.path.join(store(it), "seg.????????")))


def harmed(it, path, change):
    """paris killed, a segment changed, paris started: it says so, and what lies before is offered."""
    before = numbers(it)
    it.paris.kill("supervisor")
    kill_left(it.paris)
    it.paris.process.wait()
    it.paris.process = None
    change(path)
    since = log_end(it.paris)
    it.paris.start()
    it.paris.wait_api()
    line = wait_until("JNL-0020 in the log of paris", lambda: logged(it.paris, "JNL-0020", since), 30)[0]
    check("the damage is told, with the ways out", "next:" in line and os.path.basename(path) in line, line[25:])
    return before


def damage_alerts(it):
    return [a for a in it.paris.api.get("/v1/alerts")
            if a["HelpIdentifier"] == "HF0007" and it.vpg_id in json.dumps(a)]


def parts(it, name, n):
    """Part n of the volume is written, then there is a point that names it."""
    kept = {}
    for i in range(n):
        write_pattern(it.nbd_uri("files"), 8 * MIB * i, noise("%s %d" % (name, i), 6 * MIB))
        kept[int(tag(it, "part %d of %d, %s" % (i, n, name))["CheckpointIdentifier"])] = i
    return kept


def shows(it, point, kept, name):
    """The view of a tagged point holds its part, and not the next."""
    i = kept[point]
    with View(it, point) as v:
        check("part %d is as it was" % i, read_range(v.uri["files"], 8 * MIB * i, 6 * MIB)
              == noise("%s %d" % (name, i), 6 * MIB))
        check("and nothing later", i + 1 >= len(kept) or read_range(v.uri["files"], 8 * MIB * (i + 1), MIB)
              != noise("%s %d" % (name, i + 1), 6 * MIB)[:MIB])


def mended(it, kept):
    """The source has synced by itself: the old points, new ones, no alert."""
    alike(it, "after the damage")
    check("what was offered before still is", set(kept) <= set(numbers(it)))
    wait_until("the alert to go", lambda: not damage_alerts(it), 20)
    check("and the error", wait_until("no error", lambda: not vpg(it.paris, it)["Error"], 20))


def degraded():
    with lab(volumes=(("files", SIZE),)) as it:
        kept = parts(it, "first", 5)
        say("the newest segment is cut, and the source is dead")
        since = log_end(it.paris)
        it.london.stop()
        last = segments(it)[-1]
        before = harmed(it, last, cut_to(4096 + 2000))
        left = numbers(it)
        check("the points of the sound segments are offered", left and left == before[:len(left)]
              and len(left) < len(before), (len(left), len(before)))
        tagged = [p for p in left if p in kept]
        check("named ones among them", tagged, tagged)
        shows(it, tagged[-1], kept, "first")
        shows(it, tagged[0], kept, "first")
        e = wait_until("the VPG to show it", lambda: error_of(it), 20)
        check("the error has its code", e["Code"] == "JNL-0020", e)
        check("the status shows it", vpg(it.paris, it)["Status"] == 2)
        check("so does an alert", wait_until("HF0007", lambda: damage_alerts(it), 20))
        check("the file is as it was left", os.path.getsize(last) == 4096 + 2000)
        test = it.paris.api.post("/v1/vpgs/%s/FailoverTest" % it.vpg_id, {"CheckpointIdentifier": str(tagged[-1])})
        it.paris.api.wait_task(test, 30)
        it.paris.api.do("POST", "/v1/vpgs/%s/FailoverTestStop" % it.vpg_id, {})
        check("the damaged file is told once an opening", len(logged(it.paris, "JNL-0020", since)) == 1)
        it.london.start()
        it.london.wait_api()
        mended(it, left)
        shows(it, tagged[-1], kept, "first")

        say("a batch that had been acknowledged is flipped, and the source lives")
        kept = parts(it, "second", 6)
        since = log_end(it.london)
        last = segments(it)[-1]
        before = harmed(it, last, flip(4096 + 9))
        wait_until("the source to begin anew", lambda: logged(it.london, "STR-0013", since), 30)
        wait_until("the sync that follows", lambda: logged(it.london, "sync complete", since), 60)
        left = [p for p in kept if p in numbers(it)]
        check("older named points are still there", left, left)
        mended(it, left)
        shows(it, left[-1], kept, "second")

        say("a segment in the middle is missing")
        parts(it, "third", 6)
        since = log_end(it.london)
        gone = segments(it)[-3]
        harmed(it, gone, os.unlink)
        wait_until("the sync that follows", lambda: logged(it.london, "sync complete", since), 60)
        left = [p for p in kept if p in numbers(it)]
        check("the points before it are still there", left, left)
        mended(it, left)
        it.paris.stop()
        it.paris.start()
        it.paris.wait_api()
        wait_until("the journal to be open", lambda: not vpg(it.paris, it)["Error"] and points(it), 30)
        check("also after a restart", set(left) <= set(numbers(it)))
        shows(it, left[-1], kept, "second")
        alike(it, "after all of it")


def no_sync():
    """A sync that cannot begin is refused with the reason, and not done without effect."""
    with lab(volumes=(("files", SIZE),)) as it:
        manifest = os.path.join(store(it), "manifest")
        with Damaged(it, manifest, flip(200)):
            wait_until("the VPG to say what is wrong", lambda: error_of(it), 30)
            out = cli(it, "sync", "ledger", "--confirm", "SYNC", ok=(1,))
            check("a sync that cannot begin is an error", "REP-0024" in out.stderr, out.stderr)
        alike(it, "after the manifest was mended")


# --- full --------------------------------------------------------------------------------------------


def tmpfs(it, path, size):
    os.makedirs(path, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "size=%d" % size, "holdfast-test", path)


class Pourer(threading.Thread):
    def __init__(self, uri, total):
        super().__init__(daemon=True)
        self.uri, self.total = uri, total
        self.done, self.error = 0, None

    def run(self):
        try:
            h = nbd.NBD()
            h.connect_uri(self.uri)
            while self.done < self.total:
                h.pwrite(noise(self.done, MIB), self.done % SIZE)
                self.done += MIB
            h.flush()
            h.shutdown()
        except nbd.Error as e:
            self.error = e


def full_store():
    """The recovery site's disk is full: production goes on, points stay, and it goes on by itself."""
    def before(it):
        it.paris.store = os.path.join(it.base, "store")
        tmpfs(it, it.paris.store, 72 * MIB)
    with lab(before=before, volumes=(("files", SIZE),), ring_size="16MiB") as it:
        write_pattern(it.nbd_uri("files"), 0, noise("first", MIB))
        tag(it, "first")
        since = log_end(it.paris)
        p = Pourer(it.nbd_uri("files"), 128 * MIB)
        p.start()
        p.join(60)
        check("the writer is not held up by the full store", p.done == p.total and not p.error, (p.done, p.error))
        line = wait_until("JNL-0009", lambda: logged(it.paris, "JNL-0009", since), 30)[0]
        check("the full store is told, with the way out", "next:" in line, line[25:])
        alerts = wait_until("an alert or error of it", lambda: [
            e for e in [vpg(it.paris, it)["Error"]] + it.paris.api.get("/v1/alerts")
            if e and "JNL-0009" in json.dumps(e)], 30)
        check("and shown", alerts, alerts[:1])
        left = numbers(it)
        check("there is still a point to go back to", left, left)
        try:
            View(it, left[-1]).close()
        except hflab.LabError as e:
            check("no view without space for its scratch: said so", "No space" in str(e) and "JNL-0054" in str(e), e)
        run("mount", "-o", "remount,size=%d" % (640 * MIB), it.paris.store)
        alike(it, "after space was made")
        wait_until("the alerts of the full store to go", lambda: not [
            a for a in it.paris.api.get("/v1/alerts") if a["HelpIdentifier"] in ("STR0002", "VRA0007")], 60)


def full_source():
    """The protected disk's own file system is full: the client is told, both sides stay alike."""
    def prepare(it):
        disks = os.path.join(it.base, "disks")
        for v in it.volumes:
            os.unlink(v["path"])
        tmpfs(it, disks, 24 * MIB)
        for v in it.volumes:
            hflab.make_image(v["path"], v["size"])
    with lab(prepare=prepare, volumes=(("files", SIZE),)) as it:
        write_pattern(it.nbd_uri("files"), 0, noise("fits", 8 * MIB))
        kept = tag(it, "fits")
        p = Pourer(it.nbd_uri("files"), SIZE)
        p.start()
        p.join(30)
        check("a write without space is an error of space", p.error is not None
              and p.error.errno == "ENOSPC", p.error or p.done)
        check("reads go on", len(read_range(it.nbd_uri("files"), 0, MIB)) == MIB)
        run("mount", "-o", "remount,size=%d" % (128 * MIB), os.path.join(it.base, "disks"))
        write_pattern(it.nbd_uri("files"), 40 * MIB, noise("space again", MIB))
        alike(it, "after the full disk")
        with View(it, kept) as v:
            check("the earlier point is as it was", read_range(v.uri["files"], 0, 8 * MIB) == noise("fits", 8 * MIB))


def journal_limit():
    """The journal's hard limit cuts history short, and no open view keeps it above.  Between two points
    less than the limit is written: history can only be cut at a point."""
    def limits(settings):
        settings["Journal"]["Limitation"] = {"HardLimitInMB": 64, "WarningThresholdInMB": 48}
    with lab(protect=False, volumes=(("files", SIZE),)) as it:
        it.pair()
        it.protect(change=limits)
        it.wait_synced()
        write_pattern(it.nbd_uri("files"), 0, noise("pinned", 4 * MIB))
        pinned = tag(it, "pinned")
        view = View(it, pinned)
        since = log_end(it.paris)
        for n in range(16):
            write_pattern(it.nbd_uri("files"), n % 6 * 10 * MIB, noise("limit %d" % n, 10 * MIB))
            tag(it, "limit %d" % n)
        line = wait_until("JNL-0010", lambda: logged(it.paris, "JNL-0010", since), 40)[0]
        check("history cut short is told, with the way out", "next:" in line, line[25:])
        wait_until("old points to go", lambda: int(pinned["CheckpointIdentifier"]) not in numbers(it), 30)
        used = wait_until("the journal to be within its limit",
                          lambda: (u := vpg(it.paris, it)["JournalUsedInBytes"]) <= 66 * MIB and u, 30)
        check("the journal is within its limit although a view is open", True, "%d MiB" % (used // MIB))
        row = [v for v in it.paris.api.get("/v1/vpgs/%s/views" % it.vpg_id) if v["ViewIdentifier"] == view.id][0]
        check("the view was kept", row["Broken"] is None, row["Broken"])
        check("and still shows its moment", read_range(view.uri["files"], 0, 4 * MIB) == noise("pinned", 4 * MIB)
              and read_range(view.uri["files"], 20 * MIB, MIB) == bytes(MIB))
        view.close()
        alike(it, "at the limit")


if hfmount.missing() and os.geteuid() != 0:
    print(hfmount.missing())
    sys.exit(77)
main(damage, degraded, no_sync, full_store, full_source, journal_limit)
