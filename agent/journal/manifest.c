/* The manifest: records, state, and the file.  docs/formats/manifest.md. */
#include "journal/manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"

static bool
crc_ok(uint32_t have, uint32_t want)
{
#ifdef HOLDFAST_FUZZING
    UNUSED(have);
    UNUSED(want);
    return true;
#else
    return have == want;
#endif
}

/* --- payloads ------------------------------------------------------------ */

/* A cursor that writes or reads the same fields in the same order, so that
 * encoder and decoder cannot drift apart. */
struct field {
    uint8_t *w;       /* writing, or */
    const uint8_t *r; /* reading */
    size_t left;
    bool failed;
};

static bool
field_room(struct field *f, size_t n)
{
    if (f->failed || f->left < n) {
        f->failed = true;
        return false;
    }
    f->left -= n;
    return true;
}

static void
f_bytes(struct field *f, uint8_t *p, size_t n)
{
    if (!field_room(f, n))
        return;
    if (f->w) {
        memcpy(f->w, p, n);
        f->w += n;
    } else {
        memcpy(p, f->r, n);
        f->r += n;
    }
}

static void
f_u64(struct field *f, uint64_t *v)
{
    uint8_t b[8];

    put_le64(b, *v);
    f_bytes(f, b, sizeof b);
    if (!f->w && !f->failed)
        *v = get_le64(b);
}

static void
f_u32(struct field *f, uint32_t *v)
{
    uint8_t b[4];

    put_le32(b, *v);
    f_bytes(f, b, sizeof b);
    if (!f->w && !f->failed)
        *v = get_le32(b);
}

static void
f_u16(struct field *f, uint16_t *v)
{
    uint8_t b[2];

    put_le16(b, *v);
    f_bytes(f, b, sizeof b);
    if (!f->w && !f->failed)
        *v = get_le16(b);
}

static void
f_u8(struct field *f, uint8_t *v)
{
    f_bytes(f, v, 1);
}

static void
f_bool(struct field *f, bool *v)
{
    uint8_t b = *v;

    f_u8(f, &b);
    if (b > 1)
        f->failed = true;
    *v = b == 1;
}

static void
f_text(struct field *f, char *text, size_t size)
{
    uint16_t n = f->w ? (uint16_t)strlen(text) : 0;

    f_u16(f, &n);
    if (n >= size) {
        f->failed = true;
        return;
    }
    f_bytes(f, (uint8_t *)text, n);
    if (!f->w && !f->failed) {
        text[n] = '\0';
        if (strlen(text) != n)
            f->failed = true;
    }
}

static void
f_seg_new(struct field *f, struct man_seg *s)
{
    f_u32(f, &s->no);
    f_u64(f, &s->size);
    f_bytes(f, s->incarnation.u.b, 16);
    f_u64(f, &s->first_batch);
    f_u64(f, &s->first_seq);
    f_bytes(f, s->prev_digest, 16);
}

static void
f_seg_seal(struct field *f, struct man_seg *s)
{
    f_u32(f, &s->no);
    f_u64(f, &s->footer_off);
    f_u64(f, &s->end);
    f_u64(f, &s->last_batch);
    f_u64(f, &s->last_seq);
    f_bytes(f, s->digest, 16);
    f_u32(f, &s->offer);
    f_u32(f, &s->points_gen);
    f_u64(f, &s->points);
    f_u64(f, &s->up_ns);
}

static void
f_run(struct field *f, struct run_info *r)
{
    f_u8(f, &r->level);
    f_u32(f, &r->first_seg);
    f_u32(f, &r->last_seg);
    f_u64(f, &r->first_seq);
    f_u64(f, &r->last_seq);
    f_u64(f, &r->records);
    f_u64(f, &r->bytes);
}

