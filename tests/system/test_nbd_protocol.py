#!/usr/bin/python3
# limit: 300
"""Each command, flag and error of the NBD server, over both io backends: raw bytes, and libnbd where it is there."""

import os
import random
import signal
import struct
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nbdraw import *  # noqa: E402,F403

SIZE = 64 << 20
IO = ["uring", "epoll"]


def image():
    f = tempfile.NamedTemporaryFile(dir=os.environ.get("TMPDIR"))
    f.truncate(SIZE)
    return f


def each():
    """A server over a sparse file for each backend and cache mode."""
    for io in IO:
        with image() as f, Server("--file", f.name, "--io", io, "--extra", "other") as s:
            yield s, f
    with image() as f, Server("--file", f.name, "--cache", "none", "--extra", "other") as s:
        yield s, f


def test_negotiation():
    for s, _ in each():
        c = Raw(s.path)
        names = [d for k, d in c.ask(LIST) if k == SERVER]
        assert names == [b"\0\0\0\1eserved for a test", b"\0\0\0\5other"], names
        assert c.ask(LIST, b"x")[-1][0] == ERR_INVALID
        assert c.ask(4711, b"whatever")[-1][0] == ERR_UNSUP
        assert c.ask(STARTTLS)[-1][0] == ERR_POLICY
        assert c.ask(GO, b"\0\0\0\3abc\0\0")[-1][0] == ERR_UNKNOWN
        assert c.ask(GO, b"\0\0\0\3")[-1][0] == ERR_INVALID
        assert c.ask(LIST_META, b"\0\0\0\0\0\0\0\0")[-1][0] == ERR_INVALID
        c.go(b"other", INFO)
        assert c.size == 1 << 20
        info = c.ask(INFO, struct.pack(">I", 1) + b"e" + struct.pack(">HHHH", 3, 1, 2, 3))
        assert [k for k, _ in info] == [REP_INFO] * 4 + [ACK]
        low, pref, high = struct.unpack(">III", info[3][1][2:])
        assert low in (1, 512, 4096) and pref >= 512 and high == 32 << 20
        c.structured_on().go()
        assert c.size == SIZE
        assert c.flags & 0x0FED == 0x0DED, hex(c.flags)  # all but READ_ONLY and ROTATIONAL
        c.close()
        c = Raw(s.path, flags=1)
        c.option(EXPORT_NAME, b"e")
        size, flags = struct.unpack(">QH", c.recv(10))
        assert size == SIZE and not flags & 0x80  # DF needs structured replies
        assert c.recv(124) == bytes(124)
        c.write(0, b"a" * 4096)
        assert c.read(0, 4096) == b"a" * 4096
        c.close()
        c = Raw(s.path)
        assert c.ask(ABORT)[-1][0] == ACK and c.closed()
        c = Raw(s.path)
        c.option(EXPORT_NAME, b"nothing")
        assert c.closed()


def test_commands():
    for s, f in each():
        for structured in (False, True):
            c = Raw(s.path)
            if structured:
                c.structured_on().meta_on()
            c.go()
            a, b = os.urandom(65536), os.urandom(4096)
            c.write(1 << 20, a)
            c.write((1 << 20) + 8192, b, FUA)
            want = a[:8192] + b + a[12288:]
            assert c.read(1 << 20, 65536) == want
            assert c.error(FLUSH) == 0 and c.error(FLUSH, flags=FUA) == 0
            with open(f.name, "rb") as img:
                img.seek(1 << 20)
                assert img.read(65536) == want
            for flags in (0, FUA, NO_HOLE, NO_HOLE | FUA):
                c.write(2 << 20, a)
                assert c.error(ZERO, (2 << 20) + 4096, 8192, flags) == 0
                assert c.read(2 << 20, 65536) == a[:4096] + bytes(8192) + a[12288:]
            assert c.error(ZERO, 2 << 20, 65536, FAST_ZERO) in (0, ENOTSUP)
            c.write(3 << 20, a)
            assert c.error(TRIM, 3 << 20, 65536, FUA) == 0
            assert c.read(3 << 20, 65536) in (bytes(65536), a)  # I23: zeros, or nothing was done
            assert c.error(CACHE, 0, 1 << 20) == 0
            assert c.error(ZERO, 0, SIZE) == 0  # longer than any payload
            assert c.read(1 << 20, 65536) == bytes(65536)
            c.write(SIZE - 4096, b)
            assert c.read(SIZE - 4096, 4096) == b
            if structured:
                assert c.read(SIZE - 4096, 4096, DF) == b
                assert c.call(READ, 0, 4096, DF)[1] == DATA  # unfragmented data as asked
                assert c.call(READ, 0, 4096)[1] == HOLE
            c.send(DISC)
            assert c.closed()


