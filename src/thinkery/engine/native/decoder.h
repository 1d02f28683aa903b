// The decoder on a CPU, all layers in one call: a step of decoding, or the next tokens of some texts.
//
// kernels.cpp and int8.cpp compile it for their formats of weights; engine/native/kernels.py says what each pointer is.
// Numbers are read as float32 or bfloat16, added up in float32, and rounded once when they are written. A row's result
// depends on that row alone.
//
// Registers hold 8 numbers at once (model/vectors.h).

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <omp.h>
#include <type_traits>
#include <vector>

#define LANES 8
#include "products.h"

namespace {

// How queries, and the weights of values, are multiplied with numbers of type T; `pairs` of them stand beside each other.
template <class T>
struct Laid {
    typedef float type;
    static constexpr int pairs = 1;
};
#ifdef __AVX512BF16__
template <>
struct Laid<bfloat16> {
    typedef bfloat16 type;
    static constexpr int pairs = 2;
};
#endif

// Scores of Q queries [Q, E] against n keys; row q of the result begins at scores + q * stride.
template <int Q, int E, class T>
void compare(const float* queries, const T* keys, int64_t n, float* scores, int64_t stride) {
    for (int64_t j = 0; j < n; j++) {
        Wide total[Q] = {};
        UNROLLED for (int e = 0; e < E; e += W) {
            Wide key = load(keys + j * E + e);
            UNROLLED for (int q = 0; q < Q; q++) total[q] += load(queries + q * E + e) * key;
        }
        UNROLLED for (int q = 0; q < Q; q++) scores[q * stride + j] = sum(total[q]);
    }
}

// Adds to out [Q, E] the n values, weighted.
template <int Q, int E, class T>
void mix(const float* weights, int64_t stride, const T* values, int64_t n, float* out) {
    Wide total[Q][E / W];
    UNROLLED for (int q = 0; q < Q; q++)
        UNROLLED for (int e = 0; e < E / W; e++) total[q][e] = load(out + q * E + e * W);
    for (int64_t j = 0; j < n; j++)
        UNROLLED for (int e = 0; e < E / W; e++) {
            Wide value = load(values + j * E + e * W);
            UNROLLED for (int q = 0; q < Q; q++) total[q][e] += weights[q * stride + j] * value;
        }
    UNROLLED for (int q = 0; q < Q; q++)
        UNROLLED for (int e = 0; e < E / W; e++) store(out + q * E + e * W, total[q][e]);
}

#ifdef __AVX512BF16__
__m512 interleaved(__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b); }

__m512 by_twos(__m512 a, __m512 b) {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(_mm512_unpacklo_pd(x, y)) + _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
}

__m512 halved(__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd); }

// The sums of 16 registers, an addition for every two that are interleaved.
__m512 sums_of(const __m512* x) {
    __m512 fours[4];
    UNROLLED for (int i = 0; i < 4; i++)
        fours[i] = by_twos(interleaved(x[4 * i], x[4 * i + 1]), interleaved(x[4 * i + 2], x[4 * i + 3]));
    return halved(halved(fours[0], fours[1]), halved(fours[2], fours[3]));
}

// The numbers from e on of E, as many as a register holds.
template <int E>
__m512i numbers(const bfloat16* from, int e) {
    return e + 32 <= E ? _mm512_loadu_si512(from + e) : _mm512_maskz_loadu_epi16((1u << (E - e) % 32) - 1, from + e);
}

// Scores of a query against B keys, or the last of them again where there are fewer.
template <int E>
__m512 scores_of(const bfloat16* query, const bfloat16* keys, int64_t last) {
    __m512 total[B];
    UNROLLED for (int i = 0; i < B; i++) {
        const bfloat16* key = keys + (last < B - 1 ? std::min<int64_t>(i, last) : i) * E;
        total[i] = _mm512_setzero_ps();
        UNROLLED for (int e = 0; e < E; e += 32)
            total[i] = _mm512_dpbf16_ps(total[i], (__m512bh)numbers<E>(query, e), (__m512bh)numbers<E>(key, e));
    }
    return sums_of(total);
}

template <int Q, int E>
void compare(const bfloat16* queries, const bfloat16* keys, int64_t n, float* scores, int64_t stride) {
    int64_t j = 0;
    for (; j + B <= n; j += B)
        for (int q = 0; q < Q; q++) _mm512_storeu_ps(scores + q * stride + j, scores_of<E>(queries + q * E, keys + j * E, B));
    if (j < n)
        for (int q = 0; q < Q; q++) {
            const __m512 found = scores_of<E>(queries + q * E, keys + j * E, n - 1 - j);
            _mm512_mask_storeu_ps(scores + q * stride + j, (1u << (n - j)) - 1, found);
        }
}

