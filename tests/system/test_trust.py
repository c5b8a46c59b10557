#!/usr/bin/python3
# limit: 150
"""Who is let in: wrong, expired, foreign and revoked certificates, TLS 1.2 and plain
text at each of the four ports, tokens used twice, too late or at the wrong site, and
a peer that speaks another version of the stream.  Codes that must be told:
TLS-0002, TLS-0004, TLS-0005, TLS-0010, TLS-0013, REP-0018, STR-0001, STR-0003,
MGR-0005, MGR-0007, AGT-0004, AGT-0006, AGT-0007."""
import base64
import hashlib
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
import uuid

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
import hflab  # noqa: E402
from labtest import (MIB, Failed, check, lab, log_end, logged, main, refused, run, say, tag,  # noqa: E402
                     wait_logged, wait_until)

ROLE_OID = "2.25.1442436540312744565"


# --- certificates of the test's own making -----------------------------------------------------------


class Certs:
    def __init__(self, it):
        self.dir = os.path.join(it.base, "certs")
        os.mkdir(self.dir)
        self.number = 0

    def issue(self, ca_dir, san, role, days=5):
        """A certificate of the CA in ca_dir: (chain file, key file)."""
        self.number += 1
        name = os.path.join(self.dir, "c%d" % self.number)
        with open(name + ".ext", "w", encoding="utf-8") as f:
            f.write("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
                    "extendedKeyUsage=clientAuth,serverAuth\nsubjectKeyIdentifier=hash\n"
                    "authorityKeyIdentifier=keyid\nsubjectAltName=URI:%s\n%s=ASN1:UTF8String:%s\n"
                    % (san, ROLE_OID, role))
        run("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/O=Holdfast/OU=%s/CN=test" % role)
        run("openssl", "x509", "-req", "-in", name + ".csr", "-CA", os.path.join(ca_dir, "ca.pem"),
            "-CAkey", os.path.join(ca_dir, "ca.key.pem"), "-set_serial", "0x%s" % uuid.uuid4().hex,
            "-days", str(days), "-extfile", name + ".ext", "-out", name + ".pem")
        with open(name + ".chain", "w", encoding="utf-8") as out:
            for part in (name + ".pem", os.path.join(ca_dir, "ca.pem"), os.path.join(ca_dir, "root.pem")):
                with open(part, encoding="utf-8") as f:
                    out.write(f.read())
        return name + ".chain", name + ".key"


def san_of(chain):
    out = run("openssl", "x509", "-in", chain, "-noout", "-ext", "subjectAltName").stdout
    return next(w.strip()[4:] for w in out.replace("\n", ",").split(",") if "URI:" in w)


def own(site, role):
    base = os.path.join(site.state, role)
    return os.path.join(base, "chain.pem"), os.path.join(base, "key.pem")


# --- knocking at a port ------------------------------------------------------------------------------


def client(cert=None, version=ssl.TLSVersion.TLSv1_3):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname = False
    ctx.verify_mode = ssl.CERT_NONE  # it is the server that is tested
    ctx.minimum_version = ctx.maximum_version = version
    if cert:
        ctx.load_cert_chain(*cert)
    return ctx


def knock(port, data, ctx=None):
    """What came back: bytes, or why nothing did.  In TLS 1.3 the server's refusal
    of a certificate comes after the client's side of the handshake has ended."""
    s = socket.create_connection(("127.0.0.1", port), timeout=15)
    try:
        if ctx:
            s = ctx.wrap_socket(s)
        s.sendall(data)
        got = b""
        while len(got) < 65536:
            more = s.recv(65536)
            if not more:
                break
            got += more
            if got.startswith(b"HTTP/1.") and b"\r\n\r\n" in got:
                break
            if not got.startswith(b"HTTP/1."):
                break
        return got
    except socket.timeout as e:
        raise Failed("port %d neither answers nor closes within 15 s" % port) from e
    except (ssl.SSLError, ConnectionError) as e:
        return e
    finally:
        s.close()


