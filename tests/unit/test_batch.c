/* room: lane common */
/* The batch codec: round trip, golden bytes, cut at every length, one flipped
 * bit at every position, and each rule of docs/formats/batch.md broken once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/crc32c.h"
#include "lane/batch.h"

enum {
    MAX_ENTRIES = 32,
    MAX_CHUNKS = 16
};

/* A batch under construction: the arrays are free for a test to spoil. */
struct made {
    struct batch_hdr hdr;
    struct lane_entry entry[MAX_ENTRIES];
    struct lane_chunk chunk[MAX_CHUNKS];
    uint8_t body[512 * 1024];
    uint8_t raw[512 * 1024];
    uint32_t raw_len, body_len;
    uint8_t bytes[600 * 1024];
    size_t size;
};

static struct made m;

static void
made_begin(void)
{
    memset(&m, 0, sizeof m);
    m.hdr = (struct batch_hdr){
        .vpg_tag = 0x1122334455667788,
        .lane = 7,
        .batch_no = 42,
        .first_seq = lane_seq(3, 1000),
        .durable_seen = 40,
        .t_first_ns = 1700000000000000000,
        .t_last_ns = 1700000000001000000,
    };
    for (uint8_t i = 0; i < 16; i++) {
        m.hdr.incarnation.u.b[i] = (uint8_t)(0xa0 + i);
        m.hdr.prev_digest[i] = (uint8_t)(0x50 + i);
    }
    m.hdr.last_seq = m.hdr.first_seq - 1;
}

static struct lane_entry *
made_entry(uint8_t type, uint64_t off512, uint32_t len512)
{
    struct lane_entry *e = &m.entry[m.hdr.n_entries++];

    *e = (struct lane_entry){ .off512 = off512,
                              .len512 = len512,
                              .chunk = BATCH_NO_CHUNK,
                              .type = type,
                              .dt_ms = (uint16_t)m.hdr.n_entries };
    m.hdr.last_seq++;
    return e;
}

/* Payload to the raw stream; chunks are cut afterwards. */
static struct lane_entry *
made_data(uint8_t type, uint64_t off512, const uint8_t *p, uint32_t n)
{
    uint32_t padded = (n + 511) / 512 * 512;
    struct lane_entry *e = made_entry(type, off512, padded / 512);

    memcpy(m.raw + m.raw_len, p, n);
    e->crc = crc32c(0, m.raw + m.raw_len, padded);
    e->chunk = m.raw_len; /* resolved by made_chunks() */
    if (type != ENTRY_WRITE && type != ENTRY_RESYNC_WRITE)
        e->aux = n;
    m.raw_len += padded;
    return e;
}

static void
made_chunks(uint32_t chunk_len, enum chunk_codec codec)
{
    for (uint32_t at = 0; at < m.raw_len; at += chunk_len) {
        struct lane_chunk *c = &m.chunk[m.hdr.n_chunks++];
        uint32_t n = MIN(chunk_len, m.raw_len - at);
        size_t got = chunk_deflate(codec, m.raw + at, n, m.body + m.body_len,
                                   sizeof m.body - m.body_len);

        c->codec = got ? (uint8_t)codec : CHUNK_STORED;
        if (!got) {
            memcpy(m.body + m.body_len, m.raw + at, n);
            got = n;
        }
        c->body_off = m.body_len;
        c->stored_len = (uint32_t)got;
        c->raw_len = n;
        c->crc_raw = crc32c(0, m.raw + at, n);
        c->crc_stored = crc32c(0, m.body + m.body_len, got);
        m.body_len += c->stored_len;
    }
    for (uint32_t i = 0; i < m.hdr.n_entries; i++) {
        uint32_t at = m.entry[i].chunk;

        if (at == BATCH_NO_CHUNK)
            continue;
        m.entry[i].chunk = at / chunk_len;
        m.entry[i].chunk_off512 = (uint16_t)(at % chunk_len / 512);
    }
}

static void
made_encode(void)
{
    size_t head = batch_head_size(m.hdr.n_entries, m.hdr.n_chunks);

    batch_head_encode(&m.hdr, m.entry, m.chunk, m.bytes);
    memcpy(m.bytes + head, m.body, m.body_len);
    m.size = head + m.body_len;
}

