#!/usr/bin/python3
"""The command line against real managers and replicators: two sites are made, paired and
given a VPG with nothing but holdfastd and holdfast, and every command is used on them."""
# limit: 240
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TOP = os.environ.get("TOP") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BUILD") or os.path.join(TOP, "build")
HOLDFAST, HOLDFASTD = os.path.join(BUILD, "holdfast"), os.path.join(BUILD, "holdfastd")
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
from ports import free_ports  # noqa: E402

MIB = 1024 * 1024


def fail(text):
    raise AssertionError(text)


class Site:
    def __init__(self, top, name, home):
        self.name, self.dir, self.home = name, os.path.join(top, name), home
        self.state = os.path.join(self.dir, "s")
        self.api, self.peer, self.control, self.data = free_ports(4)
        self.process = None
        os.mkdir(self.dir)
        os.mkdir(os.path.join(self.dir, "store"))

    def make(self):
        r = subprocess.run([HOLDFASTD, "init", "--state", self.state, "--site", self.name, "--api", "127.0.0.1:%d" % self.api],
                           capture_output=True, text=True)
        if r.returncode:
            fail(r.stderr)
        said = dict(line.split(": ", 1) for line in r.stdout.splitlines())
        self.fingerprint = said["root fingerprint"]
        self.password = os.path.join(self.dir, "password")
        with open(os.open(self.password, os.O_CREAT | os.O_WRONLY, 0o600), "w") as f:
            f.write(said["password"] + "\n")
        self.disk = os.path.join(self.dir, "disk.img")
        with open(self.disk, "wb") as f:
            f.truncate(32 * MIB)
        self.config = os.path.join(self.dir, "site.conf")
        with open(self.config, "w") as f:
            f.write('sites = ( { name = "%s"; url = "https://127.0.0.1:%d"; password_file = "%s"; fingerprint = "%s"; } );\n'
                    % (self.name, self.api, self.password, self.fingerprint))
        self.write_agent(["manager"])

    def write_agent(self, roles):
        self.agent_config = os.path.join(self.dir, "holdfastd.conf")
        with open(self.agent_config, "w") as f:
            f.write("""
state_dir = "%s";
roles = [ %s ];
site = { name = "%s"; };
manager = { api_listen = "127.0.0.1:%d"; peer_listen = "127.0.0.1:%d"; };
replicator = {
    control_listen = "127.0.0.1:%d"; data_listen = "127.0.0.1:%d"; advertise = "127.0.0.1"; ring_size = "16MiB";
    run_dir = "%s/n";
    vms = ( { name = "vm-%s"; volumes = ( { name = "data"; path = "%s"; } ); } );
    stores = ( { name = "main"; path = "%s/store"; } );
};
""" % (self.state, ", ".join('"%s"' % r for r in roles), self.name, self.api, self.peer, self.control, self.data, self.dir,
                self.name, self.disk, self.dir))

    def start(self):
        self.log = open(os.path.join(self.dir, "log"), "ab")
        self.process = subprocess.Popen([HOLDFASTD, "run", "--config", self.agent_config], stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)

    def stop(self, sig=signal.SIGTERM):
        if not self.process:
            return
        self.process.send_signal(sig)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        self.log.close()

    def env(self):
        return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": self.home}

    def run(self, *args, stdin="", more=()):
        argv = [HOLDFAST] + [x for c in [self.config] + [s.config for s in more] for x in ("--config", c)] + list(args)
        r = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=self.env(), timeout=100, start_new_session=True)
        return r

    def cli(self, *args, status=0, **more):
        r = self.run(*args, **more)
        if r.returncode != status:
            fail("%s: holdfast %s: status %d instead of %d\n%s%s" % (self.name, " ".join(args), r.returncode, status, r.stdout, r.stderr))
        self.err = r.stderr
        return r.stdout

    def rows(self, *args, **more):
        return json.loads(self.cli(*args, "--output", "json", **more))["rows"]


def wait_until(seconds, what, fn):
    end = time.monotonic() + seconds
    last = None
    while time.monotonic() < end:
        try:
            last = fn()
            if last:
                return last
        except AssertionError as e:
            last = e
        time.sleep(0.1)
    fail("not within %d s: %s (%s)" % (seconds, what, last))