// Values pass in pairs, number by number beside each other; within 128 bits these are the lower or the upper four of eight.
template <int Q, int E>
void mix(const bfloat16* weights, int64_t stride, const bfloat16* values, int64_t n, float* out) {
    constexpr int C = (E + 31) / 32;
    __m512 total[Q][C][2] = {};
    for (int64_t j = 0; j < n; j += 2) {
        const bfloat16 *value = values + j * E, *next = j + 1 < n ? value + E : value;
        __m512bh pairs[C][2];
        UNROLLED for (int c = 0; c < C; c++) {
            const __m512i a = numbers<E>(value, c * 32), b = numbers<E>(next, c * 32);
            pairs[c][0] = (__m512bh)_mm512_unpacklo_epi16(a, b), pairs[c][1] = (__m512bh)_mm512_unpackhi_epi16(a, b);
        }
        UNROLLED for (int q = 0; q < Q; q++) {
            int32_t both;
            std::memcpy(&both, weights + q * stride + j, 4);
            if (j + 1 == n) both &= 0xffff;
            const __m512bh weight = (__m512bh)_mm512_set1_epi32(both);
            UNROLLED for (int c = 0; c < C; c++)
                UNROLLED for (int i = 0; i < 2; i++) total[q][c][i] = _mm512_dpbf16_ps(total[q][c][i], weight, pairs[c][i]);
        }
    }
    UNROLLED for (int q = 0; q < Q; q++)
        UNROLLED for (int c = 0; c < C; c++) {
            const __m512 low = total[q][c][0], high = total[q][c][1];
            const __m512 first = _mm512_shuffle_f32x4(low, high, 0x44), second = _mm512_shuffle_f32x4(low, high, 0xee);
            float* to = out + q * E + c * 32;
            _mm512_storeu_ps(to, _mm512_loadu_ps(to) + _mm512_shuffle_f32x4(first, first, 0xd8));
            if (c * 32 + B < E) _mm512_storeu_ps(to + B, _mm512_loadu_ps(to + B) + _mm512_shuffle_f32x4(second, second, 0xd8));
        }
}
#endif

// Makes n scores e to the power of what they are above the largest; there is room for as many as make whole registers.
struct Weighed {
    float largest, sum;
};

Weighed weigh(float* scores, int64_t n) {
    for (int64_t j = n; j % B; j++) scores[j] = -INFINITY;
    Broad most = broad(scores), total = {};
    for (int64_t j = B; j < n; j += B) most = broad(scores + j) > most ? broad(scores + j) : most;
    Weighed found{most[0], 0};
    for (int i = 1; i < B; i++) found.largest = std::max(found.largest, most[i]);
    for (int64_t j = 0; j < n; j += B) {
        const Broad weight = exponential_of<Broad, BroadInts>(broad(scores + j) - found.largest);
        broad(scores + j) = weight;
        total += weight;
    }
    for (int i = 0; i < B; i++) found.sum += total[i];
    return found;
}

// Calls work<Q> for `count` queries, as many at a time as registers hold.
#define IN_TURNS(count, work)                                                              \
    for (int64_t q = 0; q < (count);) {                                                    \
        if ((count)-q >= 3 && (count)-q != 4) { constexpr int Q = 3; work; q += Q; }       \
        else if ((count)-q >= 2) { constexpr int Q = 2; work; q += Q; }                    \
        else { constexpr int Q = 1; work; q += Q; }                                        \
    }

constexpr int64_t SPAN = 512;  // keys that one task looks at, so that a long text is shared out among threads

// Where the keys and values of a batch are: prompts [slots, K, G, E], and what each row said [rows, K, L, E]. Row i reads
// `shared[i]` tokens of prompt `slots[i]`, then its own up to `places[i]`.
template <class T>
struct Caches {
    T *prompt_keys, *prompt_values, *own_keys, *own_values;
    const int64_t *slots, *shared, *places;
    int64_t K, G, L;

    int64_t length(int64_t row) const { return shared[row] + places[row] + 1; }

