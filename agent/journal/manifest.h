/* The manifest: what exists in a journal's directory, and how far things are.
 *
 * docs/formats/manifest.md has the byte tables.  Records are appended, numbered,
 * and each carries the CRC of the one before; replaying them gives struct
 * man_state.  At MANIFEST_REWRITE bytes the state is written as a fresh file
 * under a temporary name and renamed, with the file before kept as manifest.old.
 * A bad record with nothing valid behind it is a torn tail; with something valid
 * behind it, it is damage, and nothing is guessed.
 *
 * The state belongs to the loop's thread.  manifest_add() changes it and encodes
 * the record; the bytes travel to the disk in the order of adding, by a worker:
 * manifest_take() on the loop's thread, manifest_write() on the worker.
 */
#ifndef HOLDFAST_JOURNAL_MANIFEST_H
#define HOLDFAST_JOURNAL_MANIFEST_H

#include "common/buf.h"
#include "io/file.h"
#include "journal/jindex.h"
#include "journal/segment.h"

enum {
    MANIFEST_VERSION = 1,
    MANIFEST_HEADER = 64,
    MANIFEST_REC_HEADER = 32,
    MANIFEST_PAYLOAD_MAX = 2048,
    MANIFEST_REWRITE = 4 * 1024 * 1024,
    MANIFEST_FILE_MAX = 256 * 1024 * 1024,
};
#define MANIFEST_MAGIC     0x666d6648u /* "Hfmf" */
#define MANIFEST_REC_MAGIC 0x726d6648u /* "Hfmr" */

/* Numbers are never reused. */
enum man_type {
    MAN_GEOMETRY = 1, /* one for each volume */
    MAN_INCARNATION = 2,
    MAN_GENERATION = 3,
    MAN_FENCING = 4,
    MAN_SEG_NEW = 5,
    MAN_SEG_SEAL = 6,
    MAN_SEG_DEL = 7, /* promoted; its file may be recycled */
    MAN_RUN_ADD = 8,
    MAN_RUN_DEL = 9,
    MAN_FLOOR = 10,
    MAN_PROMOTED = 11,
    MAN_PIN_ADD = 12,
    MAN_PIN_DEL = 13,
    MAN_VIEW_BASE = 14,
    MAN_BAD = 15,
    MAN_QUOTA = 16,
    MAN_TAG = 17,
    MAN_UPTIME = 18,
    MAN_GOOD = 19,   /* takes back a BAD of exactly this range */
    MAN_DAMAGE = 20, /* part of a segment that fails its checksum */
    MAN_MENDED = 21, /* takes back all DAMAGE of a segment */
};

/* Where a lane's offering stands (I19); kept with each sealed segment. */
enum lane_offer_flags {
    OFFER_IN_RESYNC = 1 << 0, /* behind a RESYNC_BEGIN */
    OFFER_TAINTED = 1 << 1,   /* behind a GAP, DIRTY or unverified start */
};

struct man_seg {
    uint32_t no;
    bool sealed;
    uint64_t size; /* of the file */
    struct incarnation_id incarnation;
    uint64_t first_batch, first_seq;
    uint8_t prev_digest[16];
    /* sealed: */
    uint64_t footer_off, end; /* footer_off 0: none could be written */
    uint64_t last_batch, last_seq;
    uint8_t digest[16];
    uint32_t offer;      /* lane_offer_flags at its end */
    uint64_t points;     /* records of the points file that are synced */
    uint32_t points_gen; /* of that file */
    uint64_t up_ns;
    uint64_t room; /* not in the file: what promoting it may allocate */
};
struct man_floor {
    uint64_t cut_no, seq;
    bool none; /* nothing is offered up to seq */
};
struct man_bad {
    uint16_t vol;
    uint64_t off, len;
};
/* What entry seq wrote there cannot be had any more.  vol MAN_ALL_VOLUMES: nor
 * is it known what it, and those behind it in the segment, wrote. */
enum {
    MAN_ALL_VOLUMES = UINT16_MAX,
    MAN_DAMAGE_MAX = 4096
};
struct man_damage {
    uint32_t seg;
    uint16_t vol;
    uint64_t seq, off, len;
};
struct man_quota {
    uint64_t history_ns, hard_limit, warn;
};
struct man_tag {
    uint64_t cut_no;
    char text[BATCH_TAG_MAX + 1];
};

