/* CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected; RFC 3720 appendix
 * B.4), the checksum of every format.  Hardware instruction where there is one,
 * three interleaved streams; tables elsewhere.  Pure. */
#ifndef HOLDFAST_COMMON_CRC32C_H
#define HOLDFAST_COMMON_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continue crc over n bytes; start with 0.  crc32c(crc32c(0, a), b) equals the
 * checksum of a followed by b. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);

/* The checksum of a followed by b, from both checksums and b's length, without
 * reading either.  O(log len_b); the common lengths are tabled. */
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b);

/* The portable implementation, for tests and machines without the
 * instruction. */
uint32_t crc32c_sw(uint32_t crc, const void *p, size_t n);

#endif
