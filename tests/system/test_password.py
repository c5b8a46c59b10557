#!/usr/bin/python3
# limit: 400
"""An administrator's password: changed with the old one over the API and by
holdfast password, reset by root on the manager's host.  Other sessions end, the
old password is refused, an event tells, and it all survives a restart."""
import os
import pty
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lab"))
import hflab  # noqa: E402
import labtest  # noqa: E402
from labtest import check, cli, run  # noqa: E402

PATH = "/v1/session/password"


def login(site, password):
    api = hflab.Api(site.url, site.ca_file, site.user, password)
    api.login()
    return api


def no_login(site, password, what):
    try:
        login(site, password)
    except hflab.ApiError as e:
        check(what, e.status in (401, 429), e)
        return
    raise labtest.Failed(what + ": taken")


def ended(api, what):
    status, _, _ = api.raw("GET", "/v1/localsite", None, {"x-zerto-session": api.session})
    check(what, status == 401, status)


def put(api, old, new):
    return api.call("PUT", PATH, {"OldPassword": old, "NewPassword": new})


def over_the_api(site, first):
    one, other = login(site, first), login(site, first)
    labtest.refused("the wrong old one", lambda: put(one, first + "x", "another password"), "API-0007")
    for new, what in (("short", "too short"), (first, "the same"), ("x" * 300, "too long")):
        labtest.refused(what, lambda new=new: put(one, first, new), "API-0014")
    labtest.refused("no new one", lambda: one.call("PUT", PATH, {"OldPassword": first}))
    status, _, _ = one.raw("PUT", PATH, {"OldPassword": first, "NewPassword": "y" * 20})
    check("without a session: refused", status == 401, status)
    put(one, first, "a päss \"word\" 2")
    check("the own session goes on", one.get("/v1/localsite"))
    ended(other, "the other one has ended")
    no_login(site, first, "the old password is refused")
    site.kill("manager")
    hflab.wait_until("the manager after a kill", lambda: login(site, "a päss \"word\" 2"), 30)
    return "a päss \"word\" 2"


def secret_file(it, name, text):
    path = os.path.join(it.base, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
        f.write(text + "\n")
    return path


def by_command(it, site, now):
    secret_file(it, "london/password", now)
    old, new = secret_file(it, "old", now), secret_file(it, "new", "from a file 1")
    out = cli(it, "password", "--ctx", "london", "--old-file", old, "--new-file", new)
    check("it says what to do with the password file", site.password_file in out.stderr and not out.stdout, out)
    secret_file(it, "london/password", "from a file 1")
    os.chmod(new, 0o644)
    out = cli(it, "password", "--ctx", "london", "--old-file", new, "--new-file", new, ok=(1,))
    check("a loose file: refused", "GEN-0006" in out.stderr, out.stderr)
    out = cli(it, "password", "--ctx", "london", ok=(1,), start_new_session=True)
    check("nobody to ask: refused", "CLI-0006" in out.stderr, out.stderr)
    check("typed on a terminal, unseen", typed(it, ["from a file 1", "typed by hand", "typed by hand"]) == 0)
    secret_file(it, "london/password", "typed by hand")
    check("typed differently: refused", typed(it, ["typed by hand", "one of two words", "other of two"]) == 6)
    login(site, "typed by hand")


def typed(it, lines):
    """holdfast password on a terminal of its own; nothing that is typed may be shown."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(hflab.holdfast(), ["holdfast", "--config", it.cli_config(), "password", "--ctx", "london"])
    shown = b""
    try:
        for line in lines:
            while not shown.endswith(b": "):
                shown += os.read(fd, 4096)
            os.write(fd, line.encode() + b"\r")
            shown += b"\n"
        while True:
            more = os.read(fd, 4096)
            if not more:
                break
            shown += more
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    check("nothing typed is seen", not any(line.encode() in shown for line in lines), shown)
    return os.waitstatus_to_exitcode(status)


def reset(site):
    before = login(site, "typed by hand")
    for _ in range(5):
        try:
            login(site, "wrong")
        except hflab.ApiError:
            pass
    out = run(hflab.holdfastd(), "reset-password", "--config", site.config)
    said = dict(line.split(": ", 1) for line in out.stdout.splitlines())
    check("user and password on standard output", said.keys() == {"user", "password"} and said["user"] == site.user
          and len(said["password"]) >= 27, out.stdout)
    ended(before, "all sessions have ended")
    api = login(site, said["password"])
    check("it opens at once, in spite of failed logins", api.get("/v1/localsite"))
    no_login(site, "typed by hand", "the old one is refused")
    events = [e["Description"] for e in api.get("/v1/events")]
    check("events tell of it", sum("was reset on the manager's host" in e for e in events) == 1
          and sum("has changed the password" in e for e in events) == 3, events)
    with open(site.log, encoding="utf-8") as f:
        check("no password in the log", said["password"] not in f.read())
    out = run(hflab.holdfastd(), "reset-password", "--config", site.config, "--user", "nobody", ok=(1,))
    check("an unknown user: refused", "nobody" in out.stderr, out.stderr)


def passwords():
    with labtest.lab(up=False) as it:
        site = it.london
        site.init()
        site.start()
        site.wait_api()
        now = over_the_api(site, site.password())
        by_command(it, site, now)
        reset(site)
        site.stop()
        out = run(hflab.holdfastd(), "reset-password", "--config", site.config, ok=(1, 3))
        check("without a running manager: says so", "no manager answers" in out.stderr, out.stderr)


labtest.main(passwords)
