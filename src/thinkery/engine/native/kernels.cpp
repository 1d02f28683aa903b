// What the decoder does between its matrix products, each in one pass over memory: norm, rotation, gate, attention; and a
// whole step of decoding where rows are so few that reading the weights, not multiplying by them, takes the time.
//
// Compiled on first use by engine/native/kernels.py, which also says what each pointer is. Numbers are read as float32
// or bfloat16, added up in float32, and rounded once when they are written. A row's result depends on that row alone.
//
// Registers hold 8 numbers at once (model/vectors.h).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <vector>

#define LANES 8
#include "vectors.h"

namespace {

inline void put(float* to, float x) { *to = x; }

inline void put(bfloat16* to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    to->bits = x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

#define UNROLLED _Pragma("GCC unroll 16")

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

// Makes n scores e to the power of what they are above the largest; there is room for as many as make whole registers.
struct Weighed {
    float largest, sum;
};

Weighed weigh(float* scores, int64_t n) {
    float largest = -INFINITY;
    for (int64_t j = 0; j < n; j++) largest = std::max(largest, scores[j]);
    for (int64_t j = n; j % W; j++) scores[j] = -INFINITY;
    Wide total = {};
    for (int64_t j = 0; j < n; j += W) {
        Wide weight = exponential(load(scores + j) - largest);
        store(scores + j, weight);
        total += weight;
    }
    return {largest, sum(total)};
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

// What M queries [M, E], scaled, see in one span of a row's text.
template <int E, class T>
void look(const Caches<T>& at, const float* queries, int64_t M, int64_t row, int64_t head, int64_t span, float* left) {
    float scores[M * SPAN];
    const int64_t from = span * SPAN, to = std::min(from + SPAN, at.length(row)), n = at.shared[row];
    const int64_t middle = std::min(std::max(n, from), to), prompts = middle - from, own = to - middle;
    const int64_t prompt = prompts ? ((at.slots[row] * at.K + head) * at.G + from) * E : 0;
    const int64_t said = ((row * at.K + head) * at.L + middle - n) * E;
    IN_TURNS(M, (compare<Q, E>(&queries[q * E], at.prompt_keys + prompt, prompts, &scores[q * SPAN], SPAN)))
    IN_TURNS(M, (compare<Q, E>(&queries[q * E], at.own_keys + said, own, &scores[q * SPAN + prompts], SPAN)))
    std::fill(left, left + M * E, 0.0f);
    for (int64_t m = 0; m < M; m++) {
        Weighed weighed = weigh(&scores[m * SPAN], to - from);
        left[M * E + m] = weighed.largest;
        left[M * E + M + m] = weighed.sum;
    }
    IN_TURNS(M, (mix<Q, E>(&scores[q * SPAN], SPAN, at.prompt_values + prompt, prompts, &left[q * E])))
    IN_TURNS(M, (mix<Q, E>(&scores[q * SPAN + prompts], SPAN, at.own_values + said, own, &left[q * E])))
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

template <int E, class T>
void attend(const T* q, const T* k, const T* v, const Caches<T>& at, T* out, int64_t rows, int64_t H, int64_t q_stride,
            int64_t k_stride, int64_t v_stride, int64_t threads) {
    const int64_t K = at.K, M = H / K, spans = at.spans(rows), size = left_of<E>(M);
    const float scale = 1 / std::sqrt((float)E);
    float* left = scratch(rows * K * spans * size);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> queries(M * E);
#pragma omp for
        for (int64_t task = 0; task < rows * K; task++) {
            const int64_t row = task / K, head = task % K, place = ((row * K + head) * at.L + at.places[row]) * E;
            for (int64_t e = 0; e < E; e += W) {
                store(at.own_keys + place + e, load(k + row * k_stride + head * E + e));
                store(at.own_values + place + e, load(v + row * v_stride + head * E + e));
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < rows * K * spans; task++) {
            const int64_t span = task % spans, row = task / spans / K, head = task / spans % K;
            if (span * SPAN >= at.length(row)) continue;
            for (int64_t e = 0; e < M * E; e += W)
                store(&queries[e], load(q + row * q_stride + head * M * E + e) * scale);
            look<E>(at, queries.data(), M, row, head, span, left + task * size);
        }
#pragma omp for
        for (int64_t task = 0; task < rows * K; task++)
            gather<E>(&left[task * spans * size], (at.length(task / K) + SPAN - 1) / SPAN, M, out + task * M * E);
    }
}

// Causal attention of many queries: keys and values are laid out for products of 64 keys with six queries at a time, and
// softmax goes on from one block of keys to the next (Dao et al. 2022).

constexpr int B = 16;
typedef float Broad __attribute__((vector_size(4 * B), aligned(4)));
typedef int32_t BroadInts __attribute__((vector_size(4 * B), aligned(4)));

Broad& broad(float* at) { return *reinterpret_cast<Broad*>(at); }
const Broad& broad(const float* at) { return *reinterpret_cast<const Broad*>(at); }

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define DOTS 1  // pairs of bfloat16 are multiplied and added in one instruction
#endif

constexpr int64_t KEYS = 256, COLUMNS = 64, TOKENS = 32, TOGETHER = 6;

// How numbers of type T are laid out: `pairs` of them stand beside each other.
template <class T>
struct Laid {
    typedef float type;
    static constexpr int pairs = 1;
};
#ifdef DOTS
template <>
struct Laid<bfloat16> {
    typedef bfloat16 type;
    static constexpr int pairs = 2;
};
#endif

void copy(float* to, const float* from) { *to = *from; }
void copy(bfloat16* to, const bfloat16* from) { *to = *from; }
void copy(float* to, const bfloat16* from) {
    uint32_t bits = (uint32_t)from->bits << 16;
    std::memcpy(to, &bits, 4);
}

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

// total [R, N * B] += left [R, depth] times right [depth / pairs, columns, pairs]
template <int R, int N>
void multiply(const float* left, int64_t left_stride, const float* right, int64_t columns, int64_t depth, float* total,
              int64_t stride) {
    Broad sums[R][N];
    UNROLLED for (int r = 0; r < R; r++) UNROLLED for (int c = 0; c < N; c++) sums[r][c] = broad(total + r * stride + c * B);
    for (int64_t d = 0; d < depth; d++) {
        Broad row[N];
        UNROLLED for (int c = 0; c < N; c++) row[c] = broad(right + d * columns + c * B);
        UNROLLED for (int r = 0; r < R; r++)
            UNROLLED for (int c = 0; c < N; c++) sums[r][c] += left[r * left_stride + d] * row[c];
    }
    UNROLLED for (int r = 0; r < R; r++) UNROLLED for (int c = 0; c < N; c++) broad(total + r * stride + c * B) = sums[r][c];
}

#ifdef DOTS
template <int R, int N>
void multiply(const bfloat16* left, int64_t left_stride, const bfloat16* right, int64_t columns, int64_t depth,
              float* total, int64_t stride) {
    __m512 sums[R][N];
    UNROLLED for (int r = 0; r < R; r++)
        UNROLLED for (int c = 0; c < N; c++) sums[r][c] = _mm512_loadu_ps(total + r * stride + c * B);
    for (int64_t d = 0; d < depth; d += 2) {
        __m512bh row[N];
        UNROLLED for (int c = 0; c < N; c++) row[c] = (__m512bh)_mm512_loadu_si512(right + d * columns + c * 2 * B);
        UNROLLED for (int r = 0; r < R; r++) {
            int32_t pair;
            std::memcpy(&pair, left + r * left_stride + d, 4);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            UNROLLED for (int c = 0; c < N; c++) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], both, row[c]);
        }
    }
    UNROLLED for (int r = 0; r < R; r++)
        UNROLLED for (int c = 0; c < N; c++) _mm512_storeu_ps(total + r * stride + c * B, sums[r][c]);
}
#endif

// The queries of some tokens of one text: M of every token, which share a head's keys.
template <int E, class T>
struct Tile {
    typedef typename Laid<T>::type L;
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
            std::fill(scores, scores + TOGETHER * KEYS, 0.0f);
            for (int64_t c = 0; c < depth; c += COLUMNS)
                multiply<TOGETHER, COLUMNS / B>(&queries[row * E], E, keys + c * E, COLUMNS, E, scores + c, KEYS);
            for (int64_t r = 0; r < TOGETHER; r++) 
                weigh_row(row + r, scores + r * KEYS, weights + r * KEYS, depth, seen(row + r));
            for (int64_t e = 0; e + 64 <= E; e += 64) mix<4>(row, values, e, depth);
            if constexpr (E % 64 != 0) mix<E % 64 / B>(row, values, E / 64 * 64, depth);
        }
    }

