// The processor's registers for our C++ kernels: LANES numbers at once, read as float32 or bfloat16, added in float32.
//
// GCC's vector extensions stand for registers: LANES numbers are as many of them as it takes. A file defines LANES (8 or
// 16) before it includes this one.

#pragma once

#include <cstdint>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

constexpr int W = LANES;
typedef float Wide __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint32_t WideBits __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t WideInts __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef uint16_t Half __attribute__((vector_size(2 * W), aligned(2), may_alias));

struct bfloat16 {
    uint16_t bits;
};

inline Wide load(const float* from) { return *reinterpret_cast<const Wide*>(from); }

inline Wide load(const bfloat16* from) {
#if LANES == 8 && defined(__AVX2__)  // one instruction, for which GCC 12 takes four
    __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return (Wide)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
#elif LANES == 16 && defined(__AVX512F__)
    __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return (Wide)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#else
    return (Wide)(__builtin_convertvector(*reinterpret_cast<const Half*>(from), WideBits) << 16);
#endif
}

inline void store(float* to, Wide x) { *reinterpret_cast<Wide*>(to) = x; }

// The bits of bfloat16 in the upper half of each number: to the nearest, ties to even; a NaN stays one.
inline WideBits rounded(Wide x) {
    WideBits bits = (WideBits)x;
    WideBits nearest = bits + 0x7fff + ((bits >> 16) & 1);
    WideBits kept = (WideBits)(x != x) & (bits | 0x400000);
    return kept | (~(WideBits)(x != x) & nearest);
}

inline void store(bfloat16* to, Wide x) {
#if LANES == 16 && defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16((__m512i)(rounded(x) >> 16)));
#else
    *reinterpret_cast<Half*>(to) = __builtin_convertvector(rounded(x) >> 16, Half);
#endif
}

inline float sum(Wide x) {
    typedef float Four __attribute__((vector_size(16)));
#if LANES == 16
    Four a = (__builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7)) +
             (__builtin_shufflevector(x, x, 8, 9, 10, 11) + __builtin_shufflevector(x, x, 12, 13, 14, 15));
#else
    Four a = __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
#endif
    return (a[0] + a[2]) + (a[1] + a[3]);
}

// e to the power of each number within 2e-7 of its size (the polynomial of Cephes); below -87 nearly 0.
template <class Floats, class Ints>
inline Floats exponential_of(Floats x) {
    const Floats low = Floats{} - 87.0f, high = Floats{} + 88.0f;
    x = x < low ? low : x;
    x = x > high ? high : x;
    const float rounder = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole number
    Floats n = (x * 1.44269504f + rounder) - rounder;
    Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats y = r * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return y * (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
}

inline Wide exponential(Wide x) { return exponential_of<Wide, WideInts>(x); }

}  // namespace