static void
f_view(struct field *f, struct view_record *v)
{
    uint16_t n = (uint16_t)v->cfg.n_vols;

    f_bytes(f, v->cfg.id.u.b, 16);
    f_u64(f, &v->cfg.cut_no);
    f_u64(f, &v->cfg.overlay_limit);
    f_u8(f, &v->cfg.mode);
    f_u16(f, &n);
    if (n > LANE_VOLUMES_MAX)
        f->failed = true;
    v->cfg.n_vols = f->failed ? 0 : n;
    for (unsigned i = 0; i < v->cfg.n_vols; i++)
        f_u16(f, &v->cfg.vols[i]);
    f_u64(f, &v->point.cut_no);
    f_u64(f, &v->point.seq);
    f_u64(f, &v->point.wall_ns);
    f_u64(f, &v->point.age_ns);
    f_u8(f, &v->point.kind);
    f_u8(f, &v->point.consistency);
    f_text(f, v->point.tag, sizeof v->point.tag);
    f_u64(f, &v->base_seq);
}

static void
f_record(struct field *f, struct man_rec *r)
{
    switch (r->type) {
    case MAN_GEOMETRY:
        f_u16(f, &r->u.volume.vol);
        f_u64(f, &r->u.volume.size);
        return;
    case MAN_INCARNATION: f_bytes(f, r->u.incarnation.u.b, 16); return;
    case MAN_GENERATION: f_bytes(f, r->u.generation.u.b, 16); return;
    case MAN_FENCING: f_u32(f, &r->u.epoch); return;
    case MAN_SEG_NEW: f_seg_new(f, &r->u.seg); return;
    case MAN_SEG_SEAL: f_seg_seal(f, &r->u.seg); return;
    case MAN_SEG_DEL: f_u32(f, &r->u.seg.no); return;
    case MAN_RUN_ADD:
    case MAN_RUN_DEL: f_run(f, &r->u.run); return;
    case MAN_FLOOR:
        f_u64(f, &r->u.floor.cut_no);
        f_u64(f, &r->u.floor.seq);
        f_bool(f, &r->u.floor.none);
        return;
    case MAN_PROMOTED: f_u64(f, &r->u.seq); return;
    case MAN_PIN_ADD: f_view(f, &r->u.view); return;
    case MAN_PIN_DEL:
    case MAN_VIEW_BASE:
        f_bytes(f, r->u.base.id.u.b, 16);
        f_u64(f, &r->u.base.base_seq);
        return;
    case MAN_BAD:
    case MAN_GOOD:
        f_u16(f, &r->u.bad.vol);
        f_u64(f, &r->u.bad.off);
        f_u64(f, &r->u.bad.len);
        return;
    case MAN_DAMAGE:
        f_u32(f, &r->u.damage.seg);
        f_u16(f, &r->u.damage.vol);
        f_u64(f, &r->u.damage.seq);
        f_u64(f, &r->u.damage.off);
        f_u64(f, &r->u.damage.len);
        return;
    case MAN_MENDED: f_u32(f, &r->u.damage.seg); return;
    case MAN_QUOTA:
        f_u64(f, &r->u.quota.history_ns);
        f_u64(f, &r->u.quota.hard_limit);
        f_u64(f, &r->u.quota.warn);
        return;
    case MAN_TAG:
        f_u64(f, &r->u.tag.cut_no);
        f_text(f, r->u.tag.text, sizeof r->u.tag.text);
        return;
    case MAN_UPTIME:
        f_u64(f, &r->u.uptime.up_ns);
        f_u32(f, &r->u.uptime.next_seg);
        return;
    }
    f->failed = true;
}

size_t
man_rec_encode(const struct man_rec *r, uint64_t number, uint32_t prev_crc,
               uint8_t *out, size_t out_size)
{
    struct man_rec copy = *r;
    struct field f;
    size_t len, total;

    if (out_size < MANIFEST_REC_HEADER + 8)
        return 0;
    memset(out, 0, out_size);
    f = (struct field){ .w = out + MANIFEST_REC_HEADER,
                        .left = out_size - MANIFEST_REC_HEADER };
    f_record(&f, &copy);
    if (f.failed)
        return 0;
    len = (size_t)(f.w - out) - MANIFEST_REC_HEADER;
    total = MANIFEST_REC_HEADER + (size_t)round_up(len, 8);
    if (total > out_size)
        return 0;
    put_le32(out, MANIFEST_REC_MAGIC);
    put_le16(out + 4, (uint16_t)r->type);
    put_le32(out + 8, (uint32_t)len);
    put_le32(out + 12, prev_crc);
    put_le64(out + 16, number);
    put_le32(out + 24, crc32c(crc32c(0, out, 24), out + 28, total - 28));
    return total;
}

