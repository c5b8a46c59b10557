#!/usr/bin/python3
# limit: 150
"""The replicator's control API: who may call it, what it refuses, and that each
refusal says what was wrong and what to do (codes REP-0001 to REP-0020)."""
import http.client
import json
import os
import ssl
import sys
import tempfile
import threading
import time
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import hflab  # noqa: E402

MIB = 1 << 20
seen = set()


class Control:
    """A caller with the certificate of a role of a site."""

    def __init__(self, site, role="manager"):
        folder = os.path.join(site.state, role)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.check_hostname = False  # names are URIs; the root is enough here
        self.tls.load_verify_locations(os.path.join(site.state, "manager", "root.pem"))
        self.tls.load_cert_chain(os.path.join(folder, "chain.pem"), os.path.join(folder, "key.pem"))
        self.port = site.control_port

    def call(self, method, path, body=None):
        conn = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.tls, timeout=30)
        try:
            conn.request(method, "/control/v1/" + path,
                         None if body is None else json.dumps(body),
                         {"Content-Type": "application/json"})
            r = conn.getresponse()
            text = r.read().decode()
            return r.status, json.loads(text) if text else None
        finally:
            conn.close()

    def ok(self, method, path, body=None):
        status, out = self.call(method, path, body)
        if status != 200:
            raise SystemExit("%s %s: %d %s" % (method, path, status, out))
        return out


def refused(code, status, answer, *words):
    got, body = answer
    if got != status or body.get("Code") != code or not body.get("NextStep"):
        raise SystemExit("expected %s with %d, got %d %s" % (code, status, got, body))
    for w in words:
        if w not in body["Message"]:
            raise SystemExit("%s: \"%s\" does not name %s" % (code, body["Message"], w))
    seen.add(code)


def main():
    with tempfile.TemporaryDirectory(prefix="hf-control-") as base:
        lab = hflab.Lab(os.path.join(base, "lab"), volumes=(("one", 4 * MIB), ("two", 4 * MIB)))
        os.makedirs(lab.base)
        try:
            lab.up()
            run(lab)
        except BaseException:
            print(lab.logs())
            raise
        finally:
            lab.down()
    want = {"REP-%04d" % n for n in range(1, 21) if n != 6}
    if want - seen:
        raise SystemExit("never raised: " + ", ".join(sorted(want - seen)))


def source_body(status, lab, paris):
    here = status["Sources"][0]
    vol = status["Vms"][0]["Volumes"]
    peer = status["Peers"][0]
    return {"VpgName": here["VpgName"], "FencingEpoch": here["FencingEpoch"],
            "CheckpointIntervalSeconds": 1, "Compression": "Auto",
            "Volumes": [{"VolumeNumber": 0, "VolumeIdentifier": vol[0]["VolumeIdentifier"]}],
            "Peer": {"AgentIdentifier": peer["AgentIdentifier"],
                     "SiteIdentifier": peer["SiteIdentifier"],
                     "Address": paris["Replicator"]["DataAddress"]}}


def target_body(paris, london, peer_site):
    return {"VpgName": "other", "FencingEpoch": 1, "Generation": str(uuid.uuid4()),
            "StoreIdentifier": paris["Stores"][0]["StoreIdentifier"], "HistorySeconds": 3600,
            "HardLimitInBytes": 0, "WarnInBytes": 0, "ScratchLimitInBytes": 0,
            "Volumes": [{"VolumeNumber": 0, "VolumeIdentifier": str(uuid.uuid4()), "VmName": "vm",
                         "VolumeName": "vm/v", "SizeInBytes": 4 * MIB}],
            "Peer": {"AgentIdentifier": london["Replicator"]["Identifier"],
                     "SiteIdentifier": peer_site, "Address": None}}