    int64_t spans(int64_t rows) const {  // of the longest row
        int64_t most = 0;
        for (int64_t row = 0; row < rows; row++) most = std::max(most, (length(row) + SPAN - 1) / SPAN);
        return most;
    }
};

// Numbers that M queries leave of one span: for each its weighted values, the largest score, and the sum of weights.
template <int E>
constexpr int64_t left_of(int64_t M) {
    return M * (E + 2);
}

// Memory of the calling thread, kept from one call to the next.
float* scratch(size_t size) {
    static thread_local std::vector<float> kept;
    if (kept.size() < size) kept.resize(size);
    return kept.data();
}

// n numbers as they are multiplied, with room for whole registers.
const float* narrow(const float* numbers, float*, int64_t) { return numbers; }

const bfloat16* narrow(const float* numbers, bfloat16* narrowed, int64_t n) {
    for (int64_t j = 0; j < n; j += W) store(narrowed + j, load(numbers + j));
    return narrowed;
}

// What M queries [M, E], scaled, see in one span of a row's text.
template <int E, class T>
void look(const Caches<T>& at, const float* queries, int64_t M, int64_t row, int64_t head, int64_t span, float* left) {
    typedef typename Laid<T>::type L;
    float scores[M * SPAN];
    L narrowed[M * (SPAN + E)];
    const int64_t from = span * SPAN, to = std::min(from + SPAN, at.length(row)), n = at.shared[row];
    const int64_t middle = std::min(std::max(n, from), to), prompts = middle - from, own = to - middle;
    const int64_t prompt = prompts ? ((at.slots[row] * at.K + head) * at.G + from) * E : 0;
    const int64_t said = ((row * at.K + head) * at.L + middle - n) * E;
    const L *asked = narrow(queries, narrowed + M * SPAN, M * E), *weights = narrow(scores, narrowed, 0);
    IN_TURNS(M, (compare<Q, E>(&asked[q * E], at.prompt_keys + prompt, prompts, &scores[q * SPAN], SPAN)))
    IN_TURNS(M, (compare<Q, E>(&asked[q * E], at.own_keys + said, own, &scores[q * SPAN + prompts], SPAN)))
    std::fill(left, left + M * E, 0.0f);
    for (int64_t m = 0; m < M; m++) {
        Weighed weighed = weigh(&scores[m * SPAN], to - from);
        narrow(&scores[m * SPAN], &narrowed[m * SPAN], to - from);
        left[M * E + m] = weighed.largest;
        left[M * E + M + m] = weighed.sum;
    }
    IN_TURNS(M, (mix<Q, E>(&weights[q * SPAN], SPAN, at.prompt_values + prompt, prompts, &left[q * E])))
    IN_TURNS(M, (mix<Q, E>(&weights[q * SPAN + prompts], SPAN, at.own_values + said, own, &left[q * E])))
}

// The values [M, E] that queries get from all spans of a row.
template <int E, class T>
void gather(const float* left, int64_t spans, int64_t M, T* out) {
    const int64_t size = left_of<E>(M);
    for (int64_t m = 0; m < M; m++) {
        float largest = -INFINITY, total = 0;
        for (int64_t s = 0; s < spans; s++) largest = std::max(largest, left[s * size + M * E + m]);
        Wide values[E / W] = {};
        for (int64_t s = 0; s < spans; s++) {
            const float share = std::exp(left[s * size + M * E + m] - largest);
            total += share * left[s * size + M * E + M + m];
            UNROLLED for (int e = 0; e < E / W; e++) values[e] += share * load(left + s * size + m * E + e * W);
        }
        UNROLLED for (int e = 0; e < E / W; e++) store(out + m * E + e * W, values[e] / total);
    }
}

// Causal attention of many queries: keys and values are laid out for products of 64 keys with six queries at a time, and
// softmax goes on from one block of keys to the next (Dao et al. 2022).

constexpr int64_t KEYS = 256, COLUMNS = 64, TOKENS = 32, TOGETHER = 6;

void copy(float* to, const float* from) { *to = *from; }
void copy(bfloat16* to, const bfloat16* from) { *to = *from; }
#ifndef __AVX512BF16__
void copy(float* to, const bfloat16* from) {
    const uint32_t bits = (uint32_t)from->bits << 16;
    std::memcpy(to, &bits, 4);
}
#endif

