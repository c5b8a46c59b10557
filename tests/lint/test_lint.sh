#!/bin/sh
# Each rule of lint.py must be able to fail: plant one violation at a time in a clean little tree and expect it found.
. "${0%/*}/../lib.sh"

lint() {
    "$TOP/tests/lint/lint.py" "$@" >out 2>&1
}

clean_tree() {
    rm -rf tree
    mkdir -p tree/common tree/agent/io tree/agent/lane tree/agent/stream tree/agent/manager tree/agent/http \
        tree/agent/replicator tree/tui tree/tests/unit
    echo '#include "common/a.h"' >tree/common/a.c
    echo 'int a(void);' | tee tree/common/a.h tree/agent/io/loop.h tree/agent/lane/batch.h tree/agent/manager/m.h \
        tree/agent/http/h.h tree/agent/stream/s.h tree/agent/agent_config.h tree/tui/t.h >/dev/null
    echo 'ERR_CODE(GEN_0001, "GEN-0001", "a cause", "a step")' >tree/common/err_codes.def
    echo 'check(ERR_GEN_0001);' >tree/tests/unit/test_a.c
    cat >tree/agent/stream/s.c <<'C'
#include "stream/s.h"
#include <string.h>
#include "common/a.h"
#include "lane/batch.h"
/* open(), read() and clock_gettime() in a comment, and "write(1)" in a string, are no calls */
const char *text = "fsync(fd)";
int f(struct x *x) { return x->ops->read(x) + x->ops.write(x) + my_open(x) + io_read(x); }
C
    printf '#include "http/h.h"\n#include <time.h>\nint t(void) { return time(0); }\n' >tree/agent/replicator/control.c
    echo '#include "agent/agent_config.h"' >tree/agent/replicator/role.c
    echo '#include "agent_config.h"' >tree/agent/manager/m.c
}

# finds FILE RULE TEXT: lint fails, and says this.
finds() {
    expect_status 1 lint tree
    grep -q "^$1:[0-9]*: $2: .*$3" out || {
        sed 's/^/    /' out >&2
        fail "$2 did not find what was planted in $1"
    }
    [ "$(grep -c . out)" -eq "${4:-2}" ] || {
        sed 's/^/    /' out >&2
        fail "more was found than what was planted in $1"
    }
    clean_tree
}

clean_tree
expect_status 0 lint tree
[ ! -s out ] || fail "the clean tree is not clean: $(cat out)"

# floors
plant() {
    echo "$2" >>"tree/$1"
}
plant agent/lane/l.c '#include "stream/s.h"'
finds agent/lane/l.c floors "lane may not include stream"
plant agent/stream/s.c '#include "../manager/m.h"'
finds agent/stream/s.c floors "stream may not include manager"
plant agent/stream/s.c '#include "manager/not_yet_written.h"'
finds agent/stream/s.c floors "stream may not include manager"
plant agent/replicator/data.c '#include "http/h.h"'
finds agent/replicator/data.c floors "replicator may not include http"
plant agent/manager/m.c '#include "lane/batch.h"'
finds agent/manager/m.c floors "manager may not include lane"
plant agent/io/loop.h '#include "agent_config.h"'
finds agent/io/loop.h floors "io may not include agent"
plant common/a.h '#include "tui/t.h"'
finds common/a.h floors "common may not include tui"
plant tui/t.c '#include "agent/io/loop.h"'
finds tui/t.c floors "tui may not include io"
mkdir tree/agent/attic
plant agent/attic/x.c 'int x;'
finds agent/attic/x.c floors "no place in the house"

# seam
for header in sys/socket.h fcntl.h time.h sys/stat.h unistd.h liburing.h openssl/ssl.h; do
    plant agent/stream/s.c "#include <$header>"
    finds agent/stream/s.c seam "$header"
done
plant agent/stream/s.c '#include "common/files.h"'
finds agent/stream/s.c seam "common/files.h"
for call in 'fsync(fd)' 'clock_gettime(1, &ts)' 'rand()' 'open (p, 0)' 'unlink(p)' 'io_uring_submit(r)' 'SSL_read(s)' 'pthread_create(t)'; do
    plant agent/stream/s.c "int g(void) { return $call; }"
    finds agent/stream/s.c seam "${call%%[ (]*}"
done
plant agent/replicator/data.c 'int g(void) { return send(1); }'
finds agent/replicator/data.c seam "send()"

# the seam of objects: what the text hides behind a macro or a pointer
hidden() {
    printf '%s\n' "$1" >>tree/agent/stream/s.c
    mkdir -p obj/agent/stream obj/agent/replicator
    printf '%s\n' "$1" | gcc -D_GNU_SOURCE -O2 -D_FORTIFY_SOURCE=2 -x c -c -o obj/agent/stream/s.o -
    expect_status "$2" lint --objects obj tree
    clean_tree
}
hidden '#include <stdio.h>
int f(char *b, int n) { return snprintf(b, 10, "%d", n); }' 0
hidden '#include <unistd.h>
long (*const reader)(int, void *, unsigned long) = (long (*)(int, void *, unsigned long))read;' 1
grep -q "asks for read" out || fail "a pointer to read() was not seen"
hidden '#include <unistd.h>
char b[10]; long f(int n) { return pread(0, b, (unsigned long)n, 0); }' 1
grep -q "pread" out || fail "the checked variant of pread() was not seen"
rm -rf obj
expect_status 1 lint --objects obj tree

# codes
plant common/err_codes.def 'ERR_CODE(IO_0001, "IO-0001", "c", "n")'
finds common/err_codes.def codes "IO-0001 is named by no test"
plant common/err_codes.def 'ERR_CODE(GEN_0001, "GEN-0001", "c", "n")'
finds common/err_codes.def codes "already on line 1" 3
plant common/err_codes.def 'ERR_CODE(GEN_0002, "GEN-0003", "c", "n")'
plant tests/unit/test_a.c '"GEN-0003"'
finds common/err_codes.def codes "not of one form"
plant common/err_codes.def 'ERR_CODE(IO_0001, "IO-0001", "c", "n")'
plant tests/unit/test_a.c '"IO-0001"'
expect_status 0 lint tree
clean_tree

# docs
mkdir tree/docs
echo "# an old page" >tree/docs/errors.md
finds docs/errors.md docs "make docs"
mkdir tree/docs
"$TOP/tests/lint/errors.py" --write tree
expect_status 0 lint tree
grep -qxF '| GEN-0001 | a cause | a step |' tree/docs/errors.md || fail "a code is missing on the page"
clean_tree

# words; put together here, so that this file passes itself
for word in TO''DO FIX''ME XX''X; do
    plant common/a.c "/* $word: later */"
    finds common/a.c words "$word"
done
plant tests/unit/test_a.c 'mkstemp("/tmp/hf.XXXXXX");'
expect_status 0 lint tree
for path in /wo''rk/main/x /ro''ot/x /ho''me/jo/x; do
    plant common/a.c "const char *p = \"$path\";"
    finds common/a.c words "a path of one machine"
done

# syntax
printf '#!/bin/sh\nif true; then\n' >tree/tests/x
finds tests/x syntax ""
printf '#!/usr/bin/python3\ndef f(:\n' >tree/tests/y
finds tests/y syntax ""

# size is a warning
yes 'int x;' | head -n 901 >tree/common/a.c
expect_status 0 lint tree
grep -q "^common/a.c:901: warning: size" out || fail "a long file was not told"
clean_tree

# and a wrong call is not a clean tree
expect_status 2 lint
expect_status 2 lint --no-such-option
