#!/usr/bin/python3
"""Rules of this tree that no compiler knows.

    tests/lint/lint.py TOP                   read the sources
    tests/lint/lint.py --objects DIR TOP     look at what the data path's object files ask libc for

floors   a room includes only rooms below it (docs/architecture.md)
seam     the data path takes clock, random numbers, files, sockets, threads and signals only from io/
codes    error codes are unique, and each is named by a test
words    no notes to self, no paths of one machine
docs     docs/errors.md is what common/err_codes.def makes it
syntax   shell and Python files parse
size     a file over 900 lines is worth a look (a warning, no finding)

Prints file:line: rule: what; exit status 0 clean, 1 findings, 2 usage.  tests/lint/test_lint.sh plants a violation of
each rule and expects it to be found.
"""

import fnmatch
import os
import re
import subprocess
import sys

import errors

# ---- The tables ---------------------------------------------------------------------------------------------------

# What each room may include besides itself.  The manager stands on no data-path room: it reaches replicators over their
# control API only.
BELOW = {
    "agent": {"replicator", "manager", "stream", "journal", "capture", "http", "hypervisor", "nbd", "lane", "io", "common"},
    "replicator": {"stream", "journal", "capture", "nbd", "lane", "io", "common"},
    "manager": {"http", "hypervisor", "io", "common"},
    "stream": {"journal", "capture", "nbd", "lane", "io", "common"},
    "journal": {"nbd", "lane", "io", "common"},
    "capture": {"nbd", "lane", "io", "common"},
    "http": {"io", "common"},
    "hypervisor": {"io", "common"},
    "nbd": {"io", "common"},
    "lane": {"io", "common"},
    "io": {"common"},
    "common": set(),
    "tui": {"common"},
}

# Files that may include more: (files, what they include, why).
FLOOR_EXCEPTIONS = [
    ("agent/replicator/control*", "agent/http/*", "the replicator's control API is served over HTTPS"),
    ("agent/replicator/*", "agent/agent_config.h", "the configuration is the contract between the top and a role"),
    ("agent/replicator/*", "agent/role.h", "entry points of the roles"),
    ("agent/manager/*", "agent/agent_config.h", "the same"),
    ("agent/manager/*", "agent/role.h", "the same"),
]

# Rooms behind the seam, and the files in them that stand outside.
SEAM_ROOMS = {"lane", "nbd", "capture", "stream", "journal", "replicator"}
SEAM_OUTSIDE = ["agent/replicator/control*", "agent/replicator/role.c"]

SEAM_HEADERS = re.compile(
    r"^(sys/(socket|stat|time|select|poll|epoll|eventfd|timerfd|signalfd|inotify|un|file|ioctl|random|wait|sendfile|statvfs)"
    r"|fcntl|time|unistd|poll|dirent|netdb|ifaddrs|signal|spawn|aio|ftw|glob|netinet/.*|arpa/.*|net/.*|linux/.*"
    r"|liburing|sqlite3|openssl/(ssl|rand|bio)|event2/.*|curl/.*)\.h$|^liburing/.*$"
)
# Of common/, what is such a service itself.
SEAM_COMMON = {"common/files.h", "common/httpc.h"}

SEAM_CALLS = set(
    """
    open openat open64 creat read write pread pwrite readv writev preadv pwritev preadv2 pwritev2 lseek close
    fsync fdatasync sync syncfs sync_file_range fallocate posix_fallocate posix_fadvise ftruncate truncate
    rename renameat renameat2 unlink unlinkat remove link linkat symlink readlink mkdir mkdirat rmdir opendir readdir closedir
    stat fstat lstat fstatat statx statfs fstatfs access faccessat chmod fchmod chown fchown umask dup dup2 dup3 fcntl ioctl
    flock lockf pipe pipe2 mkstemp mkostemp mkdtemp tmpfile copy_file_range sendfile splice
    fopen fdopen freopen fclose fread fwrite fgets fputs fputc fflush fprintf vfprintf printf vprintf puts putchar perror dprintf
    socket socketpair connect bind listen accept accept4 send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg shutdown
    getsockopt setsockopt getsockname getpeername getaddrinfo gethostbyname
    poll ppoll select pselect epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd timerfd_create timerfd_settime
    clock_gettime clock_getres gettimeofday time ftime clock nanosleep clock_nanosleep usleep sleep alarm setitimer timer_create
    localtime localtime_r gmtime gmtime_r
    rand rand_r srand random srandom random_r drand48 lrand48 getrandom getentropy arc4random arc4random_buf
    RAND_bytes RAND_priv_bytes
    pthread_create thrd_create fork vfork posix_spawn posix_spawnp system popen execv execve execvp kill raise signal sigaction
    getenv secure_getenv syscall gethostname getpid gettid
    """.split()
)
SEAM_PREFIXES = ("io_uring_", "SSL_", "BIO_", "event_", "bufferevent_", "curl_", "sqlite3_")

