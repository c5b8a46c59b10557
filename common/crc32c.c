/* CRC-32C three ways: slicing-by-8 tables (portable), and on x86-64 the
 * SSE4.2 instruction in three interleaved streams, which hides its latency of
 * three cycles.  The streams are put together with one carry-less
 * multiplication each: crc32(0, clmul(a, b)) = a * b * x^33 mod P, so a
 * constant x^(8 * len - 33) moves a checksum past len bytes.  The same does
 * crc32c_combine().  (V. Gopal et al., "Fast CRC Computation for iSCSI
 * Polynomial Using CRC32 Instruction", Intel, 2011; polynomial arithmetic
 * after zlib's crc32_combine.)
 *
 * Polynomials are reflected: bit 31 is x^0. */
#include "common/crc32c.h"

#include <stdbool.h>
#include <string.h>

#include "common/bytes.h"

#if defined(__x86_64__)
# define HAVE_X86 1
# include <nmmintrin.h>
# include <wmmintrin.h>
#else
# define HAVE_X86 0
#endif

enum {
    POLY_BITS = 32,
    STREAM_STEP = 8,       /* streams are multiples of this many bytes */
    STREAM_MAX = 2048,     /* bytes of one stream */
    SECTOR = 512,          /* tabled lengths of combine: k sectors ... */
    SECTOR_COUNT = 64 * 2, /* ... up to 64 KiB */
};

#define POLY 0x82f63b78U

static uint32_t slice[8][256];
static uint32_t x2n[31];                    /* x^(2^n) mod P */
static uint32_t x_sector[SECTOR_COUNT + 1]; /* x^(8 * 512 * k) */
static uint32_t k_sector[SECTOR_COUNT + 1]; /* the same, less 33 */
static uint32_t k_step[2 * STREAM_MAX / STREAM_STEP + 1]; /* x^(64 k - 33) */
static bool have_hw;

/* a * b mod P. */
static uint32_t
mul_mod(uint32_t a, uint32_t b)
{
    uint32_t p = 0;

    for (uint32_t m = 1U << 31; m; m >>= 1) {
        p ^= (a & m) ? b : 0;
        b = (b & 1) ? b >> 1 ^ POLY : b >> 1;
    }
    return p;
}

/* x^(n * 2^k) mod P.  P is (x + 1) times a primitive polynomial of degree 31,
 * so x has order 2^31 - 1 and x^(2^31) = x: the squares repeat after 31. */
static uint32_t
x_power(uint64_t n, unsigned k)
{
    uint32_t p = 1U << 31;

    for (; n; n >>= 1, k++) {
        if (n & 1)
            p = mul_mod(x2n[k % ARRAY_SIZE(x2n)], p);
    }
    return p;
}

/* Before main(), so that no caller pays for a check or a lock. */
__attribute__((constructor)) static void
make_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ ((c & 1) ? POLY : 0);
        slice[0][i] = c;
    }
    for (size_t t = 1; t < ARRAY_SIZE(slice); t++) {
        for (size_t i = 0; i < 256; i++)
            slice[t][i] = slice[t - 1][i] >> 8 ^ slice[0][slice[t - 1][i] & 255];
    }
    x2n[0] = 1U << 30; /* x */
    for (size_t n = 1; n < ARRAY_SIZE(x2n); n++)
        x2n[n] = mul_mod(x2n[n - 1], x2n[n - 1]);
    for (size_t k = 1; k < ARRAY_SIZE(x_sector); k++) {
        x_sector[k] = x_power((uint64_t)8 * SECTOR * k, 0);
        k_sector[k] = x_power((uint64_t)8 * SECTOR * k - POLY_BITS - 1, 0);
    }
    x_sector[0] = 1U << 31;
    for (size_t k = 1; k < ARRAY_SIZE(k_step); k++)
        k_step[k] = x_power((uint64_t)8 * STREAM_STEP * k - POLY_BITS - 1, 0);
#if HAVE_X86
    have_hw =
        __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
#endif
}

uint32_t
crc32c_sw(uint32_t crc, const void *p, size_t n)
{
    const uint8_t *b = p;
    uint32_t c = ~crc;

    for (; n >= 8; n -= 8, b += 8) {
        uint32_t lo = c ^ get_le32(b), hi = get_le32(b + 4);

        c = slice[7][lo & 255] ^ slice[6][lo >> 8 & 255] ^
            slice[5][lo >> 16 & 255] ^ slice[4][lo >> 24] ^ slice[3][hi & 255] ^
            slice[2][hi >> 8 & 255] ^ slice[1][hi >> 16 & 255] ^
            slice[0][hi >> 24];
    }
    for (; n > 0; n--)
        c = c >> 8 ^ slice[0][(c ^ *b++) & 255];
    return ~c;
}

#if HAVE_X86

static uint64_t
load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

/* crc * x^(k's power + 33) mod P. */
__attribute__((target("sse4.2,pclmul"))) static inline uint32_t
shift_hw(uint32_t crc, uint32_t k)
{
    __m128i v = _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)crc),
                                     _mm_cvtsi32_si128((int)k), 0);

    return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(v));
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t
crc32c_hw(uint32_t crc, const void *p, size_t n)
{
    const uint8_t *b = p;
    uint64_t c = (uint32_t)~crc;

    while (n >= (size_t)3 * 64) {
        size_t len = n / 3 < STREAM_MAX ? n / 3 & ~(size_t)(STREAM_STEP - 1)
                                        : STREAM_MAX;
        const uint8_t *end = b + len;
        uint64_t c1 = 0, c2 = 0;

        for (; b < end; b += 8) {
            c = _mm_crc32_u64(c, load64(b));
            c1 = _mm_crc32_u64(c1, load64(b + len));
            c2 = _mm_crc32_u64(c2, load64(b + 2 * len));
        }
        c = shift_hw((uint32_t)c, k_step[2 * len / STREAM_STEP]) ^
            shift_hw((uint32_t)c1, k_step[len / STREAM_STEP]) ^ (uint32_t)c2;
        b += 2 * len;
        n -= 3 * len;
    }
    for (; n >= 8; n -= 8, b += 8)
        c = _mm_crc32_u64(c, load64(b));
    for (; n > 0; n--)
        c = _mm_crc32_u8((uint32_t)c, *b++);
    return ~(uint32_t)c;
}

#else

static uint32_t
shift_hw(uint32_t crc, uint32_t k)
{
    return mul_mod(crc, mul_mod(k, x_power(POLY_BITS + 1, 0)));
}

static uint32_t
crc32c_hw(uint32_t crc, const void *p, size_t n)
{
    return crc32c_sw(crc, p, n);
}

#endif

uint32_t
crc32c(uint32_t crc, const void *p, size_t n)
{
    return have_hw ? crc32c_hw(crc, p, n) : crc32c_sw(crc, p, n);
}

uint32_t
crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b)
{
    uint64_t k = len_b / SECTOR;

    if (len_b == 0)
        return crc_a ^ crc_b;
    if (len_b % SECTOR == 0 && k <= SECTOR_COUNT) {
        if (have_hw)
            return shift_hw(crc_a, k_sector[k]) ^ crc_b;
        return mul_mod(x_sector[k], crc_a) ^ crc_b;
    }
    return mul_mod(x_power(len_b, 3), crc_a) ^ crc_b;
}
