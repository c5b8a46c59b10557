#!/usr/bin/python3
# limit: 180
"""Editing a VPG: places that it does not have and limits that are none are
refused, what it was made with may be said again.  Settings of a VPG that was
refused are gone.  A task that changes the state of replication ends when the
VPG shows it."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import labtest  # noqa: E402
from labtest import MIB, check, cli  # noqa: E402

NOBODY = "11111111-2222-4333-8444-555555555555"


def edited(it, change):
    """(identifier, settings) of an edit with a change, not committed."""
    api = it.london.api
    sid = api.post("/v1/vpgSettings", {"VpgIdentifier": it.vpg_id})
    settings = api.get("/v1/vpgSettings/" + sid)
    change(settings)
    api.put("/v1/vpgSettings/" + sid, settings)
    return sid


def commit(it, change):
    sid = edited(it, change)
    try:
        return it.london.api.do("POST", "/v1/vpgSettings/%s/commit" % sid)
    finally:
        for s in it.london.api.get("/v1/vpgSettings"):
            it.london.api.delete("/v1/vpgSettings/" + s["VpgSettingsIdentifier"])


def edits(it):
    def put(part, name, value):
        def change(settings):
            settings[part][name] = value
        return change

    def limit(part, name, value):
        def change(settings):
            settings[part]["Limitation"][name] = value
        return change

    before = labtest.vpg(it.london, it)
    for what, change in (
            ("another store", put("Journal", "DatastoreIdentifier", NOBODY)),
            ("another default store", put("Recovery", "DefaultDatastoreIdentifier", NOBODY)),
            ("another host", put("Recovery", "DefaultHostIdentifier", NOBODY)),
            ("another recovery site", put("Basic", "RecoverySiteIdentifier", NOBODY)),
            ("sites exchanged", put("Basic", "ProtectedSiteIdentifier", before["RecoverySite"]["identifier"])),
            ("a limit of 150 %", limit("Journal", "HardLimitInPercent", 150)),
            ("a warning at 101 %", limit("Journal", "WarningThresholdInPercent", 101)),
            ("a scratch limit of 150 %", limit("Scratch", "HardLimitInPercent", 150))):
        labtest.refused(what, lambda change=change: commit(it, change))
    settings = it.london.api.get("/v1/vpgSettings/" + edited(it, lambda s: None))
    check("nothing of it has stayed", NOBODY not in str(settings)
          and settings["Journal"]["Limitation"]["HardLimitInPercent"] == 0, settings)
    commit(it, put("Basic", "RpoInSeconds", 77))
    check("what fits is taken", labtest.vpg(it.london, it)["ConfiguredRpoSeconds"] == 77)
    commit(it, put("Journal", "DatastoreIdentifier", None))


def shown_at_once(it):
    words = ("--confirm", "ledger")
    for command, more, sub in (("pause", words, True), ("resume", (), False), ("pause", words, True), ("resume", (), False)):
        cli(it, "--ctx", "london", command, "ledger", *more)
        got = labtest.vpg(it.london, it)
        check("after %s: %s" % (command, got["SourceState"]), (got["SourceState"] == "Paused") == sub)


def nothing_left(it):
    for s in it.london.api.get("/v1/vpgSettings"):
        it.london.api.delete("/v1/vpgSettings/" + s["VpgSettingsIdentifier"])
    cli(it, "--ctx", "london", "create", "ledger", "--vm", "spare", "--to-site", "paris", "--store", "paris-store", ok=(1,))
    check("settings of a VPG that was refused are gone", it.london.api.get("/v1/vpgSettings") == [])


def all_of_it():
    def spare(it):
        """A second VM that is not protected."""
        path = os.path.join(it.base, "disks", "spare.img")
        it.london.vms = list(it.london.vms) + [{"name": "spare", "volumes": [{"name": "a", "path": path}]}]
        it.volumes = list(it.volumes) + [dict(it.volumes[0], path=path, size=4 * MIB)]

    with labtest.lab(volumes=(("one", 8 * MIB),), before=spare, protect=False) as it:
        it.volumes = it.volumes[:1]
        it.pair()
        it.protect(vms=("ledger",))
        it.wait_synced()
        edits(it)
        shown_at_once(it)
        nothing_left(it)


labtest.main(all_of_it)
