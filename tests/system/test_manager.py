#!/usr/bin/python3
# limit: 240
"""The manager's API against real managers: two sites on loopback, paired, and a replicator that only pretends.

Covers: the 401 challenge, wrong passwords and throttling, sessions and their headers, bad input of all kinds (only 4xx),
pairing with wrong, reused and expired tokens, joining with a token once, settings up to a commit, VPG creation at both
sites, tags, tests, views, forwarding, deletion, restart.
"""

import base64
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import requests

requests.packages.urllib3.disable_warnings()
TOP = os.environ.get("TOP") or os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("BUILD") or os.path.join(TOP, "build")
HOLDFASTD = os.path.join(BUILD, "holdfastd")
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
from ports import free_port  # noqa: E402

NIL = "00000000-0000-0000-0000-000000000000"

if not os.path.exists(HOLDFASTD):
    print("build/holdfastd is not built")
    sys.exit(77)


def wait_until(what, fn, seconds=30):
    end = time.monotonic() + seconds
    while True:
        value = fn()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.1)


def same(got, want, what=""):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


def refused(answer, status, code):
    same(answer.status_code, status, f"{answer.request.method} {answer.request.url}: {answer.text}")
    body = answer.json()
    same(body["Code"], code, answer.text)
    assert body["Message"] and body["NextStep"], answer.text
    assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-holdfast-request"])


