#!/usr/bin/python3
# limit: 400
"""QEMU guests on the NBD export: one works on a protected volume, another boots
on the view of a failover test; a volume's export is slid under a running guest
and taken away again, and a mirror job moves a guest's disk into one, with the
commands as docs/operations.md shows them; a guest outlives the kill -9 of its
replicator."""
import os
import re
import signal
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hfguest  # noqa: E402
import hflab  # noqa: E402
from hfguest import Guest, export_of, manual  # noqa: E402
from labtest import MIB, View, check, lab, main, points, run, same, say, tag, views, wait_until  # noqa: E402

SIZE = 96 * MIB
WEB = ("root", "data")  # the volumes of the VM that runs before anybody protects it


def disk_path(it, name):
    return os.path.join(it.base, "disks", name)


def add_web(it):
    """A second VM in london's inventory."""
    it.london.vms.append({"name": "web", "volumes": [
        {"name": n, "path": disk_path(it, "web-%s.img" % n)} for n in WEB]})


def fill_disks(it):
    """ext4 on each disk; the disk that a mirror job is to move is a qcow2 image."""
    run("mkfs.ext4", "-q", it.volumes[0]["path"])
    for name in WEB:
        hflab.make_image(disk_path(it, "web-%s.img" % name), SIZE)
    run("mkfs.ext4", "-q", disk_path(it, "web-root.img"))
    scratch = disk_path(it, "scratch.img")
    hflab.make_image(scratch, SIZE)
    run("mkfs.ext4", "-q", scratch)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", scratch, disk_path(it, "web-data.qcow2"))
    os.unlink(scratch)


def before_the_lab(it):
    """The guest that nobody protects yet starts beside the sites."""
    fill_disks(it)
    it.web = begin(it, "web", [
        ("disk0", [{"driver": "file", "node-name": "file0", "filename": disk_path(it, "web-root.img")},
                   {"driver": "raw", "node-name": "disk0", "file": "file0"}]),
        ("disk1", [{"driver": "file", "node-name": "file1", "filename": disk_path(it, "web-data.qcow2")},
                   {"driver": "qcow2", "node-name": "disk1", "file": "file1"}])])


def clean(what, path):
    out = run("e2fsck", "-fn", path, ok=None)
    check("%s: e2fsck -fn finds nothing" % what, out.returncode == 0, (out.stdout + out.stderr)[-600:] if out.returncode else "")


def begin(it, name, disks):
    g = Guest(it.base, name, disks)
    it.closers.append(g.close)
    return g


def guest(it, name, disks):
    g = begin(it, name, disks)
    say("guest %s is up after %.1f s" % (name, g.wait_up()))
    return g


def on_export(uri):
    """A guest's disk on an export."""
    text = manual("Way 1", export_of(uri))[0]
    return re.search(r"drive=(\w+)", text).group(1), re.findall(r"-blockdev '(.*)'", text)


def all_there(what, g, path, want):
    got = g.digests(path)
    wrong = sorted(n for n in want if got.get(n) != want[n])
    check("%s: all %d files, content as it was written" % (what, len(want)), want and not wrong, wrong[:5])
    return got


# --- a guest on the export, a failover test, a replicator that dies -------------------------------------------


def production(it):
    g = guest(it, "ledger", [on_export(it.nbd_uri("files"))])
    g.sh("mount /dev/vda /mnt")
    g.keep("/mnt", "kept")
    g.sh("dd if=/dev/urandom of=/mnt/big bs=1M count=16 2>/dev/null; sync; rm /mnt/big; sync; fstrim /mnt")
    check("the guest's trim has reached the disk", os.stat(it.volumes[0]["path"]).st_blocks * 512 < 32 * MIB)
    before = g.wait_kept("kept", 4)
    point = tag(it, "before the mistake")
    # The file that was being written may be in the point or not; the one after the next cannot.
    later = len(g.kept("kept")) + 1
    gone = sorted(before)[:2]
    g.sh("cd /mnt; rm %s; echo late >late; sync; cd /" % " ".join(gone))
    after = g.wait_kept("kept", 4)
    return g, point, before, gone, {n for n in after if int(n.split("-")[1]) >= later}


