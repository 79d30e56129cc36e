// Vector math for generated kernels: scalar inline functions that become vector code in `#pragma omp simd` loops.
//
// No standard header is included (<cmath> alone costs 0.2 s of compile time) and no fast-math is needed: NaN,
// infinities, signed zeros and subnormal numbers come out as torch's own kernels give them.
//
// Whose code computes what follows from measurements with AVX-512, g++ 12, glibc 2.36 and torch 2.13. In float32, root
// mean square error in units in the last place, then ns per element on one thread in cache:
//                  torch        here         libmvec      Sleef, as torch exports it
//     exp        0.29 0.27    0.31 0.43    0.76 0.33      0.31 0.42
//     expm1      0.24 1.52    0.27 0.40    0.28 0.36      0.24 1.81
//     log        0.29 0.35    0.30 0.50    0.76 0.36      0.29 0.68
//     log1p      0.27 0.97    0.28 0.42    0.29 0.57      0.27 0.99
//     tanh       0.19 0.42    0.20 0.47    0.27 0.45      0.20 1.99
//     erf        0.28 0.78    0.31 0.48    0.72 0.78      0.28 3.40
//     sigmoid    0.46 0.56    0.46 0.41       -
//     sin        0.30 0.56    0.40 0.37    0.40 0.37      0.30 0.75
// libmvec breaks the accuracy rule (at most twice eager's error) for exp, log, log10 and erf, so these and their
// relatives are polynomials. Being inlined, they also give the same bits in the vector body of a loop and in its
// scalar rest. The other functions are libmvec's, within the rule except for sin, cos and tan in float64, whose error
// is 3.1 times torch's (0.9; never above 3.4).

typedef __INT8_TYPE__ int8_t;
typedef __INT16_TYPE__ int16_t;
typedef __INT32_TYPE__ int32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;

#define LT_INLINE static inline __attribute__((always_inline))

// libmvec: x86-64 glibc only; the functions besides exp, log, pow, sin and cos came with glibc 2.35.
// Clang knows no `simd` attribute, so it gets the scalar functions.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __has_include(<features.h>)
#include <features.h>
#endif
#if defined(__GLIBC__) && defined(__x86_64__) && !defined(__clang__)
#define LT_SIMD_222 __attribute__((simd("notinbranch"), const))
#if __GLIBC_PREREQ(2, 35)
#define LT_SIMD_235 __attribute__((simd("notinbranch"), const))
#endif
#endif
#ifndef LT_SIMD_222
#define LT_SIMD_222 __attribute__((const))
#endif
#ifndef LT_SIMD_235
#define LT_SIMD_235 __attribute__((const))
#endif

#define LT_LIBM1(name, attribute)                      \
    extern "C" double name(double) noexcept attribute;   \
    extern "C" float name##f(float) noexcept attribute;  \
    namespace lt {                                       \
    LT_INLINE double name(double x) { return ::name(x); } \
    }
