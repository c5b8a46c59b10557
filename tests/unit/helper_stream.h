/* For the stream's tests: two ends in one loop, over Unix sockets with a proxy
 * in between that delays, cuts or flips bytes; volumes in memory whose content
 * at each checkpoint is remembered; and a real journal whose views are compared
 * with it byte for byte. */
#ifndef HOLDFAST_TESTS_UNIT_HELPER_STREAM_H
#define HOLDFAST_TESTS_UNIT_HELPER_STREAM_H

#include "helper_io.h"
#include "stream/stream.h"

/* --- the proxy ---------------------------------------------------------- */

struct proxy {
    struct io_loop *loop;
    struct io_addr to;
    struct io_listener *listener;
    struct list pairs;
    uint64_t passed;  /* bytes, all connections, both directions */
    uint64_t cut_at;  /* cut everything when so much has passed; 0: never */
    uint64_t flip_at; /* flip a bit of this byte; 0: never */
    uint64_t rate;    /* bytes a millisecond; 0: no limit */
    uint64_t tokens, filled_ns;
    struct io_timer tick;
    bool stalled;  /* nothing passes, nothing is closed */
    bool stall_up; /* nothing passes from the dialler */
    unsigned accepted, cuts;
};
void proxy_start(struct proxy *p, struct io_loop *loop,
                 const struct io_addr *listen, const struct io_addr *to);
void proxy_stop(struct proxy *p);
void proxy_cut(struct proxy *p);
/* Pass bytes again after stalled or rate has changed. */
void proxy_push(struct proxy *p);

/* --- the disk ----------------------------------------------------------- */

/* From here on all group commits of the loop can be held: before its first job,
 * since its workers look at what this changes. */
void commits_gate(struct io_loop *loop);
/* While held, no group commit ends; other work goes on. */
void commits_hold(void);
void commits_release(struct io_loop *loop);

/* --- a site ------------------------------------------------------------- */

struct end {
    struct io_loop *loop;
    struct stream *stream;
    struct agent_id id;
    struct io_addr addr; /* where it listens */
    uint64_t rx_turn;    /* stream_config's */
};
void end_open(struct end *e, struct io_loop *loop, uint8_t id, const char *dir,
              struct tls_ctx *client, struct tls_ctx *server, uint64_t dead_ns);

/* --- a lane ------------------------------------------------------------- */

enum {
    LAB_VOLS = 2,
    LAB_CUTS = 256
};

struct lab_cut {
    uint64_t cut_no;
    uint8_t *image[LAB_VOLS];
};

struct lab { /* one lane: source, target, and what must be found there */
    struct list link;
    struct end *a, *b;               /* source and target */
    struct io_addr *dial_a, *dial_b; /* whom the ends dial; NULL: they wait */
    char dir[300];
    struct vpg_id vpg;
    uint64_t size; /* bytes of a volume */
    uint64_t rng;
    enum sender_compression compression;
    uint64_t ring_bytes, cut_ns;
    bool compressible;
    struct generation_id generation;
    uint32_t epoch; /* fencing */
    /* source */
    struct blkdev *dev[LAB_VOLS], *fault[LAB_VOLS];
    uint8_t *image[LAB_VOLS]; /* what they hold */
    struct ringpool *pool;
    struct capture *capture;
    struct sender *sender;
    struct stream_peer *peer_a, *peer_b;
    struct lane_super super;
    char super_path[400];
    bool exact, fresh;
    unsigned attached, restarts, stopped_a, stopped_b;
    bool restart_due; /* the sender has asked for a new incarnation */
    enum err_code restart_why;
    bool obeys_restarts; /* lab_turn() starts it anew, as the role does */
    struct lab_cut cuts[LAB_CUTS];
    unsigned n_cuts;
    bool drained, drain_done;
    /* target */
    char jdir[400];
    uint64_t history_ns;
    struct journal *journal;
    struct receiver *receiver;
    bool opened, closed, done;
    unsigned alerts;
    int res;
    struct journal_view *view;
};
/* Forget the labs of a test that has failed. */
void labs_reset(void);
/* Memory, volumes, directories; nothing runs yet. */
void lab_init(struct lab *l, struct end *a, struct end *b, const char *dir,
              uint8_t id, uint64_t size, uint64_t seed);
void lab_release(struct lab *l);
uint64_t lab_below(struct lab *l, uint64_t n);
void lab_source_start(struct lab *l);
void lab_source_stop(struct lab *l);  /* as at a crash: nothing is drained */
bool lab_source_drain(struct lab *l); /* then stopped; true: lane.super clean */
void lab_target_start(struct lab *l);
void lab_receiver_start(struct lab *l); /* its second half */
void lab_receiver_stop(struct lab *l);
void lab_target_stop(struct lab *l);
/* n random writes (and zeros, trims, flushes) of up to max bytes. */
void lab_write(struct lab *l, unsigned n, uint32_t max);
/* One turn of the loop; sees checkpoints that the sender makes by itself. */
void lab_turn(struct lab *l);
/* Turn until the sender streams and all it has is durable. */
void lab_settle(struct lab *l);
bool lab_settled(struct lab *l);
void lab_cut_now(struct lab *l);
/* Each point that the journal offers shows what the source held. */
unsigned lab_verify(struct lab *l);
enum sender_state lab_state(struct lab *l);

#define LAB_UNTIL(l, cond)                                           \
 do {                                                                \
  uint64_t until_ =                                                  \
      io_mono_fresh((l)->a->loop) + HELPER_SLOW * 30 * NSEC_PER_SEC; \
  while (!(cond)) {                                                  \
   lab_turn(l);                                                      \
   if (io_mono_fresh((l)->a->loop) > until_)                         \
    fail_msg("%s:%d: not in time: %s", __FILE__, __LINE__, #cond);   \
  }                                                                  \
 } while (0)

#endif