/* Put the header's checksum right after a test has changed the header. */
static void
made_rehash(void)
{
    put_le32(m.bytes + 124, crc32c(0, m.bytes, 124));
}

static void
pattern(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(seed + i / 64 + (i * 7 >> 3));
}

/* Writes, a zero, a flush and a checkpoint. */
static void
made_usual(enum chunk_codec codec, uint32_t chunk_len)
{
    uint8_t data[3072], control[CONTROL_PAYLOAD_MAX];
    struct cut_commit cut = { .cut_no = 9,
                              .wall_ns = 1700000000000500000,
                              .term = 1,
                              .membership_epoch = 2,
                              .kind = CUT_USER,
                              .tag_len = 6,
                              .tag = "before" };

    made_begin();
    pattern(data, sizeof data, 1);
    made_data(ENTRY_WRITE, 8, data, 1024);
    made_entry(ENTRY_ZERO, 1 << 20, 131072)->flags = ENTRY_MAY_PUNCH;
    made_data(ENTRY_WRITE, 16, data, sizeof data)->vol = 1;
    made_entry(ENTRY_FLUSH, 0, 0);
    made_data(ENTRY_CUT_COMMIT, 0, control,
              (uint32_t)cut_commit_encode(&cut, control));
    m.hdr.flags = BATCH_CUT_INSIDE;
    made_chunks(chunk_len, codec);
    made_encode();
}

static void
assert_entry_equal(const struct lane_entry *a, const struct lane_entry *b)
{
    uint8_t x[BATCH_ENTRY_SIZE], y[BATCH_ENTRY_SIZE];

    lane_entry_encode(a, x);
    lane_entry_encode(b, y);
    assert_memory_equal(x, y, sizeof x);
}

static void
round_trip(void **state)
{
    static const enum chunk_codec codecs[] = { CHUNK_STORED, CHUNK_LZ4,
                                               CHUNK_ZSTD };
    static const uint32_t lens[] = { 512, 1536, 65536 };

    (void)state;
    for (size_t k = 0; k < ARRAY_SIZE(codecs) * ARRAY_SIZE(lens); k++) {
        struct err err = ERR_INIT;
        struct batch_view b;
        uint8_t out[4096];
        size_t size = 0, at = 0;

        made_usual(codecs[k % ARRAY_SIZE(codecs)], lens[k / ARRAY_SIZE(codecs)]);
        assert_int_equal(batch_peek(m.bytes, BATCH_HDR_SIZE, &size), 0);
        assert_int_equal(size, m.size);
        assert_int_equal(batch_decode(m.bytes, m.size, &b, &err), 0);
        assert_int_equal(batch_verify_bodies(&b, &err), 0);
        assert_int_equal(b.size, m.size);
        assert_int_equal(b.hdr.flags, BATCH_CUT_INSIDE);
        assert_int_equal(b.hdr.vpg_tag, m.hdr.vpg_tag);
        assert_int_equal(b.hdr.lane, 7);
        assert_memory_equal(&b.hdr.incarnation, &m.hdr.incarnation, 16);
        assert_int_equal(b.hdr.batch_no, 42);
        assert_int_equal(b.hdr.first_seq, lane_seq(3, 1000));
        assert_int_equal(b.hdr.last_seq, lane_seq(3, 1004));
        assert_int_equal(b.hdr.durable_seen, 40);
        assert_int_equal(b.hdr.t_first_ns, m.hdr.t_first_ns);
        assert_int_equal(b.hdr.t_last_ns, m.hdr.t_last_ns);
        assert_int_equal(b.hdr.raw_len, m.raw_len);
        assert_int_equal(b.hdr.body_len, m.body_len);
        assert_memory_equal(b.hdr.prev_digest, m.hdr.prev_digest, 16);
        for (uint32_t i = 0; i < b.hdr.n_entries; i++) {
            struct lane_entry e;

            batch_entry(&b, i, &e);
            assert_entry_equal(&e, &m.entry[i]);
            assert_int_equal(batch_entry_seq(&b, i), lane_seq(3, 1000) + i);
            assert_true(entry_is_write(&e) == (i == 0 || i == 2));
            assert_true(entry_is_zero(&e) == (i == 1));
            if (e.chunk == BATCH_NO_CHUNK) {
                assert_int_equal(batch_entry_payload(&b, i, out, sizeof out,
                                                     &err),
                                 -ENODATA);
                continue;
            }
            assert_int_equal(batch_entry_payload(&b, i, out, sizeof out, &err),
                             0);
            assert_memory_equal(out, m.raw + at, (size_t)e.len512 * 512);
            assert_int_equal(batch_entry_payload(&b, i, out, 511, &err),
                             -EMSGSIZE);
            at += (size_t)e.len512 * 512;
        }
        assert_int_equal(at, m.raw_len);
        /* the head alone */
        assert_int_equal(batch_decode_head(m.bytes, b.head_len, &b, &err), 0);
        assert_int_equal(b.size, m.size);
        assert_null(b.bodies);
    }
}

