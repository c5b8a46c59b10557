#!/usr/bin/python3
# limit: 300
"""Certificates end, and are renewed before: replicators' by their manager while replication goes on, the manager's by
itself, both on demand; a crash in between, an expired and a revoked one, and the site's CA near its end."""

import base64
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))

import hflab
import labtest
from labtest import MIB, Failed, check, run, say

MKPKI = os.path.join(hflab.build_dir(), "tests", "system", "mkpki")


def role_dir(site, role):
    return os.path.join(site.state, role)


def serial(site, role):
    return run("openssl", "x509", "-in", os.path.join(role_dir(site, role), "chain.pem"), "-noout",
               "-serial").stdout.strip().split("=")[1]


def days_left(site, role):
    out = run("openssl", "x509", "-in", os.path.join(role_dir(site, role), "chain.pem"), "-noout", "-enddate").stdout
    return (ssl.cert_time_to_seconds(out.strip().split("=")[1]) - time.time()) / 86400


def pair_fits(site, role):
    d = role_dir(site, role)
    cert = run("openssl", "x509", "-in", d + "/chain.pem", "-noout", "-pubkey").stdout
    key = run("openssl", "pkey", "-in", d + "/key.pem", "-pubout").stdout
    return cert == key and stat.S_IMODE(os.stat(d + "/key.pem").st_mode) == 0o600


def make_leaf(site, role, age, life, out=None):
    """A certificate of this role that began age seconds ago and ends life seconds after that."""
    d = role_dir(site, role)
    run(MKPKI, "--leaf", role_dir(site, "manager"), d, str(age), str(life), out or d)


def restart(site):
    site.start()
    site.wait_api()


def served(site):
    """Serial of the certificate that the API shows to a new connection."""
    pem = ssl.get_server_certificate(("127.0.0.1", site.api_port), ca_certs=site.ca_file)
    return run("openssl", "x509", "-noout", "-serial", input=pem).stdout.strip().split("=")[1]


class Writer(threading.Thread):
    """Writes and flushes through one NBD connection until told to stop."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.uri, self.stop, self.n, self.error = uri, threading.Event(), 0, None

    def run(self):
        try:
            h = labtest.nbd.NBD()
            h.connect_uri(self.uri)
            while not self.stop.wait(0.05):
                h.pwrite(labtest.noise(self.n, 4096), (self.n % 256) * 4096)
                h.flush()
                self.n += 1
            h.shutdown()
        except Exception as e:  # told to the main thread
            self.error = e

    def end(self):
        self.stop.set()
        self.join(20)
        check("the disk was written all the time", self.error is None and not self.is_alive(), self.error or self.n)


def renew_with(site, cert_dir, body=None):
    """POST /v1/renew with a certificate; (status, body), or the exception of TLS."""
    tls = ssl.create_default_context(cafile=site.ca_file)
    if cert_dir:
        tls.load_cert_chain(cert_dir + "/chain.pem", cert_dir + "/key.pem")
    c = http.client.HTTPSConnection("127.0.0.1", site.api_port, context=tls, timeout=20)
    try:
        c.request("POST", "/v1/renew", json.dumps(body or {"Csr": "AAAA"}), {"Content-Type": "application/json"})
        r = c.getresponse()
        return r.status, json.loads(r.read() or b"null")
    except (ssl.SSLError, OSError, http.client.HTTPException) as e:
        return 0, e
    finally:
        c.close()


def csr(cn, key):
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    der = subprocess.run(["openssl", "req", "-new", "-key", key, "-subj", "/CN=" + cn, "-outform", "DER"], check=True,
                         capture_output=True).stdout
    return base64.b64encode(der).decode()


def newest(it):
    found = labtest.numbers(it)
    return max(found) if found else 0


def test_while_replicating():
    """Certificates that live 100 s, a third of it gone: renewed live at both sites, and good after the old ones' end."""
    with labtest.lab() as it:
        it.wait_synced()
        for s in it.sites:
            s.stop()
        before = {}
        for s in it.sites:
            make_leaf(s, "replicator", 24, 80)
            make_leaf(s, "manager", 60, 80)
            before[s.name] = (serial(s, "replicator"), serial(s, "manager"))
        made = time.monotonic()
        marks = {s.name: labtest.log_end(s) for s in it.sites}
        for s in it.sites:
            restart(s)
        writer = Writer(it.nbd_uri("files"))
        writer.start()
        first = newest(it)
        for s in it.sites:
            hflab.wait_until("a new certificate of the replicator at " + s.name,
                             lambda s=s: serial(s, "replicator") != before[s.name][0], 40, 0.3)
            labtest.wait_logged(s, "the certificate was renewed: serial " + serial(s, "replicator").lower(), marks[s.name])
            hflab.wait_until("a new certificate of the manager at " + s.name,
                             lambda s=s: serial(s, "manager") != before[s.name][1], 20, 0.3)
            for role in ("manager", "replicator"):
                check("%s %s: key and certificate belong together" % (s.name, role), pair_fits(s, role))
                check("%s %s: good for a month" % (s.name, role), 29.9 < days_left(s, role) <= 30, days_left(s, role))
            check("%s: the API shows the new certificate without a restart" % s.name, served(s) == serial(s, "manager"))
        # The connection under the writer and the link between the replicators are those from before.
        link = {s.name: labtest.log_end(s) for s in it.sites}
        left = 60 - (time.monotonic() - made)
        say("%.0f s until the old certificates have ended" % left)
        hflab.wait_until("the old certificates' end", lambda: time.monotonic() - made > 60, 70, 0.5)
        now = newest(it)
        check("points were made all the while", now > first + 20, (first, now))
        hflab.wait_until("points after the end", lambda: newest(it) > now + 3, 20, 0.2)
        for s in it.sites:
            check("%s: manager and replicator speak" % s.name,
                  all(v["LinkState"] == "Connected" for v in s.api.get("/v1/vras")), s.api.get("/v1/vras"))
            broken = [x for x in labtest.logged(s, "replicator", link[s.name]) if "link" in x or "TLS-" in x]
            check("%s: no connection was cut" % s.name, not broken, broken)
        check("the sites speak", it.london.api.get("/v1/peersites")[0]["LinkState"] == "Connected")
        writer.end()
        labtest.tag(it, "late")
        # New connections stand on the new certificates alone.
        it.london.kill("replicator")
        now = newest(it)
        hflab.wait_until("points after a restart", lambda: newest(it) > now + 3, 60, 0.3)
        check("the site is in step", labtest.vpg(it.paris, it)["Status"] in (0, 1), labtest.vpg(it.paris, it))


