"""Kernel file systems and PostgreSQL on NBD exports, without nbd.ko: nbdfuse
shows an export as a file, a loop device makes it a disk."""

import os
import shutil
import subprocess
import tempfile
import time

import hflab


def run(*argv, check=True, **kw):
    out = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                         check=False, **kw)
    if check and out.returncode != 0:
        raise hflab.LabError("%s: exit %d: %s" % (" ".join(argv), out.returncode,
                                                  (out.stderr or out.stdout).strip()))
    return out


def missing():
    """What this machine lacks for mounting, or None."""
    for tool in ("nbdfuse", "mount", "losetup"):
        if not shutil.which(tool):
            return tool + " is not installed"
    if not os.path.exists("/dev/fuse"):
        return "/dev/fuse is missing"
    if os.geteuid() != 0:
        return "mounting needs root"
    return None


class Disk:
    """An NBD export as a block device file: self.dev."""

    def __init__(self, uri, base, readonly=False):
        self.dir = tempfile.mkdtemp(prefix="nbd-", dir=base)
        self.file = os.path.join(self.dir, "disk")
        self.dev = None
        argv = ["nbdfuse"] + (["-r"] if readonly else []) + [self.file, uri]
        self.proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.PIPE, start_new_session=True)

        def there():
            if self.proc.poll() is not None:
                raise SystemError("nbdfuse %s: %s" % (uri, self.proc.stderr.read().decode()))
            return os.path.exists(self.file)
        hflab.wait_until("nbdfuse " + uri, there)
        try:
            argv = ["losetup", "-f", "--show"] + (["-r"] if readonly else []) + [self.file]
            self.dev = run(*argv).stdout.strip()
        except hflab.LabError:
            self.close()
            raise

    def close(self):
        if self.dev:
            run("losetup", "-d", self.dev, check=False)
            # The loop device goes when its last user has; the file stays busy
            # until then.
            end = time.monotonic() + 20
            while self.file in run("losetup", "-O", "BACK-FILE", "-n", check=False).stdout \
                    and time.monotonic() < end:
                time.sleep(0.05)
            self.dev = None
        if self.proc.poll() is None:
            run("umount", self.dir, check=False)
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.proc.terminate()
                try:
                    self.proc.wait(5)
                except subprocess.TimeoutExpired:
                    self.proc.kill()
                    self.proc.wait()
                run("umount", "-l", self.dir, check=False)
        self.proc.stderr.close()
        try:
            os.rmdir(self.dir)
        except OSError:
            pass


class Mount:
    """A file system on an NBD export, mounted at self.path."""

    def __init__(self, uri, base, options="", mkfs=None):
        self.disk = Disk(uri, base)
        self.path = tempfile.mkdtemp(prefix="mnt-", dir=base)
        self.mounted = False
        try:
            if mkfs:
                run(*mkfs, self.disk.dev)
            argv = ["mount"] + (["-o", options] if options else []) + [self.disk.dev, self.path]
            run(*argv)
            self.mounted = True
        except hflab.LabError:
            self.close()
            raise

    def close(self):
        if self.mounted:
            end = time.monotonic() + 20
            while run("umount", self.path, check=False).returncode != 0:
                if time.monotonic() > end:
                    run("umount", "-l", self.path, check=False)
                    break
                time.sleep(0.1)
            self.mounted = False
        try:
            os.rmdir(self.path)
        except OSError:
            pass
        self.disk.close()


def pg_bin():
    base = "/usr/lib/postgresql"
    for version in sorted(os.listdir(base), key=float, reverse=True):
        path = os.path.join(base, version, "bin")
        if os.path.exists(os.path.join(path, "postgres")):
            return path
    raise hflab.LabError("PostgreSQL's programs are not in " + base)


def make_reachable(path):
    """Let the postgres user pass through private folders above path."""
    while path not in ("/", "/tmp"):
        try:
            mode = os.stat(path).st_mode
            if not mode & 0o001:
                os.chmod(path, (mode & 0o7777) | 0o001)
        except OSError:
            return
        path = os.path.dirname(path)


class Postgres:
    """A server on a data directory, reached by a Unix socket only."""

    def __init__(self, data, base):
        self.bin = pg_bin()
        self.data = data
        self.sock = tempfile.mkdtemp(prefix="hfpg-", dir="/tmp")
        os.chmod(self.sock, 0o777)
        self.log = os.path.join(self.sock, "log")
        self.running = False
        make_reachable(base)
        make_reachable(os.path.dirname(data))

    def as_postgres(self, *argv, check=True, **kw):
        return run("runuser", "-u", "postgres", "--", *argv, check=check, cwd="/", **kw)

    def initdb(self):
        os.makedirs(self.data, exist_ok=True)
        shutil.chown(self.data, "postgres", "postgres")
        self.as_postgres(os.path.join(self.bin, "initdb"), "-D", self.data, "-A", "trust", "-U",
                         "postgres", "-E", "UTF8", "--no-locale", "-k")

    def start(self):
        # A recovered copy holds the lock file of a server that may still run on
        # this very machine, where its process number means something.
        if os.path.exists(os.path.join(self.data, "postmaster.pid")):
            os.unlink(os.path.join(self.data, "postmaster.pid"))
        self.as_postgres(os.path.join(self.bin, "pg_ctl"), "-D", self.data, "-w", "-t", "60",
                         "-l", self.log, "-o",
                         "-c listen_addresses='' -c unix_socket_directories=%s "
                         "-c shared_buffers=32MB -c max_wal_size=256MB" % self.sock, "start")
        self.running = True

    def stop(self, mode="fast"):
        if self.running:
            self.as_postgres(os.path.join(self.bin, "pg_ctl"), "-D", self.data, "-w", "-m", mode,
                             "stop", check=False)
        self.running = False

    def psql(self, sql, db="postgres", check=True):
        out = self.as_postgres("psql", "-h", self.sock, "-U", "postgres", "-d", db, "-qAtX",
                               "-v", "ON_ERROR_STOP=1", "-c", sql, check=check)
        return out.stdout.strip()

    def writer(self, script):
        """A psql that reads commands from a pipe; the caller ends it."""
        return subprocess.Popen(
            ["runuser", "-u", "postgres", "--", "psql", "-h", self.sock, "-U", "postgres", "-qAtX",
             "-d", "postgres", "-f", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd="/")

    def close(self):
        self.stop("immediate")
        shutil.rmtree(self.sock, ignore_errors=True)
