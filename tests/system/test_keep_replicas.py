#!/usr/bin/python3
# limit: 400
"""Deleting with --keep-replicas leaves the newest state that had arrived, under
names for people, counted as space; when there is no room for it the deletion
fails, and VPG, points and replication stay."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import labtest  # noqa: E402
from labtest import MIB, check, cli, wait_until  # noqa: E402

SIZE = 48 * MIB


def kept_dirs(it):
    return [os.path.join(it.paris.store, n) for n in os.listdir(it.paris.store) if n.startswith("kept-")]


def recovery_bytes(it):
    store, = it.paris.api.get("/v1/datastores")
    return store["Stats"]["Usage"]["Zerto"]["Recovery"]["UsedInBytes"]


def check_image(it, want, point):
    here, = kept_dirs(it)
    with open(os.path.join(here, "kept.json"), encoding="utf-8") as f:
        note = json.load(f)
    volume, = note["Volumes"]
    check("the note says what it is", note["VpgName"] == "ledger" and note["Consistent"]
          and volume["VolumeName"] == "ledger/one" and volume["SizeInBytes"] == SIZE
          and int(note["CheckpointIdentifier"]) >= int(point["CheckpointIdentifier"]), note)
    with open(os.path.join(here, volume["File"]), "rb") as f:
        image = f.read()
    check("the image holds what was written last", len(image) == SIZE and image[:len(want)] == want
          and not any(image[len(want):]))
    check("nothing else is there", sorted(os.listdir(here)) == sorted(["kept.json", volume["File"]]))
    wait_until("its space to be counted", lambda: recovery_bytes(it) >= len(want), 40)
    return here


def newest_is_kept():
    with labtest.lab(volumes=(("one", SIZE),)) as it:
        for api, name in ((it.london.api, "london"), (it.paris.api, "paris")):
            want = labtest.noise(name, 20 * MIB)
            labtest.write_pattern(it.nbd_uri("one"), 0, want[::-1])
            labtest.tag(it, "before")
            labtest.write_pattern(it.nbd_uri("one"), 0, want)
            point = labtest.tag(it, "after")
            task = api.do("DELETE", "/v1/vpgs/" + it.vpg_id, {"KeepRecoveryVolumes": True})
            here = check_image(it, want, point)
            check("the task says where", here in task["CompleteReason"], task["CompleteReason"])
            check("both sites have forgotten it", not it.london.api.get("/v1/vpgs") and not it.paris.api.get("/v1/vpgs"))
            for n in os.listdir(here):
                os.unlink(os.path.join(here, n))
            os.rmdir(here)
            it.protect()
            it.wait_synced()


def no_room():
    """A small store, most of which something else takes."""
    def mount(it):
        it.paris.store = os.path.join(it.base, "store")
        os.makedirs(it.paris.store)
        labtest.run("mount", "-t", "tmpfs", "-o", "size=96m,mode=0700", "holdfast-test", it.paris.store)

    with labtest.lab(volumes=(("one", SIZE),), before=mount) as it:
        want = labtest.noise("full", 20 * MIB)
        labtest.write_pattern(it.nbd_uri("one"), 0, want)
        point = labtest.tag(it, "kept")
        st = os.statvfs(it.paris.store)
        ballast = os.path.join(it.paris.store, "ballast")
        with open(ballast, "wb") as f:
            f.write(b"\1" * (st.f_bavail * st.f_bsize - 12 * MIB))
        for force in (False, True):
            try:
                it.london.api.do("DELETE", "/v1/vpgs/" + it.vpg_id, {"KeepRecoveryVolumes": True, "Force": force})
                raise labtest.Failed("kept without room")
            except labtest.LabError as e:
                check("it fails and says why", "REP-0023" in str(e) and "MiB free" in str(e), e)
        check("the points stay", any(p["CheckpointIdentifier"] == point["CheckpointIdentifier"] for p in labtest.points(it)))
        os.unlink(ballast)
        labtest.tag(it, "it goes on")
        cli(it, "--ctx", "london", "delete", "ledger", "--confirm", "ledger", "--keep-replicas")
        check_image(it, want, point)


def restarted():
    """The replicator, then the manager, is killed while images are kept."""
    with labtest.lab(volumes=(("one", SIZE),)) as it:
        want = labtest.noise("again", 40 * MIB)
        labtest.write_pattern(it.nbd_uri("one"), 0, want)
        point = labtest.tag(it, "last")
        task = it.paris.api.call("DELETE", "/v1/vpgs/" + it.vpg_id, {"KeepRecoveryVolumes": True})
        it.paris.kill("replicator")
        it.paris.api.wait_task(task, 90)
        check_image(it, want, point)


if os.geteuid() != 0:
    print("mounting needs root")
    sys.exit(77)
labtest.main(newest_is_kept, no_room, restarted)
