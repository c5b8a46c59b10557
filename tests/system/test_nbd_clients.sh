#!/bin/sh
# limit: 300
# Real NBD programs against the server, over both io backends, and over TLS: copies are compared byte for byte.
. "${0%/*}/../lib.sh"
requires nbdinfo nbdcopy qemu-img qemu-io jq

SERVE=$BUILD/tests/system/nbdserve
[ -x "$SERVE" ] || fail "$SERVE is not built"
DIR=$PWD
SOCK=$DIR/s

# serve ARGS...: $uri and $server; the one before must have been stopped.
serve() {
    rm -f uri.out
    spawn uri.out "$SERVE" "$@"
    server=$spawned
    must_wait 10 grep -q '^nbds*[+:]' uri.out
    uri=$(grep '^nbds*[+:]' uri.out)
}

end_server() {
    stop_pid "$server" || fail "the server did not stop: $(cat uri.out)"
}

image() {
    truncate -s 64M disk.img
    dd if=/dev/urandom of=disk.img bs=1M seek=3 count=9 conv=notrunc status=none
    dd if=/dev/urandom of=disk.img bs=4k seek=10001 count=700 conv=notrunc status=none
}

say() {
    echo "--- $*"
}

# ---- Each backend and cache mode ----------------------------------------------------------------------------------

clients() {
    image
    cp --sparse=always disk.img start.img
    serve --unix "$SOCK" --file disk.img --export vm/disk "$@"

    say "nbdinfo"
    nbdinfo --json "$uri" >info.json
    [ "$(jq -r '.exports[0]["export-size"]' info.json)" = 67108864 ] || fail "nbdinfo: size"
    [ "$(jq -r '.exports[0].can_multi_conn' info.json)" = true ] || fail "nbdinfo: multi-conn"
    [ "$(jq -r '.exports[0].contexts[0]' info.json)" = base:allocation ] || fail "nbdinfo: context"
    [ "$(nbdinfo --size "$uri")" = 67108864 ] || fail "nbdinfo --size"
    nbdinfo --map --totals "$uri" >totals
    grep -q ' 3 hole,zero' totals || fail "no hole is seen: $(cat totals)"
    nbdinfo --list "$uri" >/dev/null

    say "nbdcopy out and in"
    nbdcopy "$uri" out.img
    cmp start.img out.img
    dd if=/dev/urandom of=new.img bs=1M count=64 status=none
    nbdcopy --connections=4 --flush new.img "$uri"
    cmp new.img disk.img
    nbdcopy --flush start.img "$uri"
    cmp start.img disk.img

    say "qemu-img"
    qemu-img compare -f raw -F raw "$uri" start.img >/dev/null
    qemu-img convert -f raw -O raw "$uri" out2.img
    cmp start.img out2.img
    qemu-img convert -n -f raw -O raw -S 4k new.img "$uri"
    cmp new.img disk.img
    qemu-img convert -n -f raw -O raw start.img "$uri"
    cmp start.img disk.img
    qemu-img map --output=json -f raw "$uri" >map.json
    jq -e 'any(.[]; .data == false and .zero) and any(.[]; .data)' map.json >/dev/null || fail "qemu-img map"

    say "qemu-io"
    qemu-io -f raw -t writeback \
        -c 'write -P 17 1M 2M' -c 'read -P 17 1M 2M' -c 'write -f -P 18 1M 64k' -c 'read -P 18 1M 64k' \
        -c 'write -z 2M 512k' -c 'read -P 0 2M 512k' -c 'write -z -u 2560k 256k' -c 'read -P 0 2560k 256k' \
        -c 'write -P 19 8191k 3k' -c 'read -P 19 8191k 3k' -c 'discard 1M 1M' -c 'flush' \
        -c 'aio_write -P 20 16M 1M' -c 'aio_write -P 21 17M 1M' -c 'aio_flush' \
        -c 'read -P 20 16M 1M' -c 'read -P 21 17M 1M' "$uri" >io.out 2>&1 || fail "qemu-io: $(cat io.out)"
    ! grep -iE 'fail|error|mismatch' io.out || fail "qemu-io: $(cat io.out)"

    if command -v fio >/dev/null && fio --enghelp 2>/dev/null | grep -qw nbd; then
        say "fio"
        fio --name=v --ioengine=nbd --uri="$uri" --rw=randrw --bssplit=4k/60:16k/20:64k/20 --iodepth=16 --numjobs=4 \
            --size=12M --offset_increment=16M --verify=crc32c --verify_fatal=1 --io_size=24M --end_fsync=1 \
            --output-format=terse >fio.out 2>&1 || fail "fio: $(tail -5 fio.out)"
    fi
    end_server
}

for backend in uring epoll; do
    say "io=$backend"
    clients --io "$backend"
done
say "cache=none"
clients --cache none

# ---- A kernel file system over nbdfuse ------------------------------------------------------------------------------

