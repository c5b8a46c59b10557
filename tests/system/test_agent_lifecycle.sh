#!/bin/sh
# The life of a state directory, with the real program: init, what is refused
# and left untouched, --check-config, run and stop, and the man page's examples.
. "${0%/*}/../lib.sh"
requires openssl jq

# fingerprint DIR: names, modes and content of all below it.
snapshot() {
    (cd "$1" && find . -printf '%p %m %s %T@\n' | sort && find . -type f -exec sha256sum {} + | sort)
}

# refused STATUS CODE COMMAND...: ends so, with this code on standard error.
refused() {
    refused_status=$1
    refused_code=$2
    shift 2
    expect_status "$refused_status" "$@" >out 2>err
    expect_text err "($refused_code)"
    expect_text err "  next: "
}

init() {
    "$HOLDFASTD" init --state "$1" --site london --api "127.0.0.1:$port,localhost:$port"
}

port=$(free_port)

# ---- init --------------------------------------------------------------------
init "$PWD/s" >first 2>err
password=$(sed -n 's/^password: //p' first)
[ "${#password}" -ge 27 ] || fail "password of ${#password} characters"
printf '%s' "$password" | tr -d - | grep -qE '^[a-z2-9]{27}$' || fail "an unexpected form of password"
! grep -rqF "$password" s || fail "the password is in the state directory"
[ "$(find s -perm /077 -type f ! -name '*.pem' | wc -l)" -eq 0 ] || fail "files are open to others"
[ "$(find s -name '*key.pem' ! -perm 600 | wc -l)" -eq 0 ] || fail "keys are open to others"
[ "$(stat -c %a s)" = 700 ] || fail "the state directory is open to others"
openssl verify -x509_strict -CAfile s/manager/root.pem -untrusted s/manager/ca.pem s/manager/chain.pem >/dev/null ||
    fail "the manager's certificate does not verify"
openssl x509 -in s/manager/chain.pem -noout -checkip 127.0.0.1 | grep -q 'does match' || fail "no address in it"
openssl x509 -in s/manager/chain.pem -noout -checkhost localhost | grep -q 'does match' || fail "no name in it"
shown=$(sed -n 's/^root fingerprint: //p' first)
real=$(openssl x509 -in s/manager/root.pem -outform DER | sha256sum | cut -d' ' -f1)
[ "$shown" = "$real" ] || fail "fingerprint $shown, not $real"
json_is s/manager/bootstrap.json .User.Name admin || fail "no administrator"
json_is s/manager/bootstrap.json .User.Scrypt.N 65536 || fail "scrypt N"
# the hash is scrypt of that password (RFC 7914), by another implementation
/usr/bin/python3 - "$password" s/manager/bootstrap.json <<'PY' || fail "the hash is not of this password"
import base64, hashlib, json, sys
s = json.load(open(sys.argv[2]))["User"]["Scrypt"]
h = hashlib.scrypt(sys.argv[1].encode(), salt=base64.b64decode(s["Salt"]), n=s["N"], r=s["R"], p=s["P"],
                   maxmem=1 << 28, dklen=32)
sys.exit(h != base64.b64decode(s["Hash"]))
PY
init "$PWD/other/deep/s" >second 2>err
[ "$(sed -n 's/^password: //p' second)" != "$password" ] || fail "the same password twice"
[ -z "$(find . -name '*.new-*')" ] || fail "a draft stayed"

# an empty directory is no obstacle
mkdir empty
init "$PWD/empty" >/dev/null 2>&1

# The password is shown once: where nobody sees it, that is an error.
expect_status 1 sh -c 'exec "$0" init --state "$1" --site x --api 127.0.0.1:1 >&-' "$HOLDFASTD" "$PWD/unseen" 2>err
expect_text err "standard output"
rm -rf unseen

# ---- refusals leave all as it was ---------------------------------------------
before=$(snapshot s)
refused 1 AGT-0001 init "$PWD/s"
mkdir full && echo mine >full/file
refused 1 AGT-0001 init "$PWD/full"
[ "$(cat full/file)" = mine ] || fail "a foreign file was touched"
cp -r s newer && echo 'holdfast-state 2' >newer/VERSION
newer=$(snapshot newer)
refused 1 AGT-0002 init "$PWD/newer"
printf 'state_dir = "%s/newer";\n' "$PWD" >newer.conf
refused 1 AGT-0002 "$HOLDFASTD" run --config newer.conf
refused 1 AGT-0002 "$HOLDFASTD" token --state newer --name x
: >token && chmod 600 token
refused 1 AGT-0002 "$HOLDFASTD" join --state newer --token token --manager 127.0.0.1:1
[ "$newer" = "$(snapshot newer)" ] || fail "the newer state directory was touched"
cp -r s odd && echo 'what' >odd/VERSION
printf 'state_dir = "%s/odd";\n' "$PWD" >odd.conf
refused 1 AGT-0003 "$HOLDFASTD" run --config odd.conf
refused 2 CFG-0003 "$HOLDFASTD" init --state n1 --site 'a b' --api 127.0.0.1:1
refused 2 CFG-0003 "$HOLDFASTD" init --state n1 --site a --api 127.0.0.1
[ ! -e n1 ] || fail "a refused init made a directory"
refused 3 AGT-0010 "$HOLDFASTD" token --state s --name x
expect_text err "no manager runs with the state directory s"
refused 1 TLS-0012 "$HOLDFASTD" join --state n1 --token token --manager 127.0.0.1:1
chmod 644 token
refused 1 GEN-0006 "$HOLDFASTD" join --state n1 --token token --manager 127.0.0.1:1
[ ! -e n1 ] || fail "a refused join made a directory"
[ "$before" = "$(snapshot s)" ] || fail "the state directory was touched"

