/* Filters: a recursive-descent parser into a tree of at most NODES_MAX nodes,
 * and its evaluation over one row. */
#include "tui/cli/filter.h"

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/bytes.h"
#include "common/text.h"
#include "tui/client/when.h"

enum {
    NODES_MAX = 256,
    DEPTH_MAX = 32,
    WORD_SIZE = 256
};

enum node_kind {
    NODE_AND,
    NODE_OR,
    NODE_NOT,
    NODE_WORD,
    NODE_COMPARE,
    NODE_REGEX
};

enum filter_op {
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE
};

struct node {
    enum node_kind kind;
    struct node *a, *b; /* in filter.nodes */
    int column;         /* NODE_WORD: of the yes/no field, -1: any text */
    enum filter_op op;
    char *text;    /* owned: word or value */
    double number; /* the value, or the factor of other; NAN: none */
    int other;     /* column to compare with, -1: none */
    regex_t regex; /* NODE_REGEX */
};

struct filter {
    const struct table *table;
    struct node nodes[NODES_MAX];
    size_t n;
    struct node *root;
};

struct parser {
    struct filter *f;
    const char *start, *p;
    unsigned depth;
    struct err *err;
};

static int
complain(const struct parser *ps, const char *what)
{
    return err_set(ps->err, -EINVAL, ERR_CLI_0008, "--filter: at \"%.40s\": %s",
                   ps->p[0] ? ps->p : "the end", what);
}

static struct node *
node_new(struct parser *ps, enum node_kind kind)
{
    struct node *n;

    if (ps->f->n == NODES_MAX) {
        (void)complain(ps, "the filter has too many parts");
        return NULL;
    }
    n = &ps->f->nodes[ps->f->n++];
    *n = (struct node){
        .kind = kind, .column = -1, .other = -1, .number = (double)NAN
    };
    return n;
}

/* ---- Words ---------------------------------------------------------------- */

static void
skip_blanks(struct parser *ps)
{
    while (*ps->p == ' ' || *ps->p == '\t')
        ps->p++;
}

/* A word up to one of the stop characters, or a text in quotes. */
static int
take_word(struct parser *ps, const char *stop, char out[WORD_SIZE])
{
    size_t n = 0;
    char quote = 0;

    if (*ps->p == '"' || *ps->p == '\'')
        quote = *ps->p++;
    while (*ps->p && (quote ? *ps->p != quote : !strchr(stop, *ps->p))) {
        if (n + 1 == WORD_SIZE)
            return complain(ps, "the word is too long");
        out[n++] = *ps->p++;
    }
    out[n] = '\0';
    if (quote && *ps->p != quote)
        return complain(ps, "a quote is not closed");
    ps->p += quote != 0;
    if (!n && !quote)
        return complain(ps, "a word is missing");
    return quote ? 1 : 0;
}

static bool
is_keyword(struct parser *ps, const char *word)
{
    size_t n = strlen(word);
    char after;

    skip_blanks(ps);
    if (strncasecmp(ps->p, word, n) != 0)
        return false;
    after = ps->p[n];
    if (after && !strchr(" \t()", after))
        return false;
    ps->p += n;
    return true;
}

/* "60", "5min", "1GiB", "80%", a severity, in the unit of the column. */
static double
number_of(const char *s, const struct column *c)
{
    uint64_t v;
    double d;
    char *end;
    size_t n = strlen(s);

    if (c->format == FMT_SIGN) {
        for (int i = 0; i < SEV_COUNT; i++) {
            if (text_icmp(s, severity_word((enum severity)i)) == 0)
                return i;
        }
    }
    if (c->format == FMT_BOOL)
        return text_icmp(s, "yes") == 0 || text_icmp(s, "true") == 0 ? 1
               : text_icmp(s, "no") == 0 || text_icmp(s, "false") == 0
                   ? 0
                   : (double)NAN;
    if (c->format == FMT_TIME || c->format == FMT_MOMENT) {
        int64_t ms;

        return when_parse(s, when_now_ms(), &ms, NULL) == 0 ? (double)ms
                                                            : (double)NAN;
    }
    d = strtod(s, &end);
    if (n && (!*end || (*end == '%' && !end[1])))
        return d;
    if ((c->format == FMT_DURATION || c->format == FMT_SECONDS ||
         c->format == FMT_MILLISECONDS) &&
        text_parse_duration(s, &v) == 0)
        return c->format == FMT_MILLISECONDS ? (double)v : (double)v / 1000;
    if ((c->format == FMT_BYTES || c->format == FMT_RATE) &&
        text_parse_size(s, &v) == 0)
        return (double)v;
    return (double)NAN;
}

/* ---- The tree -------------------------------------------------------------- */

static struct node *parse_or(struct parser *ps);