def failover_test(it, g, point, before, gone, late):
    path = "/v1/vpgs/" + it.vpg_id
    it.paris.api.do("POST", path + "/FailoverTest", {"CheckpointIdentifier": point["CheckpointIdentifier"]})
    row = [v for v in views(it) if v["Mode"] == "Test"][0]
    t = guest(it, "test", [on_export(row["NbdUri"])])
    t.sh("mount /dev/vda /mnt")
    got = all_there("in the test failover's guest", t, "/mnt", before)
    check("with the two that production has removed", set(gone) <= set(got))
    check("and none of the %d later ones" % len(late), late and not late & set(got) and
          t.sh("ls /mnt/late 2>/dev/null; true") == "")
    t.keep("/mnt", "scratch")
    t.wait_kept("scratch", 3)
    mine = t.end_keeper("scratch")
    t.sh("rm /mnt/kept-1; umount /mnt; mount /dev/vda /mnt")
    all_there("what the test wrote, after another mount", t, "/mnt", mine)
    check("the test's guest saw no disk error", t.io_errors() == [], t.io_errors())
    t.sh("umount /mnt")
    t.power_off()
    number = len(g.wait_kept("kept", 2))
    say("production has kept %d files by now" % number)
    want = {n: d for n, d in g.kept("kept").items() if n not in gone}
    got = all_there("production beside the test", g, "/mnt", want)
    check("nothing of the test is in it", not [n for n in got if n.startswith("scratch")])
    it.paris.api.do("POST", path + "/FailoverTestStop", {"FailoverTestSuccess": True})


def replicator_dies(it, g, gone):
    g.wait_kept("kept", 1)
    newest = int(points(it)[-1]["CheckpointIdentifier"])
    pid = it.london.pid("replicator")
    start = time.monotonic()
    it.london.kill("replicator", signal.SIGKILL)
    wait_until("another replicator", lambda: it.london.pid("replicator") not in (pid, None))
    g.wait_kept("kept", 4, 120)
    say("the guest writes on, %.1f s after the kill" % (time.monotonic() - start))
    check("it saw no disk error", g.io_errors() == [], g.io_errors())
    wait_until("a point after the kill", lambda: int(points(it)[-1]["CheckpointIdentifier"]) > newest, 60)
    g.wait_kept("kept", 1)
    g.end_keeper("kept")
    all_there("after the kill", g, "/mnt", {n: d for n, d in g.kept("kept").items() if n not in gone})
    g.sh("umount /mnt")
    g.power_off()
    clean("the protected disk", it.volumes[0]["path"])
    with View(it, tag(it, "after the kill")) as v:
        check("its newest view is the disk, byte for byte", same(it.volumes[0]["path"], v.uri["files"]))


def on_the_export(it):
    g, point, before, gone, late = production(it)
    failover_test(it, g, point, before, gone, late)
    replicator_dies(it, g, gone)


# --- a guest that runs already ---------------------------------------------------------------------------------


def uri_of(it, volume):
    api = it.london.api
    here = api.get("/v1/localsite")["SiteIdentifier"]
    return [v["NbdUri"] for vm in api.get("/v1/virtualizationsites/%s/vms" % here) if vm["VmName"] == "web"
            for v in vm["Volumes"] if v["VolumeName"] == "web/" + volume][0]


def put_under(g, commands):
    """Let the raw node disk0 stand on another node from now on."""
    start = time.monotonic()
    for line in commands.splitlines():
        g.qmp.do(line)
    say("disk0 stands on another node, %.1f ms" % ((time.monotonic() - start) * 1000))


