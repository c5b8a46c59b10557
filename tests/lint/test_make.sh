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

# A lab's state is not removed under its processes; a lab's name may hold blanks and quotes.
mkdir tree && cp "$TOP/Makefile" tree
mkdir -p "tree/build/my lab" && : >"tree/build/my lab/lab.json"
! env -u MAKEFLAGS make -s -C tree clean >out 2>&1 || fail "clean took a lab away"
expect_text out "make lab-down LAB='build/my lab' first"
[ -f "tree/build/my lab/lab.json" ] || fail "clean refused and removed"
rm "tree/build/my lab/lab.json"
env -u MAKEFLAGS make -s -C tree clean >out 2>&1 || fail "clean: $(cat out)"
[ ! -e tree/build ] || fail "clean left build/"
for target in lab lab-down; do
    mk -n "$target" LAB="a b/it's" >out 2>&1 || fail "make -n $target: $(cat out)"
    expect_text out "'a b/it'\\''s'"
done
for script in up down; do
    expect_status 2 "$TOP/tests/lab/$script" "" >out 2>&1
done