def test_errors():
    for s, _ in each():
        for structured in (False, True):
            c = Raw(s.path)
            if structured:
                c.structured_on().meta_on()
            c.go()
            data = os.urandom(8192)
            assert c.error(READ, SIZE, 4096) == EINVAL
            assert c.error(READ, SIZE - 4096, 8192) == EINVAL
            assert c.error(READ, 1 << 63, 4096) == EINVAL
            assert c.error(READ, (1 << 64) - 4096, 8192) == EINVAL
            assert c.error(WRITE, SIZE, 4096, data=data[:4096]) == ENOSPC
            assert c.error(WRITE, SIZE - 4096, 8192, data=data) == ENOSPC
            assert c.error(ZERO, SIZE - 4096, 8192) == ENOSPC
            assert c.error(TRIM, SIZE - 4096, 8192) == EINVAL
            assert c.error(CACHE, SIZE, 4096) == EINVAL
            assert c.error(WRITE, 0, 4096, 0x8000, data[:4096]) == EINVAL
            assert c.error(WRITE, 0, 4096, DF, data[:4096]) == EINVAL
            assert c.error(READ, 0, 4096, NO_HOLE) == EINVAL
            assert c.error(READ, 0, 4096, REQ_ONE) == EINVAL
            assert c.error(FLUSH, 4096, 0) == EINVAL
            assert c.error(FLUSH, 0, 4096) == EINVAL
            assert c.error(8) == EINVAL and c.error(65535) == EINVAL
            assert c.error(READ, 0, (32 << 20) + 4096) == (EOVERFLOW if structured else EINVAL)
            # a payload above the maximum is read and thrown away
            assert c.error(WRITE, 0, (32 << 20) + 4096, data=bytes((32 << 20) + 4096)) == EINVAL
            assert c.error(READ, 1, 1) == EINVAL  # unaligned: the file's minimum is 512
            assert c.error(WRITE, 1, 4096, data=data[:4096]) == EINVAL
            if not structured:
                assert c.error(READ, 0, 4096, DF) == EINVAL
                assert c.error(STATUS, 0, 4096) == EINVAL
            # nothing to do is no error
            for cmd in (READ, WRITE, TRIM, ZERO, CACHE):
                assert c.error(cmd, 0, 0) == 0
                assert c.error(cmd, SIZE, 0) == 0
            assert c.error(STATUS, 0, 0) == EINVAL
            # and the connection still works
            c.write(4096, data)
            assert c.read(4096, 8192) == data
            c.close()


def extents(body):
    context, = struct.unpack(">I", body[:4])
    assert context == 1
    return list(struct.iter_unpack(">II", body[4:]))


