// Arithmetic with torch's rules: NaN in maximum and minimum, Python's sign in integer division, wrapping powers.

namespace lt {

LT_INLINE float sqrt(float x) { return __builtin_sqrtf(x); }
LT_INLINE double sqrt(double x) { return __builtin_sqrt(x); }
LT_INLINE float floor(float x) { return __builtin_floorf(x); }
LT_INLINE double floor(double x) { return __builtin_floor(x); }
LT_INLINE float ceil(float x) { return __builtin_ceilf(x); }
LT_INLINE double ceil(double x) { return __builtin_ceil(x); }
LT_INLINE float trunc(float x) { return __builtin_truncf(x); }
LT_INLINE double trunc(double x) { return __builtin_trunc(x); }
LT_INLINE float round(float x) { return __builtin_rintf(x); }  // half to even
LT_INLINE double round(double x) { return __builtin_rint(x); }
LT_INLINE float copysign(float x, float y) { return __builtin_copysignf(x, y); }
LT_INLINE double copysign(double x, double y) { return __builtin_copysign(x, y); }
LT_INLINE float abs(float x) { return __builtin_fabsf(x); }
LT_INLINE double abs(double x) { return __builtin_fabs(x); }

// A unary minus of the smallest integer is itself, as in torch; unsigned arithmetic makes that defined.
template <class T>
LT_INLINE T abs(T x) {
    return x < 0 ? T(0 - uint64_t(x)) : x;
}
template <class T>
LT_INLINE T fma(T x, T y, T z) {
    return T(uint64_t(x) * uint64_t(y) + uint64_t(z));
}
template <class T>
LT_INLINE T rsqrt(T x) {
    return T(1) / sqrt(x);
}
template <class T>
LT_INLINE T reciprocal(T x) {
    return T(1) / x;
}
template <class T>
LT_INLINE T sign(T x) {
    return T((x > 0) - (x < 0));
}
template <class T>
LT_INLINE T frac(T x) {
    return x - trunc(x);
}

// NaN in either operand is the result.
template <class T>
LT_INLINE T maximum(T x, T y) {
    return x > y || x != x ? x : y;
}
template <class T>
LT_INLINE T minimum(T x, T y) {
    return x < y || x != x ? x : y;
}
template <class T>
LT_INLINE T relu(T x) {
    return x < 0 ? T(0) : x;
}

template <class T>
LT_INLINE uint8_t isnan(T x) {
    return x != x;
}
template <class T>
LT_INLINE uint8_t isinf(T x) {
    return abs(x) == T(__builtin_inf());
}
template <class T>
LT_INLINE uint8_t isfinite(T x) {
    return abs(x) < T(__builtin_inf());
}
template <class T>
LT_INLINE uint8_t signbit(T x) {
    return copysign(T(1), x) < 0;
}

// Integer division has no vector instruction. The divisor must not be zero: torch raises there, a kernel cannot.
// A divisor of -1 is kept from the instruction, which traps on the smallest integer.
template <class T>
LT_INLINE T trunc_divide(T x, T y) {
    return y == T(-1) ? T(0 - uint64_t(x)) : T(x / y);
}
template <class T>
LT_INLINE T fmod(T x, T y) {
    return y == T(-1) ? T(0) : T(x % y);
}
template <class T>
LT_INLINE T floor_divide(T x, T y) {
    T q = trunc_divide(x, y);
    return fmod(x, y) != 0 && (x < 0) != (y < 0) ? T(q - 1) : q;
}
template <class T>
LT_INLINE T remainder(T x, T y) {
    T r = fmod(x, y);
    return r != 0 && (r < 0) != (y < 0) ? T(r + y) : r;
}
// T(-1) of an unsigned type is an ordinary divisor.
LT_INLINE uint8_t trunc_divide(uint8_t x, uint8_t y) { return uint8_t(x / y); }
LT_INLINE uint8_t fmod(uint8_t x, uint8_t y) { return uint8_t(x % y); }
LT_INLINE uint8_t floor_divide(uint8_t x, uint8_t y) { return uint8_t(x / y); }
LT_INLINE uint8_t remainder(uint8_t x, uint8_t y) { return uint8_t(x % y); }

// Floating division with Python's sign. fmod is exact for every magnitude and is a scalar call, so these do not
// become vector code; torch's trunc and true division do.
template <class T>
LT_INLINE T remainder_float(T x, T y) {
    T r = fmod(x, y);
    return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}
template <class T>
LT_INLINE T floor_divide_float(T x, T y) {
    T r = fmod(x, y), q = (x - r) / y;
    q = r != 0 && (r < 0) != (y < 0) ? q - T(1) : q;
    T f = floor(q);
    f = q - f > T(0.5) ? f + T(1) : f;
    f = q != 0 ? f : copysign(T(0), x / y);
    return y == 0 ? x / y : f;
}
LT_INLINE float remainder(float x, float y) { return remainder_float(x, y); }
LT_INLINE double remainder(double x, double y) { return remainder_float(x, y); }
LT_INLINE float floor_divide(float x, float y) { return floor_divide_float(x, y); }
LT_INLINE double floor_divide(double x, double y) { return floor_divide_float(x, y); }
LT_INLINE float trunc_divide(float x, float y) { return trunc(x / y); }
LT_INLINE double trunc_divide(double x, double y) { return trunc(x / y); }

// Integer powers wrap; a negative exponent leaves only 1 and -1 unlike zero.
template <class T>
LT_INLINE T pow(T x, T y) {
    if (y < 0) return x == 1 ? T(1) : x == T(-1) ? ((y & 1) ? T(-1) : T(1)) : T(0);
    uint64_t result = 1, base = uint64_t(x);
    for (uint64_t n = uint64_t(y); n != 0; n >>= 1, base *= base)
        if (n & 1) result *= base;
    return T(result);
}

// A shift by the width or more empties the number (or leaves its sign), as torch has it.
template <class T>
LT_INLINE T shift_left(T x, T y) {
    return y < 0 || uint64_t(y) >= 8 * sizeof(T) ? T(0) : T(uint64_t(x) << uint64_t(y));
}
template <class T>
LT_INLINE T shift_right(T x, T y) {
    const T most = T(8 * sizeof(T) - (T(-1) < T(0) ? 1 : 0));
    bool outside = y < 0 || uint64_t(y) >= 8 * sizeof(T);
    return outside ? (T(-1) < T(0) ? T(x >> most) : T(0)) : T(x >> y);
}

}  // namespace lt
