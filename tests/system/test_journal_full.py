#!/usr/bin/python3
# limit: 500
"""A journal that has no room.  At a hard limit that is too small for what must come before the next
checkpoint both managers ask, the last good point stays and opens, and either answer brings the lane back;
by policy nobody is asked.  On a disk that somebody else has filled to the last byte the journal promotes
and goes on with its own segments, killed or not, or stands with all of it intact until there is room.
Codes that must be told: JNL-0009, JNL-0017, JNL-0018, JNL-0019."""
import json
import os
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hflab  # noqa: E402
import hfmount  # noqa: E402
from labtest import (MIB, Failed, View, check, cli, lab, log_end, logged, main, noise, numbers, points,  # noqa: E402
                     read_range, run, same, tag, vpg, wait_logged, wait_until, write_pattern)

SIZE = 64 * MIB
LIMIT = 32


def limits(hard, full="Ask"):
    def change(settings):
        settings["Journal"]["Limitation"] = {"HardLimitInMB": hard, "WarningThresholdInMB": 0}
        settings["Journal"]["ResyncFull"] = full
    return change


def edit(it, change):
    """The VPG's settings are changed while it runs."""
    api = it.london.api
    draft = api.post("/v1/vpgSettings", {"VpgIdentifier": it.vpg_id})
    settings = api.get("/v1/vpgSettings/" + draft)
    change(settings)
    api.put("/v1/vpgSettings/" + draft, settings)
    api.do("POST", "/v1/vpgSettings/%s/commit" % draft)


def alerts(site, code):
    return [a for a in site.api.get("/v1/alerts") if a["Code"] == code]


def tag_or_none(it):
    try:
        return tag(it, "again %d" % log_end(it.london), 30)
    except (hflab.ApiError, hflab.LabError):
        return None


def alike(it, what):
    point = wait_until("a checkpoint " + what, lambda: tag_or_none(it), 90, 0.2)
    with View(it, point) as v:
        check("%s: the newest point is the source" % what, same(v.uri["files"], it.nbd_uri("files")))
    return point


# --- the hard limit ----------------------------------------------------------------------------------


def stand(it):
    """A sync of everything into a journal of half the size.  The first may still fit a segment that was
    opened under a higher limit."""
    since = log_end(it.paris)
    for _ in range(4):
        london = log_end(it.london)
        it.london.api.do("POST", "/v1/vpgs/%s/forcesync" % it.vpg_id)
        wait_until("the sync to end or stand", lambda n=london: logged(it.london, "sync complete", n)
                   or logged(it.paris, "JNL-0017", since), 60)
        if logged(it.paris, "JNL-0017", since):
            break
        alike(it, "between two syncs")
    line = wait_logged(it.paris, "JNL-0017", since, 5)
    check("the question is told, with the way out", "next:" in line and "holdfast overwrite" in line, line[25:])
    for site in it.sites:
        state = wait_until("%s to ask" % site.name, lambda s=site: (v := vpg(s, it))["SubStatus"] == 7 and v, 20)
        check("%s: NotMeetingSLA, NeedsConfiguration" % site.name, state["Status"] == 2, state["StatusDescription"])
        found = wait_until("the alert at %s" % site.name, lambda s=site: alerts(s, "JNL-0017"), 20)[0]
        text = found["Description"]
        check("%s: the alert names the journal, its size and what is enough" % site.name,
              found["HelpIdentifier"] == "VRA0039" and it.vpg_id in text and "hard limit of %d MiB" % LIMIT in text
              and "is enough" in text, text)
    return since


def last_good(it, good, content):
    check("the last good point is the newest", points(it)[-1]["CheckpointIdentifier"] == good["CheckpointIdentifier"])
    with View(it, good) as v:
        check("it opens and is as it was", read_range(v.uri["files"], 0, len(content)) == content)


def nobody_asked(it):
    try:
        it.paris.api.do("POST", "/v1/vpgs/%s/overwrite" % it.vpg_id)
    except hflab.LabError as e:
        check("an overwrite that nobody asked for is refused", "JNL-0019" in str(e), e)
    else:
        raise Failed("an overwrite that nobody asked for was taken")


def back(it, site_since, what):
    wait_until("the answer to be seen at both sites", lambda: all(vpg(s, it)["SubStatus"] != 7 for s in it.sites), 60)
    alike(it, what)
    for site in it.sites:
        wait_until("the alert to go at " + site.name, lambda s=site: not alerts(s, "JNL-0017"), 20)