/* Is a whole record with a right checksum at p? */
static int
rec_frame(const uint8_t *p, size_t len, size_t *out_total)
{
    uint32_t n;
    size_t total;

    if (len < MANIFEST_REC_HEADER)
        return -ENODATA;
    if (get_le32(p) != MANIFEST_REC_MAGIC)
        return -EBADMSG;
    n = get_le32(p + 8);
    if (n > MANIFEST_PAYLOAD_MAX)
        return -EBADMSG;
    total = MANIFEST_REC_HEADER + (size_t)round_up(n, 8);
    if (len < total)
        return -ENODATA;
    if (!crc_ok(crc32c(crc32c(0, p, 24), p + 28, total - 28), get_le32(p + 24)))
        return -EBADMSG;
    *out_total = total;
    return 0;
}

int
man_rec_decode(const uint8_t *p, size_t len, uint64_t number, uint32_t prev_crc,
               struct man_rec *out, size_t *out_len)
{
    struct man_rec r = { .type = MAN_GEOMETRY };
    struct field f;
    uint16_t type;
    size_t total;
    int rc = rec_frame(p, len, &total);

    if (rc < 0)
        return rc;
    if (get_le64(p + 16) != number || get_le32(p + 12) != prev_crc)
        return -EBADMSG;
    type = get_le16(p + 4);
    if (type < MAN_GEOMETRY || type > MAN_MENDED || get_le16(p + 6) != 0)
        return -EPROTONOSUPPORT;
    r.type = (enum man_type)type;
    f = (struct field){ .r = p + MANIFEST_REC_HEADER, .left = get_le32(p + 8) };
    f_record(&f, &r);
    if (f.failed || f.left != 0 || get_le32(p + 28) != 0 ||
        !bytes_all_zero(f.r, (size_t)(p + total - f.r)))
        return -EBADMSG;
    *out = r;
    *out_len = total;
    return 0;
}

void
man_header_encode(const struct man_header *h, uint8_t *out)
{
    memset(out, 0, MANIFEST_HEADER);
    put_le32(out, MANIFEST_MAGIC);
    put_le16(out + 4, MANIFEST_VERSION);
    put_le16(out + 6, MANIFEST_HEADER);
    memcpy(out + 16, h->vpg.u.b, 16);
    put_le32(out + 32, h->lane);
    put_le32(out + 36, h->prev_crc);
    put_le64(out + 40, h->first_number);
    put_le32(out + 60, crc32c(0, out, 60));
}

int
man_header_decode(const uint8_t *p, size_t len, struct man_header *out)
{
    struct man_header h;

    if (len < MANIFEST_HEADER)
        return -ENODATA;
    if (get_le32(p) != MANIFEST_MAGIC || get_le16(p + 6) != MANIFEST_HEADER ||
        !crc_ok(crc32c(0, p, 60), get_le32(p + 60)))
        return -EBADMSG;
    if (get_le16(p + 4) != MANIFEST_VERSION || get_le64(p + 8) != 0)
        return -EPROTONOSUPPORT;
    if (!bytes_all_zero(p + 48, 12))
        return -EBADMSG;
    h = (struct man_header){ .lane = get_le32(p + 32),
                             .prev_crc = get_le32(p + 36),
                             .first_number = get_le64(p + 40) };
    memcpy(h.vpg.u.b, p + 16, 16);
    *out = h;
    return 0;
}

/* --- state --------------------------------------------------------------- */

/* Room for one more element. */
static int
grow(void *array, size_t *cap, size_t n, size_t size)
{
    void **p = array, *v;
    size_t c;

    if (n < *cap)
        return 0;
    c = *cap ? *cap * 2 : 16;
    v = reallocarray(*p, c, size);
    if (!v)
        return -ENOMEM;
    *p = v;
    *cap = c;
    return 0;
}

struct man_seg *
man_state_seg(struct man_state *s, uint32_t no)
{
    size_t lo = 0, hi = s->n_segs;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (s->segs[mid].no < no)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < s->n_segs && s->segs[lo].no == no ? &s->segs[lo] : NULL;
}