// Keys [n, E] of one head as [n / COLUMNS, E / pairs, COLUMNS, pairs], values as [n / pairs, E, pairs].
template <class T, class L>
void lay_out(const T* keys, const T* values, int64_t stride, int64_t n, int64_t from, int64_t to, int64_t E, L* laid_keys,
             L* laid_values) {
    constexpr int P = Laid<T>::pairs;
    for (int64_t j = from; j < to; j++) {
        L *key = laid_keys + j / COLUMNS * COLUMNS * E + j % COLUMNS * P, *value = laid_values + j / P * P * E + j % P;
        if (j < n)
            for (int64_t e = 0; e < E; e++) {
                copy(key + e / P * COLUMNS * P + e % P, keys + j * stride + e);
                copy(value + e * P, values + j * stride + e);
            }
        else
            for (int64_t e = 0; e < E; e++) key[e / P * COLUMNS * P + e % P] = value[e * P] = L{};
    }
}

// The queries of some tokens of one text: M of every token, which share a head's keys.
template <int E, class T>
struct Tile {
    typedef typename Laid<T>::type L;
    static constexpr int P = Laid<T>::pairs;
    const int64_t rows;
    std::vector<L> queries;
    std::vector<float> out, largest, total;
    alignas(64) float scores[TOGETHER * KEYS];
    alignas(64) L weights[TOGETHER * KEYS];

    explicit Tile(int64_t rows)
        : rows((rows + TOGETHER - 1) / TOGETHER * TOGETHER), queries(this->rows * E), out(this->rows * E),
          largest(this->rows), total(this->rows) {}

    void begin() {
        std::fill(out.begin(), out.end(), 0.0f);
        std::fill(largest.begin(), largest.end(), -INFINITY);
        std::fill(total.begin(), total.end(), 0.0f);
    }

    // Takes a block of `depth` keys into account, of which row r sees the first `seen(r)`.
    template <class Seen>
    void see(const L* keys, const L* values, int64_t depth, Seen seen) {
        for (int64_t row = 0; row < rows; row += TOGETHER) {
            for (int64_t c = 0; c < depth; c += COLUMNS)
                tile<TOGETHER, COLUMNS / B>(Strided<L>{&queries[row * E], E, P}, Strided<L>{keys + c * E, B * P, COLUMNS * P}, E,
                                            scores + c, KEYS, false, keys + c * E);
            for (int64_t r = 0; r < TOGETHER; r++) 
                weigh_row(row + r, scores + r * KEYS, weights + r * KEYS, depth, seen(row + r));
            for (int64_t e = 0; e + 64 <= E; e += 64) mix<4>(row, values, e, depth);
            if constexpr (E % 64 != 0) mix<E % 64 / B>(row, values, E / 64 * 64, depth);
        }
    }

    template <int N>
    void mix(int64_t row, const L* values, int64_t e, int64_t depth) {
        tile<TOGETHER, N>(Strided<L>{weights, KEYS, P}, Strided<L>{values + e * P, B * P, E * P}, depth, &out[row * E + e], E,
                          true, values);
    }

    void weigh_row(int64_t row, float* scores, L* weights, int64_t depth, int64_t seen) {
        Broad highest = Broad{} - INFINITY;
        for (int64_t j = std::max<int64_t>(seen, 0); j < depth; j++) scores[j] = -INFINITY;
        for (int64_t j = 0; j < depth; j += B) {
            Broad here = broad(scores + j);
            highest = here > highest ? here : highest;
        }
        float most = largest[row];
        for (int i = 0; i < B; i++) most = std::max(most, highest[i]);
        if (most == -INFINITY) {
            std::fill(weights, weights + depth, L{});
            return;
        }
        Broad sums = {};
        for (int64_t j = 0; j < depth; j += B) {
            Broad weight = exponential_of<Broad, BroadInts>(broad(scores + j) - most);
            sums += weight;
            broad(scores + j) = weight;
            store(weights + j, load(scores + j));
            store(weights + j + W, load(scores + j + W));
        }
        const float shrunk = std::exp(largest[row] - most);
        if (shrunk != 1)
            for (int64_t e = 0; e < E; e += B) broad(&out[row * E + e]) *= shrunk;
        total[row] *= shrunk;
        for (int i = 0; i < B; i++) total[row] += sums[i];
        largest[row] = most;
    }
};

// Tokens `done` to `end` of a text, the first of them row `first` of the queries; its keys and values are `head` numbers
// apart from head to head, `token` from token to token, and `layer` from layer to layer.
template <class T>
struct Text {
    T *keys, *values;
    int64_t first, done, end, head, token, layer;