    template <int N>
    void mix(int64_t row, const L* values, int64_t e, int64_t depth) {
        multiply<TOGETHER, N>(weights, KEYS, values + e * Laid<T>::pairs, E, depth, &out[row * E + e], E);
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

// Tokens `done` to `end` of a text, the first of them row `first` of the queries; its keys and values [K, end, E] are
// `head` numbers apart from head to head and `token` from token to token.
template <class T>
struct Text {
    const T *keys, *values;
    int64_t first, done, end, head, token;

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

// out = x / rms(x), after `added`, where there is one, has been added to x in place; rows of D numbers.
template <class T>
void norm(T* x, const T* added, T* out, int64_t rows, int64_t D, float eps) {
#pragma omp parallel for if (rows > 4)
    for (int64_t row = 0; row < rows; row++) {
        T* here = x + row * D;
        Wide squares = {};
        for (int64_t d = 0; d < D; d += W) {
            if (added) store(here + d, load(here + d) + load(added + row * D + d));
            Wide value = load(here + d);
            squares += value * value;
        }
        float scale = 1 / std::sqrt(sum(squares) / D + eps);
        for (int64_t d = 0; d < D; d += W) store(out + row * D + d, load(here + d) * scale);
    }
}

// Rotates `heads` heads of E numbers of each row, which begin `stride` apart, in place.
template <class T>
void rotate(T* x, const T* cos, const T* sin, int64_t rows, int64_t heads, int64_t E, int64_t stride) {
#pragma omp parallel for if (rows > 4)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++)
            for (int64_t e = 0; e < E / 2; e += W) {
                T *first = x + row * stride + head * E + e, *second = first + E / 2;
                const T *c = cos + row * E + e, *s = sin + row * E + e;  // both halves of each are the same
                Wide a = load(first), b = load(second);
                store(first, a * load(c) - b * load(s));
                store(second, b * load(c) + a * load(s));
            }
}

// out = silu(gate) * up, for rows [gate, up] of F numbers each.
template <class T>
void gate(const T* x, T* out, int64_t rows, int64_t F) {
#pragma omp parallel for if (rows > 4)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t f = 0; f < F; f += W) {
            Wide g = load(x + row * 2 * F + f), up = load(x + row * 2 * F + F + f);
            store(out + row * F + f, g / (1 + exponential(-g)) * up);
        }
}

// A whole decoding step of few rows, between its embeddings and the norm before the head.

template <int O, int R, class T>
void dots(const T* w, const T* x, int64_t n, float* out) {
    Wide total[O][R] = {};
    for (int64_t d = 0; d < n; d += W) {
        Wide columns[R];
        UNROLLED for (int r = 0; r < R; r++) columns[r] = load(x + r * n + d);
        UNROLLED for (int o = 0; o < O; o++) {
            Wide weights = load(w + o * n + d);
            UNROLLED for (int r = 0; r < R; r++) total[o][r] += weights * columns[r];
        }
    }
    UNROLLED for (int r = 0; r < R; r++) UNROLLED for (int o = 0; o < O; o++) out[r * O + o] = sum(total[o][r]);
}

#ifdef DOTS
__m512 interleaved(__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b); }

__m512 halved(__m512 a, __m512 b) { return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd); }

