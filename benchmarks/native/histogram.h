/* HdrHistogram(1, 60_000_000, 3) of microseconds: the same buckets as the Python package's, by index. */
#ifndef PARLEY_HISTOGRAM_H
#define PARLEY_HISTOGRAM_H

#include <stdint.h>
#include <stdlib.h>

#define HISTOGRAM_HIGHEST 60000000
#define HISTOGRAM_SUB_BITS 11                       /* 2,048 sub-buckets hold 3 significant digits */
#define HISTOGRAM_HALF (1 << (HISTOGRAM_SUB_BITS - 1))
#define HISTOGRAM_LENGTH (17 * HISTOGRAM_HALF)      /* 16 buckets reach 67 s */

typedef struct {
    uint64_t *counts; /* NULL until something is recorded */
    uint64_t total;
} Histogram;

static inline uint32_t histogram_index(int64_t us) {
    uint64_t value = us < 1 ? 1 : us > HISTOGRAM_HIGHEST ? HISTOGRAM_HIGHEST : (uint64_t)us;
    int bucket = 64 - __builtin_clzll(value | (2 * HISTOGRAM_HALF - 1)) - HISTOGRAM_SUB_BITS;
    return (uint32_t)(((bucket + 1) << (HISTOGRAM_SUB_BITS - 1)) + (int)(value >> bucket) - HISTOGRAM_HALF);
}

static inline void histogram_record(Histogram *histogram, int64_t ns) {
    if (!histogram->counts) {
        histogram->counts = calloc(HISTOGRAM_LENGTH, sizeof(uint64_t));
        if (!histogram->counts) abort();
    }
    histogram->counts[histogram_index((ns + 500) / 1000)]++;
    histogram->total++;
}

static inline void histogram_clear(Histogram *histogram) {
    free(histogram->counts);
    histogram->counts = NULL;
    histogram->total = 0;
}

#endif