# Written in pieces, so that this file does not find itself.
WORDS = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
PATHS = re.compile(r"(?<![\w.$}])/(?:work|root|home/[a-z]\w*|Users|tmp/h" + r"f|tmp/bash_jobs)(?:/|\b(?=[\"'\s]|$))")
LINES_MAX = 900

# ---- Reading the tree ---------------------------------------------------------------------------------------------


def tree_files(top):
    """All files that are, or are about to be, in the tree."""
    if os.path.exists(os.path.join(top, ".git")):
        out = subprocess.run(
            ["git", "-C", top, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True, stdout=subprocess.PIPE,
        ).stdout
        names = [n for n in out.decode().split("\0") if n]
    else:
        names = []
        for base, dirs, files in os.walk(top):
            dirs[:] = [d for d in dirs if os.path.relpath(os.path.join(base, d), top) != "build"]
            names += [os.path.relpath(os.path.join(base, f), top) for f in files]
    return sorted({n for n in names if os.path.isfile(os.path.join(top, n)) and not n.startswith("tests/fuzz/corpus/")})


def read(top, name):
    """The text, or None for what is no text."""
    with open(os.path.join(top, name), "rb") as f:
        data = f.read()
    return None if b"\0" in data[:8192] else data.decode("utf-8", "replace")


def code_only(text):
    """C source with comments and literals blanked; line numbers stay."""
    pattern = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S)
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def room_of(name):
    parts = name.split("/")
    if parts[0] == "agent":
        return parts[1] if len(parts) > 2 else "agent"
    return parts[0] if parts[0] in ("common", "tui") else None


class Findings:
    def __init__(self):
        self.found = self.warned = 0

    def add(self, name, line, rule, text):
        self.found += 1
        print(f"{name}:{line}: {rule}: {text}")

    def warn(self, name, line, rule, text):
        self.warned += 1
        print(f"{name}:{line}: warning: {rule}: {text}")


# ---- The rules ----------------------------------------------------------------------------------------------------

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">\n]+)[">]', re.M)


def resolve(files, name, wanted):
    """The file of the tree an #include "..." means: beside the file, from the top, from agent/."""
    for base in (os.path.dirname(name), "", "agent"):
        path = os.path.normpath(os.path.join(base, wanted))
        if path in files:
            return path
    return None


def floor_exception(name, target):
    return any(fnmatch.fnmatch(name, f) and fnmatch.fnmatch(target, t) for f, t, _ in FLOOR_EXCEPTIONS)


def check_floors(files, name, text, out):
    room = room_of(name)
    if room is None:
        return
    if room not in BELOW:
        out.add(name, 1, "floors", f"room {room} has no place in the house: see BELOW in tests/lint/lint.py")
        return
    for m in INCLUDE.finditer(text):
        target = resolve(files, name, m.group(2))
        # a header that is still to be written counts by its folder
        to = room_of(target or "agent/" + m.group(2)) if m.group(1) == '"' else None
        if not target and to == "agent":
            continue
        if to and to != room and to not in BELOW[room] and not (target and floor_exception(name, target)):
            out.add(name, line_of(text, m.start()), "floors", f"{room} may not include {to}: {m.group(2)}")


def behind_seam(name):
    return room_of(name) in SEAM_ROOMS and not any(fnmatch.fnmatch(name, p) for p in SEAM_OUTSIDE)


def forbidden_call(symbol):
    return symbol in SEAM_CALLS or symbol.startswith(SEAM_PREFIXES)


CALL = re.compile(r"(?<![\w.>])([A-Za-z_]\w*)\s*\(")


def check_seam(name, text, out):
    if not behind_seam(name):
        return
    for m in INCLUDE.finditer(text):
        header = m.group(2)
        if (m.group(1) == "<" and SEAM_HEADERS.match(header)) or header in SEAM_COMMON:
            out.add(name, line_of(text, m.start()), "seam", f"{header} is for io/ and what stands outside the data path")
    code = code_only(text)
    for m in CALL.finditer(code):
        if forbidden_call(m.group(1)):
            out.add(name, line_of(code, m.start(1)), "seam", f"{m.group(1)}() is for io/: take it from there")


