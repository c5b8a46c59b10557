"""A lab of two sites on loopback: real agents, real enrolment, real pairing.

Used by `make lab`, the demo, the system tests and the torture tests.  Nothing
here reaches into the product: it runs the programs and calls the REST API.
"""

import base64
import glob
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from ports import free_ports  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

SLOW = float(os.environ.get("HOLDFAST_SLOW") or 1)  # tests/run --slow: bounds on waiting grow with it


def build_dir():
    return os.environ.get("BUILD") or os.path.join(TOP, "build")


def holdfastd():
    return os.path.join(build_dir(), "holdfastd")


def holdfast():
    return os.path.join(build_dir(), "holdfast")


SANITIZERS = ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS")


def report_prefix(env):
    """Where the sanitizers of a sanitizer build write their reports; None if nobody has said."""
    for var in SANITIZERS:
        for word in reversed(env.get(var, "").split(":")):
            if word.startswith("log_path="):
                return word[len("log_path="):]
    return None


class LabError(Exception):
    """Something of the lab did not come about; the text says what and why."""


def wait_until(what, test, seconds=30.0, pause=0.05):
    """Poll test() until it gives something true; say what was awaited else."""
    seconds *= SLOW
    end = time.monotonic() + seconds
    last = None
    while True:
        try:
            value = test()
            if value:
                return value
            last = value
        except (LabError, ApiError, OSError, http.client.HTTPException) as e:
            last = e
        if time.monotonic() > end:
            raise LabError("waited %.0f s for %s; last: %s" % (seconds, what, last))
        time.sleep(pause)


class ApiError(Exception):
    def __init__(self, status, body):
        self.status = status
        self.body = body
        self.message = body.get("Message") if isinstance(body, dict) else body
        self.code = body.get("Code") if isinstance(body, dict) else None
        super().__init__("HTTP %s: %s" % (status, self.message))


class Api:
    """One site's REST API, with a session that is made when it is needed."""

    def __init__(self, url, ca_file, user, password, timeout=30):
        u = urllib.parse.urlparse(url)
        self.host, self.port = u.hostname, u.port
        self.user, self.password, self.timeout = user, password, timeout * SLOW
        self.tls = ssl.create_default_context(cafile=ca_file)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self.session = None
        self.conn = None

    def close(self):
        if self.conn:
            self.conn.close()
        self.conn = None

    def raw(self, method, path, body=None, headers=None, timeout=None):
        """(status, headers, parsed body or text); no login, no raising."""
        data = None
        head = dict(headers or {})
        if body is not None:
            data = body if isinstance(body, (bytes, str)) else json.dumps(body)
            head.setdefault("Content-Type", "application/json")
        for attempt in (0, 1):
            if self.conn is None:
                self.conn = http.client.HTTPSConnection(
                    self.host, self.port, context=self.tls, timeout=timeout or self.timeout)
            try:
                self.conn.request(method, path, data, head)
                r = self.conn.getresponse()
                text = r.read().decode()
                break
            except (http.client.HTTPException, OSError):
                self.close()
                if attempt:
                    raise
        if r.will_close:
            self.close()
        try:
            parsed = json.loads(text) if text else None
        except ValueError:
            parsed = text
        return r.status, r.headers, parsed

    def login(self):
        token = base64.b64encode(("%s:%s" % (self.user, self.password)).encode()).decode()
        status, headers, body = self.raw("POST", "/v1/session/add", None,
                                         {"Authorization": "Basic " + token})
        if status != 200:
            raise ApiError(status, body or {"Message": "login refused"})
        self.session = headers["x-zerto-session"]

    def call(self, method, path, body=None, timeout=None):
        for attempt in (0, 1):
            if self.session is None:
                self.login()
            status, _, out = self.raw(method, path, body,
                                      {"x-zerto-session": self.session}, timeout)
            if status != 401 or attempt:
                break
            self.session = None
        if status != 200:
            raise ApiError(status, out or {"Message": "no text"})
        return out

    def get(self, path, **query):
        if query:
            path += "?" + urllib.parse.urlencode(query)
        return self.call("GET", path)

    def post(self, path, body=None, timeout=None):
        return self.call("POST", path, {} if body is None else body, timeout)

    def put(self, path, body):
        return self.call("PUT", path, body)

    def delete(self, path, body=None):
        return self.call("DELETE", path, body)

    def wait_task(self, task, seconds=60):
        """Until the task has ended; raises with its reason when it failed."""
        def ended():
            t = self.get("/v1/tasks/" + task)
            return t if t["Status"]["State"] in (4, 5, 6) else None
        t = wait_until("task " + task, ended, seconds)
        if t["Status"]["State"] != 6:
            raise LabError("task %s %s failed: %s" % (t["Type"], task, t["CompleteReason"]))
        return t

    def do(self, method, path, body=None, seconds=60):
        """An action that answers a task; wait for it."""
        return self.wait_task(self.call(method, path, {} if body is None else body), seconds)

    # --- short ways ---

    def vpg(self, name):
        found = self.get("/v1/vpgs", name=name)
        if not found:
            raise LabError("no VPG %s" % name)
        return found[0]

    def checkpoints(self, vpg_id, **query):
        path = "/v1/vpgs/%s/checkpoints" % vpg_id
        return self.get(path, **query)