struct man_rec {
    enum man_type type;
    union {
        struct journal_volume volume;
        struct incarnation_id incarnation;
        struct generation_id generation;
        uint32_t epoch;
        struct man_seg seg; /* SEG_NEW, SEG_SEAL, SEG_DEL (no) */
        struct run_info run;
        struct man_floor floor;
        uint64_t seq; /* PROMOTED */
        struct view_record view;
        struct {
            struct view_id id;
            uint64_t base_seq;
        } base; /* PIN_DEL (id), VIEW_BASE */
        struct man_bad bad;
        struct man_damage damage; /* MENDED: seg */
        struct man_quota quota;
        struct man_tag tag;
        struct {
            uint64_t up_ns;
            uint32_t next_seg; /* numbers below it were given */
        } uptime;
    } u;
};

/* Encode with its place in the chain; returns the length.  Decode: 0 and
 * *out_len; -ENODATA cut; -EBADMSG damaged or out of place (number, prev_crc);
 * -EPROTONOSUPPORT a type this release does not know. */
size_t man_rec_encode(const struct man_rec *r, uint64_t number,
                      uint32_t prev_crc, uint8_t *out, size_t out_size);
int man_rec_decode(const uint8_t *p, size_t len, uint64_t number,
                   uint32_t prev_crc, struct man_rec *out, size_t *out_len);

struct man_header {
    struct vpg_id vpg;
    uint32_t lane;
    uint64_t first_number; /* of the file's first record */
    uint32_t prev_crc;     /* its predecessor's CRC */
};
void man_header_encode(const struct man_header *h, uint8_t *out);
int man_header_decode(const uint8_t *p, size_t len, struct man_header *out);

/* The state: arrays in the order of adding (segs and runs by number). */
struct man_state {
    struct man_header id;
    struct journal_volume volumes[LANE_VOLUMES_MAX];
    unsigned n_volumes;
    bool any_incarnation;
    struct incarnation_id incarnation;
    struct generation_id generation;
    uint32_t epoch;
    struct man_seg *segs;
    size_t n_segs, cap_segs;
    uint32_t next_seg;
    struct run_info *runs;
    size_t n_runs, cap_runs;
    struct man_floor floor;
    bool any_floor;
    uint64_t promoted;
    struct view_record *views;
    size_t n_views, cap_views;
    struct man_bad *bad;
    size_t n_bad, cap_bad;
    struct man_damage *damage;
    size_t n_damage, cap_damage;
    struct man_quota quota;
    struct man_tag **tags; /* by cut_no */
    size_t n_tags, cap_tags;
    uint64_t up_ns;
};
/* 0; -EBADMSG: the record contradicts the state; -ENOMEM. */
int man_state_apply(struct man_state *s, const struct man_rec *r);
struct man_seg *man_state_seg(struct man_state *s, uint32_t no);
void man_state_release(struct man_state *s);
/* Read a whole file.  *out_clean: false when a torn tail was left out.
 * -EBADMSG: damage; err names the record.  next_* : place of the next record. */
int man_state_parse(const uint8_t *p, size_t len, struct man_state *out,
                    uint64_t *out_next, uint32_t *out_prev_crc,
                    size_t *out_good, bool *out_clean, struct err *err);

struct manifest {
    struct io_loop *loop;
    char *dir;
    struct man_state state;
    uint64_t next_number;
    uint32_t prev_crc;
    struct buf pending;      /* encoded, not yet taken by a job */
    uint64_t added, durable; /* records, counted since open */
    /* Owned by the job that writes (one at a time), else by the loop. */
    struct io_file *file;
    uint64_t size;
    uint64_t rewrite_at; /* 0: MANIFEST_REWRITE */
};

/* Blocking.  -ENOENT: there is none (and no manifest.old). */
int manifest_load(struct io_loop *loop, const char *dir, struct manifest *out,
                  bool *out_clean, struct err *err);
/* A first one. */
int manifest_create(struct io_loop *loop, const char *dir,
                    const struct man_header *id, struct manifest *out,
                    struct err *err);
void manifest_release(struct manifest *m);
int manifest_add(struct manifest *m, const struct man_rec *r);

struct manifest_job {
    struct manifest *m;
    struct buf bytes;
    bool rewrite;
    uint64_t upto; /* records */
};
/* Take what is pending, or (at the size limit, or when asked) the whole state.
 * On a failed write the same job may be tried again with rewrite. */
int manifest_take(struct manifest *m, bool rewrite, struct manifest_job *job);
int manifest_write(struct manifest_job *job, struct err *err);
void manifest_job_release(struct manifest_job *job);

#endif