def check_codes(top, files, out):
    name = "common/err_codes.def"
    if name not in files:
        return
    text = read(top, name) or ""
    tests = "\n".join(
        read(top, f) or "" for f in files if f.startswith("tests/") and not f.startswith("tests/lint/")
    )
    named = set(re.findall(r"\b[A-Z]{2,4}-\d{4}\b", tests)) | {
        s.replace("_", "-") for s in re.findall(r"\bERR_([A-Z]{2,4}_\d{4})\b", tests)
    }
    seen = {}
    entries = list(re.finditer(r'\bERR_CODE\(\s*(\w+)\s*,\s*"([^"]*)"', code_keep_strings(text)))
    for m in entries:
        symbol, code, line = m.group(1), m.group(2), line_of(text, m.start())
        if not re.fullmatch(r"[A-Z]{2,4}-\d{4}", code) or symbol != code.replace("-", "_"):
            out.add(name, line, "codes", f'{symbol} and "{code}" are not of one form (ABC_0001, "ABC-0001")')
        for key in {symbol, code}:
            if key in seen:
                out.add(name, line, "codes", f"{key} is already on line {seen[key]}")
            seen[key] = line
        if code not in named:
            out.add(name, line, "codes", f"{code} is named by no test")


def check_docs(top, files, out):
    if errors.PAGE in files and read(top, errors.PAGE) != errors.page(read(top, errors.TABLE) or ""):
        out.add(errors.PAGE, 1, "docs", f"it is not what {errors.TABLE} makes it: make docs")


def code_keep_strings(text):
    return re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group(0)), text, flags=re.S)


def check_words(name, text, out):
    for pattern, what in ((WORDS, "a note to self"), (PATHS, "a path of one machine")):
        for m in pattern.finditer(text):
            out.add(name, line_of(text, m.start()), "words", f"{what}: {m.group(0)}")


def check_syntax(top, name, text, out):
    first = text.split("\n", 1)[0]
    path = os.path.join(top, name)
    if re.match(r"#!.*\bpython3?\b", first) or name.endswith(".py"):
        try:
            compile(text, name, "exec")
        except SyntaxError as e:
            out.add(name, e.lineno or 1, "syntax", e.msg)
        return
    m = re.match(r"#!.*?\b(bash|sh)\b", first)
    if m or name.endswith(".sh"):
        shell = m.group(1) if m else "sh"
        done = subprocess.run([shell, "-n", path], stderr=subprocess.PIPE, check=False)
        if done.returncode:
            out.add(name, 1, "syntax", done.stderr.decode("utf-8", "replace").strip().replace("\n", "; "))


def check_size(name, text, out):
    lines = text.count("\n")
    if name.endswith((".c", ".h")) and lines > LINES_MAX:
        out.warn(name, lines, "size", f"{lines} lines: look for the two modules inside it")


def lint_sources(top, out):
    files = tree_files(top)
    known = set(files)
    for name in files:
        text = read(top, name)
        if text is None:
            continue
        if name.endswith((".c", ".h")):
            check_floors(known, name, text, out)
            check_seam(name, text, out)
        check_words(name, text, out)
        check_syntax(top, name, text, out)
        check_size(name, text, out)
    check_codes(top, known, out)
    check_docs(top, known, out)


def plain_symbol(symbol):
    """libc's name behind the checked and 64-bit variants: __pread64_chk is pread."""
    return re.sub(r"64$", "", re.sub(r"(_chk|_2)$", "", re.sub(r"^_+(isoc99_)?|@.*$", "", symbol)))


def lint_objects(top, objects, out):
    """The seam as the linker sees it: also what a macro, an inline function or a pointer hides from the text."""
    names = [f for f in tree_files(top) if f.endswith(".c") and behind_seam(f)]
    for name in names:
        path = os.path.join(objects, name[:-2] + ".o")
        if not os.path.exists(path):
            out.add(name, 1, "seam", f"{path} is not built")
            continue
        done = subprocess.run(["nm", "--undefined-only", "-P", path], stdout=subprocess.PIPE, check=True)
        for line in done.stdout.decode().splitlines():
            symbol = line.split()[0]
            if forbidden_call(symbol) or plain_symbol(symbol) in SEAM_CALLS:
                out.add(name, 1, "seam", f"the object asks for {symbol}: that is for io/")


def main(argv):
    objects = None
    if len(argv) > 2 and argv[0] == "--objects":
        objects = argv[1]
        argv = argv[2:]
    if len(argv) != 1 or argv[0].startswith("-"):
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        return 2
    out = Findings()
    if objects:
        lint_objects(argv[0], objects, out)
    else:
        lint_sources(argv[0], out)
    if out.found or out.warned:
        print(f"lint: {out.found} findings, {out.warned} warnings")
    return 1 if out.found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