    int64_t laid() const { return (end + COLUMNS - 1) / COLUMNS * COLUMNS; }
    int64_t tiles() const { return (end - done + TOKENS - 1) / TOKENS; }
};

template <int E, class T>
void read(const T* q, int64_t q_stride, const Text<T>* texts, int64_t count, T* out, int64_t H, int64_t K, int64_t threads) {
    typedef typename Laid<T>::type L;
    const int64_t M = H / K;
    const float scale = 1 / std::sqrt((float)E);
    std::vector<int64_t> starts(count + 1), tiles(count + 1);
    for (int64_t i = 0; i < count; i++) {
        starts[i + 1] = starts[i] + texts[i].laid();
        tiles[i + 1] = tiles[i] + texts[i].tiles();
    }
    L* laid_keys = (L*)scratch(starts[count] * K * E * 2 * sizeof(L) / sizeof(float));
    L* laid_values = laid_keys + starts[count] * K * E;
#pragma omp parallel num_threads(threads)
    {
        for (int64_t i = 0; i < count; i++) {
            const Text<T>& text = texts[i];
#pragma omp for nowait
            for (int64_t task = 0; task < K * text.laid() / COLUMNS; task++) {
                const int64_t head = task % K, from = task / K * COLUMNS;
                const int64_t to = (starts[i] * K + head * text.laid()) * E;
                lay_out<T>(text.keys + head * text.head, text.values + head * text.head, text.token, text.end, from,
                           from + COLUMNS, E, laid_keys + to, laid_values + to);
            }
        }
        Tile<E, T> tile(TOKENS * M);
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int64_t task = tiles[count] * K - 1; task >= 0; task--) {  // the longest first
            const int64_t number = task / K, head = task % K;
            const int64_t i = std::upper_bound(tiles.begin(), tiles.end(), number) - tiles.begin() - 1;
            const Text<T>& text = texts[i];
            const int64_t from = (number - tiles[i]) * TOKENS, tokens = std::min(TOKENS, text.end - text.done - from);
            const int64_t place = (starts[i] * K + head * text.laid()) * E;
            for (int64_t row = 0; row < tokens * M; row++) {
                const T* query = q + (text.first + from + row / M) * q_stride + (head * M + row % M) * E;
                for (int64_t e = 0; e < E; e += W) store(&tile.queries[row * E + e], load(query + e) * scale);
            }
            tile.begin();
            for (int64_t block = 0; block < text.done + from + tokens; block += KEYS) {
                auto seen = [&](int64_t row) {
                    return std::min(KEYS, text.done + from + std::min(row / M, tokens - 1) + 1 - block);
                };
                const int64_t depth = (seen(tokens * M) + COLUMNS - 1) / COLUMNS * COLUMNS;
                tile.see(laid_keys + place + block * E, laid_values + place + block * E, depth, seen);
            }
            for (int64_t row = 0; row < tokens * M; row++) {
                T* to = out + ((text.first + from + row / M) * H + head * M + row % M) * E;
                for (int64_t e = 0; e < E; e += W) store(to + e, load(&tile.out[row * E + e]) / tile.total[row]);
            }
        }
    }
}

// For the head widths that kernels.py:HEADS lists.
#define FOR_WIDTH(E, work)                            \
    switch (E) {                                      \
        case 16: { constexpr int N = 16; work; } break;   \
        case 32: { constexpr int N = 32; work; } break;   \
        case 64: { constexpr int N = 64; work; } break;   \
        case 80: { constexpr int N = 80; work; } break;   \
        case 96: { constexpr int N = 96; work; } break;   \
        case 128: { constexpr int N = 128; work; } break; \
    }

// Shares panels out among threads.
struct Part {
    int64_t begin, end;

    Part(int64_t panels, int64_t number, int64_t parts) : begin(panels * number / parts), end(panels * (number + 1) / parts) {}
};

// A whole decoding step, between its embeddings and the head.

// out = x / rms(x) for a row of D numbers, times `weight` where there is one.
template <class T>
void normalise(const float* x, const float* weight, T* out, int64_t D, float eps) {
    Wide squares = {};
    for (int64_t d = 0; d < D; d += W) squares += load(x + d) * load(x + d);
    const float scale = 1 / std::sqrt(sum(squares) / D + eps);
    for (int64_t d = 0; d < D; d += W) store(out + d, load(x + d) * scale * (weight ? load(weight + d) : Wide{} + 1.0f));
}