def run(lab):
    a, b = Control(lab.london), Control(lab.paris)
    london, paris = a.ok("GET", "status"), b.ok("GET", "status")
    vpg = london["Sources"][0]["VpgIdentifier"]
    london_site = lab.london.api.get("/v1/localsite")["SiteIdentifier"]
    other = str(uuid.uuid4())

    # Who may call: not a replicator, although its certificate is of this site.
    refused("REP-0018", 403, Control(lab.london, "replicator").call("GET", "status"))
    # Another site's manager is not even let in by TLS, or refused.
    foreign = Control(lab.paris)
    foreign.port = lab.london.control_port
    foreign.tls.load_verify_locations(os.path.join(lab.london.state, "manager", "root.pem"))
    refused("REP-0018", 403, foreign.call("GET", "status"))

    refused("REP-0001", 404, a.call("POST", "sources/%s/pause" % other))
    refused("REP-0001", 404, b.call("GET", "targets/%s/checkpoints" % other))
    refused("REP-0016", 404, b.call("GET", "targets/%s/checkpoints/999999" % vpg), "999999", "ledger")

    body = source_body(london, lab, paris)
    refused("REP-0002", 400, a.call("PUT", "sources/" + other, dict(body, Compression="best")), "best")
    refused("REP-0004", 404, a.call("PUT", "sources/" + other, dict(
        body, Volumes=[{"VolumeNumber": 0, "VolumeIdentifier": other}])), other)
    refused("REP-0005", 409, a.call("PUT", "sources/" + other, body), "ledger/one", "ledger")
    refused("REP-0008", 409, a.call("PUT", "sources/" + vpg, body), "ledger")

    target = target_body(paris, london, london_site)
    many = [dict(target["Volumes"][0], VolumeNumber=i) for i in range(81)]
    refused("REP-0003", 400, b.call("PUT", "targets/" + other, dict(target, Volumes=many)), "80")
    refused("REP-0013", 404, b.call("PUT", "targets/" + other, dict(target, StoreIdentifier=other)))
    stranger = dict(target, Peer=dict(target["Peer"], SiteIdentifier=other))
    refused("REP-0009", 503, b.call("PUT", "targets/" + other, stranger))
    mine = paris["Targets"][0]
    sizes = [{"VolumeNumber": i, "VolumeIdentifier": v["VolumeIdentifier"], "VmName": "ledger",
              "VolumeName": v["VolumeName"], "SizeInBytes": 8 * MIB}
             for i, v in enumerate(london["Vms"][0]["Volumes"])]
    refused("REP-0012", 409, b.call("PUT", "targets/" + vpg, dict(
        target, StoreIdentifier=mine["StoreIdentifier"], Volumes=sizes)), "4194304", "8388608")
    refused("REP-0017", 400, b.call("PUT", "revocations", {"RevocationListPem": "no list!"}))
    for name in ("targets", "sources"):
        refused_path(b if name == "targets" else a, lab, name, other, target, body)

    names(lab)
    views_and_pause(lab, a, b, vpg)
    races(a, b, vpg, target)
    starts(lab)


def names(lab):
    """A VPG's name that would drive a terminal is refused where it is given."""
    api = lab.london.api
    for bad in ("a\u001b[31mb", "two\nlines", "left\u202eright"):
        sid = api.post("/v1/vpgSettings", {})
        settings = api.get("/v1/vpgSettings/" + sid)
        settings["Basic"]["Name"] = bad
        api.put("/v1/vpgSettings/" + sid, settings)
        try:
            api.post("/v1/vpgSettings/%s/commit" % sid)
            raise SystemExit("a VPG could be named %r" % bad)
        except hflab.ApiError as e:
            if e.status != 400 or "Basic.Name" not in e.message:
                raise
        api.delete("/v1/vpgSettings/" + sid)


def refused_path(ctl, lab, name, other, target, body):
    """A state directory that cannot be written: said, and nothing half made."""
    site = lab.paris if name == "targets" else lab.london
    folder = os.path.join(site.state, "replicator", name)
    os.rename(folder, folder + ".away")
    try:
        if name == "targets":
            refused("REP-0007", 503, ctl.call("PUT", "targets/" + other, target))
        else:
            vpg = ctl.ok("GET", "status")["Sources"][0]["VpgIdentifier"]
            refused("REP-0007", 503, ctl.call("POST", "sources/%s/pause" % vpg))
    finally:
        os.rename(folder + ".away", folder)
    known = [t["VpgIdentifier"] for t in ctl.ok("GET", "status")["Targets"]]
    if other in known:
        raise SystemExit("a target that was refused is there")


