// Matrix products in registers: 16 outputs of several rows at a time, over weights that lie in the order they are read.
//
// Numbers are float32 or bfloat16 and added up in float32, over the inputs in their order: what is computed beside it
// changes no bit of a row. Of bfloat16 two inputs of an output stand side by side, as processors multiply them.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <omp.h>

#include "vectors.h"

#define UNROLLED _Pragma("GCC unroll 16")

namespace {

constexpr int B = 16;
typedef float Broad __attribute__((vector_size(4 * B), aligned(4), may_alias));
typedef uint32_t BroadBits __attribute__((vector_size(4 * B), aligned(4), may_alias));
typedef int32_t BroadInts __attribute__((vector_size(4 * B), aligned(4), may_alias));

inline Broad& broad(float* at) { return *reinterpret_cast<Broad*>(at); }
inline const Broad& broad(const float* at) { return *reinterpret_cast<const Broad*>(at); }
inline BroadInts& broad(int32_t* at) { return *reinterpret_cast<BroadInts*>(at); }

// How numbers are multiplied: an input of a row with those of B outputs.
template <class T>
struct Multiplied;

template <>
struct Multiplied<float> {
    static constexpr int pair = 1;
    typedef float Number;
    typedef Broad Sum;
    typedef float Left;
    typedef Broad Right;
    static Left left(const float* at) { return *at; }
    static Right right(const float* at) { return broad(at); }
    static void add(Broad& sum, Left left, const Right& right) { sum += left * right; }
};

template <>
struct Multiplied<bfloat16> {
    static constexpr int pair = 2;
    typedef float Number;
    typedef Broad Sum;
#ifdef __AVX512BF16__
    struct Left {
        __m512bh both;
    };
    typedef Left Right;
    static Left left(const bfloat16* at) {
        int32_t both;
        std::memcpy(&both, at, 4);
        return {(__m512bh)_mm512_set1_epi32(both)};
    }
    static Right right(const bfloat16* at) { return {(__m512bh)_mm512_loadu_si512(at)}; }
    static void add(Broad& sum, Left left, const Right& right) {
        sum = (Broad)_mm512_dpbf16_ps((__m512)sum, left.both, right.both);
    }
#else
    struct Left {
        float even, odd;
    };
    typedef BroadBits Right;
    static Left left(const bfloat16* at) {
        uint32_t bits[2] = {(uint32_t)at[0].bits << 16, (uint32_t)at[1].bits << 16};
        Left both;
        std::memcpy(&both, bits, 8);
        return both;
    }
    static Right right(const bfloat16* at) { return *reinterpret_cast<const BroadBits*>(at); }
    static void add(Broad& sum, Left left, const Right& right) {
        sum += left.even * (Broad)(right << 16) + left.odd * (Broad)(right & 0xffff0000);
    }
#endif
};

// Where numbers stand that are multiplied `pair` at a time: the next row or the next B outputs `apart`, the next `pair` of
// inputs a `step` further.
template <class T>
struct Strided {
    const T* at;
    int64_t apart, step;
};

// c [R, N * B] = or += a [R, depth] times b [depth, N * B]. Meanwhile the processor fetches what lies at `soon` and as many
// steps of b after it.
template <int R, int N, class T>
void tile(Strided<T> a, Strided<T> b, int64_t depth, typename Multiplied<T>::Number* c, int64_t ldc, bool add, const T* soon) {
    typedef Multiplied<T> M;
    typename M::Sum sums[R][N];
    UNROLLED for (int r = 0; r < R; r++)
        UNROLLED for (int n = 0; n < N; n++) sums[r][n] = add ? broad(c + r * ldc + n * B) : typename M::Sum{};
    for (int64_t d = 0; d < depth; d += M::pair, a.at += a.step, b.at += b.step, soon += b.step) {
        __builtin_prefetch(soon, 0, 2);
        typename M::Right right[N];
        UNROLLED for (int n = 0; n < N; n++) right[n] = M::right(b.at + n * b.apart);
        UNROLLED for (int r = 0; r < R; r++) {
            const typename M::Left left = M::left(a.at + r * a.apart);
            UNROLLED for (int n = 0; n < N; n++) M::add(sums[r][n], left, right[n]);
        }
    }
    UNROLLED for (int r = 0; r < R; r++)
        UNROLLED for (int n = 0; n < N; n++) broad(c + r * ldc + n * B) = sums[r][n];
}

// The same for as many rows as there are, at most R.
template <int R, int N, class T, class... Rest>
void tile_of(int64_t rows, Strided<T> a, Rest... rest) {
    if constexpr (R > 1)
        if (rows < R) return tile_of<R - 1, N, T>(rows, a, rest...);
    tile<R, N, T>(a, rest...);
}

// Weights [outputs, n] stand in panels [outputs / PANEL, n / pair, PANEL, pair], zeros behind the last output.
constexpr int PANEL = 2 * B;
#ifdef __AVX512F__
constexpr int TALL = 12;  // rows whose sums registers hold
#else
constexpr int TALL = 2;
#endif
constexpr int64_t DEEP = 2048;  // inputs of a panel that stay in a processor's cache while rows pass
constexpr int64_t PASS = 192;   // rows that pass

inline int64_t panels_of(int64_t outputs) { return (outputs + PANEL - 1) / PANEL; }

// Numbers from a panel of weights to the next.
template <class T>
constexpr int64_t panel_size(int64_t n) {
    return PANEL * n;
}

// Rows that are multiplied, and how what is found for one of them is read; `behind` are the weights of the panel.
template <class T>
struct Rows {
    const T* numbers;