def make_sites(london, paris):
    for s in (london, paris):
        s.make()
        s.start()
        wait_until(20, s.name + " answers", lambda: s.rows("localsite")[0]["name"] == s.name)
        token = s.cli("token", "host-" + s.name).strip()
        r = subprocess.run([HOLDFASTD, "join", "--state", s.state, "--token", "-", "--manager", "127.0.0.1:%d" % s.api],
                           input=token, capture_output=True, text=True)
        if r.returncode:
            fail("join: " + r.stderr)
        s.stop()
        s.write_agent(["manager", "replicator"])
        s.start()
        wait_until(20, s.name + "'s agent", lambda: [r["state"] for r in s.rows("vras")] == ["connected"])


def pair(london, paris):
    token = paris.cli("pair", "token").strip()
    rows = london.rows("pair", "accept", "--host", "127.0.0.1:%d" % paris.peer, stdin=token + "\n")
    assert rows[0]["state"] == "done" and rows[0]["what"] == "Pair sites", rows
    london.cli("pair", "accept", "--host", "127.0.0.1:%d" % paris.peer, stdin=token + "\n", status=1)  # used once
    wait_until(20, "the link is up", lambda: [r["link"] for r in london.rows("sites")] == ["local", "up"])
    wait_until(20, "the link is up", lambda: [r["link"] for r in paris.rows("sites")] == ["local", "up"])


def protect(london, paris):
    assert "vm-london" in london.cli("vms")
    london.cli("create", "ledger", "--vm", "nosuch", "--to-site", "paris", status=1)
    assert "CLI-0010" in london.err
    london.cli("create", "ledger", "--vm", "vm-london", "--to-site", "paris", "--interval", "7h", status=2)
    # Once, and right after the pairing: the task waits until each replicator has been told whom to trust (REP-0009).
    rows = london.rows(
        "create", "ledger", "--vm", "vm-london", "--to-site", "paris", "--store", "main", "--interval", "1s",
        "--history", "1h", "--rpo", "30s", "--journal-limit", "256MiB", "--scratch-limit", "64MiB")
    assert rows[0]["state"] == "done", rows
    for s in (london, paris):
        row = wait_until(60, "ledger has points at " + s.name,
                         lambda: [r for r in s.rows("vpgs") if r["name"] == "ledger" and r["severity"] == "good"])[0]
        assert (row["protected"], row["recovery"], row["interval"], row["target"]) == ("london", "paris", 1, 30), row
    assert london.rows("vpgs")[0]["id"] == paris.rows("vpgs")[0]["id"]
    # protected volumes are listed with the address under which they are used
    disks = [r for r in london.rows("volumes") if r["vm"] == "vm-london"]
    assert disks and all(r["vpg"] == "ledger" and r["uri"].startswith("nbd") and r["size"] for r in disks), disks


