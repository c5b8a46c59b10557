#!/usr/bin/python3
# limit: 300
"""A replicator is replaced as docs/operations.md says, sections 4 and 11, with the
agent running: its VPGs are deleted, it is taken out, its directory is moved
away, and the host joins as a new one.  Nobody restarts anything; nothing of the
old one is listed any more, and its VM can be protected by name again."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import labtest  # noqa: E402
from labtest import MIB, check, cli, wait_until  # noqa: E402


def here(site):
    return site.api.get("/v1/localsite")["SiteIdentifier"]


def inventory(site):
    at = "/v1/virtualizationsites/%s/" % here(site)
    return {what: site.api.get(at + what) for what in ("vms", "hosts", "datastores")}


def replace(it, site):
    vra, = site.api.get("/v1/vras")
    old_pid = site.pid("replicator")
    cli(it, "--ctx", "london", "delete", "ledger", "--confirm", "ledger", "--force", "--keep-replicas")
    site.api.do("DELETE", "/v1/vras/" + vra["VraIdentifierStr"])
    check("it is not listed any more", site.api.get("/v1/vras") == [])
    check("nor is what it had", not any(inventory(site).values()), inventory(site))
    labtest.refused("taking it out twice", lambda: site.api.delete("/v1/vras/" + vra["VraIdentifierStr"]),
                    "API-0013")
    role = os.path.join(site.state, "replicator")
    os.rename(role, role + ".old")
    site.join()

    def connected():
        vras = site.api.get("/v1/vras")
        return (len(vras) == 1 and vras[0]["VraIdentifier"] != vra["VraIdentifier"]
                and vras[0]["Status"] == 0)
    wait_until("the new replicator to be connected", connected, 20)
    check("it is another process", site.pid("replicator") != old_pid)
    site.kill("manager")
    wait_until("the new one, and only it, after a restart of the manager", connected, 20)


def again(it):
    """As an administrator would: by names."""
    stores = "/v1/virtualizationsites/%s/datastores" % here(it.paris)
    wait_until("the VM and the store to be listed", lambda: inventory(it.london)["vms"]
               and it.london.api.get(stores), 20)
    cli(it, "--ctx", "london", "create", "ledger", "--vm", "ledger", "--to-site", "paris",
        "--store", "paris-store", "--interval", "1s")
    it.vpg_id = it.london.api.vpg("ledger")["VpgIdentifier"]
    it.wait_synced()
    labtest.write_pattern(it.nbd_uri("one"), 0, b"x" * MIB)
    point = labtest.tag(it, "with the new one")
    with labtest.View(it, point) as view:
        check("what was written is there", labtest.read_range(view.uri["one"], 0, MIB) == b"x" * MIB)


def replaced():
    with labtest.lab(volumes=(("one", 8 * MIB),)) as it:
        for name in ("london", "paris"):
            labtest.say("--- the replicator of " + name)
            replace(it, getattr(it, name))
            again(it)


def revoked_first():
    """One whose certificate was revoked is shown until it is taken out."""
    with labtest.lab(protect=False, volumes=(("one", 8 * MIB),)) as it:
        vra, = it.london.api.get("/v1/vras")
        path = "/v1/vras/" + vra["VraIdentifierStr"]
        it.london.api.post(path + "/revoke")
        check("it is being removed", it.london.api.get(path)["Status"] == 4)
        it.london.api.do("DELETE", path)
        check("it is gone", it.london.api.get("/v1/vras") == [])
        role = os.path.join(it.london.state, "replicator")
        os.rename(role, role + ".old")
        it.london.join()
        wait_until("the new replicator", lambda: [v["Status"] for v in it.london.api.get("/v1/vras")] == [0], 20)


labtest.main(replaced, revoked_first)