    Rows from(int64_t row, int64_t lda) const { return {numbers + row * lda}; }
    Wide read(const float* found, int64_t, const T*) const { return load(found); }
};

// The numbers of W outputs with their biases, where there are any.
inline Wide biased(const float* bias, int64_t output, Wide values) { return bias ? values + load(bias + output) : values; }

// Writes those of W outputs of a row that there are.
template <class O>
void store_outputs(O* row, int64_t output, int64_t outputs, Wide values) {
    if (output + W <= outputs) return store(row + output, values);
    O last[W];
    store(last, values);
    for (int64_t i = 0; output + i < outputs; i++) row[output + i] = last[i];
}

// Lays out one panel of weights times `scale` [n], where there is one; `row(output)` is where those of an output lie, and n
// is a multiple of W.
template <class T, class Row>
void lay_panel(Row row, const float* scale, T* to, int64_t outputs, int64_t n, int64_t panel) {
    constexpr int P = Multiplied<T>::pair;
    T rows[PANEL][W];
    to += panel * PANEL * n;
    for (int64_t d = 0; d < n; d += W) {
        for (int64_t i = 0; i < PANEL; i++) {
            const int64_t output = panel * PANEL + i;
            const Wide x = output < outputs ? load(row(output) + d) : Wide{};
            store(rows[i], scale ? x * load(scale + d) : x);
        }
        for (int64_t k = 0; k < W; k += P)
            for (int64_t i = 0; i < PANEL; i++) std::memcpy(to + (d + k) * PANEL + i * P, &rows[i][k], P * sizeof(T));
    }
}

template <class T>
void lay_panels(const float* w, const float* scale, T* to, int64_t outputs, int64_t n) {
    const auto row = [&](int64_t output) { return w + output * n; };
#pragma omp parallel for
    for (int64_t panel = 0; panel < panels_of(outputs); panel++) lay_panel(row, scale, to, outputs, n, panel);
}

// x [rows, n] times the panels from `first` to `last`: calls done(row, output, values) for W outputs of a row at a time.
template <class T, class Done>
void product(Rows<T> x, int64_t lda, const T* panels, int64_t rows, int64_t n, int64_t first, int64_t last, Done done) {
    constexpr int64_t P = Multiplied<T>::pair;
    alignas(64) typename Multiplied<T>::Number found[PASS * PANEL];
    for (int64_t panel = first; panel < last; panel++) {
        const T *weights = panels + panel * panel_size<T>(n), *behind = weights + PANEL * n;
        for (int64_t row = 0; row < rows; row += PASS) {
            const int64_t count = std::min(PASS, rows - row), blocks = (count + TALL - 1) / TALL;
            const bool ends = row + PASS >= rows && panel + 1 < last;
            for (int64_t d = 0; d < n; d += DEEP)
                for (int64_t block = 0; block < blocks; block++) {
                    const int64_t from = count * block / blocks, to = count * (block + 1) / blocks, left = blocks - 1 - block;
                    const T *here = weights + d * PANEL, *next = here + panel_size<T>(n) + left * B * P;
                    const Strided<T> a{x.numbers + (row + from) * lda + d, lda, P}, b{here, B * P, PANEL * P};
                    tile_of<TALL, PANEL / B, T>(to - from, a, b, std::min(DEEP, n - d), found + from * PANEL, (int64_t)PANEL,
                                                d > 0, ends && left < PANEL / B ? next : here);
                }
            for (int64_t r = 0; r < count; r++)
                for (int64_t i = 0; i < PANEL; i += W) {
                    const int64_t place = i * (panel_size<T>(n) - PANEL * n) / PANEL;
                    done(row + r, panel * PANEL + i, x.read(found + r * PANEL + i, row + r, behind + place));
                }
        }
    }
}

// out [rows, outputs] = x [rows, n] times weights in panels, and a bias where there is one, of whole registers. Threads
// share panels out, or rows where panels are few.
template <class T, class O>
void multiply(Rows<T> x, const T* panels, const float* bias, O* out, int64_t rows, int64_t n, int64_t outputs,
              int64_t threads) {
    const int64_t count = panels_of(outputs), depth = (n + Multiplied<T>::pair - 1) / Multiplied<T>::pair * Multiplied<T>::pair;
#pragma omp parallel num_threads(threads)
    {
        const int64_t number = omp_get_thread_num(), parts = omp_get_num_threads();
        const bool few = count < 4 * parts && rows >= TALL * parts;
        const int64_t first = few ? 0 : count * number / parts, last = few ? count : count * (number + 1) / parts;
        const int64_t from = few ? rows * number / parts : 0, to = few ? rows * (number + 1) / parts : rows;
        product(x.from(from, n), n, panels, to - from, depth, first, last, [&](int64_t row, int64_t output, Wide values) {
            store_outputs(out + (from + row) * outputs, output, outputs, biased(bias, output, values));
        });
    }
}

}  // namespace
