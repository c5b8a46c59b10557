#!/usr/bin/python3
# limit: 300
"""A forced deletion ends open views and a running test, and nothing of the VPG
stays at the recovery site: not a journal, not a socket.  What could not be
reached does the same when it comes back."""
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import labtest  # noqa: E402
from labtest import MIB, check, wait_until  # noqa: E402

VIEWS = 5


def sockets(site):
    return [n for n in os.listdir(site.run_dir()) if n.endswith(".sock")]


def open_all(it):
    """Views and a test; the sockets that were there before."""
    path = "/v1/vpgs/" + it.vpg_id
    before = set(sockets(it.paris))
    for _ in range(VIEWS):
        it.paris.api.do("POST", path + "/views")
    it.paris.api.do("POST", path + "/FailoverTest")
    check("views have sockets", len(set(sockets(it.paris)) - before) == VIEWS + 1)
    return before


def gone(it, before, vpg):
    targets = os.path.join(it.paris.state, "replicator", "targets", vpg + ".json")
    return (not it.london.api.get("/v1/vpgs") and not it.paris.api.get("/v1/vpgs")
            and set(sockets(it.paris)) <= before and not os.path.exists(os.path.join(it.paris.store, vpg))
            and not os.path.exists(targets))


def views_close():
    with labtest.lab(volumes=(("one", 4 * MIB),)) as it:
        path, vpg = "/v1/vpgs/" + it.vpg_id, it.vpg_id
        before = open_all(it)
        labtest.refused("deleting with a test running", lambda: it.paris.api.delete(path), "MGR-0011")
        since = labtest.log_end(it.paris)
        it.london.api.do("DELETE", path, {"Force": True})
        check("all is gone when the task has ended", gone(it, before, vpg))
        check("nothing was refused", not labtest.logged(it.paris, "configure replicator", since))
        it.protect()
        it.wait_synced()


def told_later():
    """The recovery replicator hangs, then the whole other site is away."""
    with labtest.lab(volumes=(("one", 4 * MIB),)) as it:
        for away, roles in (("replicator", ("replicator",)), ("site", ("replicator", "manager"))):
            vpg = it.vpg_id
            before = open_all(it)
            for role in roles:
                it.paris.kill(role, signal.SIGSTOP)
            try:
                it.london.api.do("DELETE", "/v1/vpgs/" + vpg, {"Force": True}, seconds=100)
                check("london has forgotten it", not it.london.api.get("/v1/vpgs"))
            finally:
                for role in roles:
                    it.paris.kill(role, signal.SIGCONT)
            wait_until("the rest to go when the %s is back" % away, lambda: gone(it, before, vpg), 30)
            it.protect()
            it.wait_synced()


labtest.main(views_close, told_later)