/* docs/formats/batch.md, "Example": bytes of version 1, kept for ever.  They
 * were made by another program than this codec. */
static const char golden_hex[] = "48466442010000000706050403020100"
                                 "01000000000102030405060708090a0b"
                                 "0c0d0e0f050000000000000007000000"
                                 "00010000090000000001000003000000"
                                 "01000000040000000000000000002a36"
                                 "fe9c971740423936fe9c971778000000"
                                 "00020000000200005a5a5a5a5a5a5a5a"
                                 "5a5a5a5a5a5a5a5acc6d03eff8f279a3"
                                 "40000000000000000100000000000000"
                                 "00000100010000000ec7c57200000000"
                                 "002000000000000010000000ffffffff"
                                 "00000000020102000000000000000000"
                                 "000000000000000000000000ffffffff"
                                 "000001000300ffff0000000000000000"
                                 "0000000000020000000200000ec7c572"
                                 "0ec7c57200000000";

static void
golden_head(uint8_t *out, size_t *out_len, uint8_t payload[512])
{
    *out_len = (sizeof golden_hex - 1) / 2;
    assert_int_equal(hex_decode(golden_hex, out, *out_len), 0);
    for (size_t i = 0; i < 512; i++)
        payload[i] = (uint8_t)(i * 3);
}

static void
golden(void **state)
{
    static const char digest_hex[] = "f5b761ce42654fccced223eeb78fa288";
    uint8_t want[1024], out[512], digest[16];
    char text[33];
    struct batch_view b;
    size_t len;

    (void)state;
    /* encode */
    made_begin();
    golden_head(want, &len, out);
    made_data(ENTRY_WRITE, 64, out, 512)->vol = 1;
    made_entry(ENTRY_ZERO, 0x2000, 16)->flags = ENTRY_MAY_PUNCH;
    made_entry(ENTRY_FLUSH, 0, 0)->vol = 1;
    m.entry[0].dt_ms = 0;
    m.entry[1].dt_ms = 2;
    m.entry[2].dt_ms = 65535;
    m.hdr.vpg_tag = 0x0001020304050607;
    m.hdr.lane = 1;
    for (uint8_t i = 0; i < 16; i++)
        m.hdr.incarnation.u.b[i] = i;
    memset(m.hdr.prev_digest, 0x5a, 16);
    m.hdr.batch_no = 5;
    m.hdr.durable_seen = 4;
    m.hdr.first_seq = lane_seq(1, 7);
    m.hdr.last_seq = lane_seq(1, 9);
    made_chunks(65536, CHUNK_STORED);
    made_encode();
    assert_int_equal(m.size, len + 512);
    assert_memory_equal(m.bytes, want, len);
    batch_digest(m.bytes, len, digest);
    hex_encode(digest, 16, text);
    assert_string_equal(text, digest_hex);

    /* decode */
    memcpy(want + len, out, 512);
    assert_int_equal(batch_decode(want, len + 512, &b, NULL), 0);
    assert_int_equal(b.hdr.batch_no, 5);
    memset(out, 0, sizeof out);
    assert_int_equal(batch_entry_payload(&b, 0, out, 512, NULL), 0);
    assert_memory_equal(out, want + len, 512);
}

/* Bytes of exactly n: a read beyond them is seen by the address sanitizer. */
static int
decode_copy(const uint8_t *p, size_t n, bool head_only)
{
    uint8_t *copy = malloc(n ? n : 1);
    struct batch_view b;
    struct err err = ERR_INIT;
    int rc;

    assert_non_null(copy);
    memcpy(copy, p, n);
    rc = head_only ? batch_decode_head(copy, n, &b, &err)
                   : batch_decode(copy, n, &b, &err);
    if (rc == 0 && !head_only)
        rc = batch_verify_bodies(&b, &err);
    if (rc < 0)
        assert_true(err.num == rc && err.msg[0] != '\0');
    free(copy);
    return rc;
}