def test_on_demand():
    with labtest.lab(protect=False) as it:
        s = it.london
        before = (serial(s, "manager"), serial(s, "replicator"))
        out = run(hflab.holdfastd(), "renew", "--state", s.state).stdout
        now = (serial(s, "manager"), serial(s, "replicator"))
        check("both certificates are new", before[0] != now[0] and before[1] != now[1], out)
        check("and told", now[0].lower() in out.lower() and now[1].lower() in out.lower(), out)
        check("the API shows it", served(s) == now[0])
        s.api.close()
        hflab.wait_until("the replicator to be heard", lambda: s.api.get("/v1/vras")[0]["LinkState"] == "Connected")

        # Somebody else's request, and one without a certificate.
        status, body = renew_with(s, None)
        check("no certificate, no renewal", status == 403 and body["Code"] == "MGR-0016" and body["NextStep"], body)
        status, body = renew_with(s, role_dir(s, "manager"))
        check("not a replicator's", status == 403 and body["Code"] == "MGR-0016", body)
        status, body = renew_with(s, role_dir(it.paris, "replicator"))
        check("not one of this site", status in (0, 403), body)
        status, body = renew_with(s, role_dir(s, "replicator"), {"Csr": "AAAA"})
        check("no request", status == 400 and body["Code"] == "TLS-0011", body)
        status, body = renew_with(s, role_dir(s, "replicator"), {"Csr": "no base64!"})
        check("no base64", status == 400 and body["Code"] == "API-0014", body)

        # A name in the request counts for nothing; an earlier certificate can be revoked, too.
        old = tempfile.mkdtemp(dir=it.base)
        for name in ("chain.pem", "key.pem"):
            shutil.copy2(os.path.join(role_dir(s, "replicator"), name), old)
        status, body = renew_with(s, old, {"Csr": csr("somebody-else", old + "/other.pem")})
        check("renewed", status == 200, body)
        subject = run("openssl", "x509", "-noout", "-subject", input=body["Certificate"]).stdout
        check("under its own name", "london-1" in subject and "somebody" not in subject, subject)
        extra = tempfile.mkdtemp(dir=it.base)
        shutil.copy(old + "/other.pem", extra + "/key.pem")
        with open(extra + "/chain.pem", "w", encoding="ascii") as f:
            f.write(body["Certificate"] + body["Chain"] + body["Root"])
        check("which is good", renew_with(s, extra)[0] == 400, "an answer past the handshake")

        vra = s.api.get("/v1/vras")[0]
        mark = labtest.log_end(s)
        s.api.post("/v1/vras/%s/revoke" % vra["HostIdentifier"])
        for what, d in (("the certificate in use", role_dir(s, "replicator")), ("the one beside it", extra)):
            status, body = renew_with(s, d)
            check(what + " is refused once revoked", status == 0 and isinstance(body, Exception), body)
        out = run(hflab.holdfastd(), "renew", "--state", s.state, ok=None, timeout=60)
        check("a revoked replicator is told so", out.returncode == 1 and "AGT-0009" in out.stderr, out.stderr)
        line = labtest.wait_logged(s, "REP-0021", mark)
        check("its log says why and the way out", "renewing the certificate" in line and "join again" in line
              and re.search("revoked|TLS-0005|REP-0020|refus", line), line)

        s.stop()
        out = run(hflab.holdfastd(), "renew", "--state", s.state, ok=None)
        check("without an agent there is nobody to ask", out.returncode == 1 and "AGT-0009" in out.stderr, out.stderr)


