#!/usr/bin/python3
# limit: 90
"""Volumes over TCP: TLS only, for certificates of this site only."""
import os
import shutil
import socket
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import hflab  # noqa: E402

MIB = 1 << 20


def creds(folder, site, role):
    """GnuTLS's names for a role's identity, with this site's root as trust."""
    os.makedirs(folder)
    state = os.path.join(site.state, role)
    with open(os.path.join(folder, "ca-cert.pem"), "w", encoding="utf-8") as out:
        for name in ("ca.pem", "root.pem"):  # GnuTLS wants the whole chain
            with open(os.path.join(site.state, "manager", name), encoding="utf-8") as f:
                out.write(f.read())
    shutil.copy(os.path.join(state, "chain.pem"), os.path.join(folder, "client-cert.pem"))
    shutil.copy(os.path.join(state, "key.pem"), os.path.join(folder, "client-key.pem"))
    return folder


def qemu_img(port, folder, *words):
    image = ("driver=nbd,host=127.0.0.1,port=%d,export=ledger/one,tls-creds=t,tls-hostname=london-1" % port)
    return subprocess.run(
        ["qemu-img", words[0], "--object", "tls-creds-x509,id=t,endpoint=client,dir=" + folder,
         "--image-opts"] + list(words[1:]) + [image],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)


def main():
    with tempfile.TemporaryDirectory(prefix="hf-nbdtcp-") as base:
        lab = hflab.Lab(os.path.join(base, "lab"), volumes=(("one", 4 * MIB),))
        os.makedirs(lab.base)
        port = hflab.free_ports(1)[0]
        lab.london.extra = '  nbd_tcp = { enabled = true; listen = "127.0.0.1:%d"; };\n' % port
        try:
            lab.up()
            own = creds(os.path.join(base, "own"), lab.london, "replicator")
            out = qemu_img(port, own, "info")
            assert out.returncode == 0 and "4 MiB" in out.stdout, out
            # The other site is paired, its root trusted by the stream; its
            # certificates open no disk here.
            foreign = creds(os.path.join(base, "foreign"), lab.paris, "replicator")
            shutil.copy(os.path.join(own, "ca-cert.pem"), os.path.join(foreign, "ca-cert.pem"))
            out = qemu_img(port, foreign, "info")
            assert out.returncode != 0, "a certificate of the other site opened the disk"
            # Without TLS nothing but STARTTLS is answered.
            plain = subprocess.run(["nbdinfo", "nbd://127.0.0.1:%d/ledger%%2Fone" % port],
                                   stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                   timeout=30, check=False)
            assert plain.returncode != 0 and "without TLS" in plain.stdout, plain
            with socket.create_connection(("127.0.0.1", port), 5) as s:
                assert s.recv(8) == b"NBDMAGIC"
        except BaseException:
            print(lab.logs())
            raise
        finally:
            lab.down()


main()