def hard_limit():
    with lab(protect=False, volumes=(("files", SIZE),), ring_size="16MiB") as it:
        it.pair()
        it.protect(change=limits(LIMIT))
        it.wait_synced()
        nobody_asked(it)
        content = noise("good", SIZE)
        for n in range(8):
            write_pattern(it.nbd_uri("files"), n * 8 * MIB, content[n * 8 * MIB:(n + 1) * 8 * MIB])
            tag(it, "part %d" % n)
        good = tag(it, "good")

        # Production is not held up meanwhile.
        stand(it)
        good = wait_until("points", lambda: points(it))[-1]
        write_pattern(it.nbd_uri("files"), 0, noise("meanwhile", 24 * MIB))
        last_good(it, good, content)
        # The first way out takes effect on the running journal.
        since = log_end(it.paris)
        edit(it, limits(512))
        back(it, since, "with a higher limit")
        check("no point was given up for it", int(good["CheckpointIdentifier"]) in numbers(it))
        check("nor said to be", not logged(it.paris, "JNL-0018", since))

        # The second one, with a view of the last good point open, and the recovery site killed.
        edit(it, limits(LIMIT))
        content = read_range(it.nbd_uri("files"), 0, SIZE)
        since = stand(it)
        good = points(it)[-1]
        view = View(it, good)
        it.paris.kill("replicator")
        wait_until("the question again after the restart", lambda: len(logged(it.paris, "JNL-0017", since)) > 1, 60)
        last_good(it, good, content)
        out = cli(it, "overwrite", it.vpg_name, "--confirm", "OVERWRITE", ok=(6,))
        check("without the name nothing happens", int(good["CheckpointIdentifier"]) in numbers(it), out.stderr[-200:])
        cli(it, "overwrite", it.vpg_name, "--confirm", it.vpg_name)
        wait_logged(it.paris, "JNL-0018", since, 30)
        it.paris.kill("replicator")  # in the middle of it
        wait_until("the next point", lambda: points(it) and int(points(it)[-1]["CheckpointIdentifier"])
                   > int(good["CheckpointIdentifier"]), 120)
        check("the given up points are gone", int(good["CheckpointIdentifier"]) not in numbers(it))
        row = [v for v in it.paris.api.get("/v1/vpgs/%s/views" % it.vpg_id) if v["ViewIdentifier"] == view.id][0]
        if row["Broken"] is None:
            uri = row["NbdUri"]
            check("the view of the given up point still shows it", read_range(uri, 0, SIZE) == content)
        back(it, since, "overwritten")
        wait_until("JNL-0018 to go", lambda: not alerts(it.paris, "JNL-0018"), 20)
        view.close()

        # By policy.
        edit(it, limits(LIMIT, "Proceed"))
        since = log_end(it.paris)
        old = points(it)[-1]
        it.london.api.do("POST", "/v1/vpgs/%s/forcesync" % it.vpg_id)
        wait_logged(it.paris, "JNL-0018", since, 60)
        back(it, since, "by policy")
        check("the policy gave up the points", int(old["CheckpointIdentifier"]) not in numbers(it))


# --- the disk -----------------------------------------------------------------------------------------


def small_disk(it, path, size):
    """An ext4 of its own: unlike tmpfs it allocates when blocks are written, with direct I/O."""
    image = os.path.join(it.base, "store.img")
    hflab.make_image(image, size)
    run("mkfs.ext4", "-q", "-F", "-m", "0", image)
    os.makedirs(path, exist_ok=True)
    run("mount", "-o", "loop", image, path)


class Other:
    """Somebody else's file, which takes all that is free."""

    def __init__(self, path):
        self.path = path

    def fill(self):
        fd = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        try:
            for piece in (MIB, 4096):
                try:
                    while True:
                        os.write(fd, bytes(piece))
                except OSError:
                    pass
            os.fsync(fd)
        except OSError:
            pass
        finally:
            os.close(fd)

    def remove(self):
        os.unlink(self.path)


def used(it):
    return vpg(it.paris, it)["JournalUsedInBytes"]