# ---- usage --------------------------------------------------------------------
expect_status 0 "$HOLDFASTD" --help >out
expect_text out 'holdfastd init --state DIR'
expect_status 0 "$HOLDFASTD" --version >out
expect_text out 'holdfastd '
for words in '' 'nothing' 'init' 'init --state x' 'init --nonsense' 'run extra' 'token --state s --name x --valid 1d' \
    '--config x' 'init --check-config'; do
    # shellcheck disable=SC2086 # words
    expect_status 2 "$HOLDFASTD" $words >out 2>err
    [ ! -s out ] || fail "usage error on standard output: $words"
    [ -s err ] || fail "silent: $words"
done

# ---- configuration --------------------------------------------------------------
"$HOLDFASTD" sample-config >sample.conf
same_content sample.conf "$TOP/conf/holdfastd.conf"
"$HOLDFASTD" --check-config --config sample.conf >effective
expect_text effective 'ring_size = "256MiB";'
"$HOLDFASTD" run --check-config --config effective >again
same_content effective again
# each option of the sample, without its mark, is one that the reader knows
sed 's/^\( *\)#\([a-z]\)/\1\2/' sample.conf >plain.conf
"$HOLDFASTD" --check-config --config plain.conf >again
same_content effective again
printf 'state_dir = "/x";\nreplicator = {\n  rign_size = "1GiB";\n};\n' >bad.conf
refused 2 CFG-0002 "$HOLDFASTD" --check-config --config bad.conf
expect_text err 'bad.conf:3: replicator.rign_size'
refused 2 GEN-0003 "$HOLDFASTD" --check-config --config missing.conf

# ---- run, in use, stop ------------------------------------------------------------
# A replicator that never joins: the supervisor waits for its identity.
printf 'state_dir = "%s/s"; roles = [ "replicator" ]; log = { file = "%s/log"; };\n' "$PWD" "$PWD" >run.conf
spawn run.out "$HOLDFASTD" run --config run.conf
# shellcheck disable=SC2154 # set by spawn
super=$spawned
must_wait 10 test -s s/run/supervisor.pid
[ "$(cat s/run/supervisor.pid)" = "$super" ] || fail "another process number"
refused 3 GEN-0005 "$HOLDFASTD" run --config run.conf
expect_text err "process $super"
refused 3 GEN-0005 init "$PWD/s"
must_wait 10 grep -q 'waits for its identity' log
grep -qE '^20[0-9-]+T[0-9:.]{12}Z info supervisor ' log || fail "the log's form"
stop_pid "$super" || fail "it had to be killed"
[ ! -e s/run/supervisor.pid ] || fail "the number file stayed"
expect_text log 'all roles have stopped'
# core dumps and new privileges are off
spawn run.out "$HOLDFASTD" run --config run.conf
must_wait 10 test -s s/run/supervisor.pid
grep -q '^NoNewPrivs:.*1' "/proc/$spawned/status" || fail "new privileges are possible"
grep -q '^Max core file size *0 *0' "/proc/$spawned/limits" || fail "core dumps are possible"

# ---- the man page ------------------------------------------------------------------
mkdir man
cd man
if command -v man >/dev/null; then
    man --warnings -E UTF-8 -l -Tutf8 -Z "$TOP/docs/man/holdfastd.8" >/dev/null 2>warnings
    [ ! -s warnings ] || fail "man page: $(cat warnings)"
fi
for option in $("$HOLDFASTD" --help | grep -oE -e '--[a-z-]+' | sort -u); do
    sed 's/\\//g' "$TOP/docs/man/holdfastd.8" | grep -qF -e "$option" || fail "$option is not in the man page"
done
sed -n '/^\.EX$/,/^\.EE$/p' "$TOP/docs/man/holdfastd.8" | sed '/^\./d; s/\\//g' >examples
[ "$(wc -l <examples)" -ge 4 ] || fail "no examples in the man page"
mkdir bin && ln -s "$HOLDFASTD" bin/holdfastd
PATH=$PWD/bin:$PATH sh -eu examples >out 2>err || fail "examples: $(cat err)"
expect_text out 'CN = london'
