// Products in 8 bits: weights and the rows they are multiplied with are rounded to whole numbers from -127 to 127, in a
// unit for each output and each row.
//
// Before that, both are multiplied with Hadamard's matrix, 64 inputs at a time, which no product sees: what stands out of
// a row is spread over 64 numbers, and the unit is smaller for it (Ashkboos et al. 2024, "QuaRot"). Sums are exact, so a
// row's result depends on that row alone.

#pragma once

#include <vector>

#include "products.h"

namespace {

// A whole number. Weights are kept above 128, as processors multiply bytes: unsigned ones with signed ones.
struct int8 {
    uint8_t bits;
};

constexpr int64_t SPREAD = 64;  // inputs that are spread over each other; a width is a multiple
constexpr int64_t ABOVE = 128;

template <>
struct Multiplied<int8> {
    static constexpr int pair = 4;
    typedef int32_t Number;
    typedef BroadInts Sum;
#ifdef __AVX512VNNI__
    typedef __m512i Left;
    typedef __m512i Right;
    static Left left(const int8* at) {
        int32_t four;
        std::memcpy(&four, at, 4);
        return _mm512_set1_epi32(four);
    }
    static Right right(const int8* at) { return _mm512_loadu_si512(at); }
    static void add(Sum& sum, Left left, const Right& right) { sum = (Sum)_mm512_dpbusd_epi32((__m512i)sum, right, left); }
#else
    struct Left {
        int32_t four[4];
    };
    typedef BroadBits Right;
    static Left left(const int8* at) {
        Left found;
        for (int i = 0; i < 4; i++) found.four[i] = (int8_t)at[i].bits;
        return found;
    }
    static Right right(const int8* at) { return *reinterpret_cast<const BroadBits*>(at); }
    static void add(Sum& sum, Left left, const Right& right) {
        UNROLLED for (int i = 0; i < 4; i++) sum += (Sum)(right >> 8 * i & 255) * left.four[i];
    }
#endif
};

template <>
constexpr int64_t panel_size<int8>(int64_t n) {
    return PANEL * (n + (int64_t)sizeof(float));  // behind the weights, the unit of each output
}

template <>
struct Rows<int8> {
    const int8* numbers;
    const float* units;
    const int32_t* sums;

    Rows from(int64_t row, int64_t lda) const { return {numbers + row * lda, units + row, sums + row}; }
    Wide read(const int32_t* found, int64_t row, const int8* units_of_outputs) const {
        const WideInts whole = *reinterpret_cast<const WideInts*>(found) - (int32_t)ABOVE * sums[row];
        const float* outputs = reinterpret_cast<const float*>(units_of_outputs);
        return __builtin_convertvector(whole, Wide) * units[row] * load(outputs);
    }
};

inline Broad numbers(const float* from) { return broad(from); }

inline Broad numbers(const bfloat16* from) {
    typedef uint16_t Halves __attribute__((vector_size(2 * B), aligned(2), may_alias));
    return (Broad)(__builtin_convertvector(*reinterpret_cast<const Halves*>(from), BroadBits) << 16);
}

// Numbers whose places differ by S change places.
template <int S>
Broad swapped(Broad x) {
    if constexpr (S == 1) return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    if constexpr (S == 2) return __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    if constexpr (S == 4) return __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}

// Of each such pair the sum and the difference.
template <int S>
Broad paired(Broad x) {
    Broad signs;
    UNROLLED for (int i = 0; i < B; i++) signs[i] = i & S ? -1 : 1;
    return swapped<S>(x) + x * signs;
}

// x [n] times Hadamard's matrix (of ones and minus ones), SPREAD numbers at a time; returns the largest size, NaN where a
// number is not finite.
template <class T>
float spread(const T* x, float* out, int64_t n) {
    constexpr int R = SPREAD / B;
    Broad most = {}, wrong = {};  // 0 times what is finite
    for (int64_t d = 0; d < n; d += SPREAD) {
        Broad rows[R];
        UNROLLED for (int r = 0; r < R; r++) rows[r] = paired<8>(paired<4>(paired<2>(paired<1>(numbers(x + d + r * B)))));
        UNROLLED for (int step = 0; step < 2; step++)
            UNROLLED for (int r = 0; r < R; r++)
                if (!(r >> step & 1)) {
                    const Broad a = rows[r], b = rows[r + (1 << step)];
                    rows[r] = a + b, rows[r + (1 << step)] = a - b;
                }
        UNROLLED for (int r = 0; r < R; r++) {
            const Broad size = rows[r] < 0.0f ? -rows[r] : rows[r];
            most = size > most ? size : most;
            wrong += rows[r] * 0.0f;
            broad(out + d + r * B) = rows[r];
        }
    }
    float found = most[0], sum = wrong[0];
    for (int i = 1; i < B; i++) found = std::max(found, most[i]), sum += wrong[i];
    return found + sum;
}

// Whole numbers nearest to numbers of size 127 at most, ties to even.
inline BroadInts whole(Broad x) {
    const float rounder = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to a whole number
    return (BroadInts)(x + rounder) - 0x4b400000;
}

// Rows [rows, n] as they are multiplied, with room for them.
struct Spread {
    const int64_t n;
    std::vector<int8> numbers;
    std::vector<float> units;
    std::vector<int32_t> sums;

    Spread(int64_t rows, int64_t n) : n(n), numbers(rows * n), units(rows), sums(rows) {}

    template <class T>
    void take(int64_t row, const T* x) {
        typedef int8_t Bytes __attribute__((vector_size(B), aligned(1), may_alias));
        thread_local std::vector<float> kept;
        if ((int64_t)kept.size() < n) kept.resize(n);
        const float largest = spread(x, kept.data(), n), over = largest > 0 ? 127 / largest : 0;
        BroadInts total = {};
        for (int64_t d = 0; d < n; d += B) {
            const BroadInts found = whole(broad(&kept[d]) * over);
            *reinterpret_cast<Bytes*>(&numbers[row * n + d]) = __builtin_convertvector(found, Bytes);
            total += found;
        }
        units[row] = largest / 127 / SPREAD;
        sums[row] = 0;
        for (int i = 0; i < B; i++) sums[row] += total[i];
    }

    Rows<int8> rows() const { return {numbers.data(), units.data(), sums.data()}; }
};

// Lays out weights [outputs, n] times `scale` [n], where there is one, as `multiply` reads them.
inline void lay_panels(const float* w, const float* scale, int8* to, int64_t outputs, int64_t n) {
#pragma omp parallel for
    for (int64_t panel = 0; panel < panels_of(outputs); panel++) {
        int8* at = to + panel * panel_size<int8>(n);
        float* units = reinterpret_cast<float*>(at + PANEL * n);
        std::vector<float> row(n);
        for (int64_t i = 0; i < PANEL; i++) {
            const int64_t output = panel * PANEL + i;
            for (int64_t d = 0; d < n; d += W) {
                const Wide x = output < outputs ? load(w + output * n + d) : Wide{};
                store(&row[d], scale ? x * load(scale + d) : x);
            }
            const float largest = spread(row.data(), row.data(), n), over = largest > 0 ? 127 / largest : 0;
            units[i] = largest / 127;
            for (int64_t d = 0; d < n; d += B) {
                const BroadInts found = whole(broad(&row[d]) * over) + (int32_t)ABOVE;
                for (int k = 0; k < B; k++) at[(d + k) / 4 * PANEL * 4 + i * 4 + k % 4].bits = (uint8_t)found[k];
            }
        }
    }
}

}  // namespace
