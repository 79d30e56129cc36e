// Conversions between the types of memory and the types of registers.

namespace lt {

// bfloat16 and float16 are uint16_t in memory and float in registers.
LT_INLINE float from_bf16(uint16_t x) { return bits<float>(uint32_t(x) << 16); }

// Rounds to nearest even. The instruction (vcvtneps2bf16) flushes subnormal numbers to zero, so it is not used.
LT_INLINE uint16_t to_bf16(float x) {
    uint32_t u = bits<uint32_t>(x), rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    return uint16_t(x == x ? rounded : 0x7fc0u);
}
// Of a number that is a bfloat16.
LT_INLINE uint16_t kept_bf16(float x) { return uint16_t(bits<uint32_t>(x) >> 16); }

// Spelled in integers, because GCC 12 makes no vector code of conversions from and to _Float16. Subnormal numbers go
// through int32_t or a sum: as float bits they would be flushed under torch.set_flush_denormal.
LT_INLINE float from_f16(uint16_t x) {
    uint32_t magnitude = x & 0x7fffu, u = (magnitude << 13) + 0x38000000u;
    u = magnitude >= 0x7c00u ? u + 0x38000000u : u;
    u = magnitude < 0x400u ? bits<uint32_t>(float(int32_t(magnitude)) * 0x1p-24f) : u;
    return bits<float>(u | uint32_t(x & 0x8000u) << 16);
}
LT_INLINE uint16_t to_f16(float x) {
    uint32_t u = bits<uint32_t>(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    uint32_t normal = (a + 0xfffu + ((a >> 13) & 1u) - 0x38000000u) >> 13;
    uint32_t small = bits<uint32_t>(bits<float>(a) + 0.5f) - 0x3f000000u;  // rounds in units of 2^-24
    uint32_t h = a < 0x38800000u ? small : normal;
    h = a >= 0x477ff000u ? 0x7c00u : h;
    h = a > 0x7f800000u ? 0x7e00u : h;
    return uint16_t(h | sign);
}

// The same by the instruction, which no compiler finds in a loop over numbers: so for blocks of them.
LT_INLINE void widen(const uint16_t* from, float* to, int64_t n) {
    int64_t i = 0;
#if defined(__F16C__)
    typedef short Narrow __attribute__((vector_size(16), aligned(2), may_alias));
    typedef float Wide __attribute__((vector_size(32), aligned(4), may_alias));
    for (; i + 8 <= n; i += 8) *(Wide*)(to + i) = __builtin_ia32_vcvtph2ps256(*(const Narrow*)(from + i));
#endif
#pragma omp simd
    for (int64_t k = i; k < n; ++k) to[k] = from_f16(from[k]);
}
LT_INLINE void narrow(const float* from, uint16_t* to, int64_t n) {
    int64_t i = 0;
#if defined(__F16C__)
    typedef short Narrow __attribute__((vector_size(16), aligned(2), may_alias));
    typedef float Wide __attribute__((vector_size(32), aligned(4), may_alias));
    for (; i + 8 <= n; i += 8) *(Narrow*)(to + i) = __builtin_ia32_vcvtps2ph256(*(const Wide*)(from + i), 0);
#endif
#pragma omp simd
    for (int64_t k = i; k < n; ++k) to[k] = to_f16(from[k]);
}

template <class T>
LT_INLINE uint8_t to_bool(T x) {
    return x != T(0);
}

// Numbers out of range are undefined in torch too; 8 and 16 bits go through int32_t, which is a vector instruction,
// and keep the low bits.
template <class To, class From>
LT_INLINE To cast(From x) {
    return sizeof(To) < 4 ? To(int32_t(x)) : To(x);
}

}  // namespace lt
