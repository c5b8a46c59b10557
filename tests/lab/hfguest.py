"""QEMU guests for the tests: a Debian kernel, an initramfs of busybox, and a
shell on a serial line that runs what a test tells it.  Without KVM (TCG), so
that they run everywhere; one is up after two or three seconds."""

import gzip
import json
import os
import select
import shutil
import socket
import subprocess
import time
import urllib.parse

import hflab

KERNEL = os.path.join(hflab.TOP, "build", "guest-kernel")
QEMU = "qemu-system-x86_64"
BUSYBOX = "/bin/busybox"
# In the order in which they need each other.
MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
           "virtio_blk"]

# ttyS0 is the kernel's.  On ttyS1 a line is a command, and \1 with its status ends what it says.
INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in %s; do insmod /lib/$m.ko; done
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1 2>&1
true
while printf '\001%%d\n' $?; IFS= read -r line; do eval "$line"; done
""" % " ".join(MODULES)

# Keeps files: of each that is in the list DIR names, the content was on the guest's disk before its line was written.
KEEPER = r"""#!/bin/busybox sh
# keeper DIR NAME: until /run/NAME.stop is there
cd "$1" || exit 1
touch "/run/$2.kept"
n=$(wc -l <"/run/$2.kept")
mkdir -p churn
while [ ! -e "/run/$2.stop" ]; do
    dd if=/dev/urandom of="$2-$n" bs=1k count=$((n * 7 % 60 + 1)) 2>/dev/null || break
    dd if=/dev/urandom of=churn/same bs=16k count=8 seek=$((n % 5)) conv=notrunc 2>/dev/null || break
    cp "$2-$n" "churn/$n" && rm -f "churn/$((n - 4))" || break
    sum=$(sha256sum <"$2-$n")
    sync
    echo "$2-$n ${sum%% *}" >>"/run/$2.kept"
    n=$((n + 1))
    usleep 200000
done
echo "$n" >"/run/$2.ended"
"""


def missing():
    """What this machine lacks for guests, or None; the kernel is got when it is not there."""
    for tool in (QEMU, BUSYBOX, "qemu-img", "mkfs.ext4", "e2fsck"):
        if not shutil.which(tool):
            return tool + " is not installed"
    out = subprocess.run([os.path.join(hflab.TOP, "mk", "guest-kernel"), KERNEL], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True, check=False)
    return None if out.returncode == 0 else (out.stderr or out.stdout).strip()


def cpio(entries):
    """A newc archive of (name, mode, bytes)."""
    out = bytearray()
    for ino, (name, mode, data) in enumerate(entries + [("TRAILER!!!", 0, b"")]):
        raw = name.encode() + b"\0"
        fields = (ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        for part in (b"070701" + b"".join(b"%08x" % f for f in fields) + raw, data):
            out += part + bytes(-len(part) % 4)
    return bytes(out)


def make_initrd(path):
    entries = [(d, 0o40755, b"") for d in ("bin", "dev", "lib", "mnt", "data", "proc", "run", "sys", "tmp")]
    for name, mode, source in [("bin/busybox", 0o100755, BUSYBOX)] + [
            ("lib/%s.ko" % m, 0o100644, os.path.join(KERNEL, m + ".ko")) for m in MODULES]:
        with open(source, "rb") as f:
            entries.append((name, mode, f.read()))
    entries += [("init", 0o100755, INIT.encode()), ("bin/keeper", 0o100755, KEEPER.encode())]
    with open(path, "wb") as f:
        f.write(gzip.compress(cpio(entries), 1))


def export_of(uri):
    """The words of the manual that a nbd+unix address fills in."""
    parts = urllib.parse.urlsplit(uri)
    return {"EXPORT": urllib.parse.unquote(parts.path[1:]), "SOCKET": urllib.parse.parse_qs(parts.query)["socket"][0]}


def manual(title, words):
    """The blocks of commands that the operator's guide shows under a title, with its words in capitals replaced."""
    with open(os.path.join(hflab.TOP, "docs", "operations.md"), encoding="utf-8") as f:
        text = f.read().partition("\n#### %s" % title)[2].partition("\n#")[0]
    if not text:
        raise hflab.LabError("docs/operations.md has no part " + title)
    for word, value in words.items():
        text = text.replace('"%s"' % word, json.dumps(value))
    return text.split("```\n")[1::2]


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(path)
        self.file = self.sock.makefile("r", encoding="utf-8")
        self.events = []
        self.file.readline()  # the greeting
        self.do("qmp_capabilities")

    def next(self):
        line = self.file.readline()
        if not line:
            raise hflab.LabError("QEMU has closed its monitor")
        return json.loads(line)

    def do(self, line):
        """Run a command as it stands on the wire, or one without arguments by its name."""
        if not line.startswith("{"):
            line = json.dumps({"execute": line})
        self.sock.sendall(line.encode() + b"\n")
        while True:
            answer = self.next()
            if "error" in answer:
                raise hflab.LabError("%s: %s" % (line, answer["error"]["desc"]))
            if "return" in answer:
                return answer["return"]
            self.events.append(answer)

    def wait_event(self, name):
        while True:
            for e in self.events:
                if e["event"] == name:
                    self.events.remove(e)
                    return e["data"]
            self.events.append(self.next())

    def close(self):
        self.file.close()
        self.sock.close()