// One head's E numbers, normed where there is a weight, rotated by its position.
template <int E>
void turn(float* x, const float* weight, const float* cos, const float* sin, float eps) {
    if (weight) normalise(x, weight, x, E, eps);
    for (int e = 0; e < E / 2; e += W) {
        Wide a = load(x + e), b = load(x + E / 2 + e);
        store(x + e, a * load(cos + e) - b * load(sin + e));
        store(x + E / 2 + e, b * load(cos + e) + a * load(sin + e));
    }
}

// Rows [rows, n] of type T as weights of type P are multiplied with them: the rows themselves, or a copy (int8.cpp).
template <class T, class P>
struct Taken;

template <class T>
struct Taken<T, T> {
    Taken(int64_t, int64_t) {}
    void row(int64_t, const T*) {}
    Rows<T> all(const T* x, int64_t) { return {x}; }
    Rows<T> rows(const T* x) const { return {x}; }
};

// Rows of x [rows, D] normalised, as they are multiplied; by all threads, which have ended it when one goes on.
template <class T, class P>
Rows<P> normalised(const float* x, int64_t rows, int64_t D, float eps, T* normed, Taken<T, P>& taken) {
#pragma omp for
    for (int64_t row = 0; row < rows; row++) {
        normalise(x + row * D, nullptr, normed + row * D, D, eps);
        taken.row(row, normed + row * D);
    }
    return taken.rows(normed);
}

// The weights of a block in panels, norms multiplied in; and its caches.
template <class T, class P>
struct Layer {
    const P *qkv, *out, *gate_and_up, *down;
    const float *qkv_bias, *out_bias, *gate_and_up_bias, *down_bias, *q_norm, *k_norm;
    T *prompt_keys, *prompt_values, *own_keys, *own_values;
};

struct Sizes {
    int64_t rows, layers, D, H, K, E, F, G, L, threads;
    const int64_t *slots, *shared, *places;
    const float *cos, *sin;  // of every position, E / 2 numbers
};

// x [rows, D] += from [rows, inputs] times weights, the share of one thread.
template <class P>
void add(Rows<P> from, int64_t inputs, const P* weights, const float* bias, float* x, int64_t rows, int64_t D, Part part) {
    product(from, inputs, weights, rows, inputs, part.begin, part.end, [&](int64_t row, int64_t o, Wide values) {
        if (o < D) store(x + row * D + o, load(x + row * D + o) + biased(bias, o, values));
    });
}

// gated [rows, F] = silu(gate) * up, the share of one thread.
template <class T, class P>
void gate(const Layer<T, P>& layer, Rows<P> normed, float* gates, T* gated, int64_t rows, int64_t D, int64_t F, Part part) {
    product(normed, D, layer.gate_and_up, rows, D, part.begin, part.end, [&](int64_t row, int64_t o, Wide values) {
        store(gates + row * F + o, biased(layer.gate_and_up_bias, o, values));
    });
    const P* up = layer.gate_and_up + panels_of(F) * panel_size<P>(D);
    product(normed, D, up, rows, D, part.begin, part.end, [&](int64_t row, int64_t o, Wide values) {
        const Wide gate = load(gates + row * F + o);
        values = biased(layer.gate_and_up_bias, o + F, values);
        store(gated + row * F + o, gate / (1 + exponential(-gate)) * values);
    });
}