static int
apply_volume(struct man_state *s, const struct journal_volume *v)
{
    for (unsigned i = 0; i < s->n_volumes; i++)
        if (s->volumes[i].vol == v->vol) {
            s->volumes[i].size = v->size;
            return 0;
        }
    if (s->n_volumes == LANE_VOLUMES_MAX)
        return -EBADMSG;
    s->volumes[s->n_volumes++] = *v;
    return 0;
}

static int
apply_seg_new(struct man_state *s, const struct man_seg *g)
{
    if (g->no < s->next_seg || g->no == UINT32_MAX)
        return -EBADMSG;
    if (grow(&s->segs, &s->cap_segs, s->n_segs, sizeof *s->segs) < 0)
        return -ENOMEM;
    s->segs[s->n_segs] = *g;
    s->segs[s->n_segs++].sealed = false;
    s->next_seg = g->no + 1;
    return 0;
}

static int
apply_seg_seal(struct man_state *s, const struct man_seg *g)
{
    struct man_seg *m = man_state_seg(s, g->no);
    struct man_seg old;

    if (!m || m->sealed)
        return -EBADMSG;
    old = *m;
    *m = *g;
    m->sealed = true;
    m->size = old.size;
    m->incarnation = old.incarnation;
    m->first_batch = old.first_batch;
    m->first_seq = old.first_seq;
    m->room = old.room;
    memcpy(m->prev_digest, old.prev_digest, 16);
    s->up_ns = MAX(s->up_ns, g->up_ns);
    return 0;
}

static void
mended(struct man_state *s, uint32_t no)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n_damage; i++)
        if (s->damage[i].seg != no)
            s->damage[n++] = s->damage[i];
    s->n_damage = n;
}

static int
apply_damage(struct man_state *s, const struct man_damage *d)
{
    if (!man_state_seg(s, d->seg) || s->n_damage == MAN_DAMAGE_MAX)
        return -EBADMSG;
    if (grow(&s->damage, &s->cap_damage, s->n_damage, sizeof *s->damage) < 0)
        return -ENOMEM;
    s->damage[s->n_damage++] = *d;
    return 0;
}

static int
apply_seg_del(struct man_state *s, uint32_t no)
{
    struct man_seg *m = man_state_seg(s, no);

    if (!m)
        return -EBADMSG;
    mended(s, no);
    memmove(m, m + 1, (size_t)(s->segs + s->n_segs - (m + 1)) * sizeof *s->segs);
    s->n_segs--;
    return 0;
}

static size_t
run_index(const struct man_state *s, const struct run_info *r)
{
    for (size_t i = s->n_runs; i-- > 0;)
        if (s->runs[i].level == r->level && s->runs[i].first_seg == r->first_seg)
            return i;
    return SIZE_MAX;
}

static int
apply_run(struct man_state *s, const struct man_rec *r)
{
    size_t i = run_index(s, &r->u.run);

    if ((i == SIZE_MAX) != (r->type == MAN_RUN_ADD))
        return -EBADMSG;
    if (r->type == MAN_RUN_DEL) {
        memmove(&s->runs[i], &s->runs[i + 1],
                (s->n_runs - i - 1) * sizeof *s->runs);
        s->n_runs--;
        return 0;
    }
    if (grow(&s->runs, &s->cap_runs, s->n_runs, sizeof *s->runs) < 0)
        return -ENOMEM;
    s->runs[s->n_runs++] = r->u.run;
    return 0;
}

static int
apply_view(struct man_state *s, const struct man_rec *r)
{
    const struct view_id *id =
        r->type == MAN_PIN_ADD ? &r->u.view.cfg.id : &r->u.base.id;
    size_t i = 0;

    while (i < s->n_views && !uuid_equal(&s->views[i].cfg.id.u, &id->u))
        i++;
    if ((i == s->n_views) != (r->type == MAN_PIN_ADD))
        return -EBADMSG;
    if (r->type == MAN_PIN_ADD) {
        if (grow(&s->views, &s->cap_views, s->n_views, sizeof *s->views) < 0)
            return -ENOMEM;
        s->views[s->n_views++] = r->u.view;
    } else if (r->type == MAN_PIN_DEL) {
        memmove(&s->views[i], &s->views[i + 1],
                (s->n_views - i - 1) * sizeof *s->views);
        s->n_views--;
    } else {
        s->views[i].base_seq = r->u.base.base_seq;
    }
    return 0;
}

