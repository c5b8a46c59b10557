#!/usr/bin/python3
# limit: 300
"""Clients that lie, stall, flood and vanish: each gets an error or a closed connection, the server keeps its memory
and its time, and a well-behaved client beside them is served."""

import os
import resource
import signal
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nbdraw import *  # noqa: E402,F403

MIB = 1 << 20
ASAN = "asan" in os.environ.get("BUILD", "") or "tsan" in os.environ.get("BUILD", "")


def plain(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    until(lambda: s.connect_ex(path) == 0)  # EAGAIN while the listener's queue is full
    return s


def alive(s):
    c = Raw(s.path).go()
    c.write(65536, b"alive" + bytes(507))
    assert c.read(65536, 512)[:5] == b"alive"
    c.close()


def logged(s, code):
    until(lambda: code in s.log())


def test_lies_in_the_negotiation():
    with Server("--mem", "1MiB") as s:
        c = Raw(s.path, flags=0x80000003)
        assert c.closed()  # a flag that was not offered
        c = Raw(s.path)
        c.s.sendall(b"GARBAGE!" * 4)
        assert c.closed()
        c = Raw(s.path)
        c.option(GO, b"", 0xFFFFFFFF)  # four gigabytes to come
        assert c.closed()
        c = Raw(s.path)
        assert c.ask(GO, bytes(100000))[-1][0] == ERR_TOO_BIG
        assert c.ask(GO, b"\xff\xff\xff\xff\0\0")[-1][0] == ERR_INVALID
        assert c.ask(77, bytes(MIB))[-1][0] == ERR_UNSUP
        c.go()
        c = Raw(s.path)
        for _ in range(256):
            c.ask(LIST)
        c.option(LIST)
        assert c.closed()
        logged(s, "NBD-0004")
        alive(s)


def test_garbage():
    """Random bytes at every stage."""
    with Server("--mem", "1MiB") as s:
        for i in range(200):
            p = plain(s.path)
            junk = os.urandom(1 + i * 7 % 900)
            try:
                p.sendall(junk if i % 2 else b"\0\0\0\3" + junk)
                p.shutdown(socket.SHUT_WR)
                while p.recv(65536):
                    pass
            except OSError:
                pass
            p.close()
        alive(s)


def test_lies_in_transmission():
    with Server("--mem", "1MiB") as s:
        c = Raw(s.path).go()
        c.s.sendall(b"\x25\x60\x95\x14" + bytes(24))
        assert c.closed()
        c = Raw(s.path).go()
        c.send(WRITE, 0, 0xFFFFFE00)  # nobody reads four gigabytes to refuse them
        assert c.closed()
        logged(s, "NBD-0005")
        # a refused payload that looks like requests is not taken for any
        c = Raw(s.path).go()
        evil = struct.pack(">IHHQQI", 0x25609513, 0, ZERO, 99, 0, MIB) * 1000
        c.write(0, b"k" * 4096)
        assert c.error(WRITE, MIB, len(evil) // 4 * 4, data=evil) == ENOSPC
        assert c.read(0, 4096) == b"k" * 4096
        c.close()
        alive(s)


def test_vanishing():
    """Gone in the middle of a payload: nothing of that write is ever seen (I6)."""
    with Server("--mem", "64MiB") as s:
        for n in (4096, 60000, MIB, 32 * MIB):
            for part in (0, 1, n // 2, n - 1):
                c = Raw(s.path).go()
                c.send(WRITE, 0, n, data=b"\xee" * part)
                c.close()
        alive(s)
        c = Raw(s.path).go()
        assert c.read(0, 32 * MIB) == bytes(65536) + b"alive" + bytes(32 * MIB - 65541)
        # gone with replies unread, and with requests in hand
        for _ in range(20):
            d = Raw(s.path).go()
            for i in range(64):
                d.send(READ, i * MIB, MIB)
            d.close()
        c.close()
        alive(s)


def test_gone_while_the_device_is_busy():
    with Server("--mem", "1MiB", "--hold-reads", "0") as s:
        for _ in range(10):
            c = Raw(s.path).go()
            for _ in range(5):
                c.send(READ, 0, 4096)
            c.close()
        alive(s)
        s.signal(signal.SIGUSR1)
        alive(s)


def test_flood_without_reading():
    """A client that never reads its replies is no longer read, and costs a bounded amount; others are served."""
    with Server("--mem", "64MiB") as s:
        warm = Raw(s.path).go()
        for i in range(64):
            warm.write(i * MIB, bytes([i + 1]) * MIB)
        before = s.rss()
        c = Raw(s.path).go()
        c.s.settimeout(1)
        sent = 0
        request = b"".join(struct.pack(">IHHQQI", 0x25609513, 0, READ, i, (i % 64) * MIB, MIB) for i in range(64))
        try:
            while sent < 256 * MIB:
                sent += c.s.send(request)
        except socket.timeout:
            pass
        assert sent < 64 * MIB, "the server went on reading"
        grown = s.rss() - before
        assert ASAN or grown < 64 * MIB, grown
        alive(s)
        c.close()
        d = Raw(s.path).go()  # the same with tiny requests
        d.s.settimeout(1)
        sent = 0
        request = struct.pack(">IHHQQI", 0x25609513, 0, FLUSH, 1, 0, 0) * 4096
        try:
            while sent < 512 * MIB:
                sent += d.s.send(request)
        except socket.timeout:
            pass
        assert sent < 512 * MIB
        alive(s)
        d.close()
        warm.close()


def test_hoarders():
    """Clients that sit on payload memory are closed when somebody waits for it, and not before."""
    with Server("--mem", "64MiB", "--payload-max", "66MiB") as s:
        hoard = []
        for _ in range(3):
            c = Raw(s.path).go()
            c.send(WRITE, 0, 32 * MIB, data=b"x" * 100000)
            hoard.append(c)
        start = time.monotonic()
        c = Raw(s.path, timeout=60).go()
        assert c.call(READ, 0, 4096)[0] == 0 and time.monotonic() - start < 5  # there is room for this
        c.write(0, b"y" * (32 * MIB))  # but for this only when a hoarder has been closed
        assert time.monotonic() - start > 5
        logged(s, "NBD-0008")
        c.close()
        for h in hoard:
            h.close()
        alive(s)


def test_slow_handshake():
    with Server("--mem", "1MiB", "--handshake-ms", "400") as s:
        start = time.monotonic()
        silent, slow = plain(s.path), plain(s.path)
        quick = Raw(s.path).go()
        gone = False
        while not gone and time.monotonic() - start < 15:  # a byte now and then does not extend the time
            try:
                slow.send(b"\0")
                gone = slow.recv(100) == b""
            except OSError:
                gone = True
            time.sleep(0.05)
        assert gone
        while silent.recv(100):
            pass
        assert time.monotonic() - start < 15
        logged(s, "NBD-0006")
        time.sleep(0.5)
        quick.write(0, bytes(512))  # the deadline ends with the negotiation
        quick.close()


def test_many_connections():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    with Server("--mem", "1MiB", "--max-connections", "1000") as s:
        crowd = []
        for i in range(1000):
            crowd.append(Raw(s.path).go())
            crowd[-1].write(0, bytes(512))
        extra = plain(s.path)
        assert extra.recv(18) == b""
        logged(s, "NBD-0007")
        for c in crowd[::97]:
            c.write(512, bytes(512))
        assert ASAN or s.rss() < 200 * MIB, s.rss()
        for c in crowd:
            c.close()
        until(lambda: serves(s))
    with Server("--mem", "1MiB") as s:  # half-open ones
        crowd = [plain(s.path) for _ in range(1000)]
        alive(s)
        for c in crowd:
            c.close()
        alive(s)


def serves(s):
    try:
        alive(s)
        return True
    except (Closed, OSError):
        return False


def test_refused_limits():
    for args, code in ((["--payload-max", "1MiB"], "NBD-0009"), (["--max-in-flight", "100000"], "NBD-0009"),
                       (["--export", "a\nb"], "NBD-0001"), (["--export", "x" * 256], "NBD-0001"),
                       (["--extra", "e"], "NBD-0001")):
        p = subprocess.run([NBDSERVE, "--unix", "never", "--mem", "1MiB", *args], capture_output=True, text=True,
                           timeout=20)
        assert p.returncode == 1 and code in p.stderr, (args, p.stderr)


run_all(globals())