def http_get(path):
    return ("GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % path).encode()


def beat():
    return (b"POST /peer/v1/heartbeat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


def is_refused(got):
    if isinstance(got, Exception) or got == b"":
        return True
    return got.startswith((b"HTTP/1.1 401", b"HTTP/1.1 403"))


def told(site, since, code):
    """The server's log must name the code, with the way out."""
    line = wait_until("%s in the log of %s" % (code, site.name), lambda: logged(site, code, since), 10)[0]
    if "next:" not in line:
        raise Failed("no way out in: " + line)
    return line


def turned_away(it, ports, what, cert, code, version=ssl.TLSVersion.TLSv1_3):
    for site, name, port, request in ports:
        since = log_end(site)
        got = knock(port, request, client(cert, version))
        check("%s at %s's %s port: refused" % (what, site.name, name), is_refused(got), repr(got)[:300])
        told_line = told(site, since, code)
        check("and %s says so: %s" % (site.name, code), True, told_line[25:])


def ports_of(it):
    """Ports that want a certificate."""
    out = []
    for site in it.sites:
        out.append((site, "control", site.control_port, http_get("/control/v1/status")))
        out.append((site, "data", site.data_port, hello(os.urandom(16), os.urandom(16))))
        out.append((site, "managers'", site.peer_port, beat()))
    return out


def strangers(it, certs):
    ports = ports_of(it)
    with_cert = [p for p in ports if p[1] != "managers'"]
    for site, name, port, request in ports:
        if name == "managers'":
            got = knock(port, request, client())
            check("no certificate at %s's managers' port: refused" % site.name, is_refused(got), got)
    turned_away(it, with_cert, "no certificate", None, "TLS-0010")
    # A whole site that nobody has paired with.
    rogue = os.path.join(it.base, "rogue")
    run(hflab.holdfastd(), "init", "--state", rogue, "--site", "rogue", "--api", "127.0.0.1:1")
    rogue_ca = os.path.join(rogue, "manager")
    london = san_of(own(it.london, "replicator")[0])
    turned_away(it, ports, "a foreign certificate with a known name",
                certs.issue(rogue_ca, london, "replicator"), "TLS-0004")
    london_ca = os.path.join(it.london.state, "manager")
    expired = certs.issue(london_ca, london, "replicator", days=-1)
    turned_away(it, ports, "an expired certificate", expired, "TLS-0002")
    prefix = london.rsplit(":", 2)[0]
    unknown = certs.issue(london_ca, "%s:replicator:%s" % (prefix, uuid.uuid4()), "replicator")
    since = log_end(it.paris)
    got = knock(it.paris.data_port, hello(uuid.UUID(san_of(unknown[0]).rsplit(":", 1)[1]).bytes,
                                          agent(it.paris)), client(unknown))
    check("a replicator of london that paris was not told of: refused", refusal_text(got) != "", repr(got)[:200])
    check("and paris says so", told(it.paris, since, "STR-0003"))
    return rogue


def wrong_role(it):
    for cert, site, what in ((own(it.london, "replicator"), it.london, "a replicator's certificate"),
                             (own(it.london, "manager"), it.paris, "the other site's manager's certificate")):
        got = knock(site.control_port, http_get("/control/v1/status"), client(cert))
        check("%s at the control port of %s: refused" % (what, site.name), is_refused(got), repr(got)[:300])
    got = knock(it.london.control_port, http_get("/control/v1/status"), client(own(it.london, "manager")))
    check("the own manager's is taken", got.startswith(b"HTTP/1.1 200"), repr(got)[:80])
    got = knock(it.paris.peer_port, beat(), client(own(it.london, "replicator")))
    check("a replicator's certificate at the managers' port: refused", is_refused(got), repr(got)[:200])
    got = knock(it.paris.data_port, hello(bytes(16), agent(it.paris)), client(own(it.london, "manager")))
    check("a manager's certificate at the data port: refused", is_refused(got) or refusal_text(got) != "",
          repr(got)[:200])


def old_tls_and_plain(it):
    ports = ports_of(it) + [(s, "API", s.api_port, http_get("/v1/health")) for s in it.sites]
    cert = own(it.london, "replicator")
    for site, name, port, request in ports:
        got = knock(port, request, client(cert, ssl.TLSVersion.TLSv1_2))
        check("TLS 1.2 at %s's %s port: refused" % (site.name, name),
              isinstance(got, ssl.SSLError) or got == b"" or isinstance(got, ConnectionError), repr(got)[:200])
        got = knock(port, request)
        check("plain text at %s's %s port: no answer in plain text" % (site.name, name),
              isinstance(got, Exception) or not got.startswith(b"HTTP") and b"HFst" not in got, repr(got)[:200])
    for site in it.sites:
        since = log_end(site)
        knock(site.data_port, b"x" * 100)
        knock(site.data_port, b"", client(cert, ssl.TLSVersion.TLSv1_2))
        check("%s says so: TLS-0013" % site.name, told(site, since, "TLS-0013"))


# --- the stream --------------------------------------------------------------------------------------


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def hello(me, you, low=1, high=1, frame_version=1, features=0):
    body = struct.pack("<BBBBI16s16sQQH", low, high, 0, 0, features, me, you, 4711, time.time_ns(), 0)
    head = struct.pack("<IBBHIIQQI", 0x74734648, frame_version, 1, 0, 0, len(body), 0, 0, 0)
    return head + struct.pack("<I", crc32c(head)) + body


def agent(site):
    """The identifier of a site's replicator, as 16 bytes."""
    return uuid.UUID(san_of(own(site, "replicator")[0]).rsplit(":", 1)[1]).bytes


def refusal_text(got):
    """The text of a HELLO_ACK that says no; "" if it is none."""
    if isinstance(got, Exception) or len(got) < 40 + 58 or got[5] != 2:
        return ""
    ok, (n,) = got[43], struct.unpack_from("<H", got, 40 + 56)
    return "" if ok else got[98:98 + n].decode("utf-8", "replace") or "no text"


def other_versions(it):
    me, you = agent(it.london), agent(it.paris)
    cert = own(it.london, "replicator")
    since = log_end(it.paris)
    got = knock(it.paris.data_port, hello(me, you, 7, 9), client(cert))
    text = refusal_text(got)
    check("a peer of stream versions 7 to 9 is told why not", "7" in text and "9" in text, text or repr(got))
    check("and paris says so: STR-0001", told(it.paris, since, "STR-0001"))
    since = log_end(it.paris)
    got = knock(it.paris.data_port, hello(me, you, features=1 << 30), client(cert))
    check("a peer that needs a feature that we lack is told so", "feature" in refusal_text(got),
          refusal_text(got) or repr(got))
    got = knock(it.paris.data_port, hello(me, you, frame_version=2), client(cert))
    check("a frame of another version ends the connection", got == b"" or isinstance(got, Exception)
          or refusal_text(got) != "", repr(got)[:200])
    got = knock(it.paris.data_port, hello(os.urandom(16), you), client(cert))
    check("a name that is not the certificate's is refused", refusal_text(got) != "" or is_refused(got),
          repr(got)[:200])
    tag(it, "the lane goes on")


# --- revocation --------------------------------------------------------------------------------------


def revoked(it):
    state = os.path.join(it.base, "second")
    token = make_token(it.paris, "paris-2")
    join(state, token, it.paris)
    cert = tuple(os.path.join(state, "replicator", n) for n in ("chain.pem", "key.pem"))
    ident = san_of(cert[0]).rsplit(":", 1)[1]
    announce = b'{"ControlAddress":":1","DataAddress":":2","Name":"paris-2","Version":"0.1.0"}'
    request = (b"POST /v1/announce HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
               b"Content-Length: %d\r\n\r\n" % len(announce)) + announce
    got = knock(it.paris.api_port, request, client(cert))
    check("before: its manager takes its word", got.startswith(b"HTTP/1.1 200"), repr(got)[:200])
    it.paris.api.call("POST", "/v1/vras/%s/revoke" % ident, {})
    got = wait_until("the manager to refuse it", lambda: is_refused(
        knock(it.paris.api_port, request, client(cert))))
    for site in it.sites:
        for name, port, data in (("data", site.data_port, hello(uuid.UUID(ident).bytes, agent(site))),
                                 ("control", site.control_port, http_get("/control/v1/status"))):
            def away(site=site, port=port, data=data):
                since = log_end(site)
                got = knock(port, data, client(cert))
                return is_refused(got) and wait_logged_soon(site, "TLS-0005", since)
            wait_until("%s's %s port to know the revocation" % (site.name, name), away, 20)
            check("a revoked certificate at %s's %s port: refused, TLS-0005" % (site.name, name), True)
    check("the replicator that was not revoked goes on", tag(it, "after the revocation"))


def wait_logged_soon(site, text, since):
    try:
        return wait_until("a line", lambda: logged(site, text, since), 1)
    except hflab.LabError:
        return None


# --- tokens ------------------------------------------------------------------------------------------


def make_token(site, name, *more):
    return run(hflab.holdfastd(), "token", "--state", site.state, "--name", name, *more).stdout.strip()


def join(state, token, site, ok=(0,)):
    return run(hflab.holdfastd(), "join", "--state", state, "--token", "-", "--manager",
               "127.0.0.1:%d" % site.api_port, input=token + "\n", ok=ok)


def join_refused(it, what, state, token, site, codes):
    out = join(state, token, site, ok=None)
    check("%s: refused" % what, out.returncode == 1 and any(c in out.stderr for c in codes)
          and "next:" in out.stderr, (out.returncode, out.stderr.strip()))
    check("%s: no certificate was left" % what,
          not os.path.exists(os.path.join(state, "replicator", "chain.pem")))


def join_tokens(it, rogue):
    where = lambda n: os.path.join(it.base, "j%d" % n)  # noqa: E731
    token = make_token(it.paris, "paris-3")
    join(where(1), token, it.paris)
    join_refused(it, "a join token used twice", where(2), token, it.paris, ("MGR-0007", "AGT-0004"))
    join_refused(it, "a token of london at paris", where(3), make_token(it.london, "x"), it.paris,
                 ("AGT-0007", "TLS-0004"))
    short = make_token(it.paris, "paris-4", "--valid", "1s")
    time_over = time.time() + 2.1
    wait_until("the token's time to be over", lambda: time.time() > time_over)
    join_refused(it, "an expired join token", where(4), short, it.paris, ("AGT-0006",))
    join_refused(it, "a token with one letter changed", where(5), flip(make_token(it.paris, "paris-5")),
                 it.paris, ("TLS-0012",))
    again = join(where(1), make_token(it.paris, "paris-6"), it.paris, ok=None)
    check("joining where a host has joined: refused", again.returncode == 1 and "AGT-0005" in again.stderr,
          again.stderr.strip())


def joined_again(it):
    """With a fresh token and the key that it has, a replicator is who it was, also while it runs."""
    before = it.paris.api.get("/v1/vras")
    since = log_end(it.paris)
    out = join(it.paris.state, make_token(it.paris, before[0]["VraName"]), it.paris)
    check("paris's replicator joins again", "again" in out.stdout, out.stdout)
    os.kill(it.paris.pid("supervisor"), signal.SIGHUP)
    check("it takes the certificate while it runs", wait_logged(it.paris, "joined again: certificate", since))
    after = it.paris.api.get("/v1/vras")
    check("under the identity that it had", [v["HostIdentifier"] for v in after] == [v["HostIdentifier"] for v in before])
    tag(it, "after joining again")
    it.paris.stop()
    it.paris.start()
    it.paris.wait_api()
    tag(it, "after joining again and a restart", 90)


def flip(token):
    at = len(token) // 2
    return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1:]


def pair_tokens(it):
    path = "/v1/peersites"
    api, port = it.london.api, it.paris.peer_port

    def pair(token, host_port=port):
        try:
            task = api.post(path, {"HostName": "127.0.0.1", "Port": host_port, "Token": token})
            api.wait_task(task)
        except hflab.LabError as e:
            return str(e)
        except hflab.ApiError as e:
            return "%s (%s)" % (e.message, e.code)
        return None

    good = it.paris.api.post(path + "/generatetoken")["Token"]
    raw = base64.urlsafe_b64decode(good + "=" * (-len(good) % 4))
    late = raw[:33] + struct.pack("<Q", int(time.time()) - 5) + raw[41:-4]
    late = base64.urlsafe_b64encode(late + hashlib.sha256(late).digest()[:4]).decode().rstrip("=")
    why = pair(late)
    check("an expired pairing token: refused", why and "MGR-0005" in why and "expired" in why, why)
    why = pair(it.london.api.post(path + "/generatetoken")["Token"])
    check("a token of the same site: refused", why and "made at" in why, why)
    why = pair(flip(good))
    check("a damaged pairing token: refused", why and "MGR-0005" in why, why)
    why = pair(good, it.london.peer_port)
    check("paris's token at another manager's port: refused before anything is sent",
          why and ("MGR-0006" in why or "TLS-0004" in why or "MGR-0011" in why), why)
    peers = api.get(path)
    why = pair(good)
    if why is None:
        say("pairing again with a fresh token is taken")
        why = pair(good)
    check("a pairing token used twice: refused", why and ("MGR-0005" in why or "paired" in why), why)
    check("the pairing that stands is as it was", len(api.get(path)) == len(peers) == 1)


def trust():
    with lab(volumes=(("files", 16 * MIB),)) as it:
        certs = Certs(it)
        rogue = strangers(it, certs)
        wrong_role(it)
        old_tls_and_plain(it)
        other_versions(it)
        join_tokens(it, rogue)
        pair_tokens(it)
        joined_again(it)
        revoked(it)
        tag(it, "at the end")
        for site in it.sites:
            check("%s: no process died of it" % site.name,
                  not [x for x in logged(site, "was ended by signal")], logged(site, "was ended by"))


main(trust)
