/* Chunks: LZ4 (block format) and zstd level 1 (one frame), or stored raw where
 * less than 5 % would be gained (datapath.md 2.2).  The libraries' contexts are
 * made once a thread and used again: making one costs more than the work. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <lz4.h>
#include <zstd.h>

#include "common/crc32c.h"
#include "lane/batch.h"

enum {
    GAIN_SHARE = 20, /* keep it compressed only when a 20th is saved */
    LZ4_ACCELERATION = 1,
    ZSTD_LEVEL = 1,
};

struct contexts {
    ZSTD_CCtx *deflate;
    ZSTD_DCtx *inflate;
    void *lz4; /* LZ4_sizeofState() bytes */
};

static pthread_key_t contexts_key;
static pthread_once_t contexts_once = PTHREAD_ONCE_INIT;
static bool contexts_usable;

static void
contexts_free(void *arg)
{
    struct contexts *c = arg;

    ZSTD_freeCCtx(c->deflate);
    ZSTD_freeDCtx(c->inflate);
    free(c->lz4);
    free(c);
}

static void
contexts_key_make(void)
{
    contexts_usable = pthread_key_create(&contexts_key, contexts_free) == 0;
}

/* This thread's; NULL when there is no memory. */
static struct contexts *
contexts_get(void)
{
    struct contexts *c;

    (void)pthread_once(&contexts_once, contexts_key_make);
    if (!contexts_usable)
        return NULL;
    c = pthread_getspecific(contexts_key);
    if (c)
        return c;
    c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->deflate = ZSTD_createCCtx();
    c->inflate = ZSTD_createDCtx();
    c->lz4 = malloc((size_t)LZ4_sizeofState());
    if (!c->deflate || !c->inflate || !c->lz4 ||
        pthread_setspecific(contexts_key, c) != 0) {
        contexts_free(c);
        return NULL;
    }
    return c;
}

size_t
chunk_deflate(enum chunk_codec codec, const uint8_t *raw, size_t raw_len,
              uint8_t *out, size_t out_size)
{
    size_t limit = raw_len - (raw_len + GAIN_SHARE - 1) / GAIN_SHARE;
    struct contexts *c;
    size_t n;
    int got;

    if (codec == CHUNK_STORED || raw_len == 0 ||
        raw_len > BATCH_CHUNK_RAW_MAX || out_size < raw_len)
        return 0;
    c = contexts_get();
    if (!c) /* without memory it travels raw: never an error */
        return 0;
    switch (codec) {
    case CHUNK_LZ4:
        got = LZ4_compress_fast_extState(c->lz4, (const char *)raw, (char *)out,
                                         (int)raw_len, (int)limit,
                                         LZ4_ACCELERATION);
        return got > 0 ? (size_t)got : 0;
    case CHUNK_ZSTD:
        n = ZSTD_compressCCtx(c->deflate, out, limit, raw, raw_len, ZSTD_LEVEL);
        return ZSTD_isError(n) ? 0 : n;
    case CHUNK_STORED: break;
    }
    return 0;
}

/* Decompress into exactly raw_len bytes. */
static bool
inflate(const struct lane_chunk *c, const uint8_t *stored, uint8_t *out)
{
    struct contexts *ctx;
    size_t n;

    switch ((enum chunk_codec)c->codec) {
    case CHUNK_STORED:
        memcpy(out, stored, c->raw_len);
        return c->stored_len == c->raw_len;
    case CHUNK_LZ4:
        return LZ4_decompress_safe((const char *)stored, (char *)out,
                                   (int)c->stored_len,
                                   (int)c->raw_len) == (int)c->raw_len;
    case CHUNK_ZSTD:
        ctx = contexts_get();
        if (!ctx)
            return false;
        n = ZSTD_decompressDCtx(ctx->inflate, out, c->raw_len, stored,
                                c->stored_len);
        return !ZSTD_isError(n) && n == c->raw_len;
    }
    return false;
}

static bool
crc_differs(uint32_t have, uint32_t want)
{
#ifdef HOLDFAST_FUZZING
    UNUSED(have);
    UNUSED(want);
    return false;
#else
    return have != want;
#endif
}

int
chunk_inflate(const struct lane_chunk *c, const uint8_t *stored, uint8_t *out,
              size_t out_size, struct err *err)
{
    if (c->raw_len == 0 || c->raw_len > BATCH_CHUNK_RAW_MAX ||
        c->stored_len == 0 || c->stored_len > c->raw_len ||
        (c->codec == CHUNK_STORED && c->stored_len != c->raw_len))
        return err_set(err, -EBADMSG, ERR_LAN_0003,
                       "chunk lengths out of range: %u stored, %u raw",
                       c->stored_len, c->raw_len);
    if (out_size < c->raw_len)
        return err_set(err, -EMSGSIZE, ERR_LAN_0003,
                       "chunk of %u bytes for a buffer of %zu", c->raw_len,
                       out_size);
    if (crc_differs(crc32c(0, stored, c->stored_len), c->crc_stored))
        return err_set(err, -EBADMSG, ERR_LAN_0003,
                       "checksum of %u stored bytes does not match",
                       c->stored_len);
    if (!inflate(c, stored, out))
        return err_set(err, -EBADMSG, ERR_LAN_0003,
                       "%u stored bytes do not decompress to %u", c->stored_len,
                       c->raw_len);
    if (crc_differs(crc32c(0, out, c->raw_len), c->crc_raw))
        return err_set(err, -EBADMSG, ERR_LAN_0003,
                       "checksum of %u decompressed bytes does not match",
                       c->raw_len);
    return 0;
}