def test_block_status():
    for s, _ in each():
        c = Raw(s.path).structured_on().meta_on(b"e").go(b"e")
        c.write(1 << 20, os.urandom(1 << 20))
        assert c.error(FLUSH) == 0
        error, kind, body = c.call(STATUS, 0, 4 << 20)
        assert error == 0 and kind == BLOCK_STATUS
        got = extents(body)
        assert got == [(1 << 20, 3), (1 << 20, 0), (2 << 20, 3)], got
        error, _, body = c.call(STATUS, (1 << 20) + 4096, 4 << 20, REQ_ONE)
        assert error == 0 and extents(body) == [((1 << 20) - 4096, 0)]
        error, _, body = c.call(STATUS, 0, 4096, REQ_ONE)
        assert error == 0 and extents(body) == [(4096, 3)]
        total = sum(n for n, _ in extents(c.call(STATUS, 0, SIZE)[2]))
        assert total == SIZE
        assert c.error(STATUS, SIZE, 4096) == EINVAL
        c.close()


def test_read_only():
    with image() as f, Server("--file", f.name, "--readonly") as s:
        c = Raw(s.path).structured_on().go()
        assert c.flags & 2 and not c.flags & 0x60
        assert c.error(WRITE, 0, 4096, data=bytes(4096)) == EPERM
        assert c.error(TRIM, 0, 4096) == EPERM
        assert c.error(ZERO, 0, 4096) == EPERM
        assert c.error(FLUSH) == 0
        assert c.read(0, 4096) == bytes(4096)
        c.close()