class Site:
    def __init__(self, work, name):
        self.name = name
        self.dir = os.path.join(work, name)
        self.api_port, self.peer_port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{self.api_port}/v1"
        out = subprocess.run(
            [HOLDFASTD, "init", "--state", self.dir, "--site", name, "--api", f"127.0.0.1:{self.api_port}"],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ).stdout
        said = dict(line.split(": ", 1) for line in out.splitlines())
        self.id, self.user, self.password = said["site identifier"], said["user"], said["password"]
        self.ca = os.path.join(self.dir, "manager", "root.pem")
        self.config = os.path.join(work, name + ".conf")
        with open(self.config, "w") as f:
            f.write(f"""state_dir = "{self.dir}";
roles = [ "manager" ];
log = {{ file = "{work}/{name}.log"; level = "debug"; }};
manager = {{ api_listen = "127.0.0.1:{self.api_port}"; peer_listen = "127.0.0.1:{self.peer_port}"; }};
""")
        self.process = None
        self.http = requests.Session()
        self.http.verify = self.ca
        self.http.trust_env = False

    def start(self):
        self.process = subprocess.Popen([HOLDFASTD, "run", "--config", self.config], stdin=subprocess.DEVNULL)
        wait_until(f"{self.name} to serve", self.alive)

    def alive(self):
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}")
        try:
            return requests.get(self.url + "/health", verify=self.ca, timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            same(self.process.wait(30), 0, f"{self.name}: exit status")
        self.process = None

    def login(self):
        r = requests.post(self.url + "/session/add", auth=(self.user, self.password), verify=self.ca)
        same(r.status_code, 200, r.text)
        self.http.headers["x-zerto-session"] = r.headers["x-zerto-session"]
        return r

    def call(self, method, path, body=None, status=200, **kw):
        r = self.http.request(method, self.url + path, json=body, timeout=60, **kw)
        same(r.status_code, status, f"{self.name}: {method} {path}: {r.text}")
        return r.json() if r.text else None

    def raw(self, method, path, body=None, **kw):
        return self.http.request(method, self.url + path, json=body, timeout=60, **kw)

    def finish(self, task, ok=True):
        def ended():
            t = self.call("GET", f"/tasks/{task}")
            return t if t["Status"]["State"] in (4, 6) else None

        t = wait_until(f"task {task}", ended, 60)
        same((t["Status"]["State"], t["Status"]["Progress"] == 100), (6, True) if ok else (4, False), json.dumps(t))
        return t


class FakeReplicator:
    """Says what the control API's document says, and keeps what it was told."""

    def __init__(self, site, name, work):
        self.site, self.name = site, name
        self.state = os.path.join(work, site.name + "-" + name)
        self.vm, self.store = str(uuid.uuid4()), str(uuid.uuid4())
        self.volumes = [str(uuid.uuid4()), str(uuid.uuid4())]
        self.peers, self.sources, self.targets, self.crls, self.calls = {}, {}, {}, [], []
        self.refuse_target = None
        self.away = False
        self.history, self.alerts = None, []  # seconds back to the oldest point; None: as the points say
        self.next_cut = 100
        self.lose, self.allocated, self.free = False, 0, 1 << 39
        self.lock = threading.Lock()

    def join(self, token):
        return subprocess.run(
            [HOLDFASTD, "join", "--state", self.state, "--token", "-", "--manager", f"127.0.0.1:{self.site.api_port}"],
            input=token + "\n", text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    def identifier(self):
        with open(self.state + "/replicator/joined.json") as f:
            return json.load(f)["Identifier"]

    def seen(self, figure):
        """Has the manager asked since the figure was set?"""
        n = self.calls.count(("GET", "/control/v1/status"))
        wait_until(f"{self.name} to be asked for {figure}",
                   lambda: self.calls.count(("GET", "/control/v1/status")) > n + 1)
        return True

    def serve(self):
        d = os.path.join(self.state, "replicator")
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ctx.load_cert_chain(d + "/chain.pem", d + "/key.pem")
        ctx.load_verify_locations(d + "/root.pem")
        ctx.verify_mode = ssl.CERT_REQUIRED
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                if fake.away:
                    self.close_connection = True
                    return
                n = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(n)) if n else None
                with fake.lock:
                    status, out = fake.handle(self.command, self.path, body)
                data = json.dumps(out).encode() if out is not None else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = answer

            def log_message(self, *args):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request, client_address):
                try:
                    request.do_handshake()
                    super().finish_request(request, client_address)
                except (ssl.SSLError, OSError):
                    pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.socket = ctx.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        r = requests.post(f"https://127.0.0.1:{self.site.api_port}/v1/announce",
                          json={"ControlAddress": f":{self.port}"}, verify=self.site.ca,
                          cert=(d + "/chain.pem", d + "/key.pem"))
        same(r.status_code, 200, r.text)

    @staticmethod
    def point(n, tag=None):
        return {"CheckpointIdentifier": str(n), "TimeStamp": f"2026-11-22T03:32:{n % 60:02d}.000Z", "Tag": tag,
                "Kind": "User" if tag else "Auto", "Consistency": "Crash"}

    def oldest(self, t):
        if self.history is None:
            return t["points"][0]
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - self.history))
        return dict(t["points"][0], TimeStamp=stamp)

    def status(self):
        vols = [{"VolumeIdentifier": v, "VolumeName": f"{self.name}/v{i}", "Path": "/dev/null", "SizeInBytes": 1 << 30,
                 "AllocatedInBytes": self.allocated, "NbdUri": "nbd+unix:///x", "Connections": 0, "Error": None, "ReadsTotal": 0,
                 "WritesTotal": 0, "ReadBytesTotal": 0, "WriteBytesTotal": 0} for i, v in enumerate(self.volumes)]
        return {
            "Replicator": {"Identifier": str(uuid.uuid4()), "Name": self.name, "Version": "0.1.0",
                           "StartedAt": "2026-11-22T03:00:00.000Z", "ControlAddress": f"127.0.0.1:{self.port}",
                           "DataAddress": "127.0.0.1:4008", "RingUsedInBytes": 0, "RingSizeInBytes": 1, "Backend": "epoll"},
            "Vms": [{"VmIdentifier": self.vm, "VmName": self.name, "Volumes": vols}],
            "Stores": [{"StoreIdentifier": self.store, "StoreName": "s", "Path": "/", "CapacityInBytes": 1 << 40,
                        "FreeInBytes": self.free, "Error": None}],
            "Peers": [],
            "Sources": [{"VpgIdentifier": i, "VpgName": s["VpgName"], "FencingEpoch": 1, "State": s.get("State", "Streaming"),
                         "Error": None, "ProgressPercent": None, "LinkUp": True, "LagBytes": 0} for i, s in self.sources.items()],
            "Targets": [{"VpgIdentifier": i, "VpgName": t["VpgName"], "FencingEpoch": 1, "StoreIdentifier": self.store,
                         "State": "Receiving", "Error": None, "LinkUp": True, "ProgressPercent": None,
                         "RpoMilliseconds": 1200, "Oldest": self.oldest(t), "Newest": t["points"][-1],
                         "CheckpointCount": len(t["points"]), "JournalUsedInBytes": 5, "ReplicaBytes": 6,
                         "ScratchUsedInBytes": 0, "ActualHistorySeconds": 0, "Alerts": self.alerts,
                         "Views": list(t["views"].values())} for i, t in self.targets.items()],
        }

    def handle(self, method, target, body):
        self.calls.append((method, target))
        path, _, query = target.partition("?")
        parts = path.strip("/").split("/")[2:]
        no = (404, {"Message": "no such object", "Code": "REP-9999", "NextStep": "none"})
        if parts == ["status"]:
            return 200, self.status()
        if parts == ["revocations"]:
            self.crls.append(body["RevocationListPem"])
            return 200, None
        if parts[0] == "peers":
            if method == "PUT":
                self.peers[parts[1]] = body
            else:
                self.peers.pop(parts[1], None)
            return 200, None
        lanes = self.sources if parts[0] == "sources" else self.targets
        if len(parts) == 2 and method == "PUT":
            if parts[0] == "targets" and self.refuse_target:
                return 409, {"Message": self.refuse_target, "Code": "GEN-0001", "NextStep": "x"}
            old = lanes.get(parts[1], {})
            lanes[parts[1]] = {"points": [self.point(n) for n in range(1, 6)], "views": {}, **old, **body}
            return 200, None
        if parts[1] not in lanes:
            return no
        lane = lanes[parts[1]]
        if len(parts) == 2:
            del lanes[parts[1]]
            return 200, None
        if parts[0] == "sources" and parts[2] == "checkpoints":
            self.next_cut += 1
            p = self.point(self.next_cut, body["Name"])
            if self.lose:  # a later one arrives instead
                self.next_cut += 1
            kept = self.point(self.next_cut) if self.lose else p
            other = [t for f in FAKES for i, t in f.targets.items() if i == parts[1]]
            threading.Timer(0.8, lambda: other[0]["points"].append(kept)).start()
            return 200, {"CheckpointIdentifier": p["CheckpointIdentifier"], "TimeStamp": p["TimeStamp"],
                         "Incarnation": NIL}
        if parts[0] == "sources":
            lane["State"] = {"pause": "Paused", "resume": "Streaming", "forcesync": "Resync"}[parts[2]]
            return 200, None
        if parts[2] == "checkpoints" and len(parts) == 4:
            n = int(parts[3])
            for p in lane["points"]:
                if int(p["CheckpointIdentifier"]) == n:
                    return 200, p
            if int(lane["points"][-1]["CheckpointIdentifier"]) > n:
                return 409, {"Message": f"checkpoint {n} is lost", "Code": "REP-0022", "NextStep": "x"}
            return 404, {"Message": f"checkpoint {n} is not offered", "Code": "REP-0016", "NextStep": "x"}
        if parts[2] == "checkpoints":
            return 200, {"Checkpoints": lane["points"], "Count": len(lane["points"])}
        if len(parts) == 3:
            v = body["ViewIdentifier"]
            n = body["VolumeNumbers"] or [x["VolumeNumber"] for x in lane["Volumes"]]
            lane["views"][v] = {
                "ViewIdentifier": v, "Mode": body["Mode"], "TimeStamp": "2026-11-22T03:32:01.000Z", "Broken": None,
                "CheckpointIdentifier": body["CheckpointIdentifier"] or lane["points"][-1]["CheckpointIdentifier"],
                "Volumes": [dict(x, NbdUri=f"nbd+unix:///{v}", Connections=0) for x in lane["Volumes"] if x["VolumeNumber"] in n]}
            return 200, lane["views"][v]
        if parts[3] not in lane["views"]:
            return no
        del lane["views"][parts[3]]
        return 200, None


FAKES = []