static int
apply_tag(struct man_state *s, const struct man_tag *tag)
{
    struct man_tag *t;
    size_t i = s->n_tags;

    while (i > 0 && s->tags[i - 1]->cut_no >= tag->cut_no)
        i--;
    if (i < s->n_tags && s->tags[i]->cut_no == tag->cut_no) {
        *s->tags[i] = *tag;
        return 0;
    }
    if (grow(&s->tags, &s->cap_tags, s->n_tags, sizeof(struct man_tag *)) < 0)
        return -ENOMEM;
    t = malloc(sizeof *t);
    if (!t)
        return -ENOMEM;
    *t = *tag;
    memmove(&s->tags[i + 1], &s->tags[i],
            (s->n_tags - i) * sizeof(struct man_tag *));
    s->tags[i] = t;
    s->n_tags++;
    return 0;
}

static int
apply_floor(struct man_state *s, const struct man_floor *f)
{
    size_t drop = 0;

    if (s->any_floor && f->seq < s->floor.seq)
        return -EBADMSG; /* it never goes back */
    s->floor = *f;
    s->any_floor = true;
    while (drop < s->n_tags && (s->tags[drop]->cut_no < f->cut_no ||
                                (f->none && s->tags[drop]->cut_no == f->cut_no)))
        free(s->tags[drop++]);
    if (drop > 0)
        memmove(s->tags, s->tags + drop,
                (s->n_tags - drop) * sizeof(struct man_tag *));
    s->n_tags -= drop;
    return 0;
}

static int
apply_good(struct man_state *s, const struct man_bad *b)
{
    for (size_t i = 0; i < s->n_bad; i++)
        if (s->bad[i].vol == b->vol && s->bad[i].off == b->off &&
            s->bad[i].len == b->len) {
            s->bad[i] = s->bad[--s->n_bad];
            return 0;
        }
    return -EBADMSG;
}

int
man_state_apply(struct man_state *s, const struct man_rec *r)
{
    switch (r->type) {
    case MAN_GEOMETRY: return apply_volume(s, &r->u.volume);
    case MAN_INCARNATION:
        s->incarnation = r->u.incarnation;
        s->any_incarnation = true;
        return 0;
    case MAN_GENERATION: s->generation = r->u.generation; return 0;
    case MAN_FENCING: s->epoch = r->u.epoch; return 0;
    case MAN_SEG_NEW: return apply_seg_new(s, &r->u.seg);
    case MAN_SEG_SEAL: return apply_seg_seal(s, &r->u.seg);
    case MAN_SEG_DEL: return apply_seg_del(s, r->u.seg.no);
    case MAN_RUN_ADD:
    case MAN_RUN_DEL: return apply_run(s, r);
    case MAN_FLOOR: return apply_floor(s, &r->u.floor);
    case MAN_PROMOTED:
        if (r->u.seq < s->promoted)
            return -EBADMSG;
        s->promoted = r->u.seq;
        return 0;
    case MAN_PIN_ADD:
    case MAN_PIN_DEL:
    case MAN_VIEW_BASE: return apply_view(s, r);
    case MAN_BAD:
        if (grow(&s->bad, &s->cap_bad, s->n_bad, sizeof *s->bad) < 0)
            return -ENOMEM;
        s->bad[s->n_bad++] = r->u.bad;
        return 0;
    case MAN_GOOD: return apply_good(s, &r->u.bad);
    case MAN_DAMAGE: return apply_damage(s, &r->u.damage);
    case MAN_MENDED: mended(s, r->u.damage.seg); return 0;
    case MAN_QUOTA: s->quota = r->u.quota; return 0;
    case MAN_TAG: return apply_tag(s, &r->u.tag);
    case MAN_UPTIME:
        s->up_ns = MAX(s->up_ns, r->u.uptime.up_ns);
        s->next_seg = MAX(s->next_seg, r->u.uptime.next_seg);
        return 0;
    }
    return -EBADMSG;
}

