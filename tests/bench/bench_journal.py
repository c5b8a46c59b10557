"""Sections view and restart: journals of N GiB of random 4 KiB writes, made
through the journal's own door (tests/bench/view_open_bench.c), closed, opened
again and measured without network and manager; index and segments are read
with direct I/O.

GIB (20) is the large one; they lie below BENCH_DISK (/var/tmp).
"""

import os
import re
import statistics

from benchlib import BUILD, QUICK, REPS, BenchError, run, setting, spread

GIB = setting("GIB", 20, 2)
LANES = 16


def measure(scratch, gib, lanes=0):
    where = os.path.join(scratch.dir("disk"), "journal")
    if lanes:
        os.makedirs(where, exist_ok=True)
    text = run([os.path.join(BUILD, "tests/bench/view_open_bench"), str(gib), where] + ([str(lanes)] if lanes else []),
               seconds=300)
    out = {}
    for line in text.splitlines():
        m = re.match(r"  (\S.*?)\s{2,}(?:min\s+[\d.]+ ms\s+median\s+)?([\d.]+) ms(?:.*max\s+([\d.]+) ms)?", line)
        if m:
            out[m.group(1)] = (float(m.group(2)), float(m.group(3) or m.group(2)))
    if "restart" not in out or (not lanes and "view open, random points" not in out):
        raise BenchError("view_open_bench said: " + text)
    return out


def run_view(scratch, report):
    report.head("view: opening a view at random points",
                "20 views of a run; a row is the median of %d runs (least .. most)." % REPS)
    report.block(["view_open_bench 1 DIR", "view_open_bench %d DIR" % GIB])
    sizes = {1: [], GIB: []}
    for _ in range(REPS):
        for gib, runs in sizes.items():
            runs.append(measure(scratch, gib))
    report.table("journal", "view opens, median ms", "slowest ms", "first 4 KiB read ms", "random 4 KiB read ms", "target")
    medians = {}
    for gib, runs in sizes.items():
        opens = [r["view open, random points"] for r in runs]
        medians[gib] = statistics.median(o[0] for o in opens)
        slow = statistics.median(o[1] for o in opens)
        report.row("%d GiB" % gib, spread([o[0] for o in opens], "%.1f"), spread([o[1] for o in opens], "%.1f"),
                   spread([r["first 4 KiB read"][0] for r in runs], "%.2f"),
                   spread([r["random 4 KiB read, QD1"][0] for r in runs], "%.2f"),
                   report.target("%d GiB: slowest %.1f ms" % (gib, slow), "< 100 ms", slow < 100))
    ratio = medians[GIB] / medians[1]
    report.table("", "ratio", "target")
    report.fact("%d GiB beside 1 GiB" % GIB, "%.2f" % ratio, "<= 2", ratio <= 2)


def run_restart(scratch, report):
    lanes = 2 if QUICK else LANES
    report.head("restart: opening the journals of a recovery replicator",
                "All %d GiB in one lane, then spread over %d lanes that are opened together." % (GIB, lanes))
    report.block(["view_open_bench %d DIR" % GIB, "view_open_bench %d DIR %d" % (GIB, lanes)])
    report.table("lanes", "ms until all are open", "target")
    for n in (0, lanes):
        ms = [measure(scratch, GIB, n)["restart"][0] for _ in range(1 if QUICK else min(REPS, 2))]
        worst = max(ms)
        report.row(n or 1, spread(ms, "%.0f"),
                   report.target("%d lanes: %.0f ms" % (n or 1, worst), "< 2000 ms", worst < 2000))