def test_login(site):
    url = site.url + "/session/add"
    r = requests.post(url, verify=site.ca)
    refused(r, 401, "API-0007")
    assert r.headers["WWW-Authenticate"].startswith("Basic ")
    refused(requests.get(site.url + "/vpgs", verify=site.ca), 401, "API-0006")
    refused(requests.get(site.url + "/vpgs", verify=site.ca, auth=(site.user, site.password)), 401, "API-0006")
    for header in ("Basic", "Basic !!!", "Basic " + base64.b64encode(b"nocolon").decode(), "Bearer x",
                   "Basic " + base64.b64encode(b"a\0b:c").decode(), "Basic " + base64.b64encode(b":").decode()):
        refused(requests.post(url, headers={"Authorization": header}, verify=site.ca), 401, "API-0007")
    wrong = requests.post(url, auth=(site.user, "wrong"), verify=site.ca)
    nobody = requests.post(url, auth=("nobody", "wrong"), verify=site.ca)
    refused(wrong, 401, "API-0007")
    same(wrong.json(), nobody.json(), "the text for wrong password and unknown user")
    r = site.login()
    same(r.text, "", "body of session/add")
    same(r.headers["x-zerto-session"], r.headers["x-holdfast-session"])
    same(len(r.headers["x-zerto-session"]), 64)
    # leading backslash, body as one client sends it, any case of the header
    r = requests.post(url, auth=("\\" + site.user, site.password), data='{\r\n\t"AuthenticationMethod": "1"\r\n}', verify=site.ca)
    same(r.status_code, 200, r.text)
    other = {"X-Holdfast-Session": r.headers["x-zerto-session"]}
    same(requests.get(site.url + "//localsite", headers=other, verify=site.ca).json()["SiteName"], site.name)
    same(requests.delete(site.url + "/session", headers=other, verify=site.ca).status_code, 200)
    refused(requests.get(site.url + "/localsite", headers=other, verify=site.ca), 401, "API-0006")
    refused(requests.get(site.url + "/localsite", headers={"x-zerto-session": "0" * 64}, verify=site.ca), 401, "API-0006")
    # guessing is slowed down, for that name only
    codes = [requests.post(url, auth=("guess", str(i)), verify=site.ca).status_code for i in range(5)]
    assert codes[:3] == [401] * 3 and 429 in codes, codes
    r = requests.post(url, auth=("guess", "x"), verify=site.ca)
    if r.status_code == 429:
        refused(r, 429, "API-0008")
        assert int(r.headers["Retry-After"]) >= 1
    site.login()
    # the bootstrap file is gone, and no TLS below 1.3 is spoken
    assert not os.path.exists(os.path.join(site.dir, "manager", "bootstrap.json"))
    ctx = ssl.create_default_context(cafile=site.ca)
    ctx.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        ctx.wrap_socket(socket.create_connection(("127.0.0.1", site.api_port)), server_hostname="127.0.0.1")
        raise AssertionError("TLS 1.2 was spoken")
    except ssl.SSLError:
        pass


def test_bad_input(site):
    """Nothing that a client sends makes a 5xx."""
    bodies = [b"{", b"[]", b"1", b'"x"', b"\xff", b'{"a":1,"A":2}', b"{}" * 2, b'{"Name":{}}', b"\0", b"[" * 1000,
              b'{"HostName":5,"Port":"x","Token":[]}', b'{"VmIdentifier":7}', b"{'a':1}"]
    paths = [("POST", "/peersites"), ("POST", "/vpgSettings"), ("POST", "/jointokens"), ("POST", "/join"),
             ("POST", f"/vpgs/{NIL}/checkpoints"), ("POST", f"/vpgs/{NIL}/FailoverTest"), ("DELETE", f"/vpgs/{NIL}"),
             ("PUT", f"/vpgSettings/{NIL}"), ("POST", f"/vpgSettings/{NIL}/commit"), ("PUT", f"/vras/{NIL}"),
             ("POST", "/announce"), ("POST", "/vpgs/x/pause"), ("GET", "/tasks/x.y")]
    for method, path in paths:
        for body in bodies:
            r = site.http.request(method, site.url + path, data=body)
            # unknown members are ignored, so new settings may come of it
            assert r.status_code == 200 or 400 <= r.status_code < 500, (method, path, body, r.status_code, r.text)
            assert path == "/vpgSettings" or "Code" in r.json(), r.text
    for path in ("/vpgs/" + "a" * 3000, "/vpgs/%00", "/vpgs/%zz", "/vpgs/..%2f", "/vpgs?status=%ff", "/events?startDate=x",
                 f"/vpgs/{NIL}", "/vras/99", "/vras/x", "/peersites/x", f"/peersites/{NIL}", "/tasks/x", "/nothing",
                 f"/virtualizationsites/{NIL}/vms", f"/datastores/{NIL}", f"/vms/{NIL}", f"/events/{NIL}",
                 "/serverDateTime/dateTimeArgument?dateTime=x"):
        r = site.http.get(site.url + path)
        assert 400 <= r.status_code < 500, (path, r.status_code)
    refused(site.raw("GET", "/vpgs/x"), 400, "API-0014")
    refused(site.raw("GET", f"/vpgs/{NIL}"), 404, "API-0013")
    refused(site.raw("PUT", "/localsite"), 405, "API-0005")
    for name in ("/localsite", "/localsite/pairingstatuses", "/peersites", "/virtualizationsites", "/vras", "/vras/statuses",
                 "/vpgs", "/vpgs/statuses", "/vpgs/substatuses", "/vpgs/priorities", "/vpgs/entitytypes",
                 "/vpgs/failovercommitpolicies", "/vpgs/failovershutdownpolicies", "/vpgs/retentionpolicies", "/vms", "/tasks",
                 "/tasks/types", "/events", "/events/types", "/events/entities", "/events/categories", "/alerts",
                 "/alerts/levels", "/alerts/entities", "/alerts/helpidentifiers", "/datastores", "/license",
                 "/serverDateTime/serverDateTimeUtc", "/serverDateTime/serverDateTimeLocal", "/vpgSettings", "/VPGS/", "//vras",
                 "/serverDateTime/dateTimeArgument?dateTime=1520423877045"):
        site.call("GET", name)
    same(site.call("GET", "/vpgs/statuses")[3], "HistoryNotMeetingSLA")
    same(len(site.call("GET", "/vpgs/substatuses")), 42)
    same(len(site.call("GET", "/localsite")["Version"].split(".")), 3)


