#!/usr/bin/python3
"""The command line against a stand-in for a manager: what happens when there is
no contact, another root, an ended session, stale figures, a missing privilege,
or an answer that is none; and that a real run of each kind of command says what
the manager said.  test_cli_manager.py does the good ways against the real one."""
# limit: 240
import csv
import hashlib
import http.server
import io
import json
import os
import pty
import re
import select
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

TOP = os.environ.get("TOP") or os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BUILD") or os.path.join(TOP, "build")
HOLDFAST = os.path.join(BUILD, "holdfast")
MKPKI = os.path.join(BUILD, "tests/system/mkpki")

SITE_A, SITE_B = "aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000002"
VPG = "cccccccc-0000-4000-8000-000000000003"
TASK = "dddddddd-0000-4000-8000-000000000004." + SITE_A
PASSWORD = "correct horse battery"


def link(ident, kind):
    return {"href": "", "identifier": ident, "rel": None, "type": kind}


def vpg(**more):
    return {"VpgIdentifier": VPG, "VpgName": "ledger", "Status": 1, "SubStatus": 0, "Priority": 1, "ActualRPO": 3,
            "ConfiguredRpoSeconds": 300, "VmsCount": 1, "ProtectedSiteName": "london", "RecoverySiteName": "paris",
            "ProtectedSite": link(SITE_A, "LocalSiteApi"), "RecoverySite": link(SITE_B, "PeerSiteApi"),
            "ProgressPercentage": 0, "ActiveProcessesApi": {"RunningFailOverTestApi": None},
            "ProvisionedStorageInMB": 2048, **more}