static void
cut_at_every_length(void **state)
{
    size_t head;

    (void)state;
    made_usual(CHUNK_LZ4, 1536);
    head = batch_head_size(m.hdr.n_entries, m.hdr.n_chunks);
    for (size_t n = 0; n < m.size; n++) {
        size_t size = 0;

        assert_int_equal(decode_copy(m.bytes, n, false), -ENODATA);
        assert_int_equal(decode_copy(m.bytes, n, true), n < head ? -ENODATA : 0);
        assert_int_equal(batch_peek(m.bytes, n, &size),
                         n < BATCH_HDR_SIZE ? -ENODATA : 0);
    }
    assert_int_equal(decode_copy(m.bytes, m.size, false), 0);
}

static void
flip_every_bit(void **state)
{
    (void)state;
    made_usual(CHUNK_ZSTD, 1536);
    for (size_t bit = 0; bit < m.size * 8; bit++) {
        m.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(decode_copy(m.bytes, m.size, false), -EBADMSG);
        m.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(decode_copy(m.bytes, m.size, false), 0);
}

/* A damaged body is found by batch_entry_payload() too, with the place. */
static void
damaged_payload(void **state)
{
    static const enum chunk_codec codecs[] = { CHUNK_STORED, CHUNK_LZ4,
                                               CHUNK_ZSTD };

    (void)state;
    for (size_t k = 0; k < ARRAY_SIZE(codecs); k++) {
        struct err err = ERR_INIT;
        struct batch_view b;
        uint8_t out[4096];

        made_usual(codecs[k], 65536);
        m.bytes[batch_head_size(m.hdr.n_entries, m.hdr.n_chunks) + 3] ^= 4;
        assert_int_equal(batch_decode(m.bytes, m.size, &b, &err), 0);
        assert_int_equal(batch_entry_payload(&b, 0, out, sizeof out, &err),
                         -EBADMSG);
        assert_string_equal(err_code_text(err.code), "LAN-0003");
        assert_int_equal(batch_verify_bodies(&b, &err), -EBADMSG);
        assert_string_equal(err_code_text(err.code), "LAN-0003");
        assert_non_null(strstr(err.msg, "batch 42"));
    }
}

/* --- each rule broken once ---------------------------------------------- */

enum {
    SPOIL_FIELDS,
    SPOIL_BYTES
}; /* before encoding, or after it */

static void
no_entries(void)
{
    m.hdr.n_entries = 0;
}
static void
too_many_entries(void)
{
    put_le32(m.bytes + 60, BATCH_ENTRIES_MAX + 1);
}
static void
too_many_chunks(void)
{
    put_le32(m.bytes + 64, BATCH_CHUNKS_MAX + 1);
}
static void
table_len_lies(void)
{
    put_le32(m.bytes + 92, get_le32(m.bytes + 92) + 24);
}
static void
body_longer_than_raw(void)
{
    put_le32(m.bytes + 96, get_le32(m.bytes + 100) + 1);
}
static void
raw_too_long(void)
{
    put_le32(m.bytes + 100, BATCH_RAW_MAX + 512);
}
static void
raw_sum_wrong(void)
{
    put_le32(m.bytes + 100, get_le32(m.bytes + 100) + 512);
}
static void
durable_before_made(void)
{
    m.hdr.durable_seen = m.hdr.batch_no;
}
static void
seq_zero(void)
{
    m.hdr.first_seq = 0;
    m.hdr.last_seq = m.hdr.n_entries - 1;
}
static void
seq_backwards(void)
{
    m.hdr.last_seq = m.hdr.first_seq - 1;
}
static void
seq_count_wrong(void)
{
    m.hdr.last_seq++;
}
static void
seq_over_two_epochs(void)
{
    m.hdr.last_seq += (uint64_t)1 << LANE_SEQ_EPOCH_SHIFT;
}
static void
no_magic(void)
{
    m.bytes[0] ^= 1;
}
static void
entry_without_type(void)
{
    m.entry[0].type = 0;
}
static void
entry_flags_reserved(void)
{
    m.entry[0].flags = 0x80;
}
static void
entry_volume_out_of_range(void)
{
    m.entry[0].vol = LANE_VOLUMES_MAX;
}
static void
write_empty(void)
{
    m.entry[0].len512 = 0;
}
static void
write_too_long(void)
{
    m.entry[0].len512 = BATCH_WRITE_MAX / 512 + 1;
}
static void
write_beyond_the_end(void)
{
    m.entry[0].off512 = ((uint64_t)1 << 48) - 1;
}
static void
write_without_chunk(void)
{
    m.entry[0].chunk = BATCH_NO_CHUNK;
}
static void
write_reserved(void)
{
    m.entry[0].aux = 1;
}
static void
payload_shared(void)
{
    m.entry[2].chunk = m.entry[0].chunk;
    m.entry[2].chunk_off512 = m.entry[0].chunk_off512;
}
static void
payload_off_the_end(void)
{
    m.entry[2].len512++;
}
static void
payload_of_nobody(void)
{
    m.entry[0].len512--;
    m.entry[2].chunk_off512--;
    m.entry[4].chunk_off512--;
}
static void
zero_too_long(void)
{
    m.entry[1].len512++;
}
static void
zero_with_payload(void)
{
    m.entry[1].chunk = 0;
}
static void
zero_with_crc(void)
{
    m.entry[1].crc = 1;
}
static void
flush_with_range(void)
{
    m.entry[3].len512 = 8;
}
static void
cut_without_payload(void)
{
    m.entry[4].aux = 0;
}
static void
cut_length_wrong(void)
{
    m.entry[4].aux = 513;
}
static void
cut_with_offset(void)
{
    m.entry[4].off512 = 1;
}
static void
gap_not_alone(void)
{
    m.entry[4].type = ENTRY_GAP;
}
static void
chunk_empty(void)
{
    m.chunk[0].raw_len = 0;
}
static void
chunk_no_sectors(void)
{
    m.chunk[0].raw_len++;
}
static void
chunk_too_long(void)
{
    m.chunk[0].raw_len = BATCH_CHUNK_RAW_MAX + 512;
}
static void
chunk_elsewhere(void)
{
    m.chunk[1].body_off++;
}
static void
chunk_grew(void)
{
    m.chunk[0].stored_len = m.chunk[0].raw_len + 1;
}
static void
chunk_codec_lies(void)
{
    m.chunk[0].codec = CHUNK_LZ4;
}
static void
chunk_two_checksums(void)
{
    m.chunk[0].crc_raw ^= 1;
}
static void
chunk_reserved(void)
{
    m.bytes[batch_head_size(m.hdr.n_entries, 0) + 22] = 1;
}

static const struct {
    const char *name;
    void (*spoil)(void);
    int when;
} rules[] = {
    { "no entries", no_entries, SPOIL_FIELDS },
    { "too many entries", too_many_entries, SPOIL_BYTES },
    { "too many chunks", too_many_chunks, SPOIL_BYTES },
    { "table length", table_len_lies, SPOIL_BYTES },
    { "body over raw", body_longer_than_raw, SPOIL_BYTES },
    { "raw too long", raw_too_long, SPOIL_BYTES },
    { "raw sum", raw_sum_wrong, SPOIL_BYTES },
    { "durable before made", durable_before_made, SPOIL_FIELDS },
    { "seq zero", seq_zero, SPOIL_FIELDS },
    { "seq backwards", seq_backwards, SPOIL_FIELDS },
    { "seq count", seq_count_wrong, SPOIL_FIELDS },
    { "two epochs", seq_over_two_epochs, SPOIL_FIELDS },
    { "no magic", no_magic, SPOIL_BYTES },
    { "no type", entry_without_type, SPOIL_FIELDS },
    { "entry flags", entry_flags_reserved, SPOIL_FIELDS },
    { "volume", entry_volume_out_of_range, SPOIL_FIELDS },
    { "write empty", write_empty, SPOIL_FIELDS },
    { "write too long", write_too_long, SPOIL_FIELDS },
    { "write beyond the end", write_beyond_the_end, SPOIL_FIELDS },
    { "write without chunk", write_without_chunk, SPOIL_FIELDS },
    { "write reserved", write_reserved, SPOIL_FIELDS },
    { "payload shared", payload_shared, SPOIL_FIELDS },
    { "payload off the end", payload_off_the_end, SPOIL_FIELDS },
    { "payload of nobody", payload_of_nobody, SPOIL_FIELDS },
    { "zero too long", zero_too_long, SPOIL_FIELDS },
    { "zero with payload", zero_with_payload, SPOIL_FIELDS },
    { "zero with crc", zero_with_crc, SPOIL_FIELDS },
    { "flush with range", flush_with_range, SPOIL_FIELDS },
    { "cut without payload", cut_without_payload, SPOIL_FIELDS },
    { "cut length", cut_length_wrong, SPOIL_FIELDS },
    { "cut with offset", cut_with_offset, SPOIL_FIELDS },
    { "gap not alone", gap_not_alone, SPOIL_FIELDS },
    { "chunk empty", chunk_empty, SPOIL_FIELDS },
    { "chunk no sectors", chunk_no_sectors, SPOIL_FIELDS },
    { "chunk too long", chunk_too_long, SPOIL_FIELDS },
    { "chunk elsewhere", chunk_elsewhere, SPOIL_FIELDS },
    { "chunk grew", chunk_grew, SPOIL_FIELDS },
    { "chunk codec", chunk_codec_lies, SPOIL_FIELDS },
    { "chunk two checksums", chunk_two_checksums, SPOIL_FIELDS },
    { "chunk reserved", chunk_reserved, SPOIL_BYTES },
};

/* All checksums are right: only the rule itself refuses it. */
static void
every_rule(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
        struct err err = ERR_INIT;
        struct batch_view b;
        uint32_t table_len;

        made_usual(CHUNK_STORED, 1536);
        assert_int_equal(batch_decode(m.bytes, m.size, &b, &err), 0);
        if (rules[i].when == SPOIL_FIELDS) {
            rules[i].spoil();
            made_encode();
        } else {
            rules[i].spoil();
            table_len = get_le32(m.bytes + 92);
            if (table_len < m.size)
                put_le32(m.bytes + 120, crc32c(0, m.bytes + 128, table_len));
            made_rehash();
        }
        if (batch_decode(m.bytes, sizeof m.bytes, &b, &err) != -EBADMSG)
            fail_msg("not refused: %s", rules[i].name);
        assert_string_equal(err_code_text(err.code), "LAN-0001");
    }
}