def test_pairing(a, b):
    token = b.call("POST", "/peersites/generatetoken", {})
    assert re.fullmatch(r"\d\d/\d\d/\d{4} \d\d:\d\d [AP]M", token["UtcExpirationDate"]), token
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z", token["ValidUntil"]), token
    where = {"HostName": "127.0.0.1", "Port": str(b.peer_port)}
    refused(a.raw("POST", "/peersites", {**where, "Token": "x" * 50}), 400, "MGR-0005")
    refused(a.raw("POST", "/peersites", {**where, "Token": token["Token"][:-3] + "AAA"}), 400, "MGR-0005")
    refused(b.raw("POST", "/peersites", {**where, "Token": token["Token"]}), 400, "MGR-0005")
    refused(a.raw("POST", "/peersites", {"HostName": "a b", "Token": token["Token"]}), 400, "API-0014")
    # another machine on the way: its root is not the token's
    mine = a.call("POST", "/peersites/generatetoken")
    t = a.finish(a.call("POST", "/peersites", {"HostName": "127.0.0.1", "Port": a.peer_port, "Token": token["Token"]}), ok=False)
    assert "TLS-" in t["CompleteReason"] or "MGR-0006" in t["CompleteReason"], t["CompleteReason"]
    # a token whose secret is not the one kept: the proof fails, at the other side
    raw = bytearray(base64.urlsafe_b64decode(token["Token"] + "=" * (-len(token["Token"]) % 4)))
    raw[80] ^= 1
    import hashlib
    raw[-4:] = hashlib.sha256(bytes(raw[:-4])).digest()[:4]
    forged = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    t = a.finish(a.call("POST", "/peersites", {**where, "Token": forged}), ok=False)
    assert "MGR-0006" in t["CompleteReason"], t["CompleteReason"]
    t = a.finish(a.call("POST", "/peersites", {**where, "Token": token["Token"]}))
    same(t["Type"], "Pair")
    # expired: told here, and, with another end written into it, by the site that keeps the true one
    short = b.call("POST", "/peersites/generatetoken", {"ValidSeconds": 1})["Token"]
    refused(b.raw("POST", "/peersites/generatetoken", {"ValidSeconds": 0}), 400, "JSN-0004")
    time.sleep(2.1)
    refused(a.raw("POST", "/peersites", {**where, "Token": short}), 400, "MGR-0005")
    raw = bytearray(base64.urlsafe_b64decode(short + "=" * (-len(short) % 4)))
    raw[33:41] = int(time.time() + 600).to_bytes(8, "little")
    raw[-4:] = hashlib.sha256(bytes(raw[:-4])).digest()[:4]
    longer = base64.urlsafe_b64encode(bytes(raw)).rstrip(b"=").decode()
    t = a.finish(a.call("POST", "/peersites", {**where, "Token": longer}), ok=False)
    assert "MGR-0005" in t["CompleteReason"] and "expired" in t["CompleteReason"], t["CompleteReason"]
    # used once
    t = a.finish(a.call("POST", "/peersites", {**where, "Token": token["Token"]}), ok=False)
    assert "MGR-0005" in t["CompleteReason"], t["CompleteReason"]
    for one, other in ((a, b), (b, a)):
        wait_until("the link", lambda: one.call("GET", "/peersites")[0]["LinkState"] == "Connected")
        p = one.call("GET", f"/peersites/{other.id}")
        same((p["PeerSiteName"], p["PairingStatus"], p["Link"]["type"]), (other.name, 0, "PeerSiteApi"))
        same(len(one.call("GET", "/virtualizationsites")), 2)
    same(a.call("GET", f"/peersites?peerName={b.name}&paringStatus=0")[0]["SiteIdentifier"], b.id)
    same(a.call("GET", "/peersites?peerName=other"), [])
    # nobody without a certificate gets past the peer port's gate
    for method, path in (("POST", "/peer/v1/heartbeat"), ("PUT", f"/peer/v1/vpgs/{NIL}"), ("POST", "/peer/v1/forward")):
        r = requests.request(method, f"https://127.0.0.1:{b.peer_port}{path}", json={}, verify=b.ca)
        refused(r, 403, "API-0009")
    r = requests.post(f"https://127.0.0.1:{b.peer_port}/peer/v1/pair", json={"TokenIdentifier": "x"}, verify=b.ca)
    assert r.status_code == 400, r.text
    del mine


