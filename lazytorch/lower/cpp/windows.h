// Convolutions of each channel with a kernel of its own, channels last, one row of the result at a time.

namespace lt {

typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
static const int64_t lanes = 16;

static inline void read(const float* p, float& v) { v = *p; }
static inline void read(const float* p, Floats& v) { __builtin_memcpy(&v, p, sizeof v); }
static inline void read(const uint16_t* p, float& v) { v = from_bf16(*p); }
static inline void read(const uint16_t* p, Floats& v) {
    Halves halves;
    __builtin_memcpy(&halves, p, sizeof halves);
    const Words words = __builtin_convertvector(halves, Words) << 16;
    __builtin_memcpy(&v, &words, sizeof v);
}

// Sizes of the image and of the result, how far the kernel begins before the image, and the channels.
struct Windows {
    int64_t height, width, out_height, out_width, top, left, channels;
};

// What one row of the result takes: the kernel's rows [first, last), which the image has; the channels [begin, end).
struct Span {
    int64_t first, last, begin, end;
};

// `COUNT` neighbouring results of the channels in a V. Of the columns that their windows cover the image has those in
// [from, to), all of them if it is `WHOLE`. `x` is where the first window begins.
template <class V, class E, bool WHOLE, int COUNT, int KW, int SW, int DH, int DW>
static inline void beside(const E* x, const float* w, const float* bias, float* y, const Span& span, int64_t from,
                          int64_t to, int64_t width, int64_t channels) {
    constexpr int columns = (COUNT - 1) * SW + (KW - 1) * DW + 1;
    V sums[COUNT], start = {};
    if (bias) read(bias, start);
    for (int t = 0; t < COUNT; ++t) sums[t] = start;
    x += span.first * DH * width * channels;
    w += span.first * KW * channels;
    for (int64_t i = span.first; i < span.last; ++i, x += DH * width * channels, w += KW * channels) {
        V taps[KW], pixel;
#pragma GCC unroll 32
        for (int j = 0; j < KW; ++j) read(w + j * channels, taps[j]);
#pragma GCC unroll 128
        for (int k = 0; k < columns; ++k) {
            if (!WHOLE && (k < from || k >= to)) continue;
            read(x + k * channels, pixel);
#pragma GCC unroll 8
            for (int t = 0; t < COUNT; ++t) {
                const int j = k - t * SW;
                if (j >= 0 && j % DW == 0 && j / DW < KW) sums[t] += pixel * taps[j / DW];
            }
        }
    }
    for (int t = 0; t < COUNT; ++t) __builtin_memcpy(y + t * channels, sums + t, sizeof(V));
}

// The same of all channels of the span. The last vector may cover some channels a second time.
template <class E, bool WHOLE, int COUNT, int KW, int SW, int DH, int DW>
static inline void across(const E* x, const float* w, const float* bias, float* y, const Span& span, int64_t from,
                          int64_t to, int64_t width, int64_t channels) {
    if (span.end - span.begin < lanes) {
        for (int64_t c = span.begin; c < span.end; ++c)
            beside<float, E, WHOLE, COUNT, KW, SW, DH, DW>(x + c, w + c, bias ? bias + c : bias, y + c, span, from, to,
                                                           width, channels);
        return;
    }
    for (int64_t c = span.begin; c < span.end; c += lanes) {
        if (c + lanes > span.end) c = span.end - lanes;
        beside<Floats, E, WHOLE, COUNT, KW, SW, DH, DW>(x + c, w + c, bias ? bias + c : bias, y + c, span, from, to,
                                                        width, channels);
    }
}

// Row `r` of the result, counted over all images, at `y`: the channels [begin, end). A row has at least `COUNT`
// results; the last of them may be computed twice.
template <int COUNT, int KH, int KW, int SH, int SW, int DH, int DW, class E>
static __attribute__((noinline)) void depthwise(const E* x, const float* w, const float* bias, float* y, int64_t r,
                                                int64_t begin, int64_t end, const Windows& s) {
    constexpr int64_t columns = (COUNT - 1) * SW + (KW - 1) * DW + 1;
    const int64_t n = r / s.out_height, top = r % s.out_height * SH - s.top;
    Span span{0, KH, begin, end};
    while (span.first < span.last && top + span.first * DH < 0) ++span.first;
    while (span.last > span.first && top + (span.last - 1) * DH >= s.height) --span.last;
    const E* image = x + (n * s.height + top) * s.width * s.channels;
    for (int64_t q = 0; q < s.out_width; q += COUNT) {
        if (q + COUNT > s.out_width) q = s.out_width - COUNT;
        const int64_t left = q * SW - s.left, from = left < 0 ? -left : 0, to = s.width - left;
        const E* window = image + left * s.channels;
        float* at = y + q * s.channels;
        if (from == 0 && to >= columns)
            across<E, true, COUNT, KW, SW, DH, DW>(window, w, bias, at, span, 0, columns, s.width, s.channels);
        else
            across<E, false, COUNT, KW, SW, DH, DW>(window, w, bias, at, span, from, to, s.width, s.channels);
    }
}

// Computes the pieces [begin, end) in `parts` parts each, part after part of a piece.
typedef void (*Pieces)(void* const* p, const int64_t* n, int64_t parts, int64_t begin, int64_t end);

// Shares out `pieces` pieces, each of so many products and channels: in parts, where pieces are few.
static __attribute__((noinline)) void launch_pieces(Pieces compute, const int64_t* n, void* const* p, int64_t pieces,
                                                    int64_t products, int64_t channels) {
    static const int64_t products_per_thread = 65536;
#ifdef _OPENMP
    int64_t threads = pieces * products / products_per_thread;
    if (threads > 1 && !omp_in_parallel()) {
        int64_t most = omp_get_max_threads(), parts = 1;
        threads = threads < most ? threads : most;
        while (pieces * parts < 4 * threads && channels / (2 * parts) >= lanes) parts *= 2;
#pragma omp parallel num_threads(threads)
        {
            int64_t id = omp_get_thread_num(), all = omp_get_num_threads(), units = pieces * parts;
            compute(p, n, parts, units * id / all, units * (id + 1) / all);
        }
        return;
    }
#endif
    compute(p, n, 1, 0, pieces);
}

}  // namespace lt