static void
newer_releases(void **state)
{
    struct err err = ERR_INIT;
    struct batch_view b;
    size_t size;

    (void)state;
    made_usual(CHUNK_STORED, 65536);
    put_le16(m.bytes + 4, 2);
    made_rehash();
    assert_int_equal(batch_decode(m.bytes, m.size, &b, &err), -EPROTONOSUPPORT);
    assert_string_equal(err_code_text(err.code), "LAN-0002");
    assert_int_equal(batch_peek(m.bytes, m.size, &size), -EPROTONOSUPPORT);

    made_usual(CHUNK_STORED, 65536);
    m.hdr.flags = 0x8000;
    made_encode();
    assert_int_equal(batch_decode(m.bytes, m.size, &b, &err), -EPROTONOSUPPORT);

    made_usual(CHUNK_LZ4, 65536);
    assert_int_equal(m.chunk[0].codec, CHUNK_LZ4);
    m.chunk[0].codec = 3;
    made_encode();
    assert_int_equal(batch_decode(m.bytes, m.size, &b, &err), -EPROTONOSUPPORT);

    /* an unknown type is skipped, unless it is critical */
    made_usual(CHUNK_STORED, 65536);
    m.entry[3].type = 200;
    made_encode();
    assert_int_equal(batch_decode(m.bytes, m.size, &b, &err), 0);
    m.entry[3].flags = ENTRY_CRITICAL;
    made_encode();
    assert_int_equal(batch_decode(m.bytes, m.size, &b, &err), -EPROTONOSUPPORT);
    assert_string_equal(err_code_text(err.code), "LAN-0002");
}

