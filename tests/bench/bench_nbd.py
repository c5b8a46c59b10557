"""Section nbd: an unprotected export beside qemu-nbd, nbd-server and nbdkit.

On tmpfs and on disk through the page cache, and on disk past it; like stands
beside like.  The `limit` server (tests/bench/limit.c) shows what the client
allows: a row at its figure cannot be beaten by any server.
"""

import os

from benchlib import (QUICK, SECS, SIZE_MB, fio_args, fio_verify, limit, nbd_server, nbdkit_file, nbdserve,
                      qemu_nbd, random_file, spread, take_turns)

JOBS = ["randw4k q1", "randw4k q32", "randw4k q32 x4", "randr4k q1", "randr4k q32", "randr4k q32 x4",
        "seqw1m", "seqw1m x4", "seqr1m", "seqr1m x4"]
QUICK_JOBS = ["randw4k q32", "randr4k q32"]
OURS = ("holdfast", "holdfast-none")


def servers_for(scratch, where, path, cache):
    if cache == "none":
        return [nbdserve(scratch, where, path, "none"),
                qemu_nbd(scratch, where, path, "qemu-nbd native", "--cache=none", "--aio=native"),
                qemu_nbd(scratch, where, path, "qemu-nbd io_uring", "--cache=none", "--aio=io_uring")]
    return [nbdserve(scratch, where, path), limit(scratch, where, path), nbdkit_file(scratch, where, path),
            nbd_server(scratch, where, path), qemu_nbd(scratch, where, path, "qemu-nbd")]


def print_rows(report, what, figures):
    report.table("job", "server", "IOPS", "MB/s", "p99 us", "CPU us/IO", "IOPS of fastest peer", "target",
                 "CPU of limit", "target")
    for job, by_label in figures.items():
        peers = [x for x in by_label if x not in OURS and x != "limit"]
        best = max(peers, key=lambda x: by_label[x].median("iops"))
        for label, f in by_label.items():
            ratio = f.median("iops") / by_label[best].median("iops")
            cells = [job, label, spread(f.all("iops")), "%.0f" % f.median("mb_s"), "%.0f" % f.median("p99_us"),
                     "%.1f" % f.median("cpu_us"), "%.2f" % ratio]
            if label in OURS:
                ahead = "x4" in job or "r4k" in job or job.startswith("seqr")
                want = 1.0 if ahead else 0.9
                cells.append(report.target("%s, %s: %.2f of %s" % (what, job, ratio, best), ">= %.1f" % want,
                                           ratio >= want))
                if "limit" in by_label:
                    cpu = f.median("cpu_us") / by_label["limit"].median("cpu_us")
                    cells += ["%.2f" % cpu, report.target("%s, %s: CPU %.2f of limit's" % (what, job, cpu),
                                                          "<= 1.3", cpu <= 1.3)]
            report.row(*(cells + [""] * (10 - len(cells))))


def measure(scratch, report, medium, cache):
    where = scratch.dir(medium)
    path = os.path.join(where, "volume.img")
    if not os.path.exists(path):
        random_file(path, SIZE_MB)
    servers = servers_for(scratch, where, path, cache)
    what = "%s, %s" % (medium, "page cache" if cache == "writeback" else "direct")
    report.note("### %s" % what)
    report.block(s.command() for s in servers)
    try:
        for s in servers:
            s.start()

        def settle(_):
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

        jobs = os.environ.get("JOBS", "").split(",") if os.environ.get("JOBS") else QUICK_JOBS if QUICK else JOBS
        print_rows(report, what, take_turns(servers, jobs, between=settle if medium == "disk" else None))
        fio_verify(servers[0].uri)
    finally:
        for s in servers:
            s.stop()


def run_section(scratch, report):
    report.head("nbd: unprotected export", "The client, on the same cores: fio %s --uri=..." %
                " ".join(fio_args("randw4k q32", SECS)))
    for medium in os.environ.get("MEDIA", "tmpfs" if QUICK else "tmpfs disk").split():
        measure(scratch, report, medium, "writeback")
        if medium == "disk":
            measure(scratch, report, medium, "none")
        scratch.clear(medium)