static int
take_operator(struct parser *ps, enum filter_op *out_op, bool *out_regex)
{
    static const struct {
        const char *text;
        enum filter_op op;
    } ops[] = {
        { "!=", OP_NE }, { "<=", OP_LE }, { ">=", OP_GE },
        { "=", OP_EQ },  { "<", OP_LT },  { ">", OP_GT },
    };

    *out_regex = false;
    if (*ps->p == '~') {
        ps->p++;
        *out_regex = true;
        return 1;
    }
    for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
        if (strncmp(ps->p, ops[i].text, strlen(ops[i].text)) == 0) {
            ps->p += strlen(ops[i].text);
            *out_op = ops[i].op;
            return 1;
        }
    }
    return 0;
}

/* The right side as a number, another field, or a multiple of one. */
static int
set_value(struct parser *ps, struct node *n, const char *value, bool quoted)
{
    const struct table *t = ps->f->table;
    const struct column *c = &t->columns[n->column];
    const char *star = strchr(value, '*');
    char *end = NULL;

    n->text = strdup(value);
    if (!n->text)
        return err_set(ps->err, -ENOMEM, ERR_GEN_0002, "filter: out of memory");
    if (c->format == FMT_TEXT)
        return 0;
    n->number = number_of(value, c);
    if (!isnan(n->number) || quoted)
        return 0;
    n->other = table_column(t, star ? star + 1 : value);
    n->number = star ? strtod(value, &end) : 1;
    if (star && end != star)
        n->other = -1;
    if (n->other < 0 || t->columns[n->other].format == FMT_TEXT)
        return complain(ps, "the value does not fit the field");
    return 0;
}

static struct node *
parse_compare(struct parser *ps, const char *field, enum filter_op op,
              bool regex)
{
    struct node *n = node_new(ps, NODE_COMPARE);
    char value[WORD_SIZE];
    int rc;

    if (!n)
        return NULL;
    n->column = table_column(ps->f->table, field);
    if (n->column < 0) {
        (void)err_set(ps->err, -EINVAL, ERR_CLI_0008,
                      "--filter: %s has no field \"%s\"", ps->f->table->name,
                      field);
        return NULL;
    }
    skip_blanks(ps);
    rc = take_word(ps, " \t()", value);
    if (rc < 0)
        return NULL;
    n->op = op;
    if (!regex)
        return set_value(ps, n, value, rc == 1) < 0 ? NULL : n;
    if (regcomp(&n->regex, value, REG_EXTENDED | REG_ICASE | REG_NOSUB) != 0) {
        (void)complain(ps, "the regular expression is malformed");
        return NULL;
    }
    n->kind = NODE_REGEX;
    return n;
}

static struct node *
parse_term(struct parser *ps)
{
    char word[WORD_SIZE];
    struct node *n;
    enum filter_op op = OP_EQ;
    bool regex, quoted;
    int rc;

    skip_blanks(ps);
    rc = take_word(ps, " \t()=!<>~", word);
    if (rc < 0)
        return NULL;
    quoted = rc == 1;
    if (!quoted && (text_icmp(word, "or") == 0 || text_icmp(word, "and") == 0)) {
        (void)complain(ps, "a part is missing before this");
        return NULL;
    }
    if (!quoted) {
        skip_blanks(ps);
        if (take_operator(ps, &op, &regex))
            return parse_compare(ps, word, op, regex);
    }
    n = node_new(ps, NODE_WORD);
    if (!n)
        return NULL;
    n->column = quoted ? -1 : table_column(ps->f->table, word);
    if (n->column >= 0 && ps->f->table->columns[n->column].format != FMT_BOOL)
        n->column = -1;
    n->text = strdup(word);
    if (!n->text)
        (void)err_set(ps->err, -ENOMEM, ERR_GEN_0002, "filter: out of memory");
    return n->text ? n : NULL;
}

static struct node *
parse_not(struct parser *ps)
{
    struct node *n, *a;

    if (++ps->depth > DEPTH_MAX) {
        (void)complain(ps, "the filter is nested too deeply");
        return NULL;
    }
    if (is_keyword(ps, "not")) {
        n = node_new(ps, NODE_NOT);
        a = n ? parse_not(ps) : NULL;
        ps->depth--;
        if (!a)
            return NULL;
        n->a = a;
        return n;
    }
    skip_blanks(ps);
    if (*ps->p != '(') {
        ps->depth--;
        return parse_term(ps);
    }
    ps->p++;
    n = parse_or(ps);
    ps->depth--;
    skip_blanks(ps);
    if (n && *ps->p != ')') {
        (void)complain(ps, "\")\" is missing");
        return NULL;
    }
    ps->p += n != NULL;
    return n;
}

static struct node *
join(struct parser *ps, enum node_kind kind, struct node *a, struct node *b)
{
    struct node *n = a && b ? node_new(ps, kind) : NULL;

    if (n) {
        n->a = a;
        n->b = b;
    }
    return n;
}