static void
gap_and_folded(void **state)
{
    struct lane_gap gap = { lane_seq(3, 1000), lane_seq(3, 5000) }, got;
    uint8_t control[CONTROL_PAYLOAD_MAX];
    struct batch_view b;
    uint8_t out[512];

    (void)state;
    made_begin();
    made_data(ENTRY_GAP, 0, control, (uint32_t)lane_gap_encode(&gap, control));
    m.hdr.last_seq = gap.last_seq;
    made_chunks(65536, CHUNK_STORED);
    made_encode();
    assert_int_equal(batch_decode(m.bytes, m.size, &b, NULL), 0);
    assert_int_equal(batch_entry_seq(&b, 0), gap.last_seq);
    assert_int_equal(batch_entry_payload(&b, 0, out, sizeof out, NULL), 0);
    assert_int_equal(lane_gap_decode(out, m.entry[0].aux, &got), 0);
    assert_int_equal(got.first_seq, gap.first_seq);
    assert_int_equal(got.last_seq, gap.last_seq);

    made_usual(CHUNK_STORED, 65536);
    m.hdr.flags |= BATCH_FOLDED;
    m.hdr.last_seq += 100;
    made_encode();
    assert_int_equal(batch_decode(m.bytes, m.size, &b, NULL), 0);
    assert_int_equal(batch_entry_seq(&b, 0), m.hdr.last_seq);
    assert_int_equal(batch_entry_seq(&b, 4), m.hdr.last_seq);
}

