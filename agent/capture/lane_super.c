/* lane.super: two slots of 4 KiB, docs/formats/lane-super.md.
 *
 * The valid slot with the higher generation is the truth.  A store overwrites
 * the other one and syncs: a crash in between leaves the truth untouched, and a
 * torn slot does not have a right checksum.  A slot of a newer release counts
 * as valid and is refused, so that nothing of it is overwritten. */
#include "capture/lane_super.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

enum {
    S_MAGIC = 0,
    S_VERSION = 4,
    S_FLAGS = 6,
    S_GEN = 8,
    S_VPG = 16,
    S_LANE = 32,
    S_SEQ_EPOCH = 36,
    S_INCARNATION = 40,
    S_PREV_INCARNATION = 56,
    S_PREV_LAST_BATCH = 72,
    S_GENERATION = 80,
    S_FENCING_EPOCH = 96,
    S_NEXT_CUT = 100,
    S_N_VOLUMES = 108,
    S_VOLUMES = 112,
    S_CRC = 4092,
    VOLUME_SIZE = 40,
    VOLUMES_MAX = (int)ARRAY_SIZE(((struct lane_super *)0)->volumes),
    SLOTS = 2,
    FLAG_CLEAN = 1 << 0,
    FLAG_SYNCED = 1 << 1,
};
#define LANE_SUPER_MAGIC 0x534c4648u /* "HFLS" in the file */
_Static_assert(S_VOLUMES + VOLUMES_MAX * VOLUME_SIZE <= S_CRC,
               "all volumes fit a slot");

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

static void
volume_encode(const struct lane_super_volume *v, uint8_t *p)
{
    put_le16(p, v->vol);
    put_le64(p + 8, v->size);
    put_le64(p + 16, v->fp_identity);
    put_le64(p + 24, v->fp_size);
    put_le64(p + 32, v->fp_mtime_ns);
}

static void
volume_decode(const uint8_t *p, struct lane_super_volume *v)
{
    *v = (struct lane_super_volume){ .vol = get_le16(p),
                                     .size = get_le64(p + 8),
                                     .fp_identity = get_le64(p + 16),
                                     .fp_size = get_le64(p + 24),
                                     .fp_mtime_ns = get_le64(p + 32) };
}

void
lane_super_encode(const struct lane_super *s, uint64_t gen,
                  uint8_t out[LANE_SUPER_SLOT])
{
    memset(out, 0, LANE_SUPER_SLOT);
    put_le32(out + S_MAGIC, LANE_SUPER_MAGIC);
    put_le16(out + S_VERSION, LANE_SUPER_VERSION);
    put_le16(out + S_FLAGS, (uint16_t)((s->clean ? FLAG_CLEAN : 0) |
                                       (s->synced ? FLAG_SYNCED : 0)));
    put_le64(out + S_GEN, gen);
    memcpy(out + S_VPG, s->vpg.u.b, 16);
    put_le32(out + S_LANE, s->lane);
    put_le32(out + S_SEQ_EPOCH, s->seq_epoch);
    memcpy(out + S_INCARNATION, s->incarnation.u.b, 16);
    memcpy(out + S_PREV_INCARNATION, s->prev_incarnation.u.b, 16);
    put_le64(out + S_PREV_LAST_BATCH, s->prev_last_batch);
    memcpy(out + S_GENERATION, s->generation.u.b, 16);
    put_le32(out + S_FENCING_EPOCH, s->fencing_epoch);
    put_le64(out + S_NEXT_CUT, s->next_cut_no);
    put_le32(out + S_N_VOLUMES, s->n_volumes);
    for (uint32_t i = 0; i < s->n_volumes; i++)
        volume_encode(&s->volumes[i], out + S_VOLUMES + (size_t)i * VOLUME_SIZE);
    put_le32(out + S_CRC, crc32c(0, out, S_CRC));
}

