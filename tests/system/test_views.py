#!/usr/bin/python3
# limit: 150
"""Views: several at once at different points and moments, each writable and alone,
while replication goes on; kept over a restart of the replicator with what was
flushed; a failover test with its tasks and events; all of it with the protected
site dead."""
import json
import os
import signal
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hflab  # noqa: E402
from labtest import (MIB, View, check, cli, cli_json, lab, main, noise, numbers, points, read_range,  # noqa: E402
                     refused, same, say, tag, views, vpg, wait_until, when, write_pattern)

SIZE = 64 * MIB


def state(n):
    """What the n-th state of volume files begins with."""
    return noise("state %d" % n, MIB)


def several(it):
    """Four states, each with a checkpoint of its own."""
    marks = []
    for n in range(4):
        write_pattern(it.nbd_uri("files"), 8 * MIB, state(n))
        write_pattern(it.nbd_uri("db"), 4096 * n, bytes([n + 1]) * 4096)
        marks.append(tag(it, "state %d" % n))
    opened = [View(it, m) for m in marks]
    try:
        say("views opened in %s ms" % ", ".join("%.0f" % v.ms for v in opened))
        for n, v in enumerate(opened):
            check("state %d, volume files" % n, read_range(v.uri["files"], 8 * MIB, MIB) == state(n))
            db = read_range(v.uri["db"], 0, 4 * 4096)
            want = b"".join(bytes([k + 1]) * 4096 for k in range(n + 1)).ljust(4 * 4096, b"\0")
            check("state %d, volume db, which no later state shows in" % n, db == want)
        moments(it, marks)
        isolated(it, opened, marks)
    finally:
        for v in opened:
            v.close()
    check("all views are closed", views(it) == [])
    return marks


def moments(it, marks):
    """A moment means the newest checkpoint not after it."""
    for n in (1, 3):
        with View(it, stamp=marks[n]["TimeStamp"]) as v:
            check("the moment of point %d is point %d" % (n, n),
                  v.point == int(marks[n]["CheckpointIdentifier"]))
    between = when(marks[1]["TimeStamp"]) + 0.002
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between)) + ".%03dZ" % (between % 1 * 1000)
    newest = max(int(c["CheckpointIdentifier"]) for c in points(it) if when(c["TimeStamp"]) < between + 0.0005)
    with View(it, stamp=stamp) as v:
        check("a moment between two points is the one before it", v.point == newest, (v.point, newest))
    path = "/v1/vpgs/%s/views" % it.vpg_id
    for what, body, code in (("a moment before all points", {"TimeStamp": "2020-01-01T00:00:00Z"}, "REP-0016"),
                             ("a point that never was", {"CheckpointIdentifier": "999999999"}, "REP-0016")):
        task = it.paris.api.post(path, body)
        try:
            it.paris.api.wait_task(task)
            check(what + " is refused", False)
        except hflab.LabError as e:
            check(what + " is refused", code in str(e), e)
    refused("a time that is none", lambda: it.paris.api.post(path, {"TimeStamp": "yesterday"}), "API-0014")


def isolated(it, opened, marks):
    before = int(points(it)[-1]["CheckpointIdentifier"])
    used = vpg(it.paris, it)["ScratchUsedInBytes"]
    write_pattern(opened[1].uri["files"], 8 * MIB, noise("mine", MIB))
    write_pattern(opened[1].uri["files"], 40 * MIB, noise("mine, too", 4 * MIB))
    check("a view holds what was written to it",
          read_range(opened[1].uri["files"], 8 * MIB, MIB) == noise("mine", MIB))
    for n in (0, 2, 3):
        check("view %d does not" % n, read_range(opened[n].uri["files"], 8 * MIB, MIB) == state(n))
        check("view %d does not, where nothing was" % n,
              read_range(opened[n].uri["files"], 40 * MIB, 4 * MIB) == bytes(4 * MIB))
    check("nor does the source", read_range(it.nbd_uri("files"), 8 * MIB, MIB) == state(3))
    with View(it, marks[1]) as again:
        check("nor a second view of the same point",
              read_range(again.uri["files"], 8 * MIB, MIB) == state(1))
    wait_until("checkpoints to go on under open views",
               lambda: int(points(it)[-1]["CheckpointIdentifier"]) > before + 1)
    wait_until("the scratch to be counted", lambda: vpg(it.paris, it)["ScratchUsedInBytes"] >= used + 5 * MIB)
    check("in the view's file, space is used", scratch(it) >= 5 * MIB, scratch(it))


def scratch(it):
    """Bytes on disk below paris's store that belong to views."""
    total = 0
    for root, _, names in os.walk(it.paris.store):
        for n in names:
            if "view" in n or "overlay" in n or "ovl" in n:
                total += os.stat(os.path.join(root, n)).st_blocks * 512
    return total


def space_is_freed(it):
    wait_until("the scratch of closed views to be gone", lambda: scratch(it) == 0)
    wait_until("and no longer counted", lambda: vpg(it.paris, it)["ScratchUsedInBytes"] == 0)
    check("it is freed", True)


def over_a_restart(it, marks):
    v = View(it, marks[2])
    write_pattern(v.uri["files"], 20 * MIB, noise("kept", MIB))  # ends with a flush
    for how in ("kill -9", "stop and start"):
        pid = it.paris.pid("replicator")
        if how == "kill -9":
            it.paris.kill("replicator", signal.SIGKILL)
            wait_until("another replicator", lambda pid=pid: it.paris.pid("replicator") not in (pid, None))
        else:
            it.paris.stop()
            it.paris.start()
            it.paris.wait_api()

        def back():
            rows = [r for r in views(it) if r["ViewIdentifier"] == v.id and os.path.exists(
                r["NbdUri"].split("socket=")[1])]
            return len(rows) == 2 and rows
        rows = wait_until("the view after %s" % how, back)
        v.uri = {r["VolumeName"].rsplit("/", 1)[1]: r["NbdUri"] for r in rows}
        check("after %s: the view is at its point" % how, int(rows[0]["CheckpointIdentifier"]) == v.point)
        check("after %s: it holds what was flushed" % how,
              read_range(v.uri["files"], 20 * MIB, MIB) == noise("kept", MIB))
        check("after %s: below that, its point" % how,
              read_range(v.uri["files"], 8 * MIB, MIB) == state(2))
    v.close()
    wait_until("points after the restarts", lambda: tag_quietly(it, "again"), 60)