if command -v nbdfuse >/dev/null && [ -c /dev/fuse ] && [ "$(id -u)" -eq 0 ]; then
    say "ext4 over nbdfuse"
    rm -f disk.img
    truncate -s 64M disk.img
    serve --unix "$SOCK" --file disk.img
    mkdir fuse mnt
    spawn fuse.out nbdfuse fuse/disk --unix "$SOCK"
    fuse_pid=$spawned
    if wait_until 5 test -f fuse/disk; then
        mkfs.ext4 -q -F fuse/disk
        if mount -o loop fuse/disk mnt 2>mount.err; then
            cleanup_fn umount -q mnt
            dd if=/dev/urandom of=mnt/f bs=1M count=16 status=none
            sum=$(sha256sum <mnt/f)
            umount mnt
            e2fsck -fn fuse/disk >fsck.out 2>&1 || fail "e2fsck: $(cat fsck.out)"
            mount -o loop fuse/disk mnt
            [ "$(sha256sum <mnt/f)" = "$sum" ] || fail "the file came back different"
            umount mnt
        else
            say "no loop mount here: $(cat mount.err)"
        fi
        fusermount3 -u fuse || umount fuse || :
    fi
    stop_pid "$fuse_pid" || :
    end_server
    e2fsck -fn disk.img >fsck.out 2>&1 || fail "the image is not clean: $(cat fsck.out)"
fi

# ---- TLS ------------------------------------------------------------------------------------------------------------

if nbdinfo --help >/dev/null && openssl version >/dev/null 2>&1; then
    say "TLS"
    mkdir pki
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout pki/ca-key.pem -out pki/ca-cert.pem \
        -subj "/CN=test root" -days 2 -addext "keyUsage=keyCertSign" 2>/dev/null
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' >pki/ext
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout pki/server-key.pem -out pki/server.csr \
        -subj "/CN=localhost" 2>/dev/null
    openssl x509 -req -in pki/server.csr -CA pki/ca-cert.pem -CAkey pki/ca-key.pem -CAcreateserial -days 2 \
        -extfile pki/ext -out pki/server-cert.pem 2>/dev/null
    chmod 0600 pki/*-key.pem
    mkdir pki-other
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout pki-other/key.pem \
        -out pki-other/ca-cert.pem -subj "/CN=another root" -days 2 2>/dev/null
    image
    cp disk.img start.img
    for backend in uring epoll; do
        serve --tcp 127.0.0.1:0 --file disk.img --export e --io "$backend" --tls pki/server-cert.pem,pki/server-key.pem
        case $uri in nbds://127.0.0.1:*) ;; *) fail "URI $uri" ;; esac
        port=${uri#nbds://127.0.0.1:}
        port=${port%%/*}
        tls_uri="nbds://localhost:$port/e?tls-certificates=$DIR/pki"
        nbdinfo --json "$tls_uri" >info.json || fail "nbdinfo over TLS: $(cat uri.out)"
        [ "$(jq -r .TLS info.json)" = true ] || fail "nbdinfo says there is no TLS"
        nbdcopy "$tls_uri" out.img
        cmp start.img out.img
        dd if=/dev/urandom of=new.img bs=1M count=64 status=none
        nbdcopy --flush new.img "$tls_uri"
        cmp new.img disk.img
        qemu-img compare --object "tls-creds-x509,id=t,endpoint=client,dir=$DIR/pki" --image-opts \
            "driver=raw,file.driver=nbd,file.host=localhost,file.port=$port,file.export=e,file.tls-creds=t" \
            "driver=raw,file.driver=file,file.filename=new.img" >/dev/null || fail "qemu-img over TLS: $(cat uri.out)"
        cp start.img disk.img

        # FORCEDTLS: without TLS nothing is said about exports; a foreign root is refused by the client
        ! nbdinfo "nbd://localhost:$port/e" >/dev/null 2>plain.err || fail "served without TLS"
        ! nbdinfo "nbds://localhost:$port/e?tls-certificates=$DIR/pki-other" >/dev/null 2>&1 || fail "foreign root taken"
        # bytes in the clear behind STARTTLS are not taken for bytes inside it
        printf '\0\0\0\3IHAVEOPT\0\0\0\5\0\0\0\0IHAVEOPT\0\0\0\3\0\0\0\0' |
            timeout 10 socat -t 3 - "TCP:127.0.0.1:$port" >inject.out 2>/dev/null || :
        ! grep -aq 'served for a test' inject.out || fail "an injected LIST was answered"
        must_wait 5 grep -q NBD-0004 uri.out
        nbdinfo --size "$tls_uri" >/dev/null || fail "not alive any more"
        end_server
        cp start.img disk.img
    done

    say "TLS at the client's choice on a Unix socket"
    serve --unix "$SOCK" --file disk.img --export e --tls pki/server-cert.pem,pki/server-key.pem
    nbdcopy "nbds+unix://localhost/e?socket=$SOCK&tls-certificates=$DIR/pki&tls-verify-peer=false" out.img
    cmp start.img out.img
    nbdcopy "nbd+unix:///e?socket=$SOCK" out.img
    cmp start.img out.img
    end_server
fi