static const char *
super_wrong(const uint8_t *p)
{
    uint32_t n = get_le32(p + S_N_VOLUMES);

    if (n > VOLUMES_MAX)
        return "the number of volumes is out of range";
    if (get_le16(p + S_FLAGS) & ~(FLAG_CLEAN | FLAG_SYNCED))
        return "reserved flags are set";
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *v = p + S_VOLUMES + (size_t)i * VOLUME_SIZE;

        if (get_le16(v) >= LANE_VOLUMES_MAX)
            return "a volume's number is out of range";
        if (!bytes_all_zero(v + 2, 6))
            return "reserved bytes are not zero";
    }
    if (!bytes_all_zero(p + S_VOLUMES + (size_t)n * VOLUME_SIZE,
                        S_CRC - S_VOLUMES - (size_t)n * VOLUME_SIZE))
        return "reserved bytes are not zero";
    return NULL;
}

int
lane_super_decode(const uint8_t *p, size_t len, struct lane_super *out,
                  uint64_t *out_gen, struct err *err)
{
    const char *why;

    if (len < LANE_SUPER_SLOT)
        return err_set(err, -ENODATA, ERR_CAP_0003,
                       "super block cut short: %zu of %d bytes", len,
                       LANE_SUPER_SLOT);
    if (get_le32(p + S_MAGIC) != LANE_SUPER_MAGIC ||
        crc_differs(crc32c(0, p, S_CRC), get_le32(p + S_CRC)))
        return err_set(err, -EBADMSG, ERR_CAP_0003,
                       "super block damaged: checksum does not match");
    if (get_le16(p + S_VERSION) != LANE_SUPER_VERSION)
        return err_set(err, -EPROTONOSUPPORT, ERR_CAP_0004,
                       "super block has format version %u, this release reads "
                       "%d",
                       get_le16(p + S_VERSION), LANE_SUPER_VERSION);
    why = super_wrong(p);
    if (why)
        return err_set(err, -EBADMSG, ERR_CAP_0003, "super block damaged: %s",
                       why);
    memset(out, 0, sizeof *out);
    out->clean = get_le16(p + S_FLAGS) & FLAG_CLEAN;
    out->synced = (get_le16(p + S_FLAGS) & FLAG_SYNCED) != 0;
    memcpy(out->vpg.u.b, p + S_VPG, 16);
    out->lane = get_le32(p + S_LANE);
    out->seq_epoch = get_le32(p + S_SEQ_EPOCH);
    memcpy(out->incarnation.u.b, p + S_INCARNATION, 16);
    memcpy(out->prev_incarnation.u.b, p + S_PREV_INCARNATION, 16);
    out->prev_last_batch = get_le64(p + S_PREV_LAST_BATCH);
    memcpy(out->generation.u.b, p + S_GENERATION, 16);
    out->fencing_epoch = get_le32(p + S_FENCING_EPOCH);
    out->next_cut_no = get_le64(p + S_NEXT_CUT);
    out->n_volumes = get_le32(p + S_N_VOLUMES);
    for (uint32_t i = 0; i < out->n_volumes; i++)
        volume_decode(p + S_VOLUMES + (size_t)i * VOLUME_SIZE, &out->volumes[i]);
    *out_gen = get_le64(p + S_GEN);
    return 0;
}

/* --- the file ----------------------------------------------------------- */

struct slots {
    int rc[SLOTS];
    uint64_t gen[SLOTS];
    struct lane_super s[SLOTS];
    struct err err[SLOTS];
};

/* The newer valid slot, or why there is none. */
static int
slots_pick(const struct slots *sl, const char *path, unsigned *out_slot,
           struct err *err)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (sl->rc[i] == -EPROTONOSUPPORT)
            return err_set(err, -EPROTONOSUPPORT, ERR_CAP_0004, "%s: %s", path,
                           sl->err[i].msg);
    }
    if (sl->rc[0] < 0 && sl->rc[1] < 0)
        return err_set(err, -EBADMSG, ERR_CAP_0003,
                       "%s: both copies are unusable: %s; %s", path,
                       sl->err[0].msg, sl->err[1].msg);
    if (sl->rc[0] < 0)
        *out_slot = 1;
    else
        *out_slot = sl->rc[1] == 0 && sl->gen[1] > sl->gen[0];
    return 0;
}