def full_disk():
    def before(it):
        it.paris.store = os.path.join(it.base, "store")
        small_disk(it, it.paris.store, 256 * MIB)
    with lab(before=before, volumes=(("files", SIZE),), ring_size="16MiB") as it:
        other = Other(os.path.join(it.paris.store, "other"))
        for n in range(6):
            write_pattern(it.nbd_uri("files"), 10 * MIB * n, noise("disk %d" % n, 10 * MIB))
            tag(it, "part %d" % n)
        first = points(it)[0]
        view = View(it, points(it)[-1])
        moment = read_range(view.uri["files"], 0, SIZE)
        since = log_end(it.paris)
        other.fill()
        # The replica has no block yet: promotion must allocate.  Point after point the lane goes on.
        for n in range(12):
            write_pattern(it.nbd_uri("files"), 5 * MIB * n, noise("on %d" % n, 5 * MIB))
            wait_until("a point with the disk full", lambda: tag_or_none(it), 60, 0.2)
            if n % 4 == 1:
                other.fill()
            if n in (3, 8):
                it.paris.kill("replicator")
        wait_logged(it.paris, "JNL-0009", since, 10)
        check("history was promoted", int(first["CheckpointIdentifier"]) not in numbers(it))
        check("promotion was never stopped", not logged(it.paris, "JNL-0059", since))
        row = [v for v in it.paris.api.get("/v1/vpgs/%s/views" % it.vpg_id) if v["ViewIdentifier"] == view.id][0]
        if row["Broken"] is None:  # its scratch may have found room
            check("the open view is as it was", read_range(row["NbdUri"], 0, SIZE) == moment)
        alike(it, "on the full disk")
        view.close()
        other.remove()


def full_disk_stands():
    """There is only the newest segment: nothing can go, and all of it stays."""
    def before(it):
        it.paris.store = os.path.join(it.base, "store")
        small_disk(it, it.paris.store, 288 * MIB)  # the replica, a sync of it beside the good point, the reserve
    with lab(before=before, volumes=(("files", SIZE),), ring_size="16MiB") as it:
        other = Other(os.path.join(it.paris.store, "other"))
        write_pattern(it.nbd_uri("files"), 0, noise("good", MIB))
        tag(it, "good")
        other.fill()
        write_pattern(it.nbd_uri("files"), 8 * MIB, noise("not held up", 48 * MIB))
        for site in it.sites:
            state = wait_until("%s to say that the store is full" % site.name,
                               lambda s=site: (v := vpg(s, it))["SubStatus"] == 31 and v, 60)
            check("%s: NotMeetingSLA, JournalStorageError" % site.name, state["Status"] == 2)
            wait_until("the alert at %s" % site.name, lambda s=site: alerts(s, "JNL-0009"), 20)
        good = points(it)[-1]
        since = log_end(it.paris)
        it.paris.kill("replicator")
        wait_logged(it.paris, "JNL-0009", since, 90)
        wait_until("both to say so again", lambda: all(vpg(s, it)["SubStatus"] == 31 for s in it.sites), 60)
        check("the last good point is offered", int(good["CheckpointIdentifier"]) in numbers(it))
        with View(it, good) as v:
            check("it opens on the full disk", read_range(v.uri["files"], 0, MIB) == noise("good", MIB))
        other.remove()
        alike(it, "with room again")
        wait_until("the alert to go", lambda: not alerts(it.paris, "JNL-0009"), 60)


def sync_beside_full_store():
    """A first sync that finds the store full, wholly or but for a little: it says so, and ends when there is
    room, whatever was killed meanwhile."""
    def before(it):
        it.paris.store = os.path.join(it.base, "store")
        small_disk(it, it.paris.store, 160 * MIB)
    with lab(before=before, protect=False, volumes=(("files", SIZE),), ring_size="16MiB") as it:
        write_pattern(it.nbd_uri_of_inventory("files"), 0, noise("first", SIZE))
        it.pair()
        other = Other(os.path.join(it.paris.store, "other"))
        for left in (0, 12, 40):
            other.fill()
            os.truncate(other.path, os.path.getsize(other.path) - left * MIB)
            london, paris = log_end(it.london), log_end(it.paris)
            it.protect(change=lambda s: s["Journal"].update(IgnoreFreeSpace=True))
            wait_logged(it.paris, "No space left" if left else "JNL-0009", paris, 60)
            for _ in range(2):
                since = log_end(it.paris)
                it.paris.kill("replicator")
                wait_logged(it.paris, "No space left" if left else "JNL-0009", since, 60)
            check("%d MiB left: the reason is shown" % left, wait_until(
                "it", lambda: "No space" in json.dumps(vpg(it.paris, it)["Error"]) or alerts(it.paris, "JNL-0009"), 30))
            other.remove()
            wait_until("the sync to end", lambda n=london: logged(it.london, "sync complete", n), 60)
            alike(it, "synced beside a store with %d MiB left" % left)
            it.london.api.do("DELETE", "/v1/vpgs/%s" % it.vpg_id, {"KeepRecoveryVolumes": False})


if hfmount.missing() and os.geteuid() != 0:
    print(hfmount.missing())
    sys.exit(77)
main(*[f for f in (hard_limit, full_disk, full_disk_stands, sync_beside_full_store) if not sys.argv[1:] or f.__name__ in sys.argv[1:]])
