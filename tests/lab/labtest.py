"""What the system tests share: a lab that ends with the test however the test
ends, checks that say what they found, points and views, disks and programs."""

import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

import nbd

import hflab
from hflab import ApiError, LabError, wait_until  # noqa: F401 (for the tests)

MIB = 1 << 20
START = time.monotonic()


class Failed(Exception):
    """The product did not do what it should."""


def say(text):
    print("[%6.1f s] %s" % (time.monotonic() - START, text), flush=True)


def check(what, ok, detail=""):
    text = "" if detail == "" else " (%s)" % (detail,)
    say("%s %s%s" % ("ok  " if ok else "FALSE", what, text[:160] if ok else text))
    if not ok:
        raise Failed("not true: %s %s" % (what, detail))


def run(*argv, ok=(0,), timeout=100, **kw):
    out = subprocess.run(argv, stdin=kw.pop("stdin", subprocess.DEVNULL) if "input" not in kw else None,
                         capture_output=True, text=True, check=False, timeout=timeout * hflab.SLOW, **kw)
    if ok is not None and out.returncode not in ok:
        raise Failed("%s: exit %d: %s" % (" ".join(argv), out.returncode,
                                          (out.stderr + out.stdout).strip()[-2000:]))
    return out


def when(stamp):
    """Seconds since 1970 of a time as the API writes it."""
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


# --- a lab that goes away -----------------------------------------------------------------


@contextlib.contextmanager
def lab(up=True, protect=True, before=None, prepare=None, **kw):
    """before(lab) may change the sites' configuration before anything is made; prepare(lab) may
    fill the disks before anything runs."""
    base = tempfile.mkdtemp(prefix="l")
    it = hflab.Lab(base, **kw)
    it.prepare = prepare
    it.closers = []
    good = False
    try:
        if before:
            before(it)
        if up:
            it.up(protect=protect)
        yield it
        good = True
    finally:
        if not good:
            print(it.logs(), flush=True)
        for close in reversed(it.closers):
            try:
                close()
            except Exception as e:  # the others must still be closed
                print("closing: %r" % e)
        try:
            it.down()
        except LabError as e:
            print(e)
            if good:
                raise
        finally:
            for s in it.sites:
                kill_left(s)
            unmount_below(base)
            shutil.rmtree(base, ignore_errors=True)


def kill_left(site):
    for role in ("supervisor", "manager", "replicator"):
        pid = site.pid(role)
        if pid and of_site(pid, site):
            os.kill(pid, signal.SIGKILL)


def of_site(pid, site):
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return site.config.encode() in f.read()
    except OSError:
        return False


def processes_of(path):
    """Command lines of all processes that name something below path."""
    out = []
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) != os.getpid():
            try:
                with open("/proc/%s/cmdline" % pid, "rb") as f:
                    line = f.read().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if path in line:
                out.append((int(pid), line))
    return out


def mounts_below(path):
    with open("/proc/self/mounts", encoding="utf-8") as f:
        return [line.split()[1] for line in f if line.split()[1].startswith(path + "/")]


def unmount_below(path):
    for mount in reversed(mounts_below(path)):
        subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)


def main(*steps):
    """Run the steps, say which failed and why, and end with 0 only if none did."""
    def on_term(_sig, _frame):
        raise KeyboardInterrupt("told to stop")
    signal.signal(signal.SIGTERM, on_term)
    if not os.path.exists(hflab.holdfastd()) or not os.path.exists(hflab.holdfast()):
        print("holdfastd and holdfast are not built in " + hflab.build_dir())
        sys.exit(77)
    only = sys.argv[1:]
    bad = []
    for step in steps:
        if only and step.__name__ not in only:
            continue
        say("--- " + step.__name__)
        try:
            step()
        except KeyboardInterrupt:
            traceback.print_exc()
            sys.exit(130)
        except Exception as e:  # the other steps are told, too
            traceback.print_exc(file=sys.stdout)
            bad.append("%s: %s" % (step.__name__, e))
    for text in bad:
        print("FAILED " + text)
    sys.exit(1 if bad else 0)


# --- points and views ------------------------------------------------------------------------


def points(it, **query):
    return it.paris.api.checkpoints(it.vpg_id, **query)


def numbers(it):
    return [int(c["CheckpointIdentifier"]) for c in points(it)]


def tag(it, name, seconds=60):
    """A tagged checkpoint, as the recovery site lists it when the task has ended."""
    it.london.api.do("POST", "/v1/vpgs/%s/checkpoints" % it.vpg_id, {"CheckpointName": name}, seconds)
    found = [c for c in points(it) if c["Tag"] == name]
    if len(found) != 1:
        raise Failed("the task of checkpoint %s has ended, and paris lists it %d times" % (name, len(found)))
    return found[0]


