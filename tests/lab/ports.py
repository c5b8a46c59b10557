#!/usr/bin/python3
"""Free TCP ports of 127.0.0.1 for servers that a test starts: ports.py [N] prints N of them.

A port that bind(0) chose may be taken by anybody's outgoing connection between the moment it was let go and the moment the
server listens on it, and again while the server is restarted.  So they come from outside of the range that the kernel
gives to outgoing connections, and a process that asked for some keeps them from others that ask here until it ends: by a
socket with the port's name in the abstract name space, which no crash leaves behind.
"""

import random
import socket
import sys

LOWEST, HIGHEST = 10240, 65535
_kept = []


def _candidates():
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
            first, last = (int(n) for n in f.read().split())
    except OSError:
        first, last = 32768, 60999
    ports = [p for p in range(LOWEST, HIGHEST) if not first <= p <= last]
    return ports if len(ports) >= 1000 else list(range(LOWEST, HIGHEST))


def _take(port):
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind("\0holdfast-test-port-%d" % port)
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
    except OSError:
        mark.close()
        return False
    _kept.append(mark)
    return True


def free_ports(n):
    """n different ports that nobody has."""
    candidates, found = _candidates(), []
    for port in random.SystemRandom().sample(candidates, len(candidates)):
        if len(found) == n:
            break
        if _take(port):
            found.append(port)
    if len(found) < n:
        raise OSError("no %d free ports on 127.0.0.1" % n)
    return found


def free_port():
    return free_ports(1)[0]


if __name__ == "__main__":
    print(*free_ports(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