template <int O, int R>
void dots(const bfloat16* w, const bfloat16* x, int64_t n, float* out) {
    __m512 total[O][R];
    UNROLLED for (int o = 0; o < O; o++) UNROLLED for (int r = 0; r < R; r++) total[o][r] = _mm512_setzero_ps();
    for (int64_t d = 0; d < n; d += 32) {
        const __mmask32 some = n - d >= 32 ? ~0u : (1u << (n - d)) - 1;
        __m512bh columns[R];
        UNROLLED for (int r = 0; r < R; r++) columns[r] = (__m512bh)_mm512_maskz_loadu_epi16(some, x + r * n + d);
        UNROLLED for (int o = 0; o < O; o++) {
            __m512bh weights = (__m512bh)_mm512_maskz_loadu_epi16(some, w + o * n + d);
            UNROLLED for (int r = 0; r < R; r++) total[o][r] = _mm512_dpbf16_ps(total[o][r], weights, columns[r]);
        }
    }
    if constexpr (O == 4) {  // the sums of all registers at once, an addition for every two that are interleaved
        __m512 four[4];
        UNROLLED for (int i = 0; i < 4; i++) {
            const int r = i < R ? i : 0;
            __m512 first = interleaved(total[0][r], total[1][r]), second = interleaved(total[2][r], total[3][r]);
            __m512d a = _mm512_castps_pd(first), b = _mm512_castps_pd(second);
            four[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)) + _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
        __m512 sums = halved(halved(four[0], four[1]), halved(four[2], four[3]));
        _mm512_mask_storeu_ps(out, (1u << (4 * R)) - 1, sums);
    } else {
        UNROLLED for (int r = 0; r < R; r++)
            UNROLLED for (int o = 0; o < O; o++) out[r * O + o] = _mm512_reduce_add_ps(total[o][r]);
    }
}
#endif