def use(london, paris):
    for command in ("vpgs", "sites", "vras", "vms", "volumes", "storage", "tasks", "events", "alerts", "localsite"):
        text = london.cli(command)
        assert all(len(line) <= 80 for line in text.splitlines()), text
        assert list(csv.reader(io.StringIO(london.cli(command, "--output", "csv")))), command
        london.rows(command)
    assert "ledger" in london.cli("dashboard") and "paris" in london.cli("sites")
    assert "interval" in london.cli("vpg", "ledger")
    (volume,) = [v for v in london.rows("volumes") if v["vpg"] == "ledger"]
    assert volume["size"] == 32 * MIB, volume

    task = london.rows("point", "ledger", "before the mistake")[0]
    assert (task["state"], task["what"], task["on"]) == ("done", "New point", "ledger"), task
    london.rows("task", task["id"][:13])
    found = [london.rows("points", "ledger", "--filter", "note='before the mistake'"),
             paris.rows("points", "ledger", "--filter", "kind=user")]
    assert len(found[0]) == 1 and found[0][0]["point"] == found[1][0]["point"], found
    number = found[0][0]["point"]

    london.cli("test", "ledger", status=6)
    london.cli("test", "ledger", "--confirm", "ledger", "--point", "no such point", status=1)
    assert london.rows("test", "ledger", "--confirm", "TEST", "--point", "before the mistake")[0]["state"] == "done"
    views = paris.rows("views", "ledger")
    assert [(v["mode"], v["point"]) for v in views] == [("test", number)], views
    assert views[0]["uri"].startswith("nbd+unix:"), views
    assert london.rows("views", "ledger") == views
    wait_until(10, "the test shows", lambda: london.rows("vpgs")[0]["testing"])
    london.cli("test", "ledger", "--confirm", "ledger", status=1)
    assert london.rows("stop", "ledger", "--confirm", "STOP", "--notes", "all rows there")[0]["state"] == "done"
    assert paris.rows("views", "ledger") == []

    view = paris.rows("view", "ledger", "--at", "now")
    assert len(view) == 1 and view[0]["mode"] == "mount", view
    assert paris.rows("unview", "ledger", view[0]["id"][:8])[0]["state"] == "done"
    assert paris.rows("views", "ledger") == []
    assert paris.rows("view", "ledger", "--point", number, "--vm", "vm-london")[0]["point"] == number
    paris.rows("unview", "ledger", paris.rows("views", "ledger")[0]["id"])

    london.cli("pause", "ledger", "--confirm", "PAUSE")
    wait_until(20, "it is paused", lambda: london.rows("vpgs")[0]["state"] == "Paused")
    london.cli("resume", "ledger")
    wait_until(60, "it goes on", lambda: london.rows("vpgs")[0]["severity"] == "good")
    london.cli("sync", "ledger", "--confirm", "SYNC")
    wait_until(60, "it is in sync", lambda: london.rows("vpgs")[0]["severity"] == "good")
    assert [e for e in london.rows("events") if e["type"] == "FailOverTest"] or \
        [e for e in paris.rows("events") if e["type"] == "FailOverTest"]


def outage(london, paris):
    """The protected site is gone: the recovery site can do it alone; the other way round is stale."""
    london.stop(signal.SIGTERM)
    london.cli("vpgs", status=3)
    assert "ledger" in london.cli("vpgs", more=[paris])  # paris is asked instead
    wait_until(30, "paris sees that london is silent", lambda: paris.rows("vpgs")[0]["state"] == "Source silent")
    assert paris.rows("test", "ledger", "--confirm", "ledger")[0]["state"] == "done"
    assert paris.rows("stop", "ledger", "--confirm", "ledger")[0]["state"] == "done"
    london.start()
    wait_until(60, "london is back", lambda: paris.rows("vpgs")[0]["severity"] == "good")
    paris.stop(signal.SIGTERM)
    wait_until(60, "london's figures are stale", lambda: london.run("vpgs").returncode == 4)
    london.cli("test", "ledger", "--confirm", "ledger", status=4)
    assert [r["severity"] for r in london.rows("sites")] == ["good", "stale"]
    paris.start()
    wait_until(60, "paris is back", lambda: london.rows("vpgs")[0]["severity"] == "good")


def end(london, paris):
    london.cli("delete", "ledger", status=6)
    london.cli("delete", "ledger", "--confirm", "ledger")
    wait_until(20, "it is gone at both sites", lambda: not london.rows("vpgs") and not paris.rows("vpgs"))
    assert {t["on"] for t in london.rows("tasks") if t["what"] in ("Create VPG", "Delete VPG")} == {"ledger"}
    london.cli("unpair", "paris", status=6)
    london.cli("unpair", "paris", "--confirm", "paris")
    london.cli("logout")
    os.remove(london.password)
    london.cli("vpgs", status=1)


def main():
    top = tempfile.mkdtemp(prefix="hfc.")
    home = os.path.join(top, "home")
    os.mkdir(home)
    london, paris = Site(top, "london", home), Site(top, "paris", home)
    ok = False
    try:
        for step in (make_sites, pair, protect, use, outage, end):
            start = time.monotonic()
            step(london, paris)
            print("%s: %.1f s" % (step.__name__, time.monotonic() - start), flush=True)
        ok = True
    finally:
        for s in (london, paris):
            s.stop()
            if not ok and os.path.exists(os.path.join(s.dir, "log")):
                with open(os.path.join(s.dir, "log"), errors="replace") as f:
                    print("---- log of %s\n%s" % (s.name, "".join(f.readlines()[-25:])), file=sys.stderr)
        shutil.rmtree(top, True)


if __name__ == "__main__":
    main()