template <int E, class T, class P>
void decode(const Sizes& is, const Layer<T, P>* layers, float* x, T* out, float eps) {
    const int64_t rows = is.rows, D = is.D, H = is.H, K = is.K, F = is.F, M = H / K, N = (H + 2 * K) * E;
    const Caches<T> measured{nullptr, nullptr, nullptr, nullptr, is.slots, is.shared, is.places, K, is.G, is.L};
    const int64_t spans = measured.spans(rows), size = left_of<E>(M);
    const float scale = 1 / std::sqrt((float)E);
    std::vector<float> heads(rows * N), gates(rows * F);
    std::vector<T> normed(rows * D), attended(rows * H * E), gated(rows * F);
    Taken<T, P> inputs(rows, D), of_heads(rows, H * E), of_gated(rows, F);
    float* left = scratch(rows * K * spans * size);
    auto norm = [&] { return normalised(x, rows, D, eps, normed.data(), inputs); };
#pragma omp parallel num_threads(is.threads)
    {
        const int64_t number = omp_get_thread_num(), parts = omp_get_num_threads();
        const Part n(panels_of(N), number, parts), d(panels_of(D), number, parts), f(panels_of(F), number, parts);
        for (int64_t l = 0; l < is.layers; l++) {
            const Layer<T, P>& layer = layers[l];
            const Caches<T> at{layer.prompt_keys, layer.prompt_values, layer.own_keys, layer.own_values,
                               is.slots, is.shared, is.places, K, is.G, is.L};
            product(norm(), D, layer.qkv, rows, D, n.begin, n.end, [&](int64_t row, int64_t o, Wide values) {
                if (o < N) store(&heads[row * N + o], biased(layer.qkv_bias, o, values));
            });
#pragma omp barrier
#pragma omp for
            for (int64_t task = 0; task < rows * K; task++) {
                const int64_t row = task / K, head = task % K, position = at.length(row) - 1;
                const float *cos = is.cos + position * E / 2, *sin = is.sin + position * E / 2;
                float *queries = &heads[row * N + head * M * E], *key = &heads[row * N + (H + head) * E];
                turn<E>(key, layer.k_norm, cos, sin, eps);
                const int64_t place = ((row * K + head) * is.L + is.places[row]) * E;
                for (int64_t e = 0; e < E; e += W) {
                    store(at.own_keys + place + e, load(key + e));
                    store(at.own_values + place + e, load(key + K * E + e));
                }
                for (int64_t m = 0; m < M; m++) turn<E>(queries + m * E, layer.q_norm, cos, sin, eps);
                for (int64_t e = 0; e < M * E; e += W) store(queries + e, load(queries + e) * scale);
                if (spans == 1) {
                    look<E>(at, queries, M, row, head, 0, &left[task * size]);
                    gather<E>(&left[task * size], 1, M, &attended[task * M * E]);
                }
            }
            if (spans > 1) {
#pragma omp for schedule(dynamic)
                for (int64_t task = 0; task < rows * K * spans; task++) {
                    const int64_t span = task % spans, row = task / spans / K, head = task / spans % K;
                    if (span * SPAN < at.length(row))
                        look<E>(at, &heads[row * N + head * M * E], M, row, head, span, &left[task * size]);
                }
#pragma omp for
                for (int64_t task = 0; task < rows * K; task++)
                    gather<E>(&left[task * spans * size], (at.length(task / K) + SPAN - 1) / SPAN, M,
                              &attended[task * M * E]);
            }
            add(of_heads.all(attended.data(), rows), H * E, layer.out, layer.out_bias, x, rows, D, d);
#pragma omp barrier
            gate(layer, norm(), gates.data(), gated.data(), rows, D, F, f);
#pragma omp barrier
            add(of_gated.all(gated.data(), rows), F, layer.down, layer.down_bias, x, rows, D, d);
#pragma omp barrier
        }
#pragma omp for
        for (int64_t row = 0; row < rows; row++) normalise(x + row * D, nullptr, out + row * D, D, eps);
    }
}

constexpr int64_t BLOCK = 512;  // tokens between attention and attention that pass together