def test_crash_and_end():
    with labtest.lab(protect=False) as it:
        s = it.london
        s.stop()
        # What kill -9 leaves between the two renames: the new key in place, the new chain still beside the old one.
        new = tempfile.mkdtemp(dir=it.base)
        for role in ("manager", "replicator"):
            d = role_dir(s, role)
            make_leaf(s, role, 0, 86400, new)
            want = run("openssl", "x509", "-in", new + "/chain.pem", "-noout", "-serial").stdout.strip().split("=")[1]
            shutil.copy2(new + "/key.pem", d + "/key.pem")
            shutil.copy2(new + "/chain.pem", d + "/chain.pem.new")
            check("%s: a mismatched pair is planted" % role, not pair_fits(s, role))
            s.start()
            s.wait_api()
            hflab.wait_until("the replicator", lambda: s.api.get("/v1/vras")[0]["LinkState"] == "Connected", 40)
            check("%s: goes on with the new pair" % role, serial(s, role) == want and pair_fits(s, role))
            check("%s: nothing is left over" % role, not os.path.exists(d + "/chain.pem.new"))
            s.stop()

        # Expired while the host was off.
        make_leaf(s, "replicator", 60, 30)
        gone = serial(s, "replicator")
        mark = labtest.log_end(s)
        restart(s)
        line = labtest.wait_logged(s, "REP-0021", mark)
        check("an expired certificate is told with its end and the way out",
              gone.lower() in line.lower() and "expired at" in line and "join again" in line, line)
        check("it stays", serial(s, "replicator") == gone)
        status, body = renew_with(s, role_dir(s, "replicator"))
        check("the manager does not talk to it", status == 0 and isinstance(body, Exception), body)
        found = hflab.wait_until("the alert", lambda: [a for a in s.api.get("/v1/alerts")
                                                       if a["HelpIdentifier"] == "ZVM0002"], 20)
        check("the manager misses the replicator", "london-1" in found[0]["Description"], found)
        s.stop()

        # A manager that was off for longer has its CA: it helps itself.
        make_leaf(s, "manager", 60, 30)
        gone = serial(s, "manager")
        # And the CA has 40 days left.
        run(MKPKI, "--ca", role_dir(s, "manager"), str((730 - 40) * 86400))
        s.start()
        hflab.wait_until("the manager's new certificate", lambda: serial(s, "manager") != gone, 30)
        s.wait_api()
        check("good for a month", 29.9 < days_left(s, "manager") <= 30)
        found = hflab.wait_until("the alert", lambda: [a for a in s.api.get("/v1/alerts")
                                                       if a["HelpIdentifier"] == "HF0015"], 20)[0]
        check("the CA's end is announced", found["Level"] == "Warning" and "CA" in found["Description"]
              and "39 days" in found["Description"], found)
        since = labtest.when(found["TurnedOn"])
        check("since 60 days before", abs(since - (time.time() - 20 * 86400)) < 3 * 3600, found["TurnedOn"])
        events = [e for e in s.api.get("/v1/events") if e["EventType"] == 47]
        check("an event tells it, too", events and "CA" in events[0]["Description"], events)

        # The root's key is still in place: the CA gets a new certificate, and with it all others.
        out = run(hflab.holdfastd(), "renew", "--state", s.state, ok=(1,), timeout=60)
        check("the manager's part is done, the expired replicator's is not",
              "manager: serial" in out.stdout and "AGT-0009" in out.stderr, out.stdout + out.stderr)
        end = run("openssl", "x509", "-in", role_dir(s, "manager") + "/ca.pem", "-noout", "-enddate").stdout
        check("the CA is good for two years", "%d" % (time.gmtime().tm_year + 2) in end, end)
        check("the alert is gone", not s.api.get("/v1/alerts", helpIdentifier="HF0015"))
        check("the API shows a certificate of the new CA", served(s) == serial(s, "manager"))
        s.stop()
        make_leaf(s, "replicator", 0, 86400)  # as if it had joined again
        restart(s)
        hflab.wait_until("the replicator under the new CA",
                         lambda: s.api.get("/v1/vras")[0]["LinkState"] == "Connected", 30)


labtest.main(test_while_replicating, test_on_demand, test_crash_and_end)