void
man_state_release(struct man_state *s)
{
    free(s->segs);
    free(s->runs);
    free(s->views);
    free(s->bad);
    free(s->damage);
    for (size_t i = 0; i < s->n_tags; i++)
        free(s->tags[i]);
    free(s->tags);
    *s = (struct man_state){ .n_segs = 0 };
}

/* --- reading ------------------------------------------------------------- */

/* Something valid behind a bad record?  Records begin at multiples of 8. */
static bool
valid_behind(const uint8_t *p, size_t len, size_t from, uint64_t number)
{
    size_t total;

    for (size_t i = from; i + MANIFEST_REC_HEADER <= len; i += 8)
        if (rec_frame(p + i, len - i, &total) == 0 &&
            get_le64(p + i + 16) >= number)
            return true;
    return false;
}

int
man_state_parse(const uint8_t *p, size_t len, struct man_state *out,
                uint64_t *out_next, uint32_t *out_prev_crc, size_t *out_good,
                bool *out_clean, struct err *err)
{
    struct man_state s = { .n_segs = 0 };
    size_t at = MANIFEST_HEADER, n;
    uint64_t number;
    uint32_t prev;
    int rc = man_header_decode(p, len, &s.id);

    if (rc < 0)
        return err_set(err, rc == -ENODATA ? -EBADMSG : rc,
                       rc == -EPROTONOSUPPORT ? ERR_JNL_0052 : ERR_JNL_0004,
                       "manifest header: %s",
                       rc == -EPROTONOSUPPORT ? "written by a newer release"
                                              : "damaged, or not a manifest");
    number = s.id.first_number;
    prev = s.id.prev_crc;
    *out_clean = true;
    while (at < len) {
        struct man_rec r;

        rc = man_rec_decode(p + at, len - at, number, prev, &r, &n);
        if (rc == -EPROTONOSUPPORT) {
            rc = err_set(err, rc, ERR_JNL_0052,
                         "manifest record %" PRIu64 " at offset %zu is of a "
                         "type that this release does not know",
                         number, at);
            goto fail;
        }
        if (rc < 0) {
            *out_clean = false;
            if (!valid_behind(p, len, at + 8, number) &&
                (rec_frame(p + at, len - at, &n) < 0))
                break; /* the writer died here */
            rc = err_set(err, -EBADMSG, ERR_JNL_0004,
                         "manifest record %" PRIu64
                         " at offset %zu is damaged, with valid ones behind it",
                         number, at);
            goto fail;
        }
        rc = man_state_apply(&s, &r);
        if (rc < 0) {
            rc = err_set(err, rc, ERR_JNL_0004,
                         "manifest record %" PRIu64
                         " at offset %zu contradicts those before it",
                         number, at);
            goto fail;
        }
        prev = get_le32(p + at + 24);
        number++;
        at += n;
    }
    *out = s;
    *out_next = number;
    *out_prev_crc = prev;
    *out_good = at;
    return 0;
fail:
    man_state_release(&s);
    return rc;
}

/* --- writing ------------------------------------------------------------- */

static int
put(struct buf *b, const struct man_rec *r, uint64_t *number, uint32_t *prev)
{
    uint8_t rec[MANIFEST_REC_HEADER + MANIFEST_PAYLOAD_MAX];
    size_t n = man_rec_encode(r, *number, *prev, rec, sizeof rec);
    int rc;

    if (n == 0)
        return -EINVAL;
    rc = buf_add(b, rec, n);
    if (rc < 0)
        return rc;
    *prev = get_le32(rec + 24);
    (*number)++;
    return 0;
}

/* Records in a row; the first that fails ends it. */
struct man_writer {
    struct buf *b;
    uint64_t number;
    uint32_t prev;
    int rc;
};

static void
write_rec(struct man_writer *w, const struct man_rec *r)
{
    if (w->rc == 0)
        w->rc = put(w->b, r, &w->number, &w->prev);
}