// The next tokens of texts, `rows` in all, whose keys and values are stored where the texts say.
template <int E, class T, class P>
void advance(const Sizes& is, const Layer<T, P>* layers, const Text<T>* given, int64_t count, float* x, T* out, float eps) {
    const int64_t rows = is.rows, D = is.D, H = is.H, K = is.K, F = is.F, N = (H + 2 * K) * E;
    const int64_t most = std::min(rows, BLOCK);
    std::vector<float> heads(most * N), gates(most * F);
    std::vector<T> normed(most * D), gated(most * F), queries(rows * H * E), attended(rows * H * E);
    Taken<T, P> inputs(most, D), of_heads(most, H * E), of_gated(most, F);
    auto norm = [&](const float* x, int64_t here) { return normalised(x, here, D, eps, normed.data(), inputs); };
    std::vector<Text<T>> texts(given, given + count);
    std::vector<int64_t> text_of(rows);
    for (int64_t i = 0; i < count; i++)
        std::fill_n(&text_of[texts[i].first], texts[i].end - texts[i].done, i);
    for (int64_t l = 0; l < is.layers; l++) {
        const Layer<T, P>& layer = layers[l];
#pragma omp parallel num_threads(is.threads)
        {
            const Part n(panels_of(N), omp_get_thread_num(), omp_get_num_threads());
            for (int64_t from = 0; from < rows; from += BLOCK) {
                const int64_t here = std::min(BLOCK, rows - from);
                product(norm(x + from * D, here), D, layer.qkv, here, D, n.begin, n.end, [&](int64_t row, int64_t o, Wide values) {
                    if (o < N) store(&heads[row * N + o], biased(layer.qkv_bias, o, values));
                });
#pragma omp barrier
#pragma omp for
                for (int64_t row = 0; row < here; row++) {
                    const Text<T>& text = texts[text_of[from + row]];
                    const int64_t place = text.done + from + row - text.first;
                    const float *cos = is.cos + place * E / 2, *sin = is.sin + place * E / 2;
                    float* head = &heads[row * N];
                    for (int64_t h = 0; h < H + K; h++)
                        turn<E>(head + h * E, h < H ? layer.q_norm : layer.k_norm, cos, sin, eps);
                    for (int64_t e = 0; e < H * E; e += W) store(&queries[(from + row) * H * E + e], load(head + e));
                    for (int64_t k = 0; k < K; k++)
                        for (int64_t e = 0; e < E; e += W) {
                            store(text.keys + k * text.head + place * text.token + e, load(head + (H + k) * E + e));
                            store(text.values + k * text.head + place * text.token + e, load(head + (H + K + k) * E + e));
                        }
                }
            }
        }
        read<E>(queries.data(), H * E, texts.data(), count, attended.data(), H, K, is.threads);
#pragma omp parallel num_threads(is.threads)
        {
            const int64_t number = omp_get_thread_num(), parts = omp_get_num_threads();
            const Part d(panels_of(D), number, parts), f(panels_of(F), number, parts);
            for (int64_t from = 0; from < rows; from += BLOCK) {
                const int64_t here = std::min(BLOCK, rows - from);
                float* sums = x + from * D;
                add(of_heads.all(&attended[from * H * E], here), H * E, layer.out, layer.out_bias, sums, here, D, d);
#pragma omp barrier
                gate(layer, norm(sums, here), gates.data(), gated.data(), here, D, F, f);
#pragma omp barrier
                add(of_gated.all(gated.data(), here), F, layer.down, layer.down_bias, sums, here, D, d);
#pragma omp barrier
            }
        }
        for (Text<T>& text : texts) text.keys += text.layer, text.values += text.layer;
    }
    for (int64_t row = 0; row < rows; row++) normalise(x + row * D, nullptr, out + row * D, D, eps);
}

// out [rows, outputs] = x [rows, n] times weights in panels, and a bias where there is one, of whole registers.
template <class P, class T, class O>
void linear(const T* x, const P* panels, const float* bias, O* out, int64_t rows, int64_t n, int64_t outputs,
            int64_t threads) {
    Taken<T, P> taken(rows, n);
    if constexpr (!std::is_same_v<T, P>) {
#pragma omp parallel num_threads(threads)
        taken.all(x, rows);
    }
    multiply(taken.rows(x), panels, bias, out, rows, n, outputs, threads);
}

}  // namespace

#define EXPORTED_WEIGHTS(P, name)                                                                                      \
    extern "C" void lay_out_##name(const float* w, const float* scale, P* to, int64_t outputs, int64_t n) {            \
        lay_panels(w, scale, to, outputs, n);                                                                         \
    }
#define EXPORTED(T, P, name)                                                                                          \
    extern "C" void linear_##name(const T* x, const P* panels, const float* bias, T* out, int64_t rows, int64_t n,     \
                                  int64_t outputs, int64_t threads) {                                                 \
        linear(x, panels, bias, out, rows, n, outputs, threads);                                                      \
    }                                                                                                                 \
    extern "C" void logits_##name(const T* x, const P* panels, float* out, int64_t rows, int64_t n, int64_t outputs,   \
                                  int64_t threads) {                                                                  \
        linear(x, panels, nullptr, out, rows, n, outputs, threads);                                                   \
    }                                                                                                                 \
    extern "C" void decode_##name(const Sizes* is, const Layer<T, P>* layers, float* x, T* out, float eps) {          \
        FOR_WIDTH(is->E, (decode<N>(*is, layers, x, out, eps)))                                                       \
    }                                                                                                                 \
    extern "C" void advance_##name(const Sizes* is, const Layer<T, P>* layers, const Text<T>* texts, float* x, T* out, \
                                   int64_t count, float eps) {                                                        \
        FOR_WIDTH(is->E, (advance<N>(*is, layers, texts, count, x, out, eps)))                                        \
    }
