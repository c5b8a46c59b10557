#!/usr/bin/python3
# limit: 170
"""ext4, XFS and btrfs on protected volumes under load: at each tagged checkpoint
every file system comes back clean, with every file that had been made durable
before the checkpoint was asked for."""
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import threading

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hfmount  # noqa: E402
from labtest import MIB, Failed, View, check, lab, main, points, run, say, tag, wait_until  # noqa: E402

# XFS takes no less than 300 MiB.
KINDS = {
    "ext4": (192 * MIB, ["mkfs.ext4", "-q"], ""),
    "xfs": (320 * MIB, ["mkfs.xfs", "-q", "-f"], "nouuid"),
    "btrfs": (256 * MIB, ["mkfs.btrfs", "-q", "-f"], ""),
}


class Load(threading.Thread):
    """Makes files durable and keeps them; makes others, renames, rewrites and removes them."""

    def __init__(self, kind, path):
        super().__init__(daemon=True)
        self.kind, self.path = kind, path
        self.rng = random.Random(kind)
        self.kept = {}  # name: digest, of files whose fsync and whose folder's has returned
        self.stop_it = threading.Event()
        self.error = None
        self.rounds = 0

    def keep(self, n):
        name = "kept-%04d" % n
        data = self.rng.randbytes(self.rng.randrange(1, 60000))
        with open(os.path.join(self.path, name), "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        fd = os.open(self.path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        self.kept[name] = hashlib.sha256(data).hexdigest()

    def churn(self, n):
        work = os.path.join(self.path, "work")
        os.makedirs(os.path.join(work, "d%d" % n))
        for i in range(12):
            with open(os.path.join(work, "d%d" % n, "f%d" % i), "wb") as f:
                f.write(self.rng.randbytes(self.rng.randrange(0, 100000)))
        shutil.copytree(os.path.join(work, "d%d" % n), os.path.join(work, "c%d" % n))
        os.rename(os.path.join(work, "c%d" % n), os.path.join(work, "r%d" % n))
        with open(os.path.join(work, "d%d" % n, "f3"), "r+b") as f:
            f.truncate(1000)
        if n >= 3:
            for letter in "dr":
                shutil.rmtree(os.path.join(work, "%s%d" % (letter, n - 3)))

    def run(self):
        try:
            while not self.stop_it.is_set():
                self.keep(self.rounds)
                self.churn(self.rounds)
                self.rounds += 1
        except OSError as e:
            self.error = e


def digests(path):
    out = {}
    for name in os.listdir(path):
        if name.startswith("kept-"):
            with open(os.path.join(path, name), "rb") as f:
                out[name] = hashlib.sha256(f.read()).hexdigest()
    return out


def check_ext4(disk, _path):
    out = run("e2fsck", "-fn", disk.dev, ok=None)
    check("ext4: e2fsck -fn finds nothing", out.returncode == 0, out.stdout[-500:] if out.returncode else "")


def check_xfs(disk, _path):
    out = run("xfs_repair", "-n", disk.dev, ok=None)
    check("xfs: xfs_repair -n finds nothing", out.returncode == 0, out.stderr[-500:] if out.returncode else "")


def check_btrfs(disk, _path):
    out = run("btrfs", "check", "--readonly", disk.dev, ok=None)
    check("btrfs: check finds nothing", out.returncode == 0, out.stderr[-500:] if out.returncode else "")


def check_supers(disk):
    """The copies of the superblock are written side by side: a point may fall between them."""
    out = run("btrfs", "inspect-internal", "dump-super", "-a", disk.dev)
    sums = re.findall(r"^csum\t.*\[(.*)\]$", out.stdout, re.M)
    ages = [int(g) for g in re.findall(r"^generation\s+(\d+)$", out.stdout, re.M)]
    check("btrfs: two superblocks, at most one transaction apart",
          sums == ["match"] * 2 and len(ages) == 2 and max(ages) - min(ages) <= 1, (sums, ages))


def scrub(path):
    """After a transaction of its own, which writes all superblocks: scrub faults one that is older."""
    with open(os.path.join(path, "here"), "w", encoding="ascii") as f:
        f.write("here")
    run("btrfs", "filesystem", "sync", path)
    out = run("btrfs", "scrub", "start", "-B", path, ok=None)
    check("btrfs: scrub is clean", out.returncode == 0 and "no errors found" in out.stdout,
          (out.stdout + out.stderr)[-400:])


def recovered(it, kind, uri, want, point):
    """Mount, which replays the file system's own journal; look; unmount; check."""
    disk = hfmount.Disk(uri, it.base)
    path = os.path.join(it.base, "at-%s" % kind)
    os.makedirs(path, exist_ok=True)
    try:
        options = ["-o", KINDS[kind][2]] if KINDS[kind][2] else []
        if kind == "btrfs":
            check_supers(disk)
        run("mount", "-t", kind, *options, disk.dev, path)
        try:
            got = digests(path)
            lost = {n for n in want if got.get(n) != want[n]}
            check("%s at %s: all %d files that were durable before it" % (kind, point["Tag"], len(want)),
                  want and not lost, sorted(lost)[:5])
            if kind == "btrfs":
                scrub(path)
        finally:
            wait_until("the unmount", lambda: run("umount", path, ok=None).returncode == 0, 20)
        {"ext4": check_ext4, "xfs": check_xfs, "btrfs": check_btrfs}[kind](disk, path)
    finally:
        if kind == "btrfs":
            # The kernel remembers a btrfs device by its UUID, which all views share.
            subprocess.run(["btrfs", "device", "scan", "--forget", disk.dev], check=False,
                           stderr=subprocess.DEVNULL)
        disk.close()


def under_load(it):
    mounts, loads, marks = [], [], []
    try:
        for kind, (_, mkfs, _options) in KINDS.items():
            mounts.append((kind, hfmount.Mount(it.nbd_uri(kind), it.base, mkfs=mkfs)))
        loads = [Load(kind, m.path) for kind, m in mounts]
        for load in loads:
            load.start()
        for n in range(3):
            at_least = [load.rounds + 4 for load in loads]
            wait_until("more load", lambda a=at_least: all(
                w.error or w.rounds >= k for w, k in zip(loads, a)), 60)
            want = {w.kind: dict(w.kept) for w in loads}
            marks.append((tag(it, "load %d" % n), want))
    finally:
        for load in loads:
            load.stop_it.set()
        for load in loads:
            load.join()
        for kind, m in mounts:
            dev = m.disk.dev
            m.close()
            if kind == "btrfs" and dev:
                subprocess.run(["btrfs", "device", "scan", "--forget"], check=False,
                               stderr=subprocess.DEVNULL)
    for load in loads:
        if load.error:
            raise Failed("%s: the protected file system failed: %s" % (load.kind, load.error))
    return marks


def file_systems():
    volumes = [(kind, size) for kind, (size, _, _) in KINDS.items()]
    with lab(volumes=volumes) as it:
        marks = under_load(it)
        for point, want in marks:
            with View(it, point) as view:
                say("%s: view open after %.0f ms" % (point["Tag"], view.ms))
                for kind in KINDS:
                    recovered(it, kind, view.uri[kind], want[kind], point)
        first, want = marks[0][0], marks[-1][1]
        with View(it, first) as view:
            disk = hfmount.Disk(view.uri["ext4"], it.base)
            path = os.path.join(it.base, "at-ext4")
            try:
                run("mount", disk.dev, path)
                got = digests(path)
                wait_until("the unmount", lambda: run("umount", path, ok=None).returncode == 0, 20)
            finally:
                disk.close()
            check("what was made later is not in the first point", set(want["ext4"]) - set(got))
        check("checkpoints went on", len(points(it)) > 3)


if hfmount.missing():
    print(hfmount.missing())
    sys.exit(77)
main(file_systems)