def test_join(site, fake, work):
    out = subprocess.run([HOLDFASTD, "token", "--state", site.dir, "--name", fake.name], check=True,
                         stdout=subprocess.PIPE, text=True).stdout.strip()
    refused(site.raw("POST", "/jointokens", {"Name": "bad name"}), 400, "API-0014")
    refused(site.raw("POST", "/jointokens", {"Name": "x", "Role": "manager"}), 400, "API-0014")
    done = fake.join(out)
    same(done.returncode, 0, done.stdout)
    # the same token again, a second host with a token for the same name, a token that has expired
    twin = FakeReplicator(site, fake.name + "2", work)
    done = twin.join(out)
    assert done.returncode != 0 and "used or expired" in done.stdout, done.stdout  # MGR-0007
    again = site.call("POST", "/jointokens", {"Name": fake.name})["Token"]
    done = twin.join(again)
    assert done.returncode != 0 and "already" in done.stdout, done.stdout  # MGR-0008
    # the host itself, with its key: it is who it was; with another key it is not
    chain = open(fake.state + "/replicator/chain.pem").read()
    mine = fake.identifier()
    done = fake.join(site.call("POST", "/jointokens", {"Name": fake.name})["Token"])
    assert done.returncode == 0 and mine in done.stdout and "again" in done.stdout, done.stdout
    assert chain != open(fake.state + "/replicator/chain.pem").read()
    same(len(site.call("GET", "/vras")), 1)
    shutil.copytree(fake.state, twin.state)
    key = twin.state + "/replicator/key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key],
                   check=True, stderr=subprocess.DEVNULL)
    os.chmod(key, 0o600)
    done = twin.join(site.call("POST", "/jointokens", {"Name": fake.name})["Token"])
    assert done.returncode == 1 and "never had" in done.stdout, done.stdout  # MGR-0018
    same(fake.identifier(), mine)
    short = site.call("POST", "/jointokens", {"Name": "short", "ValidSeconds": 1})
    time.sleep(2.1)
    done = twin.join(short["Token"])
    assert done.returncode == 1 and "AGT-0006" in done.stdout, done.stdout
    # and the manager does not take the word of a host whose clock is wrong
    r = requests.post(site.url + "/join", json={"TokenIdentifier": short["TokenIdentifier"], "Csr": "AAAA",
                                                "Proof": base64.b64encode(b"x" * 32).decode()}, verify=site.ca)
    refused(r, 403, "MGR-0007")
    assert "expired" in r.json()["Message"], r.text
    r = requests.post(site.url + "/join", json={"TokenIdentifier": NIL, "Csr": "AAAA", "Proof": "AAAA"}, verify=site.ca)
    refused(r, 400, "MGR-0008")
    r = requests.post(site.url + "/join", json={"TokenIdentifier": NIL, "Csr": "AAAA",
                                                "Proof": base64.b64encode(b"x" * 32).decode()}, verify=site.ca)
    refused(r, 403, "MGR-0007")
    refused(requests.post(site.url + "/announce", json={"ControlAddress": "x:1"}, verify=site.ca), 403, "API-0009")
    fake.serve()
    vra = wait_until("the replicator", lambda: [v for v in site.call("GET", "/vras") if v["LinkState"] == "Connected"])[0]
    same((vra["VraName"], vra["Status"]), (fake.name, 0))
    same(site.call("GET", f"/vras/{vra['VraIdentifierStr']}")["VraName"], fake.name)
    same(site.call("GET", f"/vras/{vra['HostIdentifier']}")["VraName"], fake.name)
    assert vra["VraIdentifier"] < 2**53
    wait_until("the revocation list to be pushed", lambda: fake.crls)


def settings(a, b, fa, fb, name="ledger"):
    sid = a.call("POST", "/vpgSettings", {})
    s = a.call("GET", f"/vpgSettings/{sid}")
    same((s["Basic"]["RpoInSeconds"], s["Basic"]["Priority"], s["Vms"], s["LongTermRetention"]), (300, "Medium", [], None))
    same(s["Journal"]["Limitation"]["HardLimitInMB"], 153600)
    same(s["Networks"]["FailoverTest"]["Hypervisor"], {"DefaultNetworkIdentifier": None})
    a.call("PUT", f"/vpgSettings/{sid}/basic",
           {"name": name, "RPOinSeconds": "60", "priority": 2, "JournalHistoryInHours": 1, "RecoverySiteIdentifier": b.id,
            "CheckpointIntervalInSeconds": 1, "Unknown": 5})
    a.call("POST", f"/vpgSettings/{sid}/vms", {"vmIdentifier": fa.vm})
    s = a.call("GET", f"/vpgSettings/{sid}/basic")
    same((s["Name"], s["RpoInSeconds"], s["Priority"], s["ProtectedSiteIdentifier"]), (name, 60, "2", a.id))
    return sid


def test_settings(a, b, fa, fb):
    """Everything that can be wrong is said at commit, in words."""
    sid = settings(a, b, fa, fb)
    path = f"/vpgSettings/{sid}"
    for part, wrong, back, say in (
        ("basic", {"Name": ""}, {"Name": "ledger"}, "name"),
        ("basic", {"Priority": "Urgent"}, {"Priority": "High"}, "Urgent"),
        ("basic", {"RecoverySiteIdentifier": NIL}, {"RecoverySiteIdentifier": b.id}, "not paired"),
        ("basic", {"RecoverySiteIdentifier": a.id}, {"RecoverySiteIdentifier": b.id}, "same"),
        ("basic", {"CheckpointIntervalInSeconds": 0}, {"CheckpointIntervalInSeconds": 1}, "CheckpointInterval"),
        ("basic", {"JournalHistoryInHours": 721}, {"JournalHistoryInHours": 1}, "JournalHistory"),
        ("basic", {"DataDial": "Both"}, {"DataDial": "Protected"}, "DataDial"),
        ("journal", {"DatastoreIdentifier": NIL}, {"DatastoreIdentifier": fb.store}, "store"),
        ("journal", {"Limitation": {"WarningThresholdInMB": 999999}}, {"Limitation": {"WarningThresholdInMB": 100}}, "Warning"),
    ):
        a.call("PUT", f"{path}/{part}", wrong)
        r = a.raw("POST", f"{path}/commit")
        assert r.status_code == 400 and say in r.json()["Message"], (wrong, r.text)
        assert r.json()["Code"] in ("MGR-0009", "JSN-0004"), r.text
        a.call("PUT", f"{path}/{part}", back)
    refused(a.raw("PUT", f"{path}/basic", {"RpoInSeconds": "soon"}), 400, "API-0014")
    refused(a.raw("PUT", f"{path}/nopart", {}), 404, "API-0004")
    refused(a.raw("POST", f"{path}/vms", {"VmIdentifier": fa.vm}), 400, "MGR-0009")
    same(len(a.call("GET", f"{path}/vms")), 1)
    same(a.call("GET", f"{path}/vms/{fa.vm}/volumes"), [])
    a.call("DELETE", f"{path}/vms/{fa.vm}")
    r = a.raw("POST", f"{path}/commit")
    refused(r, 400, "MGR-0009")
    a.call("POST", f"{path}/vms", {"VmIdentifier": str(uuid.uuid4())})
    refused(a.raw("POST", f"{path}/commit"), 400, "MGR-0009")
    a.call("DELETE", path)
    refused(a.raw("GET", path), 404, "API-0013")
    same(a.call("GET", "/vpgs"), [])


def test_size_mismatch(a, b, fa, fb):
    fb.refuse_target = "volume x has 1 bytes here and 2 bytes there"
    t = a.finish(a.call("POST", f"/vpgSettings/{settings(a, b, fa, fb)}/commit"), ok=False)
    assert "has 1 bytes here" in t["CompleteReason"], t
    fb.refuse_target = None
    wait_until("nothing half made", lambda: not a.call("GET", "/vpgs") and not b.call("GET", "/vpgs"))


