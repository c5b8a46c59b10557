#!/bin/sh
# What the Makefile does beside compiling: where things are installed, what clean and the lab's targets do with names.
. "${0%/*}/../lib.sh"

mk() {
    env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -C "$TOP" "$@"
}

# The unit starts what is installed beside it.
mk install-data DESTDIR="$PWD/a" PREFIX=/usr >out 2>&1 || fail "install-data: $(cat out)"
unit=a/usr/lib/systemd/system/holdfastd.service
[ "$(stat -c %a "$unit")" = 644 ] || fail "the unit has mode $(stat -c %a "$unit")"
expect_text "$unit" "ExecStartPre=/usr/sbin/holdfastd --check-config"
expect_text "$unit" "ExecStart=/usr/sbin/holdfastd run"
mk install-data DESTDIR="$PWD/b" SBINDIR=/opt/hf/bin >out 2>&1 || fail "install-data: $(cat out)"
expect_text b/usr/local/lib/systemd/system/holdfastd.service "ExecStart=/opt/hf/bin/holdfastd run"
! grep -rn '@[A-Z]*@' a b || fail "a place in a unit was not filled in"
[ ! -e a/usr/share/doc/holdfast/conf/holdfastd.service.in ] || fail "the unit's form was installed"

# What messages, man pages and documents send their reader to is installed, under the names that they use.
doc=a/usr/share/doc/holdfast
sed 's/\\-/-/g' "$TOP"/docs/man/* "$TOP/common/err_codes.def" "$TOP"/docs/*.md "$TOP"/docs/formats/*.md "$TOP/README.md" |
    grep -oE '(docs|conf)(/formats)?/[a-z-]+\.(md|conf)' | sort -u >named
[ "$(grep -c . named)" -ge 6 ] || fail "only $(cat named) is named"
while read -r name; do
    [ -f "$doc/$name" ] || fail "$name is referred to and not installed"
done <named