/* The whole state as a file: header and records from number on. */
static int
snapshot(const struct man_state *s, struct buf *b, uint64_t *number,
         uint32_t *prev)
{
    uint8_t head[MANIFEST_HEADER];
    struct man_header h = s->id;
    struct man_writer w = { .b = b, .number = *number, .prev = *prev };
    struct man_rec r;

    h.first_number = *number;
    h.prev_crc = *prev;
    man_header_encode(&h, head);
    w.rc = buf_add(b, head, sizeof head);
#define PUT(...) (r = (struct man_rec){ __VA_ARGS__ }, write_rec(&w, &r))
    for (unsigned i = 0; i < s->n_volumes; i++)
        PUT(.type = MAN_GEOMETRY, .u.volume = s->volumes[i]);
    PUT(.type = MAN_GENERATION, .u.generation = s->generation);
    PUT(.type = MAN_FENCING, .u.epoch = s->epoch);
    PUT(.type = MAN_QUOTA, .u.quota = s->quota);
    for (size_t i = 0; i < s->n_segs; i++) {
        PUT(.type = MAN_SEG_NEW, .u.seg = s->segs[i]);
        if (s->segs[i].sealed)
            PUT(.type = MAN_SEG_SEAL, .u.seg = s->segs[i]);
    }
    PUT(.type = MAN_UPTIME, .u.uptime = { s->up_ns, s->next_seg });
    if (s->any_incarnation)
        PUT(.type = MAN_INCARNATION, .u.incarnation = s->incarnation);
    for (size_t i = 0; i < s->n_runs; i++)
        PUT(.type = MAN_RUN_ADD, .u.run = s->runs[i]);
    if (s->any_floor)
        PUT(.type = MAN_FLOOR, .u.floor = s->floor);
    PUT(.type = MAN_PROMOTED, .u.seq = s->promoted);
    for (size_t i = 0; i < s->n_views; i++)
        PUT(.type = MAN_PIN_ADD, .u.view = s->views[i]);
    for (size_t i = 0; i < s->n_bad; i++)
        PUT(.type = MAN_BAD, .u.bad = s->bad[i]);
    for (size_t i = 0; i < s->n_damage; i++)
        PUT(.type = MAN_DAMAGE, .u.damage = s->damage[i]);
    for (size_t i = 0; i < s->n_tags; i++)
        PUT(.type = MAN_TAG, .u.tag = *s->tags[i]);
#undef PUT
    *number = w.number;
    *prev = w.prev;
    return w.rc;
}

static void
name_of(const struct manifest *m, const char *name, char out[4096])
{
    (void)snprintf(out, 4096, "%s/%s", m->dir, name);
}

static int
manifest_init(struct io_loop *loop, const char *dir, struct manifest *m)
{
    *m = (struct manifest){ .loop = loop };
    buf_init(&m->pending, MANIFEST_FILE_MAX);
    m->dir = strdup(dir);
    return m->dir ? 0 : -ENOMEM;
}

void
manifest_release(struct manifest *m)
{
    if (m->file)
        io_file_close(m->file);
    buf_release(&m->pending);
    man_state_release(&m->state);
    free(m->dir);
    *m = (struct manifest){ .loop = NULL };
}

int
manifest_load(struct io_loop *loop, const char *dir, struct manifest *out,
              bool *out_clean, struct err *err)
{
    char path[4096], old[4096];
    uint8_t *bytes = NULL;
    size_t len = 0, good = 0;
    int rc = manifest_init(loop, dir, out);

    if (rc < 0)
        return err_set(err, rc, ERR_GEN_0002, "no memory for a manifest");
    name_of(out, "manifest", path);
    name_of(out, "manifest.old", old);
    rc = io_read_whole(loop, path, MANIFEST_FILE_MAX, &bytes, &len, err);
    /* A crash between the two renames of a rewrite leaves only the old one,
     * which is whole: nothing was added after the new one was written. */
    if (rc == -ENOENT) {
        rc = io_read_whole(loop, old, MANIFEST_FILE_MAX, &bytes, &len, err);
        if (rc == 0)
            rc = io_rename(loop, old, path, err);
        if (rc == 0)
            rc = io_sync_dir(loop, dir, err);
    }
    if (rc == 0) {
        rc = man_state_parse(bytes, len, &out->state, &out->next_number,
                             &out->prev_crc, &good, out_clean, err);
        if (rc < 0)
            err_prefix(err, "%s", path);
    }
    free(bytes);
    if (rc == 0)
        rc = io_file_open(loop, path, IO_OPEN_WRITE, &out->file, err);
    if (rc < 0) {
        manifest_release(out);
        return rc;
    }
    out->size = good;
    return 0;
}

