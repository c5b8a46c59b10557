#!/usr/bin/python3
# limit: 90
"""A deletion that is refused leaves the protection exactly as it was; a test's
view ends with the test only."""
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import hflab  # noqa: E402

MIB = 1 << 20


def refused(what, call, *words):
    try:
        call()
    except (hflab.ApiError, hflab.LabError) as e:
        for w in words:
            assert w in str(e), "%s: \"%s\" does not name %s" % (what, e, w)
        return
    raise SystemExit(what + " was not refused")


def main():
    with tempfile.TemporaryDirectory(prefix="hf-refused-") as base:
        lab = hflab.Lab(os.path.join(base, "lab"), volumes=(("one", 4 * MIB),))
        os.makedirs(lab.base)
        try:
            lab.up()
            path = "/v1/vpgs/" + lab.vpg_id
            paris, london = lab.paris.api, lab.london.api
            paris.do("POST", path + "/views", {})
            before = paris.checkpoints(lab.vpg_id)
            for api in (london, paris):
                refused("deleting with an open view", lambda api=api: api.do("DELETE", path), "REP-0015")
            # Still the same lane: points go on from the same numbers, and no sync.
            more = hflab.wait_until("two more checkpoints", lambda: (
                lambda now: now if len(now) >= len(before) + 2 else None)(paris.checkpoints(lab.vpg_id)), 20)
            numbers = [int(c["CheckpointIdentifier"]) for c in more]
            assert numbers == sorted(set(numbers)) and numbers[:len(before)] == [
                int(c["CheckpointIdentifier"]) for c in before], numbers
            with open(lab.london.log, encoding="utf-8") as f:
                log = f.read()
            assert log.count("is protected") == 1, "the source was torn down and set up again"
            for view in paris.get(path + "/views"):
                paris.do("DELETE", "%s/views/%s" % (path, view["ViewIdentifier"]))
            paris.do("POST", path + "/FailoverTest")
            test = paris.get(path + "/views")[0]["ViewIdentifier"]
            refused("closing the test's view", lambda: paris.delete("%s/views/%s" % (path, test)), "test")
            paris.do("POST", path + "/FailoverTestStop")
            london.do("DELETE", path)
            assert not london.get("/v1/vpgs") and not paris.get("/v1/vpgs")
        except BaseException:
            print(lab.logs())
            raise
        finally:
            lab.down()


main()