def views(it):
    return it.paris.api.get("/v1/vpgs/%s/views" % it.vpg_id)


class View:
    """A mounted view; uri["files"] is the NBD address of ledger/files."""

    def __init__(self, it, point=None, stamp=None, seconds=30, **more):
        self.it = it
        body = dict(more)
        if point is not None:
            body["CheckpointIdentifier"] = str(
                point["CheckpointIdentifier"] if isinstance(point, dict) else point)
        if stamp is not None:
            body["TimeStamp"] = stamp
        start = time.monotonic()
        task = it.paris.api.post("/v1/vpgs/%s/views" % it.vpg_id, body)
        it.paris.api.wait_task(task, seconds)
        self.ms = (time.monotonic() - start) * 1000
        self.id = task.split(".")[0]
        self.rows = [v for v in views(it) if v["ViewIdentifier"] == self.id]
        self.uri = {v["VolumeName"].rsplit("/", 1)[1]: v["NbdUri"] for v in self.rows}
        if not self.uri:
            raise Failed("view %s is open, and not listed" % self.id)
        self.point = int(self.rows[0]["CheckpointIdentifier"])

    def close(self):
        self.it.paris.api.do("DELETE", "/v1/vpgs/%s/views/%s" % (self.it.vpg_id, self.id), None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.close()
        except (ApiError, LabError, OSError) as e:
            say("closing view %s: %s" % (self.id, e))


# --- what the replicators say of themselves ----------------------------------------------------


def vpg(site, it):
    return site.api.get("/v1/vpgs/" + it.vpg_id)


def logged(site, text, since=0):
    """Lines of the site's log that hold text, from a position on."""
    with open(site.log, encoding="utf-8", errors="replace") as f:
        f.seek(since)
        return [line.rstrip("\n") for line in f if text in line]


def log_end(site):
    return os.path.getsize(site.log) if os.path.exists(site.log) else 0


def wait_logged(site, text, since=0, seconds=30):
    return wait_until('"%s" in the log of %s' % (text, site.name),
                      lambda: logged(site, text, since), seconds)[0]


def refused(what, call, code=None, words=()):
    """call() must be refused by the API with a code, a sentence and a way out."""
    try:
        got = call()
    except ApiError as e:
        body = e.body if isinstance(e.body, dict) else {}
        check("%s: refused" % what,
              bool(body.get("Message") and body.get("Code") and body.get("NextStep"))
              and (code is None or body["Code"] == code)
              and all(w in body["Message"] for w in words), body)
        return body
    raise Failed("%s: taken: %s" % (what, got))


# --- disks ---------------------------------------------------------------------------------------


def same(a, b):
    """Are two images or exports equal byte for byte?"""
    out = run("qemu-img", "compare", "-f", "raw", "-F", "raw", a, b, ok=(0, 1))
    return out.returncode == 0


def qemu_io(uri, *commands):
    argv = ["qemu-io", "-f", "raw"]
    for c in commands:
        argv += ["-c", c]
    out = run(*argv, uri)
    if "failed" in out.stdout + out.stderr:
        raise Failed("qemu-io %s: %s" % (commands, out.stdout + out.stderr))
    return out.stdout


def copy_out(uri, path):
    run("nbdcopy", uri, path)


def write_pattern(uri, offset, data):
    h = nbd.NBD()  # closed when the last reference goes
    h.connect_uri(uri)
    while data:
        h.pwrite(data[:MIB], offset)
        offset += min(len(data), MIB)
        data = data[MIB:]
    h.flush()
    h.shutdown()


def read_range(uri, offset, length):
    h = nbd.NBD()
    h.connect_uri(uri)
    out = bytearray()
    while len(out) < length:
        out += h.pread(min(MIB, length - len(out)), offset + len(out))
    h.shutdown()
    return bytes(out)


def noise(seed, length):
    return random.Random(seed).randbytes(length)


def fill_file(path, pieces):
    """[(offset, data)] into an image file, durably."""
    with open(path, "r+b") as f:
        for offset, data in pieces:
            f.seek(offset)
            f.write(data)
        f.flush()
        os.fsync(f.fileno())


def cli(it, *words, ok=(0,), **kw):
    return run(hflab.holdfast(), "--config", it.cli_config(), *words, ok=ok, **kw)


def cli_json(it, *words):
    return json.loads(cli(it, *words, "--output", "json").stdout)