constexpr int64_t OUTPUTS = 4;  // of a product, computed together

// out [rows, OUTPUTS] = x [rows, n] times the weights [OUTPUTS, n] of some outputs.
template <class T>
void product(const T* w, const T* x, int64_t rows, int64_t n, float* out) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) dots<OUTPUTS, 4>(w, x + r * n, n, out + r * OUTPUTS);
    if (r + 2 <= rows) dots<OUTPUTS, 2>(w, x + r * n, n, out + r * OUTPUTS), r += 2;
    if (r < rows) dots<OUTPUTS, 1>(w, x + r * n, n, out + r * OUTPUTS);
}

// Shares n outputs out among threads, a whole number of OUTPUTS each.
struct Part {
    int64_t begin, end;

    Part(int64_t n, int64_t number, int64_t parts) {
        const int64_t blocks = n / OUTPUTS;
        begin = blocks * number / parts * OUTPUTS;
        end = blocks * (number + 1) / parts * OUTPUTS;
    }
};

// out = x / rms(x) * weight for `rows` rows of D numbers.
template <class T>
void normalise(const float* x, const float* weight, T* out, int64_t rows, int64_t D, float eps) {
    for (int64_t row = 0; row < rows; row++) {
        Wide squares = {};
        for (int64_t d = 0; d < D; d += W) squares += load(x + row * D + d) * load(x + row * D + d);
        const float scale = 1 / std::sqrt(sum(squares) / D + eps);
        for (int64_t d = 0; d < D; d += W)
            store(out + row * D + d, load(x + row * D + d) * scale * (weight ? load(weight + d) : Wide{} + 1.0f));
    }
}

// One head's E numbers, normed where there is a weight, rotated by its position.
template <int E>
void turn(float* x, const float* weight, const float* cos, const float* sin, float eps) {
    if (weight) normalise(x, weight, x, 1, E, eps);
    for (int e = 0; e < E / 2; e += W) {
        Wide a = load(x + e), b = load(x + E / 2 + e);
        store(x + e, a * load(cos + e) - b * load(sin + e));
        store(x + E / 2 + e, b * load(cos + e) + a * load(sin + e));
    }
}

template <class T>
struct Layer {
    const T *q, *k, *v, *out, *gate, *up, *down;
    const float *norm, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm, *out_bias;
    const float *second_norm, *gate_bias, *up_bias, *down_bias;
    T *prompt_keys, *prompt_values, *own_keys, *own_values;
};

struct Sizes {
    int64_t rows, layers, D, H, K, E, F, G, L, threads;
    const int64_t *slots, *shared, *places;
    const float *cos, *sin;  // of every position, E / 2 numbers
};

template <class T>
void add(const T* w, const float* bias, const T* x, float* to, int64_t rows, int64_t n, int64_t outputs, Part part) {
    float found[rows * OUTPUTS];
    for (int64_t o = part.begin; o < part.end; o += OUTPUTS) {
        product(w + o * n, x, rows, n, found);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < OUTPUTS; i++)
                to[r * outputs + o + i] += found[r * OUTPUTS + i] + (bias ? bias[o + i] : 0);
    }
}

