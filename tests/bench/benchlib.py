"""What the sections of tests/bench/run share: figures, servers, fio, CPU time.

A figure is a list of repetitions; what is printed is the median, with the
least and the most.  Servers that are compared are all up at once and take
turns, a second each, in an order that changes from one repetition to the
next, so that what else the machine does falls on all of them alike.
"""

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
from ports import free_port  # noqa: E402,F401 (bench_lab)

BUILD = os.path.abspath(os.environ.get("BUILD") or os.path.join(TOP, "build"))
QUICK = os.environ.get("QUICK", "") not in ("", "0")
MIB = 1 << 20
HZ = os.sysconf("SC_CLK_TCK")


def setting(name, usual, quick):
    """A number from the environment, or its default."""
    text = os.environ.get(name)
    if not text:
        return quick if QUICK else usual
    return float(text) if "." in text else int(text)


SECS = setting("SECS", 0.5, 0.3)
REPS = setting("REPS", 3, 1)
SIZE_MB = setting("SIZE_MB", 1024, 64)


class BenchError(Exception):
    """Something did not work, or data was wrong."""


# ---- Processes and scratch -------------------------------------------------


class Scratch:
    """Folders on tmpfs and disk, and processes, all gone at the end."""

    def __init__(self):
        self.dirs, self.children = {}, []

    def dir(self, medium):
        if medium not in self.dirs:
            base = "/dev/shm" if medium == "tmpfs" else os.environ.get("BENCH_DISK", "/var/tmp")
            self.dirs[medium] = tempfile.mkdtemp(prefix="hfb.", dir=base)
        return self.dirs[medium]

    def spawn(self, argv, log):
        with open(log, "ab") as out:
            p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                 start_new_session=True)
        self.children.append(p)
        return p

    def end(self, p):
        if p.poll() is None:
            p.send_signal(signal.SIGTERM)
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        if p in self.children:
            self.children.remove(p)

    def clear(self, medium):
        if medium in self.dirs:
            shutil.rmtree(self.dirs.pop(medium), ignore_errors=True)

    def close(self):
        for p in list(self.children):
            self.end(p)
        for medium in list(self.dirs):
            self.clear(medium)


def wait_for(what, test, seconds=20.0, pause=0.02):
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            raise BenchError("waited %.0f s for %s" % (seconds, what))
        time.sleep(pause)


def socket_answers(path):
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
        return True
    except OSError:
        return False


def run(argv, seconds=120):
    """Its output; BenchError with what it said when it fails."""
    try:
        out = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                             timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError("%s: no end within %d s" % (argv[0], seconds)) from None
    if out.returncode != 0:
        raise BenchError("%s: status %d: %s" % (" ".join(argv[:2] + argv[-1:]), out.returncode,
                                                (out.stderr or out.stdout).strip()[-400:]))
    return out.stdout


def cpu_seconds(pids):
    """User and system time of processes, those below them, and those they have reaped."""
    total, todo = 0, list(pids)
    while todo:
        pid = todo.pop()
        try:
            with open("/proc/%d/stat" % pid, encoding="utf-8", errors="replace") as f:
                fields = f.read().rpartition(")")[2].split()
            total += sum(int(x) for x in fields[11:15])
            for task in os.listdir("/proc/%d/task" % pid):
                with open("/proc/%d/task/%s/children" % (pid, task), encoding="utf-8") as f:
                    todo += [int(x) for x in f.read().split()]
        except OSError:
            continue
    return total / HZ


def rss_mib(pid):
    with open("/proc/%d/status" % pid, encoding="utf-8") as f:
        for line in f:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    return 0.0


def random_file(path, mib):
    run(["dd", "if=/dev/urandom", "of=" + path, "bs=1M", "count=%d" % mib, "conv=fsync", "status=none"])


def quarter_file(path, mib):
    """4 MiB of random data in every 16 of an empty file, holes between."""
    with open(path, "r+b") as f:
        for at in range(0, mib, 16):
            f.seek(at * MIB)
            f.write(os.urandom(4 * MIB))
        f.flush()
        os.fsync(f.fileno())


# ---- fio --------------------------------------------------------------------