class Manager:
    """An HTTPS server whose answers a test sets."""

    def __init__(self, pki):
        self.sessions, self.n_login, self.seen, self.lock = set(), 0, [], threading.Lock()
        self.answers, self.polls = {}, 0
        self.reset()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def handle_any(self):
                n = int(self.headers.get("Content-Length") or 0)
                outer.answer(self, self.rfile.read(n))

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ctx.minimum_version = ssl.TLSVersion.TLSv1_3
        ctx.load_cert_chain(os.path.join(pki, "chain.pem"), os.path.join(pki, "key.pem"))
        self.server.socket = ctx.wrap_socket(self.server.socket, server_side=True)
        self.server.handle_error = lambda *args: None
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def reset(self):
        self.peer_state, self.extra_vpgs, self.task_states = "Connected", [], [1, 6]
        self.refuse_password, self.polls, self.seen = False, 0, []
        self.answers = {
            ("GET", "/v1/localsite"): {"SiteIdentifier": SITE_A, "SiteName": "london", "Version": "0.1.0"},
            ("GET", "/v1/alerts"): [],
            ("GET", "/v1/events/types"): ["Unknown", "CreateProtectionGroup"],
            ("GET", "/v1/events"): [{"EventIdentifier": "1", "EventType": 1, "Description": "made, \"ledger\"",
                                     "OccurredOn": "2026-03-14T11:30:00.000Z", "EventCompletedSuccessfully": True,
                                     "UserName": "admin", "Vpgs": [{"VpgIdentifier": VPG, "VpgName": "ledger"}]}],
            ("GET", "/v1/vpgs/" + VPG + "/checkpoints"): [
                {"CheckpointIdentifier": str(i), "TimeStamp": "2026-03-14T11:%02d:00.000Z" % i, "Tag": t,
                 "Kind": "User" if t else "Auto", "Consistency": "Crash"}
                for i, t in ((10, None), (20, "before the mistake"), (30, None), (40, "twice"), (50, "twice"))],
            ("GET", "/v1/vpgs/" + VPG + "/views"): [
                {"ViewIdentifier": TASK.split(".")[0], "Mode": "Test", "CheckpointIdentifier": "20", "VolumeName": "db",
                 "TimeStamp": "2026-03-14T11:20:00.841Z", "NbdUri": "nbd+unix:///db?socket=/x"}],
            ("POST", "/v1/peersites/generatetoken"): {"Token": "hfp1-x", "UtcExpirationDate": "11/28/2026 03:31 AM",
                                                      "ValidUntil": "2026-11-28T03:31:07.000Z"},
            ("POST", "/v1/jointokens"): {"Token": "hfj1-x", "TokenIdentifier": VPG, "ValidUntil": "2026-11-28T03:31:07.000Z"},
            ("POST", "/v1/vpgs/" + VPG + "/views"): TASK,
            ("POST", "/v1/vpgs/" + VPG + "/FailoverTest"): TASK,
            ("POST", "/v1/vpgs/" + VPG + "/FailoverTestStop"): TASK,
            ("POST", "/v1/vpgs/" + VPG + "/checkpoints"): TASK,
            ("POST", "/v1/vpgs/" + VPG + "/pause"): TASK,
            ("DELETE", "/v1/vpgs/" + VPG): TASK,
        }

    def task(self):
        state = self.task_states[min(self.polls, len(self.task_states) - 1)]
        self.polls += 1
        return {"TaskIdentifier": TASK, "Type": "FailOverTest", "Status": {"State": state, "Progress": 100 if state == 6 else 40},
                "InitiatedBy": "admin", "Started": "2026-03-14T11:30:00.000Z", "Completed": None,
                "CompleteReason": "the store is \x1b[31mfull" if state == 4 else "",
                "RelatedEntities": {"Vpgs": [link(VPG, "VpgApi")]}}

    def answer(self, rq, body):
        path = rq.path.split("?")[0]
        with self.lock:
            self.seen.append((rq.command, rq.path, body, dict(rq.headers)))
        if path == "/v1/session/add":
            return self.login(rq)
        if rq.headers.get("x-holdfast-session") not in self.sessions:
            return self.send(rq, 401, {"Message": "no session", "Code": "API-0010", "NextStep": "log in"})
        if (rq.command, path) in self.answers:
            value = self.answers[(rq.command, path)]
        elif path == "/v1/vpgs":
            value = [vpg()] + self.extra_vpgs
        elif path == "/v1/peersites":
            value = [{"SiteIdentifier": SITE_B, "PeerSiteName": "paris", "LinkState": self.peer_state, "PairingStatus": 0,
                      "LastContact": "2026-03-14T11:30:00.000Z", "Vras": {"Connected": 1, "Total": 1}}]
        elif path.startswith("/v1/tasks/"):
            value = self.task()
        elif path == "/v1/tasks":
            value = [self.task()]
        elif path == "/v1/session" and rq.command == "DELETE":
            self.sessions.discard(rq.headers.get("x-holdfast-session"))
            value = ""
        else:
            value = (404, {"Message": "there is no " + path, "Code": "API-0013", "NextStep": "look again"})
        status, value = value if isinstance(value, tuple) else (200, value)
        self.send(rq, status, value)

    def login(self, rq):
        import base64
        self.n_login += 1
        want = "Basic " + base64.b64encode(("admin:" + PASSWORD).encode()).decode()
        if self.refuse_password or rq.headers.get("Authorization") != want:
            return self.send(rq, 401, {"Message": "user name or password is wrong", "Code": "API-0007", "NextStep": "x"})
        token = hashlib.sha256(os.urandom(8)).hexdigest()
        self.sessions.add(token)
        self.send(rq, 200, "", {"x-holdfast-session": token, "x-zerto-session": token})

    def send(self, rq, status, value, headers=None):
        data = value if isinstance(value, bytes) else b"" if value == "" else json.dumps(value).encode()
        rq.send_response(status)
        for name, text in (headers or {}).items():
            rq.send_header(name, text)
        rq.send_header("Content-Type", "application/json")
        rq.send_header("Content-Length", str(len(data)))
        rq.end_headers()
        rq.wfile.write(data)

    def bodies(self, method, path):
        return [json.loads(b) if b else None for m, p, b, _ in self.seen if m == method and p.split("?")[0] == path]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Cli(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="hf.cli.")
        cls.addClassCleanup(shutil.rmtree, cls.dir, True)
        for name in ("pki", "other"):
            os.mkdir(os.path.join(cls.dir, name))
            subprocess.run([MKPKI, os.path.join(cls.dir, name), "127.0.0.1", "localhost"], check=True)
        cls.manager = Manager(os.path.join(cls.dir, "pki"))
        cls.addClassCleanup(cls.manager.stop)
        with open(os.path.join(cls.dir, "pki/root.pem")) as f:
            root = ssl.PEM_cert_to_DER_cert(f.read())
        cls.fingerprint = hashlib.sha256(root).hexdigest()

    def setUp(self):
        self.manager.reset()
        self.manager.sessions.clear()
        self.home = tempfile.mkdtemp(dir=self.dir)
        self.password = os.path.join(self.home, "password")
        with open(self.password, "w") as f:
            f.write(PASSWORD + "\n")
        os.chmod(self.password, 0o600)
        self.config = self.site("london", ca_file=os.path.join(self.dir, "pki/root.pem"))

    def site(self, name, port=None, password=True, **more):
        path = os.path.join(self.home, name + ".conf")
        fields = {"name": name, "url": "https://127.0.0.1:%d" % (port or self.manager.port), "user": "admin", **more}
        if password:
            fields["password_file"] = self.password
        with open(path, "w") as f:
            f.write("sites = ( { %s } );\n" % " ".join('%s = "%s";' % kv for kv in fields.items()))
        return path

    def env(self, **more):
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": self.home, **more}

    def run_cli(self, *args, config=None, stdin=b"", **more):
        configs = [config or self.config] if not isinstance(config, list) else config
        argv = [HOLDFAST] + [a for c in configs for a in ("--config", c)] + list(args)
        r = subprocess.run(argv, input=stdin, capture_output=True, env=self.env(**more), timeout=60, start_new_session=True)
        self.out, self.err = r.stdout.decode(), r.stderr.decode()
        return r.returncode

    def cli(self, status, *args, **more):
        got = self.run_cli(*args, **more)
        self.assertEqual(got, status, "holdfast %s: %s%s" % (" ".join(args), self.out, self.err))
        return self.out

    # ---- The good way, briefly

    def test_list_in_three_forms(self):
        text = self.cli(0, "vpgs")
        self.assertIn("ledger", text)
        self.assertIn("Meeting SLA", text)
        self.assertTrue(all(len(line) <= 80 for line in text.splitlines()))
        data = json.loads(self.cli(0, "vpgs", "--output", "json"))
        self.assertEqual((data["format"], data["command"], data["site"], data["stale"]), (1, "vpgs", "london", False))
        self.assertEqual(data["rows"][0]["name"], "ledger")
        self.assertEqual(data["rows"][0]["rpo"], 3)
        self.assertEqual(data["rows"][0]["id"], VPG)
        rows = list(csv.DictReader(io.StringIO(self.cli(0, "events", "--output", "csv"))))
        self.assertEqual(rows[0]["text"], 'made, "ledger"')
        self.assertEqual(rows[0]["type"], "CreateProtectionGroup")

    def test_filter_sort_columns(self):
        self.manager.extra_vpgs = [vpg(VpgName="zoo", Status=4, ActualRPO=700), vpg(VpgName="abc", ActualRPO=-1)]
        names = lambda: [r["name"] for r in json.loads(self.out)["rows"]]
        self.cli(0, "vpgs", "--filter", "state!=ok", "--output", "json")
        self.assertEqual(names(), ["zoo"])
        self.cli(0, "vpgs", "--sort", "-rpo", "--output", "json")
        self.assertEqual(names(), ["zoo", "ledger", "abc"])
        self.cli(0, "vpgs", "--sort", "name", "--columns", "name,rpo", "--output", "json", "--limit", "1")
        self.assertEqual(json.loads(self.out)["rows"], [{"name": "abc", "rpo": None}])
        for bad in (["--filter", "rpo>"], ["--sort", "nosuch"], ["--columns", "nosuch"]):
            self.cli(2, "vpgs", *bad)
            self.assertIn("CLI-0008", self.err)

    def test_names_cannot_drive_the_terminal(self):
        self.manager.extra_vpgs = [vpg(VpgName="evil\x1b]0;x\x07\u009b2J\u202e")]
        for form in ("text", "csv", "json"):
            out = self.cli(0, "vpgs", "--output", form)
            self.assertFalse(re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out), repr(out))
            self.assertIn("evil", out)

    def test_dashboard_and_overview(self):
        self.assertIn("ledger", self.cli(0, "dashboard"))
        self.assertIn("paris", self.out)
        data = json.loads(self.cli(0, "dashboard", "--output", "json"))["rows"][0]
        self.assertEqual((data["vpgs"], data["not_ok"], data["worst_rpo"]), (1, 0, 3))
        self.assertIn("holdfast help", self.cli(0))
        self.assertIn("ledger", self.out)

    # ---- No contact

    def test_no_contact(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            dead = self.site("dead", port=s.getsockname()[1], ca_file=os.path.join(self.dir, "pki/root.pem"))
        self.cli(3, "vpgs", config=dead)
        self.assertIn("GEN-0007", self.err)
        # another site that answers takes its place, unless one was named
        self.assertIn("ledger", self.cli(0, "vpgs", config=[dead, self.config]))
        self.assertIn("asking london instead", self.err)
        self.assertIn("ledger", self.cli(0, "vpg", "ledger", config=[dead, self.config]))
        self.cli(3, "vpgs", "--ctx", "dead", config=[dead, self.config])
        self.cli(0, config=dead)  # the overview only shows it

    def test_wrong_root(self):
        wrong = self.site("wrong", ca_file=os.path.join(self.dir, "other/root.pem"))
        self.cli(3, "vpgs", config=wrong)
        self.assertIn("TLS-0004", self.err)
        self.assertEqual(self.manager.seen, [])  # nothing was sent, no password above all
        self.cli(3, "vpgs", config=self.site("wrong", fingerprint="00" * 32))
        self.assertIn("TLS-0004", self.err)
        self.cli(0, "vpgs", config=self.site("right", fingerprint=self.fingerprint))

    def test_unknown_root_is_not_believed_without_a_person(self):
        unknown = self.site("unknown")
        self.cli(3, "vpgs", config=unknown)
        self.assertIn("CLI-0003", self.err)
        self.assertIn(self.fingerprint, self.err)
        self.assertFalse(os.path.exists(os.path.join(self.home, ".config/holdfast/known_sites")))

    def test_plain_server(self):
        quiet = type("Quiet", (http.server.BaseHTTPRequestHandler,), {"log_message": lambda *args: None})
        server = http.server.HTTPServer(("127.0.0.1", 0), quiet)
        server.handle_error = lambda *args: None
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.cli(3, "vpgs", config=self.site("plain", port=server.server_address[1], fingerprint=self.fingerprint))

    # ---- Sessions

    def session_files(self):
        d = os.path.join(self.home, ".cache/holdfast")
        return [os.path.join(d, n) for n in os.listdir(d)] if os.path.isdir(d) else []

    def test_session_is_kept_and_made_anew(self):
        before = self.manager.n_login
        self.cli(0, "vpgs")
        self.cli(0, "vpgs")
        self.assertEqual(self.manager.n_login, before + 1)
        (path,) = self.session_files()
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.manager.sessions.clear()  # as after 30 idle minutes
        self.cli(0, "vpgs")
        self.assertEqual(self.manager.n_login, before + 2)
        with open(path, "w") as f:
            f.write("\x00\xff damaged\n")
        self.cli(0, "vpgs")
        os.chmod(path, 0o644)  # others may have read it: not used any more
        self.cli(0, "vpgs")
        self.assertEqual(self.manager.n_login, before + 4)
        self.cli(0, "logout")
        self.assertEqual(self.session_files(), [])
        self.assertEqual(self.manager.bodies("DELETE", "/v1/session"), [None])
        self.cli(0, "login")
        self.assertEqual(len(self.session_files()), 1)

    def test_session_dir(self):
        where = os.path.join(self.home, "lab/sessions")
        self.cli(0, "vpgs", config=self.site("lab", ca_file=os.path.join(self.dir, "pki/root.pem"), session_dir=where))
        self.assertEqual(self.session_files(), [])
        (name,) = os.listdir(where)
        self.assertEqual(os.stat(os.path.join(where, name)).st_mode & 0o777, 0o600)

    def test_password_refused(self):
        self.manager.refuse_password = True
        before = self.manager.n_login
        self.cli(1, "vpgs")
        self.assertIn("CLI-0006", self.err)
        self.assertEqual(self.manager.n_login, before + 1)  # once, not in a loop
        self.assertNotIn(PASSWORD, self.err + self.out)

    def test_password_file_that_others_can_read(self):
        os.chmod(self.password, 0o640)
        self.cli(1, "vpgs")
        self.assertIn("GEN-0006", self.err)
        self.assertEqual(self.manager.seen, [])

    def test_password_file_that_is_empty(self):
        for text in ("", "\n", "\nsecond line\n"):
            with open(self.password, "w") as f:
                f.write(text)
            self.cli(1, "vpgs")
            self.assertIn("first line is empty (GEN-0010)", self.err)
            self.assertNotIn("chmod", self.err)

    def test_no_password_and_no_terminal(self):
        asks = self.site("asks", password=False, ca_file=os.path.join(self.dir, "pki/root.pem"))
        self.cli(1, "vpgs", config=asks)
        self.assertIn("CLI-0006", self.err)

    def test_session_that_cannot_be_kept(self):
        os.mkdir(os.path.join(self.home, ".cache"))
        open(os.path.join(self.home, ".cache/holdfast"), "w").close()  # a file where the directory should be
        self.cli(1, "vpgs")
        self.assertIn("CLI-0015", self.err)

    # ---- Refusals

    def test_no_privilege(self):
        self.manager.answers[("GET", "/v1/vpgs")] = (403, {"Message": "admin lacks Viewer", "Code": "API-0009",
                                                            "NextStep": "ask for it"})
        self.cli(5, "vpgs")
        for text in ("admin lacks Viewer", "CLI-0019", "API-0009", "ask for it"):
            self.assertIn(text, self.err)

    def test_refused(self):
        path = ("POST", "/v1/vpgs/" + VPG + "/FailoverTest")
        self.manager.answers[path] = (400, {"Message": "a test is running", "Code": "MGR-0011", "NextStep": "stop it"})
        self.cli(1, "test", "ledger", "--confirm", "ledger")
        for text in ("a test is running", "CLI-0007", "MGR-0011", "stop it"):
            self.assertIn(text, self.err)
        self.manager.answers[path] = (400, {"Message": "paris is silent", "Code": "MGR-0012", "NextStep": "wait"})
        self.cli(3, "test", "ledger", "--confirm", "TEST")
        self.assertIn("CLI-0020", self.err)
        self.manager.answers[path] = (502, {"Message": "paris: connection refused", "Code": "GEN-0007"})
        self.cli(3, "test", "ledger", "--confirm", "TEST")
        self.manager.answers[path] = (500, b"\xff<html>")
        self.cli(1, "test", "ledger", "--confirm", "TEST")
        self.assertIn("status 500", self.err)

    def test_junk(self):
        for junk in (b"<html>hello</html>", b"{", b'{"a":1,"a":2}', b"[" * 100, b"\xff\xfe", b'"\\u0000"'):
            self.manager.answers[("GET", "/v1/vpgs")] = junk
            self.cli(1, "vpgs")
            self.assertIn("CLI-0005", self.err)
        self.manager.answers[("GET", "/v1/vpgs")] = b""
        self.cli(1, "vpgs")
        # JSON of another shape is shown as unknown, and nothing worse
        for odd in ({}, [], 7, "text", [1, None, [], {}], [{"VpgName": 7, "Status": "x", "ActualRPO": [1]}]):
            self.manager.answers[("GET", "/v1/vpgs")] = odd
            for form in ("text", "json", "csv"):
                self.cli(0, "vpgs", "--output", form)
        self.manager.reset()
        self.manager.answers[("POST", "/v1/vpgs/" + VPG + "/pause")] = {"no": "task"}
        self.cli(1, "pause", "ledger", "--confirm", "PAUSE")
        self.assertIn("CLI-0005", self.err)

    # ---- Stale

    def test_stale(self):
        self.manager.peer_state = "Disconnected"
        self.assertIn("~ledger", self.cli(4, "vpgs").replace("~ ", "~"))
        self.assertIn("CLI-0012", self.err)
        data = json.loads(self.cli(4, "vpgs", "--output", "json"))
        self.assertTrue(data["stale"])
        self.assertEqual((data["rows"][0]["severity"], data["rows"][0]["stale"]), ("stale", True))
        self.cli(4, "test", "ledger", "--confirm", "ledger")
        self.assertIn("CLI-0012", self.err)
        self.cli(4, "delete", "ledger", "--confirm", "ledger")
        self.assertEqual([m for m, p, _, _ in self.manager.seen if m in ("POST", "DELETE") and "vpgs" in p], [])
        self.cli(0, "delete", "ledger", "--confirm", "ledger", "--force")
        self.assertEqual(self.manager.bodies("DELETE", "/v1/vpgs/" + VPG), [{"KeepRecoveryVolumes": False, "Force": True}])
        self.assertIn("STALE", self.cli(0, "sites"))

    # ---- Confirmation

    def test_not_confirmed(self):
        for args in (["test", "ledger"], ["stop", "ledger"], ["delete", "ledger"], ["pause", "ledger"], ["sync", "ledger"]):
            self.cli(6, *args)
            self.assertIn("CLI-0013", self.err)
        for wrong in ("Ledger", "ledger ", "", "STOP", "ledge"):
            self.cli(6, "test", "ledger", "--confirm", wrong)
        self.cli(6, "delete", "ledger", "--confirm", "DELETE")  # its name, no less
        self.assertEqual([p for m, p, _, _ in self.manager.seen if m != "GET" and "session" not in p], [])

    def test_confirmed(self):
        self.cli(0, "test", "ledger", "--confirm", "ledger", "--reason", "INC-1")
        self.assertIn("done", self.out)
        head = [h for m, p, _, h in self.manager.seen if p.endswith("/FailoverTest")][0]
        self.assertEqual(head["x-holdfast-reason"], "INC-1")
        self.manager.polls = 0
        data = json.loads(self.cli(0, "stop", "ledger", "--confirm", "STOP", "--failed", "--notes", "no \u00fc", "--output", "json"))
        self.assertEqual(data["rows"][0]["state"], "done")
        self.assertEqual(self.manager.bodies("POST", "/v1/vpgs/" + VPG + "/FailoverTestStop"),
                         [{"FailoverTestSuccess": False, "FailoverTestSummary": "no \u00fc"}])
        self.cli(0, "delete", "ledger", "--confirm", "ledger", "--keep-replicas")
        self.assertEqual(self.manager.bodies("DELETE", "/v1/vpgs/" + VPG), [{"KeepRecoveryVolumes": True, "Force": False}])

    # ---- Tasks

    def test_task_fails(self):
        self.manager.task_states = [1, 4]
        self.cli(1, "point", "ledger", "x")
        self.assertIn("CLI-0016", self.err)
        self.assertIn("the store is ?[31mfull", self.err)

    def test_task_does_not_end(self):
        self.manager.task_states = [1]
        self.cli(1, "point", "ledger", "x", "--timeout", "300ms")
        self.assertIn("CLI-0017", self.err)
        self.assertIn(TASK, self.err)
        start = time.monotonic()
        self.cli(0, "point", "ledger", "x", "--no-wait")
        self.assertLess(time.monotonic() - start, 5)
        self.assertIn("running", self.out)

    def test_when_tokens_expire(self):
        for command in (["pair", "token"], ["token", "db1"]):
            self.assertRegex(self.cli(0, *command), r"^hf[pj]1-x\n$")
            self.assertEqual(self.err, "good until 11-28 03:31:07 UTC, once\n")
            row = json.loads(self.cli(0, *command, "--output", "json"))["rows"][0]
            self.assertEqual(row["expires"], "2026-11-28T03:31:07.000Z")

    def test_errors_of_both_sides(self):
        damage = {"Message": "journal 5b: segment 12: " + 30 * "batch 217 cut short, " + "end", "Code": "JNL-0003", "NextStep": "run it again"}
        self.manager.answers[("GET", "/v1/vpgs")] = [vpg(Status=2, SubStatus=8, TargetError=damage, SourceError={
            "Message": "paris: the target is closing", "Code": "STR-0012", "NextStep": "wait"})]
        text = self.cli(0, "vpg", "ledger")
        self.assertIn("source_error    paris: the target is closing (STR-0012; next: wait)\n", text)
        self.assertIn("batch 217 cut short, end (JNL-0003; next: run it again)\n", text)
        row = json.loads(self.cli(0, "vpg", "ledger", "--output", "json"))["rows"][0]
        self.assertTrue(row["target_error"].endswith("end (JNL-0003; next: run it again)"), row)
        self.manager.reset()
        row = json.loads(self.cli(0, "vpg", "ledger", "--output", "json"))["rows"][0]
        self.assertEqual((row["source_error"], row["target_error"]), (None, None))

    def test_empty_names_mean_nothing(self):
        """An unset variable of a script names nothing, least of all the only thing there is."""
        for args in (["unview", "ledger", ""], ["unview", "", "dddddddd"], ["task", ""], ["vpg", ""], ["points", ""], ["view", ""],
                     ["point", "ledger", ""], ["test", "", "--confirm", "TEST"], ["delete", "", "--confirm", ""], ["unpair", ""],
                     ["token", ""], ["vpgs", "--ctx", ""], ["view", "ledger", "--vm", ""], ["view", "ledger", "--point", ""],
                     ["create", "x", "--vm", "y", "--to-site", ""]):
            self.cli(2, *args)
            self.assertIn("CLI-0014", self.err, args)
        self.assertEqual([(m, p) for m, p, _, _ in self.manager.seen if m != "GET"], [])

    def test_short_beginnings_name_nothing(self):
        for args in (["task", "ddd"], ["unview", "ledger", "d"]):
            self.cli(1, *args)
            self.assertIn("at least 4 characters", self.err, args)
        self.assertEqual([p for m, p, _, _ in self.manager.seen if m == "DELETE"], [])
        self.manager.answers[("DELETE", "/v1/vpgs/" + VPG + "/views/" + TASK.split(".")[0])] = TASK
        self.cli(0, "unview", "ledger", "dddd")
        self.assertEqual(len([p for m, p, _, _ in self.manager.seen if m == "DELETE"]), 1)

    def test_task_by_prefix(self):
        self.assertIn(TASK, self.cli(0, "task", "dddd"))
        self.cli(1, "task", "eeee")
        self.assertIn("CLI-0010", self.err)

    # ---- Points

    def point_of(self, spec, status=0):
        self.manager.seen = []
        self.manager.polls = 0
        self.cli(status, "test", "ledger", "--confirm", "ledger", "--point", spec)
        bodies = self.manager.bodies("POST", "/v1/vpgs/" + VPG + "/FailoverTest")
        return bodies[0].get("CheckpointIdentifier") if bodies else None

    def test_the_time_shown_names_the_point(self):
        """And a time without a fraction is its beginning: never a point after it."""
        self.manager.answers[("GET", "/v1/vpgs/" + VPG + "/checkpoints")] = [
            {"CheckpointIdentifier": str(7 + i), "TimeStamp": "2026-03-14T02:25:%s.841Z" % s, "Tag": None, "Kind": "Auto"}
            for i, s in enumerate(("25", "26", "27"))]
        self.assertIn("03-14 02:25:26.841", self.cli(0, "points", "ledger"))
        self.assertEqual(self.point_of("03-14 02:25:26.841"), "8")
        self.assertEqual(self.point_of("2026-03-14 02:25:26"), "7")
        self.assertEqual(self.point_of("2026-03-14T02:25:26.841Z"), "8")
        self.assertEqual(self.point_of("2026-03-14T02:25:26.840Z"), "7")
        self.assertEqual(self.point_of("2026-03-14T02:25:27Z"), "8")
        self.point_of("2026-03-14 02:25", 1)  # 02:25:00
        self.cli(0, "points", "ledger", "--from", "2026-03-14T02:25:25Z", "--to", "2026-03-14T02:25:26Z")
        path = [p for m, p, _, _ in self.manager.seen if "startDate" in p][0].replace("%3A", ":")
        self.assertIn("startDate=2026-03-14T02:25:25.000Z&endDate=2026-03-14T02:25:26.999Z", path)

    def test_the_point_taken_is_said(self):
        self.cli(0, "test", "ledger", "--confirm", "ledger")  # the latest: only its view tells
        self.assertIn("point 20 of 2026-03-14T11:20:00.841Z\n", self.err)
        self.manager.polls = 0
        self.cli(0, "view", "ledger", "--point", "before the mistake")
        self.assertIn("point 20 of 2026-03-14T11:20:00.841Z\n", self.err)
        self.manager.polls = 0
        self.manager.answers[("GET", "/v1/vpgs/" + VPG + "/views")] = (404, {"Message": "gone"})
        self.cli(0, "test", "ledger", "--confirm", "ledger", "--point", "oldest")
        self.assertIn("point 10 of 2026-03-14T11:10:00.000Z\n", self.err)

    def test_names_that_look_like_something_else(self):
        for name in ("latest", "now", "11:30", "42", "-5min", '"quoted"'):
            self.manager.polls = 0
            self.cli(0, "point", "ledger", "--", name)
            self.assertIn("--point '\"%s\"'" % name, self.err)
            self.assertEqual(self.manager.bodies("POST", "/v1/vpgs/" + VPG + "/checkpoints")[-1], {"CheckpointName": name})
        for name in ("before patch", "11h30", "42a", "latest one"):
            self.manager.polls = 0
            self.cli(0, "point", "ledger", name)
            self.assertNotIn("--point", self.err)
        self.point_of("2026-03-14T11:09:59Z", 1)
        self.assertIn("quotes of its own", self.err)
        self.manager.answers[("POST", "/v1/vpgs/" + VPG + "/FailoverTest")] = (400, {"Message": "checkpoint 42 is not offered"})
        self.point_of("42", 1)
        self.assertIn("--point '\"42\"'", self.err)
        self.cli(2, "points", "ledger", "--from", "soon")
        self.assertIn("quotes of its own", self.err)
        self.cli(2, "view", "ledger", "--point", "x" * 256)
        self.assertIn("1 to 255 bytes, not 256", self.err)

    def test_points(self):
        self.assertIsNone(self.point_of("latest"))
        self.assertEqual(self.point_of("oldest"), "10")
        self.assertEqual(self.point_of("30"), "30")
        self.assertEqual(self.point_of("before the mistake"), "20")
        self.assertEqual(self.point_of('"before the mistake"'), "20")
        self.assertEqual(self.point_of("2026-03-14T11:25:00Z"), "20")
        self.assertEqual(self.point_of("2026-03-14 11:30"), "30")
        self.point_of("twice", 1)
        self.assertIn("CLI-0011", self.err)
        self.point_of("2026-03-14T11:09:59Z", 1)
        self.assertIn("CLI-0010", self.err)
        self.point_of("no such name", 1)
        self.cli(2, "points", "ledger", "--from", "yesterday-ish")
        self.assertIn("CLI-0009", self.err)
        self.assertIn("before the mistake", self.cli(0, "points", "ledger"))
        self.cli(1, "points", "nosuch")
        self.assertIn("CLI-0010", self.err)

    # ---- Command line

    def test_usage(self):
        for args in (["nosuch"], ["vpg"], ["vpgs", "extra"], ["vpgs", "--bogus"], ["vpgs", "--confirm", "x"], ["--filter", "x"],
                     ["vpgs", "--output", "xml"], ["test", "ledger", "--timeout", "soon"], ["pair", "maybe"],
                     ["view", "ledger", "--at", "11:30", "--point", "latest"]):
            self.cli(2, *args)
            self.assertIn("CLI-0014", self.err, args)
        self.assertEqual(self.out, "")
        self.cli(2, "vpgs", "--ctx", "rome")
        self.assertIn("CLI-0002", self.err)
        self.cli(0, "--version")
        for command in self.commands():
            self.assertIn("usage: holdfast " + command, self.cli(0, command, "--help") if command != "help" else "usage: holdfast help")

    def commands(self):
        text = self.cli(0, "help")
        return re.findall(r"^  ([a-z]+)[, ].* ", text.split("Options of")[0], re.M)

    def test_no_site(self):
        r = subprocess.run([HOLDFAST, "vpgs"], env=self.env(), capture_output=True, text=True)
        self.assertEqual(r.returncode, 2)
        self.assertIn("CLI-0001", r.stderr)
        r = subprocess.run([HOLDFAST], env=self.env(), capture_output=True, text=True)
        self.assertEqual(r.returncode, 0)
        self.assertIn("no site is defined", r.stdout)

    def test_bad_definition(self):
        path = os.path.join(self.home, "bad.conf")
        with open(path, "w") as f:
            f.write('sites = ( { name = "x"; url = "https://x:1"; odd = 1; } );\n')
        self.cli(2, "vpgs", config=path)
        self.assertIn("bad.conf:1", self.err)
        self.assertIn("conf/sites.conf", self.err)
        with open(path, "w") as f:
            f.write('sites = ( { name = "x"\n')
        self.cli(2, "vpgs", config=path)
        self.assertIn("conf/sites.conf", self.err)

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            r = subprocess.run([HOLDFAST, "--config", self.config, "vpgs"], env=self.env(), stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(r.returncode, 1)
        self.assertIn(b"CLI-0018", r.stderr)

    def test_closed_output(self):
        for args in (["vpgs"], ["--version"], ["help"], ["point", "ledger", "x"], []):
            self.manager.polls = 0
            r = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", HOLDFAST, "--config", self.config] + args, env=self.env(),
                               stderr=subprocess.PIPE)
            self.assertEqual(r.returncode, 1, (args, r.stderr))
            self.assertIn(b"CLI-0018", r.stderr)
        r = subprocess.run(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", HOLDFAST, "--config", self.config, "vpgs"], env=self.env(),
                           stdout=subprocess.PIPE)
        self.assertEqual(r.returncode, 0)
        self.assertIn(b"ledger", r.stdout)

    def test_invalid_utf8_is_refused(self):
        for args in ([b"point", b"ledger", b"caf\xe9"], [b"stop", b"ledger", b"--confirm", b"STOP", b"--notes", b"\xff"],
                     [b"view", b"ledger", b"--point", b"\xc0\x80"], [b"vpg", b"\xed\xa0\x80"]):
            r = subprocess.run([HOLDFAST.encode(), b"--config", self.config.encode()] + args, env=self.env(), capture_output=True,
                               stdin=subprocess.DEVNULL, start_new_session=True)
            self.assertEqual(r.returncode, 2, args)
            self.assertIn(b"not valid UTF-8", r.stderr)
        self.assertEqual(self.manager.seen, [])

    def test_narrow_dashboard(self):
        for width in (40, 80):
            for args in (["dashboard"], []):
                out = self.cli(0, *args, COLUMNS=str(width))
                self.assertTrue(all(len(line) <= width for line in out.splitlines()), out)
                self.assertIn("london: VPGs 1  VMs 1", out)

    def test_man_page_names_everything(self):
        with open(os.path.join(TOP, "docs/man/holdfast.1")) as f:
            page = f.read().replace("\\-", "-")
        for command in self.commands():
            self.assertRegex(page, r"(?m)^\.B[IR]? (\"?)holdfast %s\b|^\.(TP|B|BI|BR|IP).*\b%s\b" % (command, command))
        script = self.cli(0, "completion")
        for option in set(re.findall(r"--[a-z-]+", script)) - {"--"}:
            self.assertIn(option, page)
        with open(os.path.join(TOP, "docs/cli-json.md")) as f:
            fields = f.read()
        for command in self.commands():
            listed = self.cli(0, command, "--help").split("keys of JSON:\n") if command != "help" else [""]
            for field in listed[1].split() if len(listed) == 2 else []:
                self.assertIn("`%s`" % field, fields, command)
        for section in ("EXIT STATUS", "FILES", "EXAMPLES"):
            self.assertIn(section, page)
        subprocess.run(["bash", "-n"], input=script.encode(), check=True)

    # ---- At a terminal

    def at_terminal(self, args, answers, config=None):
        """Run with a controlling terminal of its own; answers: (text to wait for, what to type)."""
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(HOLDFAST, [HOLDFAST, "--config", config or self.config] + args, self.env(TERM="dumb"))
        seen, waiting = b"", list(answers)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            ready = select.select([fd], [], [], 0.2)[0]
            if ready:
                try:
                    data = os.read(fd, 4096)
                except OSError:
                    break
                if not data:
                    break
                seen += data
            while waiting and waiting[0][0].encode() in seen:
                os.write(fd, waiting.pop(0)[1].encode())
        os.close(fd)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()

    def test_typed_answers(self):
        status, seen = self.at_terminal(["test", "ledger"], [("press Enter: ", "TEST\r")])
        self.assertEqual(status, 0, seen)
        self.assertIn("replication goes on", re.sub(r"\s+", " ", seen))
        status, seen = self.at_terminal(["delete", "ledger"], [("press Enter: ", "ledgex\x7fr\r")])
        self.assertEqual(status, 0, seen)
        status, seen = self.at_terminal(["delete", "ledger"], [("press Enter: ", "\x03")])
        self.assertEqual(status, 6, seen)

    def test_password_is_typed_unseen(self):
        asks = self.site("asks", password=False, ca_file=os.path.join(self.dir, "pki/root.pem"))
        status, seen = self.at_terminal(["vpgs"], [("Password of admin", PASSWORD + "\r")], config=asks)
        self.assertEqual(status, 0, seen)
        self.assertNotIn(PASSWORD, seen)
        self.assertIn("ledger", seen)

    def test_root_is_shown_and_kept(self):
        unknown = self.site("unknown")
        status, seen = self.at_terminal(["vpgs"], [("(yes/no) ", "no\r")], config=unknown)
        self.assertEqual(status, 3, seen)
        status, seen = self.at_terminal(["vpgs"], [("(yes/no) ", "yes\r")], config=unknown)
        self.assertEqual(status, 0, seen)
        self.assertIn(self.fingerprint, seen)
        known = os.path.join(self.home, ".config/holdfast/known_sites")
        self.assertEqual(os.stat(known).st_mode & 0o777, 0o600)
        self.cli(0, "vpgs", config=unknown)  # not asked again
        other = Manager(os.path.join(self.dir, "other"))
        self.addCleanup(other.stop)
        with open(known) as f:
            text = f.read().replace(str(self.manager.port), str(other.port))
        with open(known, "w") as f:
            f.write(text)
        self.cli(3, "vpgs", config=self.site("moved", port=other.port))
        self.assertIn("TLS-0004", self.err)
        os.chmod(known, 0o644)
        self.cli(3, "vpgs", config=unknown)
        self.assertIn("CLI-0004", self.err)
        self.assertNotIn("secret", self.err)
        os.chmod(known, 0o600)
        with open(known, "w") as f:
            f.write("nonsense\n")
        self.cli(3, "vpgs", config=unknown)
        self.assertIn("CLI-0004", self.err)


if __name__ == "__main__":
    unittest.main(verbosity=1)