template <int E, class T>
void decode(const Sizes& is, const Layer<T>* layers, float* x, T* out, float eps) {
    const int64_t rows = is.rows, D = is.D, H = is.H, K = is.K, F = is.F, M = H / K, size = left_of<E>(M);
    const Caches<T> measured{nullptr, nullptr, nullptr, nullptr, is.slots, is.shared, is.places, K, is.G, is.L};
    const int64_t spans = measured.spans(rows);
    const float scale = 1 / std::sqrt((float)E);
    std::vector<float> queries(rows * H * E), keys(rows * K * E), values(rows * K * E);
    float* left = scratch(rows * K * spans * size);
    std::vector<T> attended(rows * H * E), gated(rows * F);
#pragma omp parallel num_threads(is.threads)
    {
        const int64_t number = omp_get_thread_num(), parts = omp_get_num_threads();
        std::vector<T> normed(rows * D);
        for (int64_t l = 0; l < is.layers; l++) {
            const Layer<T>& layer = layers[l];
            const Caches<T> at{layer.prompt_keys, layer.prompt_values, layer.own_keys, layer.own_values,
                               is.slots, is.shared, is.places, K, is.G, is.L};
            normalise(x, layer.norm, normed.data(), rows, D, eps);
            const Part q(H * E, number, parts), kv(K * E, number, parts), d(D, number, parts), f(F, number, parts);
            for (int64_t r = 0; r < rows; r++) {
                std::fill(&queries[r * H * E + q.begin], &queries[r * H * E] + q.end, 0.0f);
                std::fill(&keys[r * K * E + kv.begin], &keys[r * K * E] + kv.end, 0.0f);
                std::fill(&values[r * K * E + kv.begin], &values[r * K * E] + kv.end, 0.0f);
            }
            add(layer.q, layer.q_bias, normed.data(), queries.data(), rows, D, H * E, q);
            add(layer.k, layer.k_bias, normed.data(), keys.data(), rows, D, K * E, kv);
            add(layer.v, layer.v_bias, normed.data(), values.data(), rows, D, K * E, kv);
#pragma omp barrier
#pragma omp for
            for (int64_t task = 0; task < rows * K; task++) {
                const int64_t row = task / K, head = task % K, position = at.length(row) - 1;
                const float *cos = is.cos + position * E / 2, *sin = is.sin + position * E / 2;
                turn<E>(&keys[task * E], layer.k_norm, cos, sin, eps);
                const int64_t place = ((row * K + head) * is.L + is.places[row]) * E;
                for (int64_t e = 0; e < E; e += W) {
                    store(at.own_keys + place + e, load(&keys[task * E + e]));
                    store(at.own_values + place + e, load(&values[task * E + e]));
                }
                for (int64_t m = 0; m < M; m++) {
                    float* query = &queries[(task * M + m) * E];
                    turn<E>(query, layer.q_norm, cos, sin, eps);
                    for (int64_t e = 0; e < E; e += W) store(query + e, load(query + e) * scale);
                }
                if (spans == 1) {
                    look<E>(at, &queries[task * M * E], M, row, head, 0, &left[task * size]);
                    gather<E>(&left[task * size], 1, M, &attended[task * M * E]);
                }
            }
            if (spans > 1) {
#pragma omp for schedule(dynamic)
                for (int64_t task = 0; task < rows * K * spans; task++) {
                    const int64_t span = task % spans, row = task / spans / K, head = task / spans % K;
                    if (span * SPAN < at.length(row))
                        look<E>(at, &queries[task / spans * M * E], M, row, head, span, &left[task * size]);
                }
#pragma omp for
                for (int64_t task = 0; task < rows * K; task++)
                    gather<E>(&left[task * spans * size], (at.length(task / K) + SPAN - 1) / SPAN, M,
                              &attended[task * M * E]);
            }
            add(layer.out, layer.out_bias, attended.data(), x, rows, H * E, D, d);
#pragma omp barrier
            normalise(x, layer.second_norm, normed.data(), rows, D, eps);
            float gates[rows * OUTPUTS], ups[rows * OUTPUTS];
            for (int64_t o = f.begin; o < f.end; o += OUTPUTS) {
                product(layer.gate + o * D, normed.data(), rows, D, gates);
                product(layer.up + o * D, normed.data(), rows, D, ups);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t i = 0; i < OUTPUTS; i++) {
                        float g = gates[r * OUTPUTS + i] + (layer.gate_bias ? layer.gate_bias[o + i] : 0);
                        float u = ups[r * OUTPUTS + i] + (layer.up_bias ? layer.up_bias[o + i] : 0);
                        put(&gated[r * F + o + i], g / (1 + std::exp(-g)) * u);
                    }
            }
#pragma omp barrier
            add(layer.down, layer.down_bias, gated.data(), x, rows, F, D, d);
#pragma omp barrier
        }
    }
    normalise(x, nullptr, out, rows, D, eps);
}

