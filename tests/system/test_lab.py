#!/usr/bin/python3
# limit: 120
"""make lab and make lab-down: what lab.json says is so, nothing in the background
holds the caller's descriptors, pid files follow restarts, two labs stand side by
side, and nothing is left."""
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hflab  # noqa: E402
from labtest import check, main, mounts_below, processes_of, run, say, wait_until  # noqa: E402

UP = os.path.join(TOP, "tests", "lab", "up")
DOWN = os.path.join(TOP, "tests", "lab", "down")
SITE_KEYS = {"name", "role", "api_url", "ca_file", "user", "password_file", "config", "agent_config",
             "state_dir", "processes"}
VOLUME_KEYS = {"vm", "volume", "site", "vpg", "size", "nbd_uri"}


def start_lab(path):
    """As a caller would who reads its output to the end, with one more descriptor of its own."""
    read_fd, write_fd = os.pipe()
    p = subprocess.Popen([UP, path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, pass_fds=(write_fd,))
    os.close(write_fd)
    return p, read_fd


def end_of(fd):
    """Has everybody who could write to the pipe let go of it?"""
    while select.select([fd], [], [], 2)[0]:
        if not os.read(fd, 65536):
            return True
    return False


def pid_of(path):
    try:
        with open(path, encoding="utf-8") as f:
            return int(f.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def command(pid):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return f.read().split(b"\0")
    except OSError:
        return []


def wait_lab(p, read_fd, path):
    check("make lab returns", p.wait(100) == 0,
          "" if p.returncode == 0 else p.stdout.read().decode())
    check("its output has ended with it", end_of(p.stdout.fileno()))
    check("and so has another descriptor that it got", end_of(read_fd))
    os.close(read_fd)
    p.stdout.close()
    with open(os.path.join(path, "lab.json"), encoding="utf-8") as f:
        return json.load(f)


def check_site(site, name, role):
    check("%s: its fields" % name, set(site) == SITE_KEYS, sorted(site))
    check("%s: name and role" % name, (site["name"], site["role"]) == (name, role))
    with open(site["password_file"], encoding="utf-8") as f:
        password = f.read().strip()
    check("%s: the password is for its owner alone" % name,
          stat.S_IMODE(os.stat(site["password_file"]).st_mode) == 0o600)
    api = hflab.Api(site["api_url"], site["ca_file"], site["user"], password)
    local = api.get("/v1/localsite")
    api.close()
    check("%s answers at api_url, verified by ca_file, to user and password" % name,
          local["SiteName"] == name)
    out = run(hflab.holdfastd(), "run", "--check-config", "--config", site["agent_config"], ok=None)
    if out.returncode != 0:
        out = run(hflab.holdfastd(), "--check-config", site["agent_config"], ok=None)
    check("%s: agent_config is what holdfastd takes" % name, out.returncode == 0, out.stderr[-300:])
    check("%s: state_dir" % name, os.path.isfile(os.path.join(site["state_dir"], "VERSION")))
    for p in site["processes"]:
        check("%s: a process's fields" % name, set(p) == {"role", "pid_file"})
        pid = pid_of(p["pid_file"])
        words = command(pid) if pid else []
        check("%s: %s runs" % (name, p["role"]), bool(words)
              and (p["role"] == "supervisor" or p["role"].encode() in words), words)
    check("%s: the three processes" % name, sorted(p["role"] for p in site["processes"])
          == ["manager", "replicator", "supervisor"])
    for name_of_site in ("london", "paris"):
        out = run(hflab.holdfast(), "--config", site["config"], "--ctx", name_of_site, "localsite",
                  "--output", "json", env={"PATH": os.environ["PATH"], "HOME": os.getcwd()})
        check("%s: config asks no question of %s" % (name, name_of_site), name_of_site in out.stdout)
    check("%s: sessions are kept in the lab" % name, not os.path.exists(".cache"))
    return local


def check_volumes(d, path):
    check("two volumes", sorted(v["volume"] for v in d["volumes"]) == ["ledger/db", "ledger/files"],
          [v["volume"] for v in d["volumes"]])
    for v in d["volumes"]:
        check("%s: its fields" % v["volume"], set(v) == VOLUME_KEYS, sorted(v))
        check("%s: of VPG ledger at london, 1 GiB, nbd+unix" % v["volume"],
              (v["site"], v["vpg"], v["vm"], v["size"]) == ("london", "ledger", "ledger", 1 << 30)
              and v["nbd_uri"].startswith("nbd+unix://"), v)
        size = run("nbdinfo", "--size", v["nbd_uri"]).stdout.strip()
        check("%s: answers with that size" % v["volume"], size == str(1 << 30), size)
    paris = d["sites"][1]
    with open(paris["password_file"], encoding="utf-8") as f:
        api = hflab.Api(paris["api_url"], paris["ca_file"], paris["user"], f.read().strip())
    vpg = api.get("/v1/vpgs", name="ledger")[0]
    check("ledger: a checkpoint a second, an hour of history",
          (vpg["CheckpointIntervalInSeconds"], vpg["HistoryStatusApi"]["ConfiguredHistoryInMinutes"])
          == (1, 60))
    task = api.post("/v1/vpgs/%s/views" % vpg["VpgIdentifier"], {})
    api.wait_task(task)
    rows = api.get("/v1/vpgs/%s/views" % vpg["VpgIdentifier"])
    check("a view's VolumeNames are the volumes' names",
          sorted(r["VolumeName"] for r in rows) == sorted(v["volume"] for v in d["volumes"]), rows)
    check("and its addresses are nbd+unix",
          all(r["NbdUri"].startswith("nbd+unix://") for r in rows), rows)
    api.close()


def check_restart(site):
    """Each role killed: its pid file soon names another process, which is that role."""
    for p in site["processes"]:
        if p["role"] == "supervisor":
            continue
        old = pid_of(p["pid_file"])
        os.kill(old, signal.SIGKILL)
        new = wait_until("the pid file of %s %s to follow" % (site["name"], p["role"]),
                         lambda p=p, old=old: (n := pid_of(p["pid_file"])) and n != old
                         and p["role"].encode() in command(n) and n, 20)
        say("%s %s: %d, then %d" % (site["name"], p["role"], old, new))
    with open(site["password_file"], encoding="utf-8") as f:
        api = hflab.Api(site["api_url"], site["ca_file"], site["user"], f.read().strip())
    wait_until("%s to answer again" % site["name"], lambda: api.get("/v1/localsite"))
    api.close()


def stop_lab(path):
    out = run(DOWN, path, ok=None)
    check("make lab-down returns", out.returncode == 0, out.stderr)
    check("no process is left", not processes_of(path), processes_of(path))
    check("no mount is left", not mounts_below(path))
    check("no file is left", not os.path.exists(path), os.path.exists(path) and os.listdir(path))


def labs():
    base = tempfile.mkdtemp(prefix="l")
    one, two = os.path.join(base, "one"), os.path.join(base, "two")
    begun = time.monotonic()
    try:
        first, second = start_lab(one), start_lab(two)
        a, b = wait_lab(*first, one), wait_lab(*second, two)
        say("two labs were up after %.1f s" % (time.monotonic() - begun))
        check("format", isinstance(a["format"], int) and set(a) == {"format", "sites", "volumes"})
        for d in (a, b):
            ids = [check_site(d["sites"][0], "london", "protected"),
                   check_site(d["sites"][1], "paris", "recovery")]
            check("two sites of their own", ids[0]["SiteIdentifier"] != ids[1]["SiteIdentifier"])
        check_volumes(a, one)
        out = run(UP, one, ok=None)
        check("a second lab in the same folder is refused, with the way out",
              out.returncode == 1 and "lab-down" in out.stderr, out.stderr)
        for site in a["sites"]:
            check_restart(site)
        stop_lab(one)
        for s in b["sites"]:
            check("the other lab's %s runs on" % s["name"],
                  all(command(pid_of(p["pid_file"]) or -1) for p in s["processes"]))
        check_volumes(b, two)
        stop_lab(two)
        check("lab-down where there is no lab harms nothing", run(DOWN, two).returncode == 0)
    finally:
        for path in (one, two):
            if os.path.exists(os.path.join(path, "lab.json")):
                run(DOWN, path, ok=None)
        for pid, _ in processes_of(base):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(base, ignore_errors=True)


def make_targets():
    """make lab and make lab-down run just these two."""
    for target, script in (("lab", "tests/lab/up"), ("lab-down", "tests/lab/down")):
        out = run("make", "-n", "-C", TOP, target, "LAB=/tmp/x", ok=None)
        check("make %s runs %s" % (target, script), "%s '/tmp/x'" % script in out.stdout,
              out.stderr[-300:])


main(labs, make_targets)