/* --- chunks ------------------------------------------------------------- */

static void
chunk_gain(void **state)
{
    static uint8_t raw[BATCH_CHUNK_RAW_MAX], out[BATCH_CHUNK_RAW_MAX],
        back[BATCH_CHUNK_RAW_MAX];
    uint32_t x = 1;

    (void)state;
    for (size_t i = 0; i < sizeof raw; i++) {
        x = x * 1664525 + 1013904223;
        raw[i] = (uint8_t)(x >> 24);
    }
    assert_int_equal(chunk_deflate(CHUNK_LZ4, raw, sizeof raw, out, sizeof out),
                     0);
    assert_int_equal(chunk_deflate(CHUNK_ZSTD, raw, sizeof raw, out, sizeof out),
                     0);
    /* noise and then zeros: gains of about 2 %, 4 %, ... */
    for (size_t zeros = 0; zeros < sizeof raw; zeros += sizeof raw / 48) {
        memset(raw + sizeof raw - zeros, 0, zeros);
        for (int codec = CHUNK_LZ4; codec <= CHUNK_ZSTD; codec++) {
            size_t n = chunk_deflate((enum chunk_codec)codec, raw, sizeof raw,
                                     out, sizeof out);
            struct lane_chunk c = { .stored_len = (uint32_t)n,
                                    .raw_len = sizeof raw,
                                    .codec = (uint8_t)codec };

            if (zeros * 100 > sizeof raw * 7)
                assert_true(n > 0);
            if (zeros * 100 < sizeof raw * 5)
                assert_int_equal(n, 0);
            if (n == 0)
                continue;
            assert_true(n <= sizeof raw - sizeof raw / 20);
            c.crc_raw = crc32c(0, raw, sizeof raw);
            c.crc_stored = crc32c(0, out, n);
            assert_int_equal(chunk_inflate(&c, out, back, sizeof back, NULL), 0);
            assert_memory_equal(raw, back, sizeof raw);
            assert_int_equal(chunk_inflate(&c, out, back, sizeof back - 1, NULL),
                             -EMSGSIZE);
            c.crc_raw ^= 1;
            assert_int_equal(chunk_inflate(&c, out, back, sizeof back, NULL),
                             -EBADMSG);
            c.crc_raw ^= 1;
            c.raw_len -= 512; /* decompresses to more than it says */
            assert_int_equal(chunk_inflate(&c, out, back, sizeof back, NULL),
                             -EBADMSG);
            c.raw_len = 0;
            assert_int_equal(chunk_inflate(&c, out, back, sizeof back, NULL),
                             -EBADMSG);
        }
    }
    assert_int_equal(chunk_deflate(CHUNK_STORED, raw, sizeof raw, out,
                                   sizeof out),
                     0);
    assert_int_equal(chunk_deflate(CHUNK_LZ4, raw, 1024, out, 1023), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),          cmocka_unit_test(golden),
        cmocka_unit_test(cut_at_every_length), cmocka_unit_test(flip_every_bit),
        cmocka_unit_test(damaged_payload),     cmocka_unit_test(every_rule),
        cmocka_unit_test(newer_releases),      cmocka_unit_test(gap_and_folded),
        cmocka_unit_test(chunk_gain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
