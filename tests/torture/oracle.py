"""The oracle of prefix consistency.

Writers put blocks that say which write they are; every issue and every
acknowledgement gets a tick of one logical clock.  A view of any offered point
must then be a prefix of that history:

  whole     each block holds one write, undamaged, of its own volume and place
  closed    if a write is there, so is everything acknowledged before it was
            issued, on every volume (or something later in the same place)
  complete  everything acknowledged before the checkpoint was asked for is there
  no future nothing issued after the checkpoint had been confirmed is there
"""

import random
import struct
import threading
import time
import zlib

import nbd

BLOCK = 4096
RECORD = struct.Struct("<8sIIQQ28x")  # magic, volume, block, write, salt; 60 B
MAGIC = b"HFORACLE"
NEVER = 1 << 62


class Violation(Exception):
    """The product broke its promise."""


class Write:
    __slots__ = ("number", "volume", "first", "count", "issued", "acked", "ended")

    def __init__(self, number, volume, first, count, issued):
        self.number, self.volume, self.first, self.count = number, volume, first, count
        self.issued = issued
        self.acked = NEVER  # tick of the reply
        self.ended = NEVER  # tick after which it can no longer run


class History:
    """All writes, in order of issue; thread-safe."""

    def __init__(self, salt, blocks):
        self.lock = threading.Lock()
        self.tick = 0
        self.salt = salt
        self.blocks = blocks  # of each volume
        self.writes = [None]
        self.by_block = [[[] for _ in range(blocks)] for _ in range(2)]

    def now(self):
        with self.lock:
            self.tick += 1
            return self.tick

    def issue(self, volume, first, count):
        with self.lock:
            self.tick += 1
            w = Write(len(self.writes), volume, first, count, self.tick)
            self.writes.append(w)
            for b in range(first, first + count):
                self.by_block[volume][b].append(w)
            return w

    def ack(self, w):
        with self.lock:
            self.tick += 1
            w.acked = w.ended = self.tick

    def dead(self, writes):
        """The connection broke and a new one stands: none of them runs any more
        in a way that could hide a later write."""
        with self.lock:
            self.tick += 1
            for w in writes:
                if w is not None: # a flush
                    w.ended = self.tick

    def payload(self, w):
        out = bytearray()
        for b in range(w.first, w.first + w.count):
            rec = RECORD.pack(MAGIC, w.volume, b, w.number, self.salt)
            rec += struct.pack("<I", zlib.crc32(rec))
            out += rec * (BLOCK // len(rec))
        return out

    def decode(self, volume, block, data):
        """The write that a block holds; 0: never written."""
        if data.count(0) == BLOCK:
            return 0
        rec = data[:64]
        if bytes(rec) * (BLOCK // 64) != bytes(data):
            raise Violation("volume %d block %d holds a mixture of writes" % (volume, block))
        magic, v, b, number, salt = RECORD.unpack(rec[:60])
        if magic != MAGIC or struct.unpack("<I", rec[60:64])[0] != zlib.crc32(rec[:60]):
            raise Violation("volume %d block %d is damaged" % (volume, block))
        if (v, b, salt) != (volume, block, self.salt):
            raise Violation("volume %d block %d holds block %d of volume %d" % (volume, block, b, v))
        if not 0 < number < len(self.writes):
            raise Violation("volume %d block %d holds a write that never was" % (volume, block))
        w = self.writes[number]
        if w.volume != volume or not w.first <= block < w.first + w.count:
            raise Violation("volume %d block %d holds write %d of another place"
                            % (volume, block, number))
        return number

    def check(self, images, asked=None, confirmed=None, what=""):
        """images: the bytes of both volumes at one point.  asked: tick before
        the checkpoint was asked for; confirmed: tick after it was confirmed."""
        seen = []
        newest = 0
        for volume, image in enumerate(images):
            view = memoryview(image)
            row = []
            for b in range(self.blocks):
                n = self.decode(volume, b, bytes(view[b * BLOCK:(b + 1) * BLOCK]))
                row.append(n)
                if n:
                    newest = max(newest, self.writes[n].issued)
            seen.append(row)
        bound = max(newest, asked or 0)
        for volume, row in enumerate(seen):
            for b, n in enumerate(row):
                ended = self.writes[n].ended if n else 0
                if n and confirmed and self.writes[n].issued > confirmed:
                    raise Violation("%s: volume %d block %d holds write %d of the future"
                                    % (what, volume, b, n))
                for w in reversed(self.by_block[volume][b]):
                    if w.number == n:
                        break
                    if w.acked < bound and w.issued > ended:
                        raise Violation(
                            "%s: volume %d block %d holds write %d, but write %d (acknowledged at "
                            "tick %d, before tick %d) is missing" % (what, volume, b, n, w.number,
                                                                     w.acked, bound))
        return sum(1 for row in seen for n in row if n)


class Writer(threading.Thread):
    """Writes to one volume over NBD until stopped; reconnects when cut off."""

    def __init__(self, history, volume, uri, seed, depth=16, overlap=False, fua=0.02, flush=0.02, burst=0, rate=0):
        super().__init__(daemon=True)
        self.h, self.volume, self.uri = history, volume, uri
        self.rng = random.Random(seed)
        self.depth, self.overlap, self.fua, self.flush = depth, overlap, fua, flush
        self.burst = burst  # writes of the same few blocks, all in flight at once, before the end
        self.rate, self.allowed = rate, 0  # writes a second; 0: as many as go
        self.hang_up = threading.Event()
        self.stop_it = threading.Event()
        self.pause = threading.Event()
        self.idle = threading.Event()
        self.reconnects = 0
        self.errors = []

    def connect(self):
        while True:
            handle = nbd.NBD()
            try:
                handle.connect_uri(self.uri)
                return handle
            except nbd.Error:
                del handle
                if self.stop_it.wait(0.05):
                    return None

    def pick(self, busy):
        for _ in range(64):
            count = self.rng.choice((1, 1, 1, 1, 2, 4, 8))
            # A hot corner, so that blocks are written again and again.
            span = self.h.blocks if self.rng.random() < 0.5 else self.h.blocks // 16
            first = self.rng.randrange(0, span - count)
            if self.overlap or not any(b in busy for b in range(first, first + count)):
                return first, count
        return None

    def run(self):
        flying = {}
        handle = None
        while not self.stop_it.is_set():
            if handle is None:
                handle = self.connect()
                if handle is None:
                    break
                self.h.dead(flying.values())
                flying.clear()
            if self.hang_up.is_set():  # with what is in flight
                self.hang_up.clear()
                handle = None
                self.reconnects += 1
                continue
            try:
                self.step(handle, flying)
            except nbd.Error as e:
                if "command failed" in str(e) and e.errno in ("EIO", "ENOSPC", "EINVAL", "EPERM"):
                    self.errors.append(str(e))
                handle = None
                self.reconnects += 1
        if handle is not None:
            try:
                for n in range(self.burst):
                    self.send(handle, flying, self.rng.randrange(0, 32), self.rng.choice((1, 2, 8)))
                while flying:
                    handle.poll(1000)
                    self.reap(handle, flying)
                handle.shutdown()
            except nbd.Error:
                pass
        self.h.dead(flying.values())

    def reap(self, handle, flying):
        for cookie in list(flying):
            if handle.aio_command_completed(cookie):
                w = flying.pop(cookie)
                if w is not None:
                    self.h.ack(w)

    def step(self, handle, flying):
        if self.pause.is_set():
            while flying:
                handle.poll(1000)
                self.reap(handle, flying)
            self.idle.set()
            self.stop_it.wait(0.02)
            return
        self.idle.clear()
        if self.rate:
            now = time.monotonic()
            if self.allowed > now and self.stop_it.wait(min(self.allowed - now, 0.05)):
                return
            self.allowed = max(self.allowed, now - 0.05)
        busy = {b for w in flying.values() if w for b in range(w.first, w.first + w.count)}
        while len(flying) < self.depth:
            spot = self.pick(busy)
            if spot is None:
                break
            if self.rng.random() < self.flush:
                flying[handle.aio_flush()] = None
            self.send(handle, flying, *spot)
            if self.rate:
                self.allowed += 1 / self.rate
                if self.allowed > now:
                    break
            busy.update(range(spot[0], spot[0] + spot[1]))
        handle.poll(1000 if len(flying) >= self.depth else 0)
        self.reap(handle, flying)

    def send(self, handle, flying, first, count):
        w = self.h.issue(self.volume, first, count)
        buf = nbd.Buffer.from_bytearray(bytearray(self.h.payload(w)))
        flags = nbd.CMD_FLAG_FUA if self.rng.random() < self.fua else 0
        try:
            cookie = handle.aio_pwrite(buf, first * BLOCK, flags=flags)
        except nbd.Error:
            flying[-w.number] = w
            raise
        flying[cookie] = w


def read_image(uri, size):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    try:
        out = bytearray()
        while len(out) < size:
            out += handle.pread(min(1 << 20, size - len(out)), len(out))
        return out
    finally:
        handle.shutdown()