#define LT_LIBM2(name, attribute)                               \
    extern "C" double name(double, double) noexcept attribute;    \
    extern "C" float name##f(float, float) noexcept attribute;    \
    namespace lt {                                                \
    LT_INLINE double name(double x, double y) { return ::name(x, y); } \
    LT_INLINE float name(float x, float y) { return ::name##f(x, y); } \
    }
#define LT_LIBM1F(name) \
    namespace lt {      \
    LT_INLINE float name(float x) { return ::name##f(x); } \
    }

LT_LIBM1(sin, LT_SIMD_222)
LT_LIBM1(cos, LT_SIMD_222)
LT_LIBM1(log, LT_SIMD_222)
LT_LIBM1(tan, LT_SIMD_235)
LT_LIBM1(asin, LT_SIMD_235)
LT_LIBM1(acos, LT_SIMD_235)
LT_LIBM1(atan, LT_SIMD_235)
LT_LIBM1(sinh, LT_SIMD_235)
LT_LIBM1(cosh, LT_SIMD_235)
LT_LIBM1(asinh, LT_SIMD_235)
LT_LIBM1(acosh, LT_SIMD_235)
LT_LIBM1(atanh, LT_SIMD_235)
LT_LIBM1(tanh, LT_SIMD_235)
LT_LIBM1(erf, LT_SIMD_235)
LT_LIBM1(erfc, LT_SIMD_235)
LT_LIBM1(exp2, LT_SIMD_235)
LT_LIBM1(expm1, LT_SIMD_235)
LT_LIBM1(log1p, LT_SIMD_235)
LT_LIBM1(log2, LT_SIMD_235)
LT_LIBM1(log10, LT_SIMD_235)
LT_LIBM1F(sin)
LT_LIBM1F(cos)
LT_LIBM1F(asin)
LT_LIBM1F(acos)
LT_LIBM1F(atan)
LT_LIBM1F(sinh)
LT_LIBM1F(cosh)
LT_LIBM1F(asinh)
LT_LIBM1F(acosh)
LT_LIBM1F(atanh)
LT_LIBM1F(erfc)
LT_LIBM2(pow, LT_SIMD_222)
LT_LIBM2(atan2, LT_SIMD_235)
LT_LIBM2(hypot, LT_SIMD_235)
LT_LIBM2(fmod, __attribute__((const)))

namespace lt {

template <class To, class From>
LT_INLINE To bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    __builtin_memcpy(&to, &x, sizeof to);
    return to;
}

// Written as calls so that the polynomials keep their accuracy when contraction is forbidden.
LT_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
LT_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

template <class T>
LT_INLINE T polynomial(T, T c) {
    return c;
}
template <class T, class... C>
LT_INLINE T polynomial(T x, T c, C... higher) {
    return fma(x, polynomial(x, T(higher)...), c);
}

// ---- exponentials ----------------------------------------------------------------------------------------------

// exp(x) = 2^n (1 + q). Adding 1.5*2^23 rounds to an integer that is then read off the low bits, which needs no
// conversion and is defined for NaN too.
struct Reduced {
    float q;
    uint32_t n;
};
LT_INLINE float exp_tail(float x, float n) {
    float r = fma(n, 0x1.05c61p-29f, fma(n, -0x1.62e43p-1f, x));
    float q = polynomial(r, 0x1p-1f, 0x1.55548ep-3f, 0x1.55545cp-5f, 0x1.123c8ep-7f, 0x1.6db506p-10f);
    return fma(r * r, q, r);
}
LT_INLINE Reduced exp_reduce(float x, float shifted) {
    return {exp_tail(x, shifted - 0x1.8p+23f), bits<uint32_t>(shifted) - bits<uint32_t>(0x1.8p+23f)};
}
LT_INLINE float exp_shift(float x) { return fma(x, 0x1.715476p+0f, 0x1.8p+23f); }
LT_INLINE float power_of_two(uint32_t n) { return bits<float>((n + 127) << 23); }

// Two factors, so that results below the normal range are rounded once and results above it become infinite.
LT_INLINE float scale(float x, uint32_t n) {
    uint32_t half = uint32_t(int32_t(n) >> 1);
    return x * power_of_two(half) * power_of_two(n - half);
}

// The upper bound is set on n: two bounds on x become seven instructions instead of four. For a larger x the
// polynomial, all of whose coefficients are positive, is large or infinite by itself.
LT_INLINE float exp(float x) {
    x = x < -104.0f ? -104.0f : x;
    float shifted = exp_shift(x);
    shifted = shifted > 0x1.8p+23f + 130.0f ? 0x1.8p+23f + 130.0f : shifted;
    Reduced e = exp_reduce(x, shifted);
    return scale(1.0f + e.q, e.n);
}

// exp of what is at most 0, or NaN: one factor is enough, 2^64 too large until the last step so that it is a normal
// number. Its exponent is what the low bits of the shifted number are.
LT_INLINE float exp_nonpositive(float x) {
    const float magic = 0x1.8p+23f + 191.0f;  // 127 + 64
    x = x < -104.0f ? -104.0f : x;
    float shifted = fma(x, 0x1.715476p+0f, magic), q = exp_tail(x, shifted - magic);
    float s = bits<float>(bits<uint32_t>(shifted) << 23);
    return fma(s, q, s) * 0x1p-64f;
}

LT_INLINE float exp2(float x) {
    x = x < -151.0f ? -151.0f : x;
    float shifted = x + 0x1.8p+23f;
    shifted = shifted > 0x1.8p+23f + 130.0f ? 0x1.8p+23f + 130.0f : shifted;
    float r = x - (shifted - 0x1.8p+23f);
    float p = polynomial(r, 0x1.62e43p-1f, 0x1.ebfbep-3f, 0x1.c6aeccp-5f, 0x1.3b29c4p-7f, 0x1.5f48ap-10f,
                         0x1.447f26p-13f);
    return scale(fma(r, p, 1.0f), bits<uint32_t>(shifted) - bits<uint32_t>(0x1.8p+23f));
}

LT_INLINE float expm1(float x) {
    float c = x < -20.0f ? -20.0f : x, shifted = exp_shift(c);
    shifted = shifted > 0x1.8p+23f + 128.0f ? 0x1.8p+23f + 128.0f : shifted;
    Reduced e = exp_reduce(c, shifted);
    float half = power_of_two(e.n - 1);  // 2^128 is no float
    return __builtin_copysignf(fma(half, e.q, half - 0.5f) * 2.0f, x);
}

LT_INLINE double exp(double x) {
    x = x < -746.0 ? -746.0 : x;
    double shifted = fma(x, 0x1.71547652b82fep+0, 0x1.8p+52);
    shifted = shifted > 0x1.8p+52 + 1026.0 ? 0x1.8p+52 + 1026.0 : shifted;
    double n = shifted - 0x1.8p+52;
    double r = fma(n, -0x1.abc9e3b39803fp-56, fma(n, -0x1.62e42fefa39efp-1, x));
    double q = polynomial(r, 0x1.000000000000cp-1, 0x1.555555555555fp-3, 0x1.555555554fe3ep-5, 0x1.111111110df36p-7,
                          0x1.6c16c1860e09p-10, 0x1.a01a01b811b23p-13, 0x1.a0199585161a6p-16, 0x1.71dde5b5e79aep-19,
                          0x1.28b13fd473fa6p-22, 0x1.af7ca0315f9eap-26);
    uint64_t k = bits<uint64_t>(shifted) - bits<uint64_t>(0x1.8p+52) + 2048, half = k >> 1;
    double low = bits<double>((half - 1) << 52), high = bits<double>((k - half - 1) << 52);
    return (1.0 + fma(r * r, q, r)) * low * high;
}
LT_INLINE double exp_nonpositive(double x) { return exp(x); }

// ---- functions of exponentials ----------------------------------------------------------------------------------

// From exp(-|x|), which never overflows. Results below the normal range become 0; torch's do a little later.
LT_INLINE float sigmoid(float x) {
    float a = -__builtin_fabsf(x);
    Reduced e = exp_reduce(a, exp_shift(a));
    float s = power_of_two(e.n), z = fma(s, e.q, s);
    z = a < -87.0f ? 0.0f : z;
    return (x < 0 ? z : 1.0f) / (1.0f + z);
}
LT_INLINE double sigmoid(double x) {
    double z = exp(-__builtin_fabs(x));
    return (x < 0 ? z : 1.0) / (1.0 + z);
}

// x + x u p(u) with u = x^2 below 0.55, where the quotient would lose accuracy; above, 1 - 2 / (e^2|x| + 1).
LT_INLINE float tanh(float x) {
    float a = __builtin_fabsf(x), u = x * x;
    float p = polynomial(u, -0x1.55554cp-2f, 0x1.110d3ap-3f, -0x1.b92b96p-5f, 0x1.595574p-6f, -0x1.9bb4c8p-8f);
    float t = a > 10.0f ? 10.0f : a;
    Reduced e = exp_reduce(t + t, exp_shift(t + t));
    float s = power_of_two(e.n), large = 1.0f - 2.0f / (fma(s, e.q, s) + 1.0f);
    return __builtin_copysignf(a < 0.55f ? fma(a * u, p, a) : large, x);
}

// libmvec's own is 2.2 times as far off as torch's on AVX2.
LT_INLINE float tan(float x) { return float(tan(double(x))); }

// x + x p(x^2) below 0.9; above, 1 - 2^-g(|x|) with g(x) = -log2(erfc(x)).
LT_INLINE float erf(float x) {
    float a = __builtin_fabsf(x), u = x * x;
    float small = polynomial(u, 0x1.06eba6p-3f, -0x1.8126fep-2f, 0x1.ce1e92p-4f, -0x1.b6c9fcp-6f, 0x1.48b8a6p-8f,
                             -0x1.405d7p-11f);
    float t = a > 4.0f ? 4.0f : a;
    float g = polynomial(t, 0x1.07977ep-12f, 0x1.a08448p+0f, 0x1.d68d9ap-1f, 0x1.337472p-3f, -0x1.07679ep-5f,
                         0x1.2126ep-8f, -0x1.2ab48ap-12f);
    float shifted = 0x1.8p+23f - g, r = -g - (shifted - 0x1.8p+23f);
    float p = polynomial(r, 0x1.62e432p-1f, 0x1.ebf9b2p-3f, 0x1.c6ae6ap-5f, 0x1.3cedaap-7f, 0x1.5f755cp-10f);
    float s = power_of_two(bits<uint32_t>(shifted) - bits<uint32_t>(0x1.8p+23f));
    float large = 1.0f - fma(s * r, p, s);
    return __builtin_copysignf(a < 0.9f ? fma(a, small, a) : large, x);
}

// 1 + erf(x) = erfc(-x) to 1.3e-7, as the sum of the two: 2^-g(|x|) below 0, where it keeps what the sum loses, and
// above what is left to 2. Beyond |x| = 4 that is 0 or 2.
LT_INLINE float one_plus_erf(float x) {
    float a = __builtin_fabsf(x), t = a > 4.0f ? 4.0f : a;
    float g = t * polynomial(t, 0x1.a0be9ep+0f, 0x1.d63aacp-1f, 0x1.30172p-3f, -0x1.cee886p-6f, 0x1.9620f6p-11f,
                             0x1.8672c2p-10f, -0x1.d32610p-12f, 0x1.7c7edcp-15f);
    float shifted = 0x1.8p+23f - g, r = -g - (shifted - 0x1.8p+23f);
    float p = polynomial(r, 0x1.62e43p-1f, 0x1.ebfbep-3f, 0x1.c6aeccp-5f, 0x1.3b29c4p-7f, 0x1.5f48ap-10f,
                         0x1.447f26p-13f);
    float s = power_of_two(bits<uint32_t>(shifted) - bits<uint32_t>(0x1.8p+23f));
    float y = fma(s * r, p, s);
    y = a > 4.0f ? 0.0f : y;
    return x < 0 ? y : 2.0f - y;
}

// ---- logarithms ------------------------------------------------------------------------------------------------

// log(1 + f) = f + log_tail(f) for f in [-1/3, 1/3].
LT_INLINE float log_tail(float f) {
    return f * f * polynomial(f, -0x1p-1f, 0x1.555502p-2f, -0x1.fffe8ap-3f, 0x1.99d1f8p-3f, -0x1.55a6aap-3f,
                              0x1.1ebe14p-3f, -0x1.f26f34p-4f, 0x1.1ed2bp-3f, -0x1.090d62p-3f);
}
LT_INLINE uint32_t log_exponent(float x) { return (bits<uint32_t>(x) - 0x3f2aaaabu) & 0xff800000u; }

// What the logarithm is outside the positive finite numbers.
LT_INLINE float log_special(float x, float y) {
    y = x < __builtin_inff() ? y : x;
    y = x == 0.0f ? -__builtin_inff() : y;
    return x < 0.0f ? __builtin_nanf("") : y;
}

struct Logarithm {
    float e, f;
};
LT_INLINE Logarithm log_reduce(float x) {
    bool subnormal = x < 0x1p-126f;
    float y = subnormal ? x * 0x1p+23f : x;
    uint32_t k = log_exponent(y);
    float e = float(int32_t(k)) * 0x1p-23f;
    return {subnormal ? e - 23.0f : e, bits<float>(bits<uint32_t>(y) - k) - 1.0f};
}

LT_INLINE float log(float x) {
    Logarithm l = log_reduce(x);
    float low = fma(l.e, -0x1.05c61p-29f, log_tail(l.f));
    return log_special(x, fma(l.e, 0x1.62e43p-1f, l.f + low));
}

LT_INLINE float log2(float x) {
    Logarithm l = log_reduce(x);
    float low = fma(l.f, 0x1.4ae0cp-26f, log_tail(l.f) * 0x1.715476p+0f);
    return log_special(x, l.e + fma(l.f, 0x1.715476p+0f, low));
}

LT_INLINE float log10(float x) {
    Logarithm l = log_reduce(x);
    float low = fma(l.f, -0x1.5b235ep-27f, fma(l.e, -0x1.ec10cp-27f, log_tail(l.f) * 0x1.bcb7b2p-2f));
    return log_special(x, fma(l.e, 0x1.344136p-2f, fma(l.f, 0x1.bcb7b2p-2f, low)));
}

LT_INLINE float log1p(float x) {
    bool large = x > 0x1p+64f;  // the 1 is lost in x, and s would be too small for a normal number
    float c = large ? x * 0x1p-64f : x, u = large ? c : 1.0f + c;
    uint32_t k = log_exponent(u);
    float e = fma(float(int32_t(k)), 0x1p-23f, large ? 64.0f : 0.0f), s = bits<float>(0x3f800000u - k);
    float f = fma(c, s, (large ? 0.0f : s) - 1.0f);
    float y = fma(e, 0x1.62e43p-1f, f + fma(e, -0x1.05c61p-29f, log_tail(f)));
    y = x < __builtin_inff() ? y : x;
    y = x == -1.0f ? -__builtin_inff() : y;
    y = x < -1.0f ? __builtin_nanf("") : y;
    return __builtin_copysignf(y, x);
}

}  // namespace lt