class Guest:
    """A guest that starts; disks is [(node to use, [nodes as -blockdev takes them])]: /dev/vda and so on."""

    def __init__(self, base, name, disks):
        self.name = name
        self.console = os.path.join(base, name + ".console")
        self.initrd = os.path.join(base, "initrd.gz")
        monitor = os.path.join(base, name + ".qmp")
        self.begun = time.monotonic()
        if not os.path.exists(self.initrd):
            make_initrd(self.initrd)
        argv = [QEMU, "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "192", "-display", "none", "-nodefaults",
                "-no-reboot", "-kernel", os.path.join(KERNEL, "vmlinuz"), "-initrd", self.initrd,
                "-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr",
                "-serial", "file:" + self.console, "-chardev", "stdio,id=shell,signal=off", "-serial", "chardev:shell",
                "-qmp", "unix:%s,server=on,wait=off" % monitor]
        for drive, nodes in disks:
            for node in nodes:
                argv += ["-blockdev", node if isinstance(node, str) else json.dumps(node)]
            argv += ["-device", "virtio-blk-pci,drive=" + drive]
        self.errors = open(os.path.join(base, name + ".stderr"), "wb")
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                     start_new_session=True, bufsize=0)
        self.got = b""
        self.monitor = monitor
        self.qmp = None

    def wait_up(self):
        self.answer("start", 180)
        self.qmp = Qmp(self.monitor)
        return time.monotonic() - self.begun

    def trouble(self, what):
        said = []
        for path in (self.console, self.errors.name):
            if os.path.exists(path):
                with open(path, encoding="utf-8", errors="replace") as f:
                    said.append("--- %s\n%s" % (os.path.basename(path), f.read()[-3000:]))
        return hflab.LabError("guest %s: %s\n%s--- shell\n%s" % (
            self.name, what, "".join(said), self.got[-500:].decode("utf-8", "replace")))

    def answer(self, what, seconds):
        """(status, text) of the command that runs."""
        end = time.monotonic() + seconds
        while True:
            head, mark, tail = self.got.partition(b"\1")
            status, line_end, rest = tail.partition(b"\n")
            if mark and line_end:
                self.got = rest
                return int(status), head.decode("utf-8", "replace")
            left = end - time.monotonic()
            if left <= 0:
                raise self.trouble("no end of %s within %d s" % (what, seconds))
            if select.select([self.proc.stdout], [], [], left)[0]:
                data = os.read(self.proc.stdout.fileno(), 65536)
                if not data:
                    raise self.trouble("QEMU has ended during " + what)
                self.got += data

    def sh(self, command, seconds=120):
        """Run a command line in the guest; its output."""
        try:
            self.proc.stdin.write(command.encode() + b"\n")
        except OSError as e:
            raise self.trouble("%s: %s" % (command, e)) from e
        status, text = self.answer(command, seconds)
        if status != 0:
            raise self.trouble("%s: status %d: %s" % (command, status, text))
        return text

    def keep(self, path, name):
        """Start a keeper; kept() tells what it has made durable."""
        self.sh("keeper %s %s >/run/%s.log 2>&1 </dev/null &" % (path, name, name))

    def kept(self, name):
        """{file: digest}"""
        return dict(line.split() for line in self.sh("cat /run/%s.kept 2>/dev/null; true" % name).splitlines())

    def wait_kept(self, name, more, seconds=60):
        """Until the keeper has kept so many more than now."""
        least = len(self.kept(name)) + more

        def enough():
            if self.sh("cat /run/%s.ended 2>/dev/null; true" % name):
                raise SystemError("keeper %s has ended: %s" % (name, self.sh("cat /run/%s.log; dmesg | tail" % name)))
            files = self.kept(name)
            return files if len(files) >= least else None
        return hflab.wait_until("%d more files in guest %s" % (more, self.name), enough, seconds, 0.2)

    def end_keeper(self, name):
        """All it has kept."""
        self.sh("touch /run/%s.stop" % name)
        hflab.wait_until("the end of keeper " + name, lambda: self.sh("cat /run/%s.ended 2>/dev/null; true" % name), 60, 0.1)
        self.sh("rm /run/%s.stop /run/%s.ended" % (name, name))
        return self.kept(name)

    def digests(self, path):
        """{file: digest} of the files that keepers made, from the disk and not from the guest's memory."""
        self.sh("sync; echo 3 >/proc/sys/vm/drop_caches")
        lines = self.sh("cd %s; sha256sum [a-z]*-[0-9]*; cd /" % path, 120).splitlines()
        return {name: digest for digest, name in (line.split() for line in lines)}

    def io_errors(self):
        """What the guest's kernel says of its disks."""
        return [line for line in self.sh("dmesg").splitlines()
                if any(w in line for w in ("I/O error", "EXT4-fs error", "Remounting filesystem read-only", "Aborting"))]

    def power_off(self):
        """In order: file systems must be unmounted by then."""
        self.proc.stdin.write(b"sync; poweroff -f\n")
        try:
            self.proc.wait(30)
        except subprocess.TimeoutExpired:
            raise self.trouble("it does not power off") from None
        self.close()

    def close(self):
        if self.qmp:
            self.qmp.close()
            self.qmp = None
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()
        self.proc.stdin.close()
        self.proc.stdout.close()
        self.errors.close()
