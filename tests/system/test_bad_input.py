#!/usr/bin/python3
# limit: 150
"""What cannot be served is refused by name, with a way out, and harms nothing else:
volumes that are no volumes, volumes of another size on the other side, a state
directory in use, and files of a newer version, which stay as they are.  Codes that
must be told: IO-0004, IO-0011, IO-0012, GEN-0005, REP-0012, STR-0005, AGT-0002,
MGR-0003, CAP-0004, JNL-0052, CAP-0003."""
import fcntl
import glob
import hashlib
import http.client
import json
import os
import sqlite3
import ssl
import struct
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hflab  # noqa: E402
from labtest import (MIB, Failed, View, check, lab, log_end, logged, main, noise, numbers, read_range,  # noqa: E402
                     run, same, say, tag, vpg, wait_until, write_pattern)

SIZE = 16 * MIB


# --- volumes that are none ----------------------------------------------------------------------------


def volumes():
    locked = []

    def before(it):
        d = os.path.join(it.base, "odd")
        os.mkdir(d)
        hflab.make_image(os.path.join(d, "locked"), MIB)
        hflab.make_image(os.path.join(d, "bytes"), 1000)
        hflab.make_image(os.path.join(d, "empty"), 0)
        hflab.make_image(os.path.join(d, "good"), MIB)
        f = open(os.path.join(d, "locked"), "rb")
        fcntl.flock(f, fcntl.LOCK_EX)
        locked.append(f)
        names = {"missing": os.path.join(d, "missing"), "folder": d, "null": "/dev/null",
                 "locked": os.path.join(d, "locked"), "bytes": os.path.join(d, "bytes"),
                 "empty": os.path.join(d, "empty"), "good": os.path.join(d, "good")}
        it.london.vms.append({"name": "odd", "volumes": [
            {"name": n, "path": p} for n, p in names.items()]})
        it.wanted = {"missing": "IO-0004", "folder": "IO-0011", "null": "IO-0011", "locked": "IO-0012",
                     "bytes": "IO-0011", "empty": "IO-0011"}
    with lab(before=before, volumes=(("files", SIZE),)) as it:
        here = it.london.api.get("/v1/localsite")["SiteIdentifier"]
        vm = [v for v in it.london.api.get("/v1/virtualizationsites/%s/vms" % here) if v["VmName"] == "odd"][0]
        rows = {v["VolumeName"].split("/")[1]: v for v in vm["Volumes"]}
        for name, code in it.wanted.items():
            row = rows[name]
            check("volume %s: the inventory says why it is not served" % name,
                  row["Error"] and "odd/%s" % name in row["Error"] and not row["NbdUri"], row["Error"])
            line = logged(it.london, "volume odd/%s" % name)
            check("volume %s: and so does the log, %s" % (name, code),
                  line and code in line[0] and "next:" in line[0], line)
        check("the good one beside them is served", rows["good"]["NbdUri"] and not rows["good"]["Error"])
        write_pattern(rows["good"]["NbdUri"], 4096, b"works" * 100 + b"\0" * 12)
        first = it.vpg_id
        try:
            it.protect(name="odd", vms=["odd"], seconds=30)
        except (hflab.ApiError, hflab.LabError) as e:
            check("protecting a VM with such volumes is refused by name", "odd/" in str(e), e)
        else:
            raise Failed("a VM with volumes that cannot be opened was protected")
        check("and leaves nothing", len(it.london.api.get("/v1/vpgs")) == 1)
        it.vpg_id = first
        tag(it, "the other VPG is well")
        locked[0].close()
        it.london.stop()
        it.london.start()
        it.london.wait_api()

        def served():
            for v in it.london.api.get("/v1/virtualizationsites/%s/vms" % here):
                for row in v["Volumes"]:
                    if row["VolumeName"] == "odd/locked" and row["NbdUri"] and not row["Error"]:
                        return True
            return False
        wait_until("the volume that is no longer locked to be served", served)


# --- another size on the other side -------------------------------------------------------------------


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


def sizes():
    with lab(volumes=(("files", SIZE), ("db", SIZE))) as it:
        path = glob.glob(os.path.join(it.paris.state, "replicator", "targets", "*.json"))[0]
        with open(path, encoding="utf-8") as f:
            body = json.load(f)
        body["Volumes"][0]["SizeInBytes"] = 2 * SIZE
        status, out = control(it.paris, "PUT", "targets/" + it.vpg_id, body)
        check("a target of another size is refused, and both sizes are named",
              status == 409 and out["Code"] == "REP-0012" and str(SIZE) in out["Message"]
              and str(2 * SIZE) in out["Message"] and out["NextStep"], (status, out))
        point = tag(it, "before it grew")
        kept = numbers(it)
        it.london.stop()
        os.truncate(it.volumes[0]["path"], 2 * SIZE)
        since = log_end(it.london)
        it.london.start()
        it.london.wait_api()

        def says():
            e = vpg(it.london, it)["Error"]
            return e if e and e["Code"] in ("STR-0005", "REP-0012") else None
        e = wait_until("the VPG to say that the sizes differ", says, 40)
        check("the error names both sizes and the way out", str(SIZE) in e["Message"]
              and str(2 * SIZE) in e["Message"] and e["NextStep"], e)
        check("its status shows it", vpg(it.london, it)["Status"] == 2, vpg(it.london, it)["StatusDescription"])
        check("the log has it, too", logged(it.london, e["Code"], since))
        write_pattern(it.nbd_uri("files"), 0, noise("still in use", MIB))
        check("the disk is in use all the same", read_range(it.nbd_uri("files"), 0, MIB)
              == noise("still in use", MIB))
        check("no point was lost", numbers(it)[:len(kept)] == kept)
        with View(it, point) as v:
            check("and they can be opened", len(v.uri) == 2)
        it.london.stop()
        os.truncate(it.volumes[0]["path"], SIZE)
        it.london.start()
        it.london.wait_api()
        back = wait_until("it to be protected again at its old size", lambda: tag_or_none(it), 60)
        with View(it, back) as v:
            check("both sides are alike again", same(v.uri["files"], it.nbd_uri("files")))