def test_space(a, b, fa, fb):
    """A store without room for what is used is refused, one that may become too small is said."""
    def has(free, allocated):
        fb.free, fa.allocated = free, allocated
        fa.seen(allocated)
        fb.seen(free)
        for _ in range(2):  # from the recovery site's manager to ours
            heard = a.call("GET", "/peersites")[0]["LastContact"]
            wait_until("a heartbeat", lambda: a.call("GET", "/peersites")[0]["LastContact"] != heard)

    def commit(sid, warned):
        t = a.finish(a.call("POST", f"/vpgSettings/{sid}/commit"))
        assert ("MiB" in (t["CompleteReason"] or "")) == warned, t
        v = a.call("GET", "/vpgs?name=ledger")[0]["VpgIdentifier"]
        a.finish(a.call("DELETE", f"/vpgs/{v}", {"KeepRecoveryVolumes": False}))
        wait_until("both to forget", lambda: not a.call("GET", "/vpgs") and not b.call("GET", "/vpgs"))

    has((2 << 30) + (64 << 20), 1 << 30)
    sid = settings(a, b, fa, fb)
    r = a.raw("POST", f"/vpgSettings/{sid}/commit")
    refused(r, 507, "MGR-0017")
    assert "2112 MiB free" in r.json()["Message"] and "2048 MiB" in r.json()["Message"], r.text
    a.call("PUT", f"/vpgSettings/{sid}/journal", {"IgnoreFreeSpace": True})
    commit(sid, True)
    has(1 << 30, 0)
    commit(settings(a, b, fa, fb), True)
    has(1 << 39, 1 << 20)
    commit(settings(a, b, fa, fb), False)
    fa.allocated = 0