def tag_quietly(it, name):
    try:
        return tag(it, "%s %d" % (name, time.monotonic_ns()))
    except (hflab.LabError, hflab.ApiError):
        return None


def failover_test(it, marks):
    api, path = it.paris.api, "/v1/vpgs/" + it.vpg_id
    refused("stopping a test that does not run", lambda: api.post(path + "/FailoverTestStop", {}), "MGR-0011")
    task = api.post(path + "/FailoverTest", {"CheckpointIdentifier": marks[0]["CheckpointIdentifier"]})
    done = api.wait_task(task)
    check("the test is a task", done["Type"] == "FailOverTest" and done["Status"]["Progress"] == 100)
    rows = [v for v in views(it) if v["Mode"] == "Test"]
    check("it opens both volumes", len(rows) == 2, rows)
    uri = {r["VolumeName"].rsplit("/", 1)[1]: r["NbdUri"] for r in rows}
    check("at the point that was asked for", read_range(uri["files"], 8 * MIB, MIB) == state(0))
    for site in it.sites:
        wait_until("the running test to show at " + site.name,
                   lambda s=site: vpg(s, it)["ActiveProcessesApi"]["RunningFailOverTestApi"])
    refused("a second test", lambda: api.post(path + "/FailoverTest", {}), "MGR-0011", ("running",))
    refused("deleting the VPG meanwhile", lambda: it.london.api.delete(path), "MGR-0011", ("test",))
    refused("closing its view", lambda: api.delete("%s/views/%s" % (path, rows[0]["ViewIdentifier"])),
            "MGR-0011", ("FailoverTestStop",))
    stop = api.do("POST", path + "/FailoverTestStop",
                  {"FailoverTestSuccess": True, "FailoverTestSummary": "all rows there"})
    check("its end is a task", stop["Type"] == "StopFailOverTest")
    check("its views are gone", views(it) == [])
    events = [e["Description"] for e in api.get("/v1/events")]
    check("events tell of it, with the note", any("all rows there" in e for e in events), events[:4])
    check("the VPG remembers when", when(vpg(it.paris, it)["LastTest"]) > time.time() - 60)
    types = {t["Type"] for t in api.get("/v1/tasks")}
    check("the tasks are listed", {"FailOverTest", "StopFailOverTest"} <= types, sorted(types))


def with_the_source_dead(it, marks):
    london = it.london
    for role in ("supervisor", "manager", "replicator"):
        london.kill(role, signal.SIGKILL)
    london.process.wait()
    london.process = None
    api, path = it.paris.api, "/v1/vpgs/" + it.vpg_id
    wait_until("paris to say that the other site is gone",
               lambda: vpg(it.paris, it)["SubStatus"] in (24, 10), 40)
    api.do("POST", path + "/FailoverTest", {"CheckpointIdentifier": marks[3]["CheckpointIdentifier"]})
    rows = [v for v in views(it) if v["Mode"] == "Test"]
    uri = {r["VolumeName"].rsplit("/", 1)[1]: r["NbdUri"] for r in rows}
    check("a test by the API with the source dead", read_range(uri["files"], 8 * MIB, MIB) == state(3))
    check("the view of the last point is the dead site's disk",
          read_range(uri["db"], 0, 16384) == read_file(it.volumes[1]["path"], 16384))
    api.do("POST", path + "/FailoverTestStop", {"FailoverTestSuccess": True})
    listed = cli_json(it, "--ctx", "paris", "points", it.vpg_name)
    check("the command line lists the points", len(json.dumps(listed)) > 100)
    cli(it, "--ctx", "paris", "test", it.vpg_name, "--point", "state 1", "--confirm", it.vpg_name)
    rows = [v for v in views(it) if v["Mode"] == "Test"]
    uri = {r["VolumeName"].rsplit("/", 1)[1]: r["NbdUri"] for r in rows}
    check("a test by the command line with the source dead",
          read_range(uri["files"], 8 * MIB, MIB) == state(1))
    cli(it, "--ctx", "paris", "stop", it.vpg_name, "--confirm", it.vpg_name)
    check("and its end", views(it) == [])
    out = cli(it, "--ctx", "london", "vpgs", ok=None)
    check("asking the dead site says that it cannot be reached", out.returncode == 3 and out.stderr, out)


def read_file(path, n):
    with open(path, "rb") as f:
        return f.read(n)


def replication_goes_on(it):
    write_pattern(it.nbd_uri("files"), 30 * MIB, noise("later", MIB))
    with View(it, tag(it, "later")) as v:
        check("the newest point is the source",
              same(v.uri["files"], it.nbd_uri("files")) and same(v.uri["db"], it.nbd_uri("db")))


def all_of_it():
    with lab(volumes=(("files", SIZE), ("db", SIZE))) as it:
        marks = several(it)
        space_is_freed(it)
        over_a_restart(it, marks)
        replication_goes_on(it)
        failover_test(it, marks)
        listed = numbers(it)
        check("every point was kept", all(int(m["CheckpointIdentifier"]) in listed for m in marks))
        with_the_source_dead(it, marks)


main(all_of_it)