static void
slots_decode(const uint8_t *p, size_t len, struct slots *out)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        size_t at = (size_t)i * LANE_SUPER_SLOT;

        out->err[i] = (struct err)ERR_INIT;
        out->rc[i] = lane_super_decode(p + MIN(at, len), len > at ? len - at : 0,
                                       &out->s[i], &out->gen[i], &out->err[i]);
    }
}

static int
slots_read(struct io_loop *loop, const char *path, struct slots *out,
           struct err *err)
{
    uint8_t *p = NULL;
    size_t len = 0;
    int rc = io_read_whole(loop, path, (size_t)SLOTS * LANE_SUPER_SLOT, &p,
                           &len, err);

    if (rc < 0)
        return rc;
    slots_decode(p, len, out);
    free(p);
    return 0;
}

int
lane_super_load(struct io_loop *loop, const char *path, struct lane_super *out,
                struct err *err)
{
    struct slots *sl = calloc(1, sizeof *sl);
    unsigned slot = 0;
    int rc;

    if (!sl)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "%s: out of memory", path);
    rc = slots_read(loop, path, sl, err);
    if (rc == 0)
        rc = slots_pick(sl, path, &slot, err);
    if (rc == 0)
        *out = sl->s[slot];
    free(sl);
    return rc;
}

/* A file of both slots at once, complete or not there. */
static int
file_create(struct io_loop *loop, const char *path, const struct lane_super *s,
            struct err *err)
{
    uint8_t both[SLOTS * LANE_SUPER_SLOT] = { 0 };

    lane_super_encode(s, 1, both);
    return io_replace_whole(loop, path, both, sizeof both, err);
}

static int
slot_write(struct io_loop *loop, const char *path, unsigned slot, uint64_t gen,
           const struct lane_super *s, struct err *err)
{
    uint8_t out[LANE_SUPER_SLOT];
    struct io_file *f = NULL;
    int rc = io_file_open(loop, path, IO_OPEN_WRITE, &f, err);

    if (rc < 0)
        return rc;
    lane_super_encode(s, gen, out);
    rc = io_file_pwrite_sync(f, out, sizeof out,
                             (uint64_t)slot * LANE_SUPER_SLOT);
    /* The new slot is on disk before the caller acts on it; until then the
     * other one is the truth. */
    if (rc == 0)
        rc = io_file_fdatasync_sync(f);
    if (rc < 0)
        (void)err_set(err, rc, ERR_GEN_0003, "%s: cannot write: %s", path,
                      err_errno(rc));
    io_file_close(f);
    return rc;
}

int
lane_super_store(struct io_loop *loop, const char *path,
                 const struct lane_super *s, struct err *err)
{
    struct slots *sl;
    unsigned slot = 0;
    int rc;

    if (s->n_volumes > VOLUMES_MAX)
        return err_set(err, -EINVAL, ERR_CAP_0003,
                       "%s: %" PRIu32 " volumes, at most %d fit", path,
                       s->n_volumes, VOLUMES_MAX);
    sl = calloc(1, sizeof *sl);
    if (!sl)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "%s: out of memory", path);
    rc = slots_read(loop, path, sl, err);
    if (rc == -ENOENT) {
        rc = file_create(loop, path, s, err);
        goto out;
    }
    if (rc == 0)
        rc = slots_pick(sl, path, &slot, err);
    if (rc == 0)
        rc = slot_write(loop, path, slot ^ 1, sl->gen[slot] + 1, s, err);
out:
    free(sl);
    return rc;
}
