"""A small NBD client on a plain socket, for tests that need every byte in hand, and a server to talk to."""

import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

BUILD = os.environ.get("BUILD") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build")
SLOW = float(os.environ.get("HOLDFAST_SLOW") or 1)
NBDSERVE = os.path.join(BUILD, "tests", "system", "nbdserve")

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META = 1, 2, 3, 5, 6, 7, 8, 9, 10
ACK, SERVER, REP_INFO, META = 1, 2, 3, 4
ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_TLS_REQD = 0x80000001, 0x80000002, 0x80000003, 0x80000005
ERR_UNKNOWN, ERR_TOO_BIG = 0x80000006, 0x80000009
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO = 1, 2, 4, 8, 16
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 22, 28, 75, 95, 108
NONE, DATA, HOLE, BLOCK_STATUS, ERROR = 0, 1, 2, 5, 0x8001
OPT_MAGIC = 0x49484156454F5054


class Closed(Exception):
    pass


class Server:
    """nbdserve on a Unix socket in a directory of its own."""

    def __init__(self, *args, tcp=False):
        self.dir = tempfile.mkdtemp(dir=os.environ.get("TMPDIR"))
        self.path = os.path.join(self.dir, "s")
        self.err = open(os.path.join(self.dir, "err"), "w+")
        where = ["--tcp", "127.0.0.1:0"] if tcp else ["--unix", self.path]
        self.proc = subprocess.Popen([NBDSERVE, *where, *args], stdout=subprocess.PIPE, stderr=self.err, text=True)
        self.uri = self.proc.stdout.readline().strip()
        if not self.uri:
            raise SystemExit("nbdserve did not start: " + self.log())

    def log(self):
        with open(os.path.join(self.dir, "err")) as f:
            return f.read()

    def rss(self):
        with open(f"/proc/{self.proc.pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS"))

    def signal(self, sig):
        self.proc.send_signal(sig)

    def stop(self):
        """In order; anything but status 0 (a sanitizer's report, an assertion) is a failure."""
        self.proc.send_signal(signal.SIGTERM)
        try:
            status = self.proc.wait(30)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            raise AssertionError("the server did not stop: " + self.log())
        assert status == 0, (status, self.log())

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        if kind:
            self.proc.kill()
            sys.stderr.write(self.log())
        else:
            self.stop()


class Raw:
    def __init__(self, path, flags=3, timeout=20):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(timeout * SLOW)
        until(lambda: self.s.connect_ex(path) == 0)  # EAGAIN while the listener's queue is full
        greeting = self.recv(18)
        assert greeting == b"NBDMAGICIHAVEOPT\0\3", greeting
        self.s.sendall(struct.pack(">I", flags))
        self.structured = False
        self.cookie = 0

    def recv(self, n):
        got = b""
        while len(got) < n:
            try:
                piece = self.s.recv(min(n - len(got), 1 << 20))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Closed(got)
            got += piece
        return got

    def closed(self):
        """The server hangs up (and says nothing more)."""
        try:
            self.recv(1)
        except Closed:
            return True
        return False

    # --- negotiation

    def option(self, opt, data=b"", length=None):
        self.s.sendall(struct.pack(">QII", OPT_MAGIC, opt, len(data) if length is None else length) + data)

    def reply(self):
        magic, opt, kind, n = struct.unpack(">QIII", self.recv(20))
        assert magic == 0x3E889045565A9
        return opt, kind, self.recv(n)

    def ask(self, opt, data=b""):
        """All replies to an option: [(type, data)], the last one is ACK or an error."""
        self.option(opt, data)
        out = []
        while True:
            got, kind, body = self.reply()
            assert got == opt
            out.append((kind, body))
            if kind == ACK or kind & 0x80000000:
                return out

    def structured_on(self):
        assert self.ask(STRUCTURED)[-1][0] == ACK
        self.structured = True
        return self

    def meta_on(self, name=b"", query=b"base:allocation"):
        got = self.ask(SET_META, struct.pack(">I", len(name)) + name + struct.pack(">II", 1, len(query)) + query)
        assert [k for k, _ in got] == [META, ACK], got
        return self

    def go(self, name=b"", opt=GO):
        got = self.ask(opt, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        assert got[-1][0] == ACK, got
        self.size, self.flags = struct.unpack(">QH", got[0][1][2:])
        return self

    # --- transmission

    def send(self, cmd, off=0, n=0, flags=0, data=b""):
        self.cookie += 1
        self.s.sendall(struct.pack(">IHHQQI", 0x25609513, flags, cmd, self.cookie, off, n) + data)
        return self.cookie

    def answer(self, read=0):
        """(cookie, error, chunk type, payload) of the next reply; read: bytes that a simple reply would carry."""
        (magic,) = struct.unpack(">I", self.recv(4))
        if magic == 0x67446698:
            error, cookie = struct.unpack(">IQ", self.recv(12))
            return cookie, error, None, self.recv(read) if read and not error else b""
        assert magic == 0x668E33EF, hex(magic)
        flags, kind, cookie, n = struct.unpack(">HHQI", self.recv(16))
        assert flags == 1, "one chunk a reply"
        body = self.recv(n)
        error = struct.unpack(">I", body[:4])[0] if kind == ERROR else 0
        if kind == ERROR:
            assert struct.unpack(">H", body[4:6])[0] == n - 6
        return cookie, error, kind, body

    def call(self, cmd, off=0, n=0, flags=0, data=b""):
        cookie = self.send(cmd, off, n, flags, data)
        got = self.answer(n if cmd == READ and not self.structured else 0)
        assert got[0] == cookie, (got[0], cookie)
        return got[1:]

    def error(self, *args, **kw):
        return self.call(*args, **kw)[0]

    def read(self, off, n, flags=0):
        error, kind, body = self.call(READ, off, n, flags)
        assert error == 0, error
        if kind is None:
            return body
        if kind == NONE:
            return b""
        at, = struct.unpack(">Q", body[:8])
        assert at == off
        if kind == HOLE:
            assert struct.unpack(">I", body[8:])[0] == n
            return bytes(n)
        assert kind == DATA
        return body[8:]

    def write(self, off, data, flags=0):
        assert self.error(WRITE, off, len(data), flags, data) == 0

    def close(self):
        self.s.close()


def until(what, seconds=20):
    end = time.monotonic() + seconds * SLOW
    while not what():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def run_all(space):
    """Call each test_* function of a module, in order."""
    for name, f in list(space.items()):
        if name.startswith("test_") and callable(f):
            start = time.monotonic()
            f()
            print(f"ok {name} {time.monotonic() - start:.2f} s", flush=True)
