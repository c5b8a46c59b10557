#!/usr/bin/python3
# limit: 120
"""Either side may dial the data connection; one open port at one site is
enough.  Both ways: protected, written, compared at a recovered point."""
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import hflab  # noqa: E402

MIB = 1 << 20


def established(port):
    """Are there connections to this port on loopback?"""
    want = ":%04X" % port
    with open("/proc/net/tcp", encoding="ascii") as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return sum(1 for r in rows if r[2].endswith(want) and r[3] == "01")


def main():
    for dial, listener, silent in (("Recovery", "london", "paris"), ("Protected", "paris", "london")):
        with tempfile.TemporaryDirectory(prefix="hf-dial-") as base:
            lab = hflab.Lab(os.path.join(base, "lab"), volumes=(("one", 8 * MIB),))
            lab.basic = {"DataDial": dial}
            os.makedirs(lab.base)
            try:
                lab.up()
                ports = {s.name: s.data_port for s in lab.sites}
                assert established(ports[listener]) == 2, "%s: not two connections to %s" % (dial, listener)
                assert established(ports[silent]) == 0, "%s: somebody dialled %s" % (dial, silent)
                uri = lab.nbd_uri("one")
                subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 2M", uri],
                               stdin=subprocess.DEVNULL, check=True, capture_output=True)
                api = lab.paris.api
                lab.london.api.do("POST", "/v1/vpgs/%s/checkpoints" % lab.vpg_id, {"CheckpointName": "x"})
                point = [c for c in api.checkpoints(lab.vpg_id) if c["Tag"] == "x"][0]
                api.do("POST", "/v1/vpgs/%s/views" % lab.vpg_id,
                       {"CheckpointIdentifier": point["CheckpointIdentifier"]})
                view = api.get("/v1/vpgs/%s/views" % lab.vpg_id)[0]["NbdUri"]
                subprocess.run(["qemu-io", "-r", "-f", "raw", "-c", "read -P 0x5a 1M 2M",
                                "-c", "read -P 0 0 1M", view],
                               stdin=subprocess.DEVNULL, check=True, capture_output=True)
                out = subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", uri, view],
                                     stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
                assert out.returncode == 0, out.stdout + out.stderr
            except BaseException:
                print(lab.logs())
                raise
            finally:
                lab.down()


main()