def mirror_into(g, uri):
    """Move disk1 into the export and use it there."""
    begin_it, complete, let_go = manual("Way 3", export_of(uri))
    for line in begin_it.splitlines():
        g.qmp.do(line)
    g.qmp.wait_event("BLOCK_JOB_READY")
    g.qmp.do(complete)
    done = g.qmp.wait_event("BLOCK_JOB_COMPLETED")
    check("the mirror job ended well", "error" not in done and done["offset"] == done["len"], done)
    for line in let_go.splitlines():
        g.qmp.do(line)


def written_under(g, why):
    for name in ("root", "data"):
        g.wait_kept(name, 2)
    say(why)


def nodes(g):
    return sorted(n["node-name"] for n in g.qmp.do("query-named-block-nodes"))


def views_are_disks(it, g, what):
    """With both file systems at rest, the newest view is what the disks are; then they are mounted again."""
    for name in WEB:
        g.end_keeper(name)
    g.sh("umount /mnt; umount /data")
    with View(it, tag(it, what)) as v:
        for name in WEB:
            check("%s: view and disk %s are the same" % (what, name), same(disk_path(it, "web-%s.img" % name), v.uri[name]))
            copy = os.path.join(it.base, "copy.img")
            run("nbdcopy", v.uri[name], copy)
            clean("%s: view %s" % (what, name), copy)
            os.unlink(copy)
    g.sh("mount /dev/vda /mnt && mount /dev/vdb /data")
    keep_both(g)


def keep_both(g):
    g.keep("/mnt", "root")
    g.keep("/data", "data")


def both_there(g, what):
    for name, path in (("root", "/mnt"), ("data", "/data")):
        all_there("%s, %s" % (what, name), g, path, g.kept(name))
    check("%s: no disk error" % what, g.io_errors() == [], g.io_errors())


def under_a_running_guest(it):
    ledger = it.vpg_id
    root, data = [uri_of(it, name) for name in WEB]
    slide_in, slide_out = manual("Way 2", {**export_of(root), "IMAGE": disk_path(it, "web-root.img")})
    g = it.web
    say("guest web is up after %.1f s" % g.wait_up())
    g.sh("mount /dev/vda /mnt && mount /dev/vdb /data")
    keep_both(g)
    written_under(g, "both disks are written to, and no export is in between")

    put_under(g, slide_in)
    mirror_into(g, data)
    check("the guest's disks are the exports", nodes(g) == ["disk0", "hf0", "hf1"], nodes(g))
    os.unlink(disk_path(it, "web-data.qcow2"))
    it.protect(name="web", vms=["web"])
    it.wait_synced()
    written_under(g, "both are protected")
    both_there(g, "on the exports")
    views_are_disks(it, g, "slid in")

    put_under(g, slide_out)
    written_under(g, "disk0 is a file again")
    check("the guest's disks are a file and an export", nodes(g) == ["disk0", "file0", "hf1"], nodes(g))

    put_under(g, slide_in)
    # What went past the export is compared by this.
    for action in ("pause", "resume"):
        it.london.api.do("POST", "/v1/vpgs/%s/%s" % (it.vpg_id, action), {})
    it.wait_synced()
    written_under(g, "and on the export")
    views_are_disks(it, g, "slid in again")

    put_under(g, slide_out)
    written_under(g, "disk0 is a file for good")
    for name in WEB:
        g.end_keeper(name)
    both_there(g, "in the end")
    g.sh("umount /mnt; umount /data")
    g.power_off()
    for name in WEB:
        clean("the disk " + name, disk_path(it, "web-%s.img" % name))
    it.london.api.do("DELETE", "/v1/vpgs/" + it.vpg_id)
    it.vpg_id = ledger


def qemu_guests():
    with lab(volumes=[("files", SIZE)], before=add_web, prepare=before_the_lab) as it:
        on_the_export(it)
        under_a_running_guest(it)


if hfguest.missing():
    print(hfguest.missing())
    sys.exit(77)
main(qemu_guests)