// logits [rows, V] = hidden [rows, D], times `norm`, times the head's weights [V, D].
template <class T>
void head(const T* hidden, const float* norm, const T* w, float* logits, int64_t rows, int64_t D, int64_t V,
          int64_t threads) {
    std::vector<T> scaled(rows * D);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t d = 0; d < D; d += W) store(&scaled[row * D + d], load(hidden + row * D + d) * load(norm + d));
#pragma omp parallel num_threads(threads)
    {
        const Part part(V, omp_get_thread_num(), omp_get_num_threads());
        float found[rows * OUTPUTS];
        for (int64_t o = part.begin; o < part.end; o += OUTPUTS) {
            product(w + o * D, scaled.data(), rows, D, found);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t i = 0; i < OUTPUTS; i++) logits[r * V + o + i] = found[r * OUTPUTS + i];
        }
    }
    for (int64_t o = V / OUTPUTS * OUTPUTS; o < V; o++)
        for (int64_t r = 0; r < rows; r++) dots<1, 1>(w + o * D, &scaled[r * D], D, &logits[r * V + o]);
}

}  // namespace

#define EXPORTED(T, name)                                                                                             \
    extern "C" void attend_##name(const T* q, const T* k, const T* v, T* prompt_keys, T* prompt_values, T* own_keys,   \
                                 T* own_values, T* out, const int64_t* slots, const int64_t* shared,                  \
                                 const int64_t* places, int64_t rows, int64_t H, int64_t K, int64_t E, int64_t G,     \
                                 int64_t L, int64_t q_stride, int64_t k_stride, int64_t v_stride, int64_t threads) {  \
        const Caches<T> at{prompt_keys, prompt_values, own_keys, own_values, slots, shared, places, K, G, L};         \
        FOR_WIDTH(E, (attend<N>(q, k, v, at, out, rows, H, q_stride, k_stride, v_stride, threads)))                   \
    }                                                                                                                 \
    extern "C" void read_##name(const T* q, const Text<T>* texts, T* out, int64_t count, int64_t q_stride, int64_t H, \
                                int64_t K, int64_t E, int64_t threads) {                                              \
        FOR_WIDTH(E, (read<N>(q, q_stride, texts, count, out, H, K, threads)))                                        \
    }                                                                                                                 \
    extern "C" void norm_##name(T* x, const T* added, T* out, int64_t rows, int64_t D, float eps) {                   \
        norm(x, added, out, rows, D, eps);                                                                            \
    }                                                                                                                 \
    extern "C" void rotate_##name(T* x, const T* cos, const T* sin, int64_t rows, int64_t heads, int64_t E,           \
                                  int64_t stride) {                                                                   \
        rotate(x, cos, sin, rows, heads, E, stride);                                                                  \
    }                                                                                                                 \
    extern "C" void gate_##name(const T* x, T* out, int64_t rows, int64_t F) { gate(x, out, rows, F); }               \
    extern "C" void decode_##name(const Sizes* is, const Layer<T>* layers, float* x, T* out, float eps) {             \
        FOR_WIDTH(is->E, (decode<N>(*is, layers, x, out, eps)))                                                       \
    }                                                                                                                 \
    extern "C" void head_##name(const T* hidden, const float* norm, const T* w, float* logits, int64_t rows,          \
                                int64_t D, int64_t V, int64_t threads) {                                              \
        head(hidden, norm, w, logits, rows, D, V, threads);                                                           \
    }

EXPORTED(float, float32)
EXPORTED(bfloat16, bfloat16)