def test_vpg(a, b, fa, fb):
    sid = settings(a, b, fa, fb)
    t = a.finish(a.call("POST", f"/vpgSettings/{sid}/commit"))
    same(t["Type"], "CreateProtectionGroup")
    vpg = a.call("GET", "/vpgs?name=LEDGER")[0]
    v = vpg["VpgIdentifier"]
    same(a.call("GET", "/vpgs?name=ledge"), [])
    same(fa.sources[v]["Peer"]["Address"], "127.0.0.1:4008")
    same(fb.targets[v]["HistorySeconds"], 3600)
    wait_until("the peers' trust", lambda: b.id in fa.peers and a.id in fb.peers)
    for site in (a, b):
        wait_until("SLA", lambda: site.call("GET", f"/vpgs/{v}")["Status"] == 1)
        got = site.call("GET", f"/vpgs/{v}")
        same((got["ActualRPO"] < 6, got["VmsCount"], got["SourceSite"], got["TargetSite"], got["SubStatus"]),
             (True, 1, a.name, b.name, 0), json.dumps(got))
        same([c["CheckpointIdentifier"] for c in site.call("GET", f"/vpgs/{v}/checkpoints")], ["1", "2", "3", "4", "5"])
        same(site.call("GET", f"/vpgs/{v}/checkpoints/stats")["Latest"]["CheckpointIdentifier"], "5")
        same(len(site.call("GET", "/vms?vmName=" + fa.name)), 1)
        vm = site.call("GET", f"/vms/{fa.vm}")
        same(vm["VpgName"], "ledger")
        same([(x["VolumeName"], x["SizeInBytes"], x["Error"]) for x in vm["Volumes"]],
             [(f"{fa.name}/v{i}", 1 << 30, None) for i in (0, 1)])
        wait_until("the volumes' addresses", lambda: all(
            x["NbdUri"] == "nbd+unix:///x" and x["Path"] for x in site.call("GET", f"/vms/{fa.vm}")["Volumes"]))
        same(site.call("GET", "/vpgs?status=MeetingSLA&priority=High")[0]["VpgName"], "ledger")
        same(site.call("GET", "/vpgs?status=0"), [])
    same(len(a.call("GET", f"/virtualizationsites/{a.id}/vms")), 0)
    same(len(a.call("GET", f"/virtualizationsites/{b.id}/datastores")), 1)
    # the same name, the same VM
    refused(a.raw("POST", f"/vpgSettings/{settings(a, b, fa, fb)}/commit"), 400, "MGR-0009")
    # a tag, asked at either site: the task ends when it is listed, and both sites know it
    for site, name in ((a, "before the mistake"), (b, "from paris")):
        task = site.call("POST", f"/vpgs/{v}/checkpoints", {"checkpointName": name})
        site.finish(task)
        assert any(c["Tag"] == name for c in site.call("GET", f"/vpgs/{v}/checkpoints")), name
        for s in (a, b):
            same(s.call("GET", f"/tasks/{task}")["Type"], "InsertTaggedCP")
    for body in ({"CheckpointName": "x" * 300}, {"CheckpointName": ""}, {"CheckpointName": None}, {}):
        refused(a.raw("POST", f"/vpgs/{v}/checkpoints", body), 400, "API-0014")
    for side in (a, b):  # a link leads somewhere
        point = side.call("GET", f"/vpgs/{v}/checkpoints")[-1]
        path = point["Link"]["href"].split("/v1", 1)[1]
        same(side.call("GET", path)["CheckpointIdentifier"], point["CheckpointIdentifier"])
    # one that is lost on the way, with a newer one listed: the task is about this one, and says so
    fa.lose = True
    t = a.finish(a.call("POST", f"/vpgs/{v}/checkpoints", {"CheckpointName": "lost"}), ok=False)
    fa.lose = False
    assert "REP-0022" in t["CompleteReason"] and "lost" in t["CompleteReason"], t
    for s in (a, b):
        same(s.call("GET", f"/vpgs/{v}/checkpoints/3")["CheckpointIdentifier"], "3")
        refused(s.raw("GET", f"/vpgs/{v}/checkpoints/999999"), 404, "REP-0016")
        refused(s.raw("GET", f"/vpgs/{v}/checkpoints/x"), 400, "API-0014")
    # a test from the protected side, seen and stopped from the recovery side
    a.finish(a.call("POST", f"/vpgs/{v}/failovertest", {"CheckpointIdentifier": "3", "VmIdentifiers": []}))
    views = b.call("GET", f"/vpgs/{v}/views")
    same([(x["Mode"], x["CheckpointIdentifier"]) for x in views], [("Test", "3")] * 2)
    assert views[0]["NbdUri"].startswith("nbd+unix:"), views
    same(a.call("GET", f"/vpgs/{v}/views"), views)
    refused(b.raw("POST", f"/vpgs/{v}/FailoverTest"), 400, "MGR-0011")
    refused(b.raw("DELETE", f"/vpgs/{v}/views/{views[0]['ViewIdentifier']}"), 400, "MGR-0011")
    wait_until("the test at the protected site", lambda: a.call("GET", f"/vpgs/{v}")["ActiveProcessesApi"]["RunningFailOverTestApi"])
    refused(a.raw("DELETE", f"/vpgs/{v}", {"Force": False}), 400, "MGR-0011")
    b.finish(b.call("POST", f"/vpgs/{v}/FailoverTestStop", {"FailoverTestSuccess": "true", "FailoverTestSummary": "all rows there"}))
    same(b.call("GET", f"/vpgs/{v}/views"), [])
    assert b.call("GET", f"/vpgs/{v}")["LastTest"]
    assert any("all rows there" in e["Description"] for e in b.call("GET", f"/events?vpgIdentifier={v}"))
    refused(b.raw("POST", f"/vpgs/{v}/FailoverTestStop"), 400, "MGR-0011")
    # a mount, whose identifier is its task's
    task = b.call("POST", f"/vpgs/{v}/views", {"TimeStamp": "2026-11-22T03:32:04Z", "VmIdentifiers": [fa.vm]})
    b.finish(task)
    view = task.split(".")[0]
    same({x["ViewIdentifier"] for x in a.call("GET", f"/vpgs/{v}/views")}, {view})
    a.finish(a.call("DELETE", f"/vpgs/{v}/views/{view}"))
    refused(b.raw("POST", f"/vpgs/{v}/views", {"VmIdentifiers": [NIL]}), 400, "API-0014")
    refused(b.raw("POST", f"/vpgs/{v}/views", {"TimeStamp": "yesterday"}), 400, "API-0014")
    # alerts under the names that runbooks know
    def helps():
        return {x["HelpIdentifier"]: x for x in b.call("GET", f"/alerts?vpgIdentifier={v}")}

    same(helps(), {})
    fb.history = 1000
    fb.alerts = [{"Code": c, "Message": c + " it is", "NextStep": "x", "Since": "2026-11-22T03:33:00.000Z"}
                 for c in ("JNL-0009", "JNL-0010", "JNL-0012", "JNL-0002")]
    wait_until("the alerts", lambda: len(helps()) == 5)
    got = helps()
    same({k: (x["Level"], x["Entity"], x["Code"]) for k, x in got.items()}, {
        "VPG0004": ("Error", "Vpg", None), "STR0002": ("Error", "Storage", "JNL-0009"),
        "HF0005": ("Warning", "Vpg", "JNL-0010"), "VRA0040": ("Warning", "Vra", "JNL-0012"),
        "VRA0007": ("Error", "Vra", "JNL-0002")})
    same(got["STR0002"]["TurnedOn"], "2026-11-22T03:33:00.000Z")
    assert got["VPG0004"]["TurnedOn"] and re.search(r"back 10\d\d s", got["VPG0004"]["Description"]), got
    fb.history, fb.alerts = None, []
    wait_until("their end", lambda: not helps())
    # pause and resume from the other side
    b.finish(b.call("POST", f"/vpgs/{v}/pause"))
    wait_until("paused", lambda: b.call("GET", f"/vpgs/{v}")["SubStatus"] == 25)
    same(list(helps()), ["VPG0017"])
    b.finish(b.call("POST", f"/vpgs/{v}/resume"))
    a.finish(a.call("POST", f"/vpgs/{v}/forcesync"))
    # an edit
    sid = a.call("POST", "/vpgSettings", {"VpgIdentifier": v})
    a.call("PUT", f"/vpgSettings/{sid}/basic", {"JournalHistoryInHours": 2})
    a.finish(a.call("POST", f"/vpgSettings/{sid}/commit"))
    same(fb.targets[v]["HistorySeconds"], 7200)
    sid = a.call("POST", "/vpgSettings", {"VpgIdentifier": v})
    a.call("DELETE", f"/vpgSettings/{sid}/vms/{fa.vm}")
    refused(a.raw("POST", f"/vpgSettings/{sid}/commit"), 400, "MGR-0009")
    refused(a.raw("DELETE", f"/peersites/{b.id}"), 400, "MGR-0011")
    return v


def test_alone(a, b, fb, v):
    """The recovery site goes on with the protected one dead, and remembers after a restart."""
    a.stop()
    wait_until("the loss to be seen", lambda: b.call("GET", "/peersites")[0]["LinkState"] == "Disconnected")
    b.stop()
    b.start()
    b.login()
    wait_until("its replicator", lambda: b.call("GET", "/vras")[0]["LinkState"] == "Connected")
    same(b.call("GET", f"/vpgs/{v}")["VpgName"], "ledger")
    b.finish(b.call("POST", f"/vpgs/{v}/FailoverTest"))
    same(len(b.call("GET", f"/vpgs/{v}/views")), 2)
    b.finish(b.call("POST", f"/vpgs/{v}/FailoverTestStop"))
    r = b.raw("POST", f"/vpgs/{v}/pause")
    assert r.status_code in (502, 504), r.text
    refused(r, r.status_code, "MGR-0012")
    got = [x for x in b.call("GET", "/alerts?level=error") if x["HelpIdentifier"] == "ZVM0003"]
    same(len(got), 1)
    assert a.name in got[0]["Description"], got
    first = got[0]["TurnedOn"]
    assert first, got
    time.sleep(1.2)
    same([x["TurnedOn"] for x in b.call("GET", "/alerts?helpIdentifier=ZVM0003&entity=zvm&level=1")], [first])
    assert all(x["TurnedOn"] for x in b.call("GET", "/alerts"))
    a.start()
    a.login()
    wait_until("the link", lambda: b.call("GET", "/peersites")[0]["LinkState"] == "Connected")
    wait_until("the alert to go", lambda: not b.call("GET", "/alerts?helpIdentifier=ZVM0003"))


