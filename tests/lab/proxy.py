"""A TCP forwarder between two programs, which a test can cut, stall, or let
through so many bytes and no more."""

import socket
import threading


class Proxy:
    def __init__(self, port, host="127.0.0.1"):
        self.to = (host, port)
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.port = self.listener.getsockname()[1]
        self.passed = 0  # bytes from the side that dials
        self.changed = threading.Condition()
        self.budget = None  # bytes that may still pass from the dialling side; None: all
        self.refusing = False
        self.closed = False
        self.pairs = []
        threading.Thread(target=self._accept, daemon=True).start()

    def allow(self, nbytes):
        """Let so many bytes pass, then stall; None: everything."""
        with self.changed:
            self.budget = nbytes
            self.changed.notify_all()

    def stalled(self):
        with self.changed:
            return self.budget == 0

    def refuse(self, yes):
        """Turn new connections away."""
        self.refusing = yes

    def cut(self):
        with self.changed:
            pairs, self.pairs = self.pairs, []
            self.changed.notify_all()
        for pair in pairs:
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self.closed = True
        self.listener.close()
        self.allow(None)
        self.cut()

    def _accept(self):
        while True:
            try:
                a, _ = self.listener.accept()
            except OSError:
                return
            if self.refusing or self.closed:
                a.close()
                continue
            try:
                b = socket.create_connection(self.to)
            except OSError:
                a.close()
                continue
            pair = (a, b)
            with self.changed:
                self.pairs.append(pair)
            threading.Thread(target=self._pump, args=(a, b, pair, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(b, a, pair, False), daemon=True).start()

    def _take(self, want, pair):
        """How many of the bytes may go on now; 0: the pair was cut."""
        with self.changed:
            while self.budget == 0 and pair in self.pairs:
                self.changed.wait()
            if pair not in self.pairs:
                return 0
            n = want if self.budget is None else min(want, self.budget)
            if self.budget is not None:
                self.budget -= n
            self.passed += n
            return n

    def _pump(self, x, y, pair, counted):
        try:
            while True:
                data = memoryview(x.recv(1 << 16))
                if not data:
                    break
                while data:
                    n = self._take(len(data), pair) if counted else len(data)
                    if n == 0:
                        return
                    y.sendall(data[:n])
                    data = data[n:]
        except OSError:
            pass
        finally:
            with self.changed:
                if pair in self.pairs:
                    self.pairs.remove(pair)
            for s in pair:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            if not counted:
                for s in pair:
                    s.close()
