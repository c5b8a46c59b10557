#!/usr/bin/python3
"""docs/errors.md, made from common/err_codes.def.

    tests/lint/errors.py TOP            print it
    tests/lint/errors.py --write TOP    put it into docs/errors.md (make docs)
"""

import os
import re
import sys

TABLE, PAGE = "common/err_codes.def", "docs/errors.md"
ROOMS = {
    "GEN": "Anything",
    "CFG": "Configuration",
    "TLS": "Certificates and TLS",
    "JSN": "JSON",
    "IO": "Disks, files and connections",
    "NBD": "NBD server",
    "LAN": "Batches and superblocks of a lane",
    "CAP": "Capture of writes",
    "STR": "Stream between sites",
    "JNL": "Journal",
    "REP": "Replicator",
    "MGR": "Manager",
    "API": "REST API",
    "CLI": "Command line",
    "AGT": "holdfastd",
}
HEAD = """# Error codes

Each failure that a person gets to see has a code that never changes its meaning: in the API's answers, in the logs, and in what
`holdfast` and `holdfastd` print. The message beside it says what was tried, on what, and why it failed; this page gives cause and
next step for each code.

`make docs` makes this page from `common/err_codes.def`; do not edit it here.
"""

STRING = r'"(?:[^"\\]|\\.)*"'
ENTRY = re.compile(rf"ERR_CODE\(\s*\w+\s*,\s*({STRING})\s*,\s*((?:{STRING}\s*)+),\s*((?:{STRING}\s*)+)\)")


def joined(strings):
    """The text of C string literals that stand side by side."""
    return "".join(re.sub(r"\\(.)", r"\1", s[1:-1]) for s in re.findall(STRING, strings))


def cell(text):
    return re.sub(r"([|<*_`])", r"\\\1", text)


def page(table):
    """The page for a table; codes of a room in the order of their numbers."""
    rooms = {}
    for code, cause, step in ENTRY.findall(re.sub(r"/\*.*?\*/", "", table, flags=re.S)):
        code = joined(code)
        rooms.setdefault(code.split("-")[0], []).append((code, joined(cause), joined(step)))
    order = list(ROOMS)
    out = [HEAD]
    for room in sorted(rooms, key=lambda r: (order.index(r) if r in order else len(order), r)):
        out.append(f"## {room}: {ROOMS[room]}\n" if room in ROOMS else f"## {room}\n")
        out.append("| Code | Cause | Next step |\n| --- | --- | --- |")
        out += [f"| {code} | {cell(cause)} | {cell(step)} |" for code, cause, step in sorted(rooms[room])]
        out.append("")
    return "\n".join(out)


def main(argv):
    write = argv[:1] == ["--write"]
    if write:
        argv = argv[1:]
    if len(argv) != 1:
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        return 2
    with open(os.path.join(argv[0], TABLE), encoding="utf-8") as f:
        text = page(f.read())
    if write:
        with open(os.path.join(argv[0], PAGE), "w", encoding="utf-8") as f:
            f.write(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
