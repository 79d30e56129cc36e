// Rows of an operand that lies across them, side by side in a buffer: a loop reads it as any other then.

namespace lt {

template <int bytes> struct Bits;
template <> struct Bits<1> { typedef uint8_t type; };
template <> struct Bits<2> { typedef uint16_t type; };
template <> struct Bits<4> { typedef uint32_t type; };
template <> struct Bits<8> { typedef uint64_t type; };

// Clang has other shuffles, and goes element by element.
#if defined(__GNUC__) && !defined(__clang__)
#define LT_SHUFFLES

// Eight rows of eight elements. Exchanging bit `bit` of the row with that of the column, for each of the three bits,
// exchanges rows and columns.
template <class T>
struct Eight {
    typedef T V __attribute__((vector_size(8 * sizeof(T))));

    template <int bit>
    LT_INLINE void exchange(V* v) {
#define LT_LOW(k) T(k & bit ? 8 + k - bit : k)
#define LT_HIGH(k) T(k & bit ? 8 + k : k + bit)
        const V low = {LT_LOW(0), LT_LOW(1), LT_LOW(2), LT_LOW(3), LT_LOW(4), LT_LOW(5), LT_LOW(6), LT_LOW(7)};
        const V high = {LT_HIGH(0), LT_HIGH(1), LT_HIGH(2), LT_HIGH(3), LT_HIGH(4), LT_HIGH(5), LT_HIGH(6), LT_HIGH(7)};
#undef LT_LOW
#undef LT_HIGH
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
            if (k & bit) continue;
            const V a = v[k], b = v[k + bit];
            v[k] = __builtin_shuffle(a, b, low);
            v[k + bit] = __builtin_shuffle(a, b, high);
        }
    }

    LT_INLINE void swap(const char* from, int64_t step, T* to, int64_t width) {
        V v[8];
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) __builtin_memcpy(&v[k], from + k * step, sizeof(V));
        exchange<4>(v);
        exchange<2>(v);
        exchange<1>(v);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) __builtin_memcpy(to + k * width, &v[k], sizeof(V));
    }
};
#endif

// to[r * width + i] = element i of row r. Rows are neighbours in memory, their elements `step` bytes apart. Not inlined:
// a kernel that turns several operands would be compiled twice as long.
template <class T>
static __attribute__((noinline)) void beside(const T* from, int64_t step, int64_t rows, int64_t size, T* to, int64_t width) {
    int64_t i = 0;
#ifdef LT_SHUFFLES
    typedef typename Bits<sizeof(T)>::type U;
    for (; i + 8 <= size; i += 8) {
        const char* at = (const char*)from + i * step;
        int64_t r = 0;
        for (; r + 8 <= rows; r += 8) Eight<U>::swap(at + r * sizeof(T), step, (U*)to + r * width + i, width);
        for (; r < rows; ++r)
            for (int k = 0; k < 8; ++k) to[r * width + i + k] = *((const T*)(at + k * step) + r);
    }
#endif
    for (; i < size; ++i)
        for (int64_t r = 0; r < rows; ++r) to[r * width + i] = *((const T*)((const char*)from + i * step) + r);
}

}  // namespace lt