static bool
at_or_end(struct parser *ps)
{
    const char *p;
    bool is_or;

    skip_blanks(ps);
    p = ps->p;
    is_or = is_keyword(ps, "or");
    ps->p = p;
    return is_or || !*p || *p == ')';
}

static struct node *
parse_and(struct parser *ps)
{
    struct node *n = parse_not(ps);

    while (n && !at_or_end(ps)) {
        (void)is_keyword(ps, "and");
        n = join(ps, NODE_AND, n, parse_not(ps));
    }
    return n;
}

static struct node *
parse_or(struct parser *ps)
{
    struct node *n = parse_and(ps);

    while (n && is_keyword(ps, "or"))
        n = join(ps, NODE_OR, n, parse_and(ps));
    return n;
}

int
filter_parse(const char *text, const struct table *table,
             struct filter **out_filter, struct err *err)
{
    struct filter *f = calloc(1, sizeof *f);
    struct err local = ERR_INIT;
    struct parser ps = { .f = f, .start = text, .p = text, .err = &local };

    if (!f)
        return err_set(err, -ENOMEM, ERR_GEN_0002, "filter: out of memory");
    f->table = table;
    f->root = parse_or(&ps);
    if (f->root && *ps.p)
        (void)complain(&ps, "\")\" without \"(\"");
    if (!f->root && !local.num)
        (void)complain(&ps, "a part is missing");
    if (local.num) {
        filter_free(f);
        if (err)
            *err = local;
        return local.num;
    }
    *out_filter = f;
    return 0;
}

void
filter_free(struct filter *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < f->n; i++) {
        free(f->nodes[i].text);
        if (f->nodes[i].kind == NODE_REGEX)
            regfree(&f->nodes[i].regex);
    }
    free(f);
}

/* ---- Evaluation -------------------------------------------------------------- */

static bool
holds_word(const struct rows *r, size_t row, const char *word)
{
    for (size_t i = 0; i < r->table->n_columns; i++) {
        const struct cell *c = rows_cell(r, row, i);

        if (c->kind == CELL_TEXT && strcasestr(c->text, word))
            return true;
    }
    return false;
}

static bool
by_order(enum filter_op op, int order)
{
    switch (op) {
    case OP_EQ: return order == 0;
    case OP_NE: return order != 0;
    case OP_LT: return order < 0;
    case OP_LE: return order <= 0;
    case OP_GT: return order > 0;
    case OP_GE: return order >= 0;
    }
    return false;
}

static bool
is_good(const struct rows *r, size_t row)
{
    const struct cell *c = rows_field(r, row, "severity");

    return c && c->kind == CELL_NUMBER && c->number <= SEV_PROGRESS;
}

static bool
compare(const struct node *n, const struct rows *r, size_t row)
{
    const struct cell *c = rows_cell(r, row, (size_t)n->column);
    double other = n->number;

    if (n->op <= OP_NE && text_icmp(n->text, "ok") == 0 &&
        strcmp(r->table->columns[n->column].field, "state") == 0)
        return is_good(r, row) == (n->op == OP_EQ);
    if (c->kind == CELL_UNKNOWN)
        return n->op == OP_NE;
    if (c->kind == CELL_TEXT)
        return by_order(n->op, text_icmp(c->text, n->text));
    if (n->other >= 0) {
        const struct cell *o = rows_cell(r, row, (size_t)n->other);

        if (o->kind == CELL_UNKNOWN || o->kind == CELL_TEXT)
            return n->op == OP_NE;
        other *= o->number;
    }
    if (isnan(other))
        return n->op == OP_NE;
    return by_order(n->op, (c->number > other) - (c->number < other));
}

static bool
match(const struct node *n, const struct rows *r, size_t row)
{
    const struct cell *c;
    char text[CELL_TEXT_SIZE];

    switch (n->kind) {
    case NODE_AND: return match(n->a, r, row) && match(n->b, r, row);
    case NODE_OR: return match(n->a, r, row) || match(n->b, r, row);
    case NODE_NOT: return !match(n->a, r, row);
    case NODE_WORD:
        if (n->column < 0)
            return holds_word(r, row, n->text);
        c = rows_cell(r, row, (size_t)n->column);
        return c->kind == CELL_BOOL && c->number != 0;
    case NODE_COMPARE: return compare(n, r, row);
    case NODE_REGEX:
        cell_format(&r->table->columns[n->column],
                    rows_cell(r, row, (size_t)n->column), text);
        return regexec(&n->regex, text, 0, NULL, 0) == 0;
    }
    return false;
}

bool
filter_match(const struct filter *f, const struct rows *r, size_t row)
{
    return match(f->root, r, row);
}

static bool
keep(const struct rows *r, size_t row, void *arg)
{
    return filter_match(arg, r, row);
}

void
filter_apply(const struct filter *f, struct rows *r)
{
    struct filter *same = (struct filter *)(uintptr_t)f;

    rows_filter(r, keep, same);
}