def views_and_pause(lab, a, b, vpg):
    a.ok("POST", "sources/%s/pause" % vpg)
    refused("REP-0011", 409, a.call("POST", "sources/%s/forcesync" % vpg), "ledger")
    refused("REP-0011", 409, a.call("POST", "sources/%s/checkpoints" % vpg, {"Name": "x"}))
    a.ok("POST", "sources/%s/resume" % vpg)
    hflab.wait_until("streaming again", lambda: a.ok("GET", "status")["Sources"][0]["State"] == "Streaming")
    view = str(uuid.uuid4())
    made = b.ok("POST", "targets/%s/views" % vpg, {"ViewIdentifier": view, "Mode": "Mount"})
    again = b.ok("POST", "targets/%s/views" % vpg, {"ViewIdentifier": view, "Mode": "Mount"})
    if made["CheckpointIdentifier"] != again["CheckpointIdentifier"]:
        raise SystemExit("the same call again made another view")
    refused("REP-0015", 409, b.call("DELETE", "targets/" + vpg), "ledger")
    b.ok("DELETE", "targets/%s/views/%s" % (vpg, view))
    b.ok("DELETE", "targets/%s/views/%s" % (vpg, view))
    body = {"ScrubIdentifier": str(uuid.uuid4())}
    result = hflab.wait_until("the scrub", lambda: (r := b.ok("POST", "targets/%s/scrub" % vpg, body))["State"] == "Done" and r)
    if result["Bad"] != 0 or result["Batches"] == 0:
        raise SystemExit("scrub: %s" % result)


def races(a, b, vpg, target):
    """Calls that meet another one, or a journal that is being opened."""
    def burst(calls):
        answers = []
        threads = [threading.Thread(target=lambda c=c: answers.append(c())) for c in calls]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return answers

    end = time.monotonic() + 60
    while not {"REP-0010", "REP-0014"} <= seen and time.monotonic() < end:
        for status, body in burst([lambda: a.call("POST", "sources/%s/pause" % vpg)] * 3 +
                                  [lambda: a.call("POST", "sources/%s/resume" % vpg)] * 3):
            if status != 200:
                refused("REP-0010", 409, (status, body))
        fresh = str(uuid.uuid4())
        for status, body in burst([lambda: b.call("PUT", "targets/" + fresh, target)] + [
                lambda: b.call("GET", "targets/%s/checkpoints" % fresh)] * 6):
            if status == 409:
                refused("REP-0014", 409, (status, body))
        hflab.wait_until("the target to be deleted", lambda: b.call("DELETE", "targets/" + fresh)[0] == 200)
    a.call("POST", "sources/%s/resume" % vpg)


def starts(lab):
    """A replicator that cannot start, and one whose manager does not take it."""
    site = lab.paris
    root = os.path.join(site.state, "replicator", "root.pem")
    os.rename(root, root + ".away")
    site.kill("replicator")
    hflab.wait_until("REP-0019 in the log", lambda: "REP-0019" in site.tail(400))
    os.rename(root + ".away", root)
    hflab.wait_until("the replicator again", lambda: Control(site).call("GET", "status")[0] == 200, 40)
    seen.add("REP-0019")
    site.stop()
    with open(site.config, encoding="utf-8") as f:
        text = f.read()
    wrong = text.replace('manager = "127.0.0.1:%d"' % site.api_port,
                         'manager = "127.0.0.1:%d"' % site.peer_port)
    assert wrong != text
    with open(site.config, "w", encoding="utf-8") as f:
        f.write(wrong)
    site.start()
    hflab.wait_until("REP-0020 in the log", lambda: "REP-0020" in site.tail(400), 40)
    seen.add("REP-0020")


main()