def test_payloads():
    """Every size up to 32 MiB, whole and in pieces, read back; also on a device of 1-byte blocks."""
    rng = random.Random(7)
    for s, _ in each():
        for name in (b"e", b"other"):
            c = Raw(s.path).go(name)
            unit = 1 if name == b"other" else 4096
            for n in (1, 511, 4096, 32 << 10, (32 << 10) + 28, 200000, 256 << 10, (256 << 10) - 28, 1 << 20, 5 << 20,
                      32 << 20):
                n = max(n // unit * unit, unit)
                if n > c.size:
                    continue
                off = rng.randrange(0, (c.size - n) // unit + 1) * unit
                data = os.urandom(n)
                c.write(off, data)
                assert c.read(off, n) == data, n
                # the same in pieces, with a small request right behind it
                data = os.urandom(n)
                cookie = c.send(WRITE, off, n)
                at = 0
                while at < n:
                    k = min(rng.choice((1, 1000, 70000, 1 << 20)), n - at)
                    c.s.sendall(data[at:at + k])
                    at += k
                assert c.answer()[:2] == (cookie, 0)
                first, second = c.send(READ, off, unit), c.send(FLUSH)
                got = {}
                for _ in range(2):
                    (magic, error, cookie) = struct.unpack(">IIQ", c.recv(16))
                    got[cookie] = c.recv(unit) if cookie == first else b""
                    assert error == 0
                assert got == {first: data[:unit], second: b""}
            c.close()


def test_pipeline():
    """Many mixed requests at once, written as one stream; each is answered once."""
    rng = random.Random(3)
    for s, _ in each():
        c = Raw(s.path).structured_on().go()
        for _ in range(5):
            want, stream = {}, b""
            blocks = rng.sample(range(SIZE // 65536), 120)
            for b in blocks:
                data = os.urandom(rng.choice((4096, 8192, 65536)))
                c.cookie += 1
                stream += struct.pack(">IHHQQI", 0x25609513, 0, WRITE, c.cookie, b * 65536, len(data)) + data
                want[b] = data
            c.s.sendall(stream)
            assert sorted(c.answer()[0] for _ in blocks) == list(range(c.cookie - 119, c.cookie + 1))
            stream, cookies = b"", {}
            for b in blocks:
                c.cookie += 1
                cookies[c.cookie] = b
                stream += struct.pack(">IHHQQI", 0x25609513, 0, READ, c.cookie, b * 65536, len(want[b]))
            c.s.sendall(stream)
            for _ in blocks:
                cookie, error, kind, body = c.answer()
                b = cookies.pop(cookie)
                assert error == 0 and kind == DATA and body[8:] == want[b]
        c.close()


def test_out_of_order():
    """A request that the device holds does not hold up the ones behind it; DISC waits for it."""
    for io in IO:
        with Server("--mem", "1MiB", "--io", io, "--hold-reads", "0") as s:
            c = Raw(s.path).go()
            slow = c.send(READ, 0, 4096)
            fast = c.send(READ, 8192, 4096)
            assert c.answer(4096)[0] == fast
            c.send(DISC)
            s.signal(signal.SIGUSR1)
            assert c.answer(4096)[:2] == (slow, 0)
            assert c.closed()


def test_device_errors():
    with Server("--mem", "1MiB", "--fail-writes", "0,28", "--fail-writes", "4096,5") as s:
        for structured in (False, True):
            c = Raw(s.path)
            if structured:
                c.structured_on()
            c.go()
            assert c.error(WRITE, 0, 512, data=bytes(512)) == ENOSPC
            assert c.error(WRITE, 4096, 512, data=bytes(512)) == EIO
            c.write(8192, b"x" * 512)
            c.close()


def test_multi_conn():
    """What one connection wrote and another flushed is there for a third."""
    for s, f in each():
        a, b, c = (Raw(s.path).go() for _ in range(3))
        assert a.flags & 0x100
        data = os.urandom(1 << 20)
        a.write(5 << 20, data)
        assert b.error(FLUSH) == 0
        assert c.read(5 << 20, 1 << 20) == data
        with open(f.name, "rb") as img:
            img.seek(5 << 20)
            assert img.read(1 << 20) == data
        for x in (a, b, c):
            x.close()


def test_export_taken_away():
    """Its connections end, its name is gone, the other export stays; a request in the device is waited for."""
    with Server("--mem", "1MiB", "--extra", "other", "--hold-reads", "0") as s:
        c = Raw(s.path).go(b"e")
        c.send(READ, 0, 4096)
        c.send(READ, 8192, 4096)
        assert c.answer(4096)[0] == 2
        d = Raw(s.path).go(b"other")
        s.signal(signal.SIGUSR2)
        assert c.closed()
        s.signal(signal.SIGUSR1)
        assert s.proc.stdout.readline() == "removed\n"
        d.write(0, b"x" * 512)
        e = Raw(s.path)
        assert e.ask(GO, b"\0\0\0\1e\0\0")[-1][0] == ERR_UNKNOWN
        assert e.ask(GO, b"\0\0\0\0\0\0")[-1][0] == ERR_UNKNOWN  # it was the default one
        d.close()
        e.close()


def test_libnbd():
    try:
        import nbd
    except ImportError:
        print("python3-libnbd is not installed: libnbd's part is left out")
        return
    for s, _ in each():
        h = nbd.NBD()
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        h.connect_uri(s.uri)
        assert h.get_size() == SIZE and h.can_multi_conn() and h.can_df() and h.can_fast_zero() in (True, False)
        assert h.get_structured_replies_negotiated() and h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        data = os.urandom(1 << 20)
        h.pwrite(data, 1 << 20, nbd.CMD_FLAG_FUA)
        assert h.pread(1 << 20, 1 << 20) == data
        chunks = []
        h.pread_structured(1 << 20, 8 << 20, lambda buf, off, status, err: chunks.append((off, status)))
        assert chunks == [(8 << 20, nbd.READ_HOLE)], chunks
        h.zero(65536, 1 << 20, nbd.CMD_FLAG_NO_HOLE)
        assert h.pread(1 << 20, 1 << 20) == bytes(65536) + data[65536:]
        h.trim(65536, 2 << 20)
        h.cache(65536, 0)
        h.flush()
        found = []
        h.block_status(SIZE, 0, lambda name, off, entries, err: found.append((name, sum(entries[::2]))))
        assert found == [(nbd.CONTEXT_BASE_ALLOCATION, SIZE)], found
        h.set_strict_mode(0)
        for off, n in ((SIZE, 512), (1, 4096), (SIZE - 512, 1024)):
            try:
                h.pread(n, off)
            except nbd.Error as e:
                assert e.errnum == EINVAL, e
            else:
                raise AssertionError("an impossible read succeeded")
        h.shutdown()


run_all(globals())