JOBS = {  # name: rw, block size, depth, connections
    "randw4k q1": ("randwrite", "4k", 1, 1),
    "randw4k q32": ("randwrite", "4k", 32, 1),
    "randw4k q32 x4": ("randwrite", "4k", 32, 4),
    "randr4k q1": ("randread", "4k", 1, 1),
    "randr4k q32": ("randread", "4k", 32, 1),
    "randr4k q32 x4": ("randread", "4k", 32, 4),
    "randw4k q1 fsync": ("randwrite", "4k", 1, 1),
    "seqw1m": ("write", "1M", 8, 1),
    "seqw1m x4": ("write", "1M", 8, 4),
    "seqr1m": ("read", "1M", 8, 1),
    "seqr1m x4": ("read", "1M", 8, 4),
}


def fio_args(job, secs):
    rw, bs, depth, n = JOBS[job]
    argv = ["--ioengine=nbd", "--rw=" + rw, "--bs=" + bs, "--iodepth=%d" % depth, "--numjobs=%d" % n,
            "--runtime=%dms" % (secs * 1000), "--time_based", "--size=%dM" % SIZE_MB, "--norandommap",
            "--group_reporting"]
    return argv + (["--fsync=1"] if job.endswith("fsync") else [])


def fio(uri, job, pids=(), secs=None, seed=1, more=()):
    """One run: a dictionary iops, mb_s, mean_us, p99_us, cpu_us."""
    before = cpu_seconds(pids)
    secs = secs or SECS
    text = run(["fio", "--name=j", "--randseed=%d" % seed, "--output-format=json"] +
               fio_args(job, secs) + ["--uri=" + uri] + list(more), seconds=2 * secs + 120)
    try:
        j = json.loads(text[text.index("{"):])["jobs"][0]
    except (ValueError, KeyError, IndexError):
        raise BenchError("fio on %s said: %s" % (uri, text[:300])) from None
    d = j["write"] if j["write"]["total_ios"] else j["read"]
    if j["error"] or not d["total_ios"]:
        raise BenchError("fio on %s: error %d after %d requests" % (uri, j["error"], d["total_ios"]))
    time.sleep(0.05)  # children of a server that forks are counted once it has reaped them
    return {
        "iops": d["iops"], "mb_s": d["bw_bytes"] / 1e6, "mean_us": d["clat_ns"]["mean"] / 1e3,
        "p50_us": d["clat_ns"]["percentile"]["50.000000"] / 1e3,
        "p99_us": d["clat_ns"]["percentile"]["99.000000"] / 1e3,
        "cpu_us": (cpu_seconds(pids) - before) * 1e6 / d["total_ios"],
    }


def fio_verify(uri):
    """Write a little through an export and read it back: wrong data ends the run."""
    run(["fio", "--name=v", "--ioengine=nbd", "--uri=" + uri, "--rw=randwrite", "--bs=4k", "--iodepth=32",
         "--size=16M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0"])


class Figures:
    """Repetitions of one thing."""

    def __init__(self):
        self.runs = []

    def add(self, run_):
        self.runs.append(run_)

    def all(self, key):
        return [r[key] for r in self.runs]

    def median(self, key):
        return statistics.median(self.all(key))


def take_turns(servers, jobs, reps=None, between=None, secs=None):
    """{job: {label: Figures}}; servers is a list of objects with label, uri, pids()."""
    out = {j: {s.label: Figures() for s in servers} for j in jobs}
    reps = reps or REPS
    for s in servers:  # warm caches, pools, branch predictors
        fio(s.uri, jobs[0], secs=0.3 if not QUICK else 0.1)
    for rep in range(reps):
        for n, job in enumerate(jobs):
            turn = (rep + n) % len(servers)
            for s in servers[turn:] + servers[:turn]:
                if between:
                    between(s)
                out[job][s.label].add(fio(s.uri, job, s.pids(), secs=secs, seed=rep * 100 + n + 1))
    return out


# ---- Servers to compare with ------------------------------------------------


