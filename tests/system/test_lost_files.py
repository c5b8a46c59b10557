#!/usr/bin/python3
# limit: 120
"""A manager that lost its catalog or the key of its site's CA does not start with
an empty one in its place: it says what is missing, makes nothing, and goes on
as before when the file is put back."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import labtest  # noqa: E402
from labtest import check, run, wait_until  # noqa: E402


def lost(site, names, word):
    here = os.path.join(site.state, "manager")
    site.stop()
    for n in names:
        if os.path.exists(os.path.join(here, n)):
            os.rename(os.path.join(here, n), os.path.join(site.dir, n))
    since = labtest.log_end(site)
    site.start()
    line = labtest.wait_logged(site, "MGR-0019", since)
    check("it says what is missing", word in line and "backup" in line, line)
    check("and makes none", not any(os.path.exists(os.path.join(here, n)) for n in names), os.listdir(here))
    for n in names:
        if os.path.exists(os.path.join(site.dir, n)):
            os.rename(os.path.join(site.dir, n), os.path.join(here, n))
    wait_until("the manager with the file put back", lambda: site.api.get("/v1/localsite"), 40)


def lost_files():
    with labtest.lab(up=False) as it:
        site = it.london
        site.init()
        site.start()
        site.wait_api()
        lost(site, ["ca.key.pem"], "ca.key.pem")
        lost(site, ["catalog.db", "catalog.db-wal", "catalog.db-shm"], "catalog.db")
        site.stop()
        # Another site's catalog, or one that was made by hand.
        path = os.path.join(site.state, "manager", "catalog.db")
        run("sqlite3", path, "delete from object where kind = 'account'")
        since = labtest.log_end(site)
        site.start()
        check("one without accounts is refused", "no account" in labtest.wait_logged(site, "MGR-0019", since))


labtest.main(lost_files)