def test_late_delete(a, b, fa, fb):
    """A forced delete does not wait for who is away, and what was said of the recovery volumes is not forgotten."""
    def create():
        wait_until("stores and VMs", lambda: a.call("GET", f"/virtualizationsites/{b.id}/datastores")
                   and a.call("GET", f"/virtualizationsites/{a.id}/vms"))
        a.finish(a.call("POST", f"/vpgSettings/{settings(a, b, fa, fb)}/commit"))
        v = a.call("GET", "/vpgs?name=ledger")[0]["VpgIdentifier"]
        wait_until("the VPG at both sites", lambda: b.call("GET", "/vpgs?name=ledger"))
        return v

    for keep in (True, False):
        v = create()
        b.stop()  # the other manager
        a.finish(a.call("DELETE", f"/vpgs/{v}", {"KeepRecoveryVolumes": keep, "Force": True}))
        assert v in fb.targets
        b.start()
        b.login()
        wait_until("the late cleanup", lambda: v not in fb.targets and not b.call("GET", "/vpgs"))
        gone = [t for m, t in fb.calls if m == "DELETE" and v in t]
        same(gone, [f"/control/v1/targets/{v}?keepReplicas={str(keep).lower()}&force=true"])
        wait_until("its replicator", lambda: b.call("GET", "/vras")[0]["LinkState"] == "Connected")
        wait_until("the link", lambda: a.call("GET", "/peersites")[0]["LinkState"] == "Connected")
        v = create()
        fb.away = True  # the recovery replicator
        b.finish(b.call("DELETE", f"/vpgs/{v}", {"KeepRecoveryVolumes": keep, "Force": True}))
        assert v in fb.targets and v not in fa.sources
        got = wait_until("the alert", lambda: b.call("GET", "/alerts?helpIdentifier=ZVM0002"))
        assert fb.name in got[0]["Description"], got
        fb.away = False
        wait_until("the late cleanup", lambda: v not in fb.targets)
        gone = [t for m, t in fb.calls if m == "DELETE" and v in t]
        same(gone, [f"/control/v1/targets/{v}?keepReplicas={str(keep).lower()}&force=true"])


def test_delete(a, b, fa, fb, v):
    wait_until("the version to arrive", lambda: a.call("GET", f"/vpgs/{v}")["LastTest"] == b.call("GET", f"/vpgs/{v}")["LastTest"])
    b.finish(b.call("DELETE", f"/vpgs/{v}", {"KeepRecoveryVolumes": False, "Force": False}))
    same((fa.sources, fb.targets), ({}, {}))
    wait_until("both to forget", lambda: not a.call("GET", "/vpgs") and not b.call("GET", "/vpgs"))


def test_revoke(site, fake):
    vra = site.call("GET", "/vras")[0]
    n = len(fake.crls)
    site.call("POST", f"/vras/{vra['HostIdentifier']}/revoke")
    d = os.path.join(fake.state, "replicator")
    try:
        r = requests.post(site.url + "/announce", json={"ControlAddress": "x:1"}, verify=site.ca,
                          cert=(d + "/chain.pem", d + "/key.pem"))
        raise AssertionError(f"a revoked certificate was taken: {r.status_code}")
    except requests.exceptions.ConnectionError:
        pass
    same(site.call("GET", "/vras")[0]["LinkState"], "Disconnected")
    del n
    # a key that was revoked is not taken again
    done = fake.join(site.call("POST", "/jointokens", {"Name": fake.name})["Token"])
    assert done.returncode == 1 and "revoked" in done.stdout, done.stdout


def test_reload(site):
    with open(site.config) as f:
        text = f.read()
    same(site.call("GET", "/localsite")["Location"], "")
    with open(site.config, "w") as f:
        f.write(text + 'site = { location = "Docklands"; };\n')
    site.process.send_signal(signal.SIGHUP)
    wait_until("the new location", lambda: site.call("GET", "/localsite")["Location"] == "Docklands")
    with open(site.config, "w") as f:
        f.write(text + "nonsense = 1;\n")
    site.process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    same(site.call("GET", "/localsite")["Location"], "Docklands")
    with open(site.config, "w") as f:
        f.write(text)


def test_unpair(a, b):
    a.finish(a.call("DELETE", f"/peersites/{b.id}"))
    same((a.call("GET", "/peersites"), b.call("GET", "/peersites")), ([], []))


def main():
    with tempfile.TemporaryDirectory(prefix="hf-mgr.") as work:
        a, b = Site(work, "london"), Site(work, "paris")
        try:
            for s in (a, b):
                s.start()
            test_login(a)
            b.login()
            test_bad_input(a)
            test_pairing(a, b)
            fa, fb = FakeReplicator(a, "vra1", work), FakeReplicator(b, "vra2", work)
            FAKES.extend((fa, fb))
            test_join(a, fa, work)
            test_join(b, fb, work)
            wait_until("inventories", lambda: a.call("GET", f"/virtualizationsites/{b.id}/datastores"))
            test_settings(a, b, fa, fb)
            test_size_mismatch(a, b, fa, fb)
            test_space(a, b, fa, fb)
            v = test_vpg(a, b, fa, fb)
            test_alone(a, b, fb, v)
            test_delete(a, b, fa, fb, v)
            test_late_delete(a, b, fa, fb)
            test_revoke(a, fa)
            test_reload(a)
            test_unpair(a, b)
            for s in (a, b):
                s.stop()
            for s in (a, b):  # no secret in a log
                with open(f"{work}/{s.name}.log") as f:
                    log = f.read()
                assert s.password not in log and s.http.headers["x-zerto-session"] not in log
        except BaseException:
            for s in (a, b):
                try:
                    with open(f"{work}/{s.name}.log") as f:
                        print(f"--- {s.name}", *f.readlines()[-40:], sep="\n", file=sys.stderr)
                except OSError:
                    pass
            raise
        finally:
            for s in (a, b):
                if s.process and s.process.poll() is None:
                    s.process.terminate()
                    s.process.wait(30)


main()