class Site:
    """One site: a state directory, a config, a supervisor."""

    def __init__(self, base, name, role, vms=(), stores=True, ring_size="256MiB",
                 extra_replicator="", roles=("manager", "replicator"), log_level="info"):
        self.dir = os.path.join(base, name)
        self.base, self.name, self.role = base, name, role
        self.state = os.path.join(self.dir, "state")
        self.config = os.path.join(self.dir, "holdfastd.conf")
        self.log = os.path.join(self.dir, "holdfastd.log")
        self.password_file = os.path.join(self.dir, "password")
        self.ca_file = os.path.join(self.state, "manager", "root.pem")
        self.api_port, self.peer_port, self.control_port, self.data_port = free_ports(4)
        self.url = "https://127.0.0.1:%d" % self.api_port
        self.vms = vms
        self.store = os.path.join(self.dir, "store") if stores else None
        self.ring_size = ring_size
        self.extra = extra_replicator
        self.roles = roles
        self.log_level = log_level
        self.user = None
        self.process = None
        self.env = dict(os.environ)
        self._api = None

    def run_dir(self):
        # A Unix socket's path has 107 bytes; the lab's folder may be deep.
        return os.path.join(self.state, "nbd")

    def write_config(self):
        vms = ",\n".join(
            '      { name = "%s"; volumes = (\n%s ); }' % (
                vm["name"], ",\n".join(
                    '          { name = "%s"; path = "%s"; cache = "%s"; }' % (
                        v["name"], v["path"], v.get("cache", "writeback"))
                    for v in vm["volumes"]))
            for vm in self.vms)
        text = 'state_dir = "%s";\nroles = ( %s );\n' % (
            self.state, ", ".join('"%s"' % r for r in self.roles))
        text += 'log = { file = "%s"; level = "%s"; };\n' % (self.log, self.log_level)
        text += 'site = { name = "%s"; location = "lab"; };\n' % self.name
        text += ('manager = { api_listen = "127.0.0.1:%d"; peer_listen = "127.0.0.1:%d"; '
                 'advertise = "127.0.0.1"; };\n' % (self.api_port, self.peer_port))
        text += 'replicator = {\n  name = "%s-1";\n' % self.name
        text += '  control_listen = "127.0.0.1:%d";\n' % self.control_port
        text += '  data_listen = "127.0.0.1:%d";\n' % self.data_port
        text += '  advertise = "127.0.0.1";\n  manager = "127.0.0.1:%d";\n' % self.api_port
        text += '  ring_size = "%s";\n%s' % (self.ring_size, self.extra)
        if vms:
            text += "  vms = (\n%s );\n" % vms
        if self.store:
            text += '  stores = ( { name = "%s-store"; path = "%s"; } );\n' % (self.name, self.store)
        text += "};\n"
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(text)

    def init(self):
        os.makedirs(self.dir, mode=0o700)
        self.write_config()
        out = subprocess.run(
            [holdfastd(), "init", "--state", self.state, "--site", self.name,
             "--api", "127.0.0.1:%d" % self.api_port],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if out.returncode != 0:
            raise LabError("holdfastd init: " + out.stderr)
        user = password = None
        for line in out.stdout.splitlines():
            word, _, rest = line.partition(":")
            if word.strip().lower() in ("user", "administrator"):
                user = rest.strip()
            elif word.strip().lower() == "password":
                password = rest.strip()
        if not user or not password:
            raise LabError("holdfastd init said no user and password:\n" + out.stdout)
        self.user = user
        fd = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as f:
            f.write(password + "\n")

    def start(self):
        log = open(self.log, "a", encoding="utf-8")
        self.process = subprocess.Popen(
            [holdfastd(), "run", "--config", self.config], stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True, close_fds=True, env=self.env)
        log.close()

    def password(self):
        with open(self.password_file, encoding="utf-8") as f:
            return f.read().strip()

    @property
    def api(self):
        if self._api is None:
            self._api = Api(self.url, self.ca_file, self.user, self.password())
        return self._api

    def wait_api(self, seconds=30):
        return wait_until("the API of " + self.name,
                          lambda: self.api.get("/v1/localsite"), seconds)

    def join(self):
        """Enrol this site's replicator with its manager."""
        token = subprocess.run(
            [holdfastd(), "token", "--state", self.state, "--name", self.name + "-1"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if token.returncode != 0:
            raise LabError("holdfastd token: " + token.stderr)
        out = subprocess.run(
            [holdfastd(), "join", "--state", self.state, "--token", "-",
             "--manager", "127.0.0.1:%d" % self.api_port],
            input=token.stdout, capture_output=True, text=True, check=False)
        if out.returncode != 0:
            raise LabError("holdfastd join: " + out.stderr)

    def pid_file(self, role):
        return os.path.join(self.state, "run", role + ".pid")

    def pid(self, role):
        try:
            with open(self.pid_file(role), encoding="utf-8") as f:
                return int(f.read().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def kill(self, role, sig=signal.SIGKILL):
        pid = self.pid(role)
        if pid:
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass
        return pid

    def stop(self, seconds=30):
        """SIGTERM to the supervisor and wait until it has gone."""
        pid = self.process.pid if self.process else self.pid("supervisor")
        if self._api:
            self._api.close()
        if not pid:
            return
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process:
                if self.process.poll() is not None:
                    break
            else:
                try:
                    os.kill(pid, 0)
                except ProcessLookupError:
                    break
            time.sleep(0.05)
        else:
            os.kill(pid, signal.SIGKILL)
            if self.process:
                self.process.wait()
            raise LabError("%s did not stop within %d s" % (self.name, seconds))
        self.process = None

    def tail(self, lines=40):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as f:
                return "".join(f.readlines()[-lines:])
        except OSError:
            return ""


def make_image(path, size):
    with open(path, "wb") as f:
        f.truncate(size)


class Lab:
    """Two sites, paired, with one VPG."""

    def __init__(self, base, vpg="ledger", vm="ledger", volumes=(("files", 1 << 30), ("db", 1 << 30)),
                 interval=1, history_hours=1, ring_size="256MiB", cache="writeback", env=None,
                 log_level="info"):
        self.base = os.path.abspath(base)
        self.vpg_name, self.vm = vpg, vm
        self.interval, self.history_hours = interval, history_hours
        disks = os.path.join(self.base, "disks")
        self.volumes = [{"name": n, "size": s, "path": os.path.join(disks, "%s-%s.img" % (vm, n)),
                         "cache": cache} for n, s in volumes]
        self.london = Site(self.base, "london", "protected",
                           vms=[{"name": vm, "volumes": self.volumes}], ring_size=ring_size,
                           log_level=log_level)
        self.paris = Site(self.base, "paris", "recovery", ring_size=ring_size, log_level=log_level)
        self.sites = [self.london, self.paris]
        for s in self.sites:
            s.env.update(env or {})
        # A role that a sanitizer ended is simply started again: its report is found by down().
        self.reports = report_prefix(os.environ)
        if not self.reports:
            self.reports = os.path.join(self.base, "sanitizer")
            for s in self.sites:
                for var in SANITIZERS:
                    s.env[var] = ":".join(filter(None, [s.env.get(var), "log_path=" + self.reports]))
        self.vpg_id = None
        self.basic = {}  # more of a new VPG's basic settings
        self.limits = {}  # and of its Journal.Limitation
        self.prepare = None  # called with the lab when its images are there and nothing runs yet

    def up(self, protect=True, sync_seconds=120):
        os.makedirs(os.path.join(self.base, "disks"), mode=0o700)
        for v in self.volumes:
            make_image(v["path"], v["size"])
        if self.prepare:
            self.prepare(self)
        for s in self.sites:
            s.init()
            s.start()
        for s in self.sites:
            s.wait_api()
            s.join()
        for s in self.sites:
            wait_until("the replicator of " + s.name, lambda s=s: [
                v for v in s.api.get("/v1/vras") if v["Status"] == 0], 30)
        if protect:
            self.pair()
            self.protect()
            self.wait_synced(sync_seconds)

    def pair(self):
        token = self.paris.api.post("/v1/peersites/generatetoken")["Token"]
        self.london.api.do("POST", "/v1/peersites", {
            "HostName": "127.0.0.1", "Port": self.paris.peer_port, "Token": token})
        for s in self.sites:
            wait_until("the pairing at " + s.name, lambda s=s: [
                p for p in s.api.get("/v1/peersites") if p["PairingStatus"] == 0])

    def protect(self, name=None, vms=None, seconds=60, change=None):
        """change(settings) may set more before they are committed."""
        api = self.london.api
        here = api.get("/v1/localsite")["SiteIdentifier"]
        there = self.paris.api.get("/v1/localsite")["SiteIdentifier"]
        known = wait_until("the VM in the inventory", lambda: [
            v for v in api.get("/v1/virtualizationsites/%s/vms" % here)
            if v["VmName"] in (vms or [self.vm])])
        store = wait_until("the store in the inventory", lambda: api.get(
            "/v1/virtualizationsites/%s/datastores" % there))[0]["DatastoreIdentifier"]
        host = api.get("/v1/virtualizationsites/%s/hosts" % there)[0]["HostIdentifier"]
        sid = api.post("/v1/vpgSettings", {})
        settings = api.get("/v1/vpgSettings/" + sid)
        settings["Basic"].update({
            "Name": name or self.vpg_name, "ProtectedSiteIdentifier": here,
            "RecoverySiteIdentifier": there, "RpoInSeconds": 60,
            "JournalHistoryInHours": self.history_hours,
            "CheckpointIntervalInSeconds": self.interval})
        settings["Basic"].update(self.basic)
        settings["Journal"]["Limitation"].update(self.limits)
        settings["Recovery"].update({"DefaultHostIdentifier": host,
                                     "DefaultDatastoreIdentifier": store})
        settings["Journal"]["DatastoreIdentifier"] = store
        settings["Vms"] = [{"VmIdentifier": v["VmIdentifier"]} for v in known]
        if change:
            change(settings)
        api.put("/v1/vpgSettings/" + sid, settings)
        api.do("POST", "/v1/vpgSettings/%s/commit" % sid, seconds=seconds)
        self.vpg_id = api.vpg(name or self.vpg_name)["VpgIdentifier"]
        return self.vpg_id

    def wait_synced(self, seconds=120):
        """Until the recovery site offers a point."""
        return wait_until("the first checkpoint", lambda: self.paris.api.checkpoints(self.vpg_id),
                          seconds, 0.2)

    def nbd_uri(self, volume):
        """Of a protected volume, by its short or full name."""
        full = volume if "/" in volume else "%s/%s" % (self.vm, volume)
        for v in self.served_volumes():
            if v["volume"] == full:
                return v["nbd_uri"]
        raise LabError("no volume " + full)

    def served_volumes(self):
        """The protected volumes, once the manager has heard where each is
        served: right after a restart of the replicator it has not."""
        return wait_until("the addresses of all volumes", lambda: (
            lambda found: found if all(v["nbd_uri"] for v in found) else None)(self.volume_list()))

    def nbd_uri_of_inventory(self, volume):
        """Of a volume that is not protected (yet)."""
        api = self.london.api
        here = api.get("/v1/localsite")["SiteIdentifier"]
        full = "%s/%s" % (self.vm, volume)
        for vm in api.get("/v1/virtualizationsites/%s/vms" % here):
            for v in vm["Volumes"]:
                if v["VolumeName"] == full:
                    return v["NbdUri"]
        raise LabError("no unprotected volume " + full)

    def volume_list(self):
        out = []
        for v in self.london.api.get("/v1/volumes", volumeType="Protected"):
            out.append({"vm": self.vm, "volume": v["Path"]["Relative"] if v.get("Path") else None,
                        "site": "london", "vpg": self.vpg_name,
                        "size": v["Size"]["ProvisionedInBytes"], "nbd_uri": v["NbdUri"]})
        return out

    def cli_config(self):
        path = os.path.join(self.base, "holdfast.conf")
        with open(path, "w", encoding="utf-8") as f:
            f.write("sites = (\n" + ",\n".join(
                '  { name = "%s"; url = "%s"; user = "%s"; password_file = "%s"; ca_file = "%s"; session_dir = "%s"; }'
                % (s.name, s.url, s.user, s.password_file, s.ca_file, os.path.join(s.dir, "sessions"))
                for s in self.sites) + "\n);\n")
        return path

    def describe(self):
        config = self.cli_config()
        return {
            "format": 1,
            "sites": [{
                "name": s.name, "role": s.role, "api_url": s.url, "ca_file": s.ca_file,
                "user": s.user, "password_file": s.password_file, "config": config,
                "agent_config": s.config, "state_dir": s.state,
                "processes": [{"role": r, "pid_file": s.pid_file(r)}
                              for r in ("supervisor", "manager", "replicator")],
            } for s in self.sites],
            "volumes": self.served_volumes(),
        }

    def down(self):
        failed = None
        for s in self.sites:
            try:
                s.stop()
            except LabError as e:
                failed = e
        self.check_reports()
        if failed:
            raise failed

    def check_reports(self):
        """No sanitizer has written one."""
        found = sorted(glob.glob(glob.escape(self.reports) + ".*"))
        if found:
            texts = []
            for path in found:
                with open(path, encoding="utf-8", errors="replace") as f:
                    texts.append(f.read())
            raise LabError("%d sanitizer reports:\n%s" % (len(found), "\n".join(texts)))

    def logs(self):
        return "".join("--- %s\n%s" % (s.name, s.tail()) for s in self.sites)


def alive(pid, config):
    """Is that process still one that was started with this configuration?"""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as f:
            return config.encode() in f.read()
    except OSError:
        return False


def stop_described(lab):
    """Stop the processes of a lab.json by pid: site by site, the protected one
    first, so that it can still deliver what it has."""
    for site in sorted(lab["sites"], key=lambda s: s["role"] != "protected"):
        config = site["agent_config"]
        pids = []
        for p in site["processes"]:
            try:
                with open(p["pid_file"], encoding="utf-8") as f:
                    pids.append((p["role"], int(f.read().split()[0])))
            except (OSError, ValueError, IndexError):
                continue
        for role, pid in pids:
            if role == "supervisor" and alive(pid, config):
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 40
        while any(alive(p, config) for _, p in pids) and time.monotonic() < end:
            time.sleep(0.05)
        for _, pid in pids:
            if alive(pid, config):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass


def remove_tree(path):
    shutil.rmtree(path, ignore_errors=False)