class Server:
    """A server on a file, reached over a Unix socket."""

    def __init__(self, scratch, label, argv, sock, export="e", pid_file=None):
        self.scratch, self.label, self.argv, self.sock = scratch, label, argv, sock
        self.uri = "nbd+unix:///%s?socket=%s" % (export, sock)
        self.pid_file, self.process = pid_file, None
        self.pid = None

    def start(self):
        log = self.sock + ".log"
        self.process = self.scratch.spawn(self.argv, log)
        try:
            wait_for(self.label, lambda: socket_answers(self.sock) and
                     (not self.pid_file or os.path.exists(self.pid_file)))
        except BenchError as e:
            with open(log, encoding="utf-8", errors="replace") as f:
                raise BenchError("%s; it said: %s" % (e, f.read()[-400:])) from None
        self.pid = self.process.pid
        if self.pid_file:
            with open(self.pid_file, encoding="utf-8") as f:
                self.pid = int(f.read())
        return self

    def stop(self):
        if self.pid_file and self.pid:
            try:
                os.kill(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        if self.process:
            self.scratch.end(self.process)

    def pids(self):
        return [self.pid]

    def command(self):
        return " ".join("'%s'" % a if "," in a and " " in a else a for a in self.argv)


def qemu_nbd(scratch, where, path, label, *options):
    sock = os.path.join(where, label + ".sock")
    return Server(scratch, label, ["qemu-nbd", "-t", "-e", "16", "-x", "e", "-k", sock, "-f", "raw",
                                   *options, path], sock)


def nbdkit_file(scratch, where, path):
    sock = os.path.join(where, "nbdkit.sock")
    return Server(scratch, "nbdkit file", ["nbdkit", "-f", "-e", "e", "-U", sock, "file", path], sock)


def nbd_server(scratch, where, path):
    sock, conf = os.path.join(where, "nbd-server.sock"), os.path.join(where, "nbd-server.conf")
    pid = os.path.join(where, "nbd-server.pid")
    with open(conf, "w", encoding="utf-8") as f:
        f.write("[generic]\nunixsock = %s\nlistenaddr = 127.0.0.1\nport = %d\nmax_threads = 4\n"
                "[e]\nexportname = %s\nflush = true\n" % (sock, free_port(), path))
    return Server(scratch, "nbd-server", ["nbd-server", "-C", conf, "-p", pid], sock, pid_file=pid)


def limit(scratch, where, path):
    sock = os.path.join(where, "limit.sock")
    return Server(scratch, "limit", [os.path.join(BUILD, "tests/bench/limit"), sock, path,
                                     "%d" % (os.path.getsize(path) // MIB)], sock)


def nbdserve(scratch, where, path, cache="writeback"):
    """Our server over our splitter: what the agent puts between a client and a volume."""
    label = "holdfast" if cache == "writeback" else "holdfast-" + cache
    sock = os.path.join(where, label + ".sock")
    return Server(scratch, label, [os.path.join(BUILD, "tests/system/nbdserve"), "--splitter", "--unix", sock,
                                   "--file", path, "--cache", cache], sock)


# ---- Printing ---------------------------------------------------------------


class Report:
    """Tables in Markdown, and the count of targets that were met."""

    def __init__(self):
        self.met = self.missed = 0
        self.misses = []
        self.section = ""

    def head(self, section, text):
        self.section = section
        print("\n## %s\n\n%s" % (section, text), flush=True)

    def table(self, *columns):
        print("\n| %s |\n|%s" % (" | ".join(columns), "---|" * len(columns)), flush=True)

    def row(self, *cells):
        print("| %s |" % " | ".join(str(c) for c in cells), flush=True)

    def note(self, text):
        print("\n" + text, flush=True)

    def block(self, lines):
        print("\n" + "\n".join("    " + line for line in lines), flush=True)

    def target(self, what, text, ok):
        """The cell that says what is wanted and whether it is so."""
        if ok:
            self.met += 1
        else:
            self.missed += 1
            self.misses.append("%s: %s: wanted %s" % (self.section, what, text))
        return "%s: %s" % (text, "met" if ok else "**missed**")

    def fact(self, what, value, text=None, ok=None):
        """A row of a table what, value, target."""
        self.row(what, value, self.target(what, text, ok) if text else "")

    def close(self):
        print("\n%d targets met, %d missed" % (self.met, self.missed))
        for m in self.misses:
            print("  missed: " + m)
        sys.stdout.flush()


def spread(values, form="%.0f"):
    """median (least .. most)"""
    if len(values) == 1:
        return form % values[0]
    return "%s (%s .. %s)" % (form % statistics.median(values), form % min(values), form % max(values))
