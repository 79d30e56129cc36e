// Products of pixels with a weight whose vectors of 16 columns lie one after the other: [vector][inner][16].

namespace lt {

// `COUNT` pixels, `apart` floats from each other, times `VECTORS` vectors of columns, `step` floats apart, of the last
// of which `valid` columns are there.
template <int COUNT, int VECTORS>
static inline void panel(const float* x, int64_t apart, const float* w, int64_t step, const float* bias, float* y,
                         int64_t inner, int64_t columns, int64_t valid) {
    Floats sums[COUNT][VECTORS];
    for (int v = 0; v < VECTORS; ++v) {
        Floats start = {};
        if (bias) read(bias + v * lanes, start);
        for (int t = 0; t < COUNT; ++t) sums[t][v] = start;
    }
    for (int64_t k = 0; k < inner; ++k, w += lanes) {
        Floats taps[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) read(w + v * step, taps[v]);
#pragma GCC unroll 16
        for (int t = 0; t < COUNT; ++t) {
            const Floats pixel = x[t * apart + k] - Floats{};
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sums[t][v] += pixel * taps[v];
        }
    }
    for (int t = 0; t < COUNT; ++t, y += columns) {
        for (int v = 0; v + 1 < VECTORS; ++v) __builtin_memcpy(y + v * lanes, &sums[t][v], sizeof(Floats));
        float* last = y + (VECTORS - 1) * lanes;
        if (valid == lanes) __builtin_memcpy(last, &sums[t][VECTORS - 1], sizeof(Floats));
        else if (valid == lanes / 2) __builtin_memcpy(last, &sums[t][VECTORS - 1], sizeof(Floats) / 2);
        else
            for (int64_t c = 0; c < valid; ++c) last[c] = sums[t][VECTORS - 1][c];
    }
}

// The columns [begin, end), which begin with a vector, of `count` pixels, at least `COUNT`; of the last ones some may
// be computed twice.
template <int COUNT, int VECTORS>
static inline void pixels(const float* x, int64_t apart, const float* w, const float* bias, float* y, int64_t count,
                          int64_t begin, int64_t end, int64_t inner, int64_t columns) {
    const int64_t step = inner * lanes, left = end - begin - (VECTORS - 1) * lanes, valid = left < lanes ? left : lanes;
    w += begin * inner;
    if (bias) bias += begin;
    for (int64_t m = 0; m < count; m += COUNT) {
        if (m + COUNT > count) m = count - COUNT;
        panel<COUNT, VECTORS>(x + m * apart, apart, w, step, bias, y + m * columns + begin, inner, columns, valid);
    }
}

// The same of any number of columns. Pixels whose distance is that of lines in one set of the first-level cache are
// moved apart first.
template <int COUNT>
static __attribute__((noinline)) void products(const float* x, const float* w, const float* bias, float* y,
                                               int64_t count, int64_t begin, int64_t end, int64_t inner,
                                               int64_t columns) {
    int64_t apart = inner;
    if (inner % 512 == 0) {
        apart += lanes;
        float* memory = (float*)scratch<1>(count * apart * sizeof(float));
        for (int64_t m = 0; m < count; ++m)
            __builtin_memcpy(memory + m * apart, x + m * inner, inner * sizeof(float));
        x = memory;
    }
    for (; begin + lanes < end; begin += 2 * lanes) {
        const int64_t to = begin + 2 * lanes < end ? begin + 2 * lanes : end;
        pixels<COUNT, 2>(x, apart, w, bias, y, count, begin, to, inner, columns);
    }
    if (begin < end) pixels<COUNT, 1>(x, apart, w, bias, y, count, begin, end, inner, columns);
}

}  // namespace lt