int
manifest_create(struct io_loop *loop, const char *dir,
                const struct man_header *id, struct manifest *out,
                struct err *err)
{
    struct manifest_job job;
    int rc = manifest_init(loop, dir, out);

    if (rc < 0)
        return err_set(err, rc, ERR_GEN_0002, "no memory for a manifest");
    out->state.id = *id;
    out->next_number = 1;
    rc = manifest_take(out, true, &job);
    if (rc == 0)
        rc = manifest_write(&job, err);
    else
        (void)err_set(err, rc, ERR_GEN_0002, "no memory for a manifest");
    manifest_job_release(&job);
    if (rc < 0)
        manifest_release(out);
    return rc;
}

int
manifest_add(struct manifest *m, const struct man_rec *r)
{
    size_t len = m->pending.len;
    uint64_t number = m->next_number;
    uint32_t prev = m->prev_crc;
    int rc = put(&m->pending, r, &number, &prev);

    if (rc == 0)
        rc = man_state_apply(&m->state, r);
    if (rc < 0) {
        m->pending.len = MIN(m->pending.len, len);
        return rc;
    }
    m->next_number = number;
    m->prev_crc = prev;
    m->added++;
    return 0;
}

int
manifest_take(struct manifest *m, bool rewrite, struct manifest_job *job)
{
    int rc = 0;

    *job = (struct manifest_job){ .m = m, .upto = m->added };
    job->rewrite =
        rewrite || m->size + m->pending.len >
                       (m->rewrite_at ? m->rewrite_at : MANIFEST_REWRITE);
    if (!job->rewrite) {
        job->bytes = m->pending;
        buf_init(&m->pending, MANIFEST_FILE_MAX);
        return 0;
    }
    buf_init(&job->bytes, MANIFEST_FILE_MAX);
    rc = snapshot(&m->state, &job->bytes, &m->next_number, &m->prev_crc);
    if (rc == 0)
        buf_clear(&m->pending); /* the state has it */
    return rc;
}

static int
write_fresh(struct manifest *m, const struct buf *b, struct err *err)
{
    char path[4096], old[4096], tmp[4096];
    struct io_file *f;
    int rc;

    name_of(m, "manifest", path);
    name_of(m, "manifest.old", old);
    name_of(m, "manifest.tmp", tmp);
    rc = io_file_open(m->loop, tmp,
                      IO_OPEN_WRITE | IO_OPEN_CREATE | IO_OPEN_TRUNCATE, &f,
                      err);
    if (rc < 0)
        return rc;
    rc = io_file_pwrite_sync(f, b->data, b->len, 0);
    if (rc == 0)
        rc = io_file_fdatasync_sync(f);
    if (rc < 0)
        (void)err_set(err, rc, ERR_JNL_0001, "%s: cannot write: %s", tmp,
                      err_errno(rc));
    /* The fresh file is whole on disk before it takes the name; the old one
     * keeps another, for a person to compare. */
    if (rc == 0 && m->file)
        rc = io_rename(m->loop, path, old, err);
    if (rc == 0)
        rc = io_rename(m->loop, tmp, path, err);
    if (rc == 0)
        rc = io_sync_dir(m->loop, m->dir, err);
    if (rc < 0) {
        io_file_close(f);
        return rc;
    }
    if (m->file)
        io_file_close(m->file);
    m->file = f;
    m->size = b->len;
    return 0;
}

int
manifest_write(struct manifest_job *job, struct err *err)
{
    struct manifest *m = job->m;
    int rc;

    if (job->rewrite)
        return write_fresh(m, &job->bytes, err);
    rc = io_file_pwrite_sync(m->file, job->bytes.data, job->bytes.len, m->size);
    if (rc == 0)
        rc = io_file_fdatasync_sync(m->file);
    if (rc < 0)
        return err_set(err, rc, ERR_JNL_0001,
                       "%s/manifest: cannot append at %" PRIu64 ": %s", m->dir,
                       m->size, err_errno(rc));
    m->size += job->bytes.len;
    return 0;
}

void
manifest_job_release(struct manifest_job *job)
{
    buf_release(&job->bytes);
}