def tag_or_none(it):
    try:
        return tag(it, "again %d" % log_end(it.london), 20)
    except (hflab.ApiError, hflab.LabError):
        return None


# --- in use, and of a newer version -------------------------------------------------------------------


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def newer_header(path, at, length, crc_at):
    """Raise the version of a checksummed header at offset at."""
    with open(path, "r+b") as f:
        f.seek(at)
        head = bytearray(f.read(length))
        if not any(head):
            return
        struct.pack_into("<H", head, 4, struct.unpack_from("<H", head, 4)[0] + 7)
        struct.pack_into("<I", head, crc_at, crc32c(head[:crc_at]))
        f.seek(at)
        f.write(head)


def digest(path):
    h = hashlib.sha256()
    for root, dirs, names in os.walk(path) if os.path.isdir(path) else [(os.path.dirname(path), [],
                                                                       [os.path.basename(path)])]:
        dirs.sort()
        for n in sorted(names):
            p = os.path.join(root, n)
            if os.path.isfile(p):
                with open(p, "rb") as f:
                    h.update(p.encode() + hashlib.sha256(f.read()).digest())
    return h.hexdigest()


def refuses(it, site, what, path, change, code, words=("version", "newer")):
    """Stop, make a file newer, start: refused with code, the file as it was left; then put it back."""
    site.stop()
    with open(path, "rb") as f:
        good = f.read()
    change()
    left = digest(path)
    since = log_end(site)
    site.start()
    try:
        line = wait_until("%s in the log" % code, lambda: logged(site, code, since), 15)[0]
        with open(site.log, encoding="utf-8") as f:
            f.seek(since)
            text = f.read()
        check("%s: refused, with the way out" % what, any(w in line for w in words) and "next:" in text[text.index(line):], line)
        check("%s: untouched" % what, digest(path) == left)
    finally:
        if site.process.poll() is None:
            site.stop()
        site.process = None
        check("%s: still untouched when it has stopped" % what, digest(path) == left)
        with open(path, "wb") as f:
            f.write(good)
        site.start()
        site.wait_api()


def in_use(it):
    for site in it.sites:
        p = subprocess.run([hflab.holdfastd(), "run", "--config", site.config], stdin=subprocess.DEVNULL,
                           capture_output=True, text=True, timeout=30, check=False)
        with open(site.log, encoding="utf-8") as f:
            text = p.stderr + "".join(f.readlines()[-5:])
        check("a second agent in %s's state directory: refused, with the holder's number" % site.name,
              p.returncode != 0 and "GEN-0005" in text and str(site.pid("supervisor")) in text, p.stderr.strip())
    tag(it, "the first agents go on")


def newer():
    with lab(volumes=(("files", SIZE),)) as it:
        in_use(it)
        point = tag(it, "before")
        london, paris = it.london, it.paris
        version = os.path.join(london.state, "VERSION")

        def state_version():
            with open(version, "w", encoding="utf-8") as f:
                f.write("holdfast-state 99\n")
        refuses(it, london, "a newer state directory", version, state_version, "AGT-0002")

        catalog = os.path.join(paris.state, "manager", "catalog.db")

        def catalog_version():
            db = sqlite3.connect(catalog)
            db.execute("PRAGMA user_version = 99")
            db.commit()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.close()
        refuses(it, paris, "a newer catalog", catalog, catalog_version, "MGR-0003")

        sup = glob.glob(os.path.join(london.state, "replicator", "sources", "*.super"))[0]

        def super_version():
            for slot in (0, 4096):
                newer_header(sup, slot, 4096, 4092)
        refuses(it, london, "a newer lane.super", sup, super_version, "CAP-0004")
        wait_until("london to protect again", lambda: tag_or_none(it), 60)

        def super_damage():
            with open(sup, "r+b") as f:
                for slot in (0, 4096):
                    f.seek(slot + 60)
                    f.write(b"\xff\x00\xff")
        refuses(it, london, "a damaged lane.super", sup, super_damage, "CAP-0003", ("lane.super", "slot", "super"))
        wait_until("london to protect again", lambda: tag_or_none(it), 60)

        store = os.path.join(paris.store, it.vpg_id)
        refuses(it, paris, "a newer manifest", os.path.join(store, "manifest"),
                lambda: newer_header(os.path.join(store, "manifest"), 0, 64, 60), "JNL-0052")
        segment = sorted(glob.glob(os.path.join(store, "seg.*")))[-1]  # the one being written
        refuses(it, paris, "a newer segment", segment, lambda: newer_header(segment, 0, 112, 108), "JNL-0052")
        back = wait_until("all to be well again", lambda: tag_or_none(it), 60)
        check("no point was lost", int(point["CheckpointIdentifier"]) in numbers(it))
        with View(it, back) as v:
            check("both sides are alike", same(v.uri["files"], it.nbd_uri("files")))
        say("versions checked")


main(volumes, sizes, newer)
