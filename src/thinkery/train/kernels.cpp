// Learning in bfloat16: its matrix products (model/products.h), attention, and what is between them, each in one pass over
// memory, forwards and backwards.
//
// Compiled on first use by model/compiled.py; train/kernels.py says what each pointer is. Activations are bfloat16,
// the residual stream, its gradient and all sums float32. A result does not depend on how threads share the work, but
// for the gradient of a norm's weight, which is summed by thread, in their order.
//
// Registers hold 16 numbers at once (model/vectors.h); widths are multiples of that.
// Shapes: T tokens, D width, H query heads and K key heads of E numbers, F feed-forward width, C rows of V logits.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <vector>

#define LANES 16
#include "products.h"

namespace {

typedef bfloat16 Bf;

int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

float mean_square(const float* x, int64_t D) {
    Wide squares = {};
    for (int64_t d = 0; d < D; d += W) squares += load(x + d) * load(x + d);
    return sum(squares) / D;
}

float number(Bf x) {
    const uint32_t bits = (uint32_t)x.bits << 16;
    float found;
    std::memcpy(&found, &bits, 4);
    return found;
}

float largest(Wide x) {
    float found = x[0];
    for (int i = 1; i < W; i++) found = std::max(found, x[i]);
    return found;
}

Wide larger(Wide a, Wide b) { return a > b ? a : b; }

// e to the power of each number within 3e-6 of its size; exactly 0 far below 0, such as for masked scores.
Wide weight(Wide x) {
#ifdef __AVX512F__
    x = larger(x * 1.44269504f, Wide{} - 200.0f);
    Wide n = (Wide)_mm512_roundscale_ps((__m512)x, 0), r = x - n;
    Wide y = r * 1.3333558e-3f + 9.6181291e-3f;  // the series of 2 to the power of r
    y = y * r + 5.5504109e-2f;
    y = y * r + 2.4022651e-1f;
    y = y * r + 6.9314718e-1f;
    return (Wide)_mm512_scalef_ps((__m512)(y * r + 1.0f), (__m512)n);
#else
    return (Wide)((WideBits)(x > Wide{} - 87.0f) & (WideBits)exponential(x));
#endif
}

// The bits of bfloat16 in the lower half of each number.
WideBits narrowed(Wide x) {
#ifdef __AVX512BF16__
    return (WideBits)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    return rounded(x) >> 16;
#endif
}

// ---- products of a few rows -------------------------------------------------------------------------------------------

// Rows of B lie in pairs: the numbers 2p and 2p + 1 of a column are neighbours, as the processor multiplies them.
// C [m, columns] = or += A [m, 2 pairs] B [pairs, n, 2], of whose n columns the first are taken, a multiple of 16.
template <int V>
void strip(const Bf* a, int64_t lda, const Bf* b, int64_t n, float* c, int64_t ldc, int64_t m, int64_t pairs, bool add) {
    for (int64_t row = 0; row < m; row += 6)
        tile_of<6, V>(m - row, Strided<Bf>{a + row * lda, lda, 2}, Strided<Bf>{b, 2 * W, 2 * n}, 2 * pairs, c + row * ldc,
                      ldc, add, b);
}

void small_product(const Bf* a, int64_t lda, const Bf* b, int64_t n, float* c, int64_t ldc, int64_t m, int64_t columns,
                   int64_t pairs, bool add) {
    for (int64_t at = 0; at < columns; at += 4 * W) switch (std::min<int64_t>(4, (columns - at) / W)) {
            case 4: strip<4>(a, lda, b + 2 * at, n, c + at, ldc, m, pairs, add); break;
            case 3: strip<3>(a, lda, b + 2 * at, n, c + at, ldc, m, pairs, add); break;
            case 2: strip<2>(a, lda, b + 2 * at, n, c + at, ldc, m, pairs, add); break;
            case 1: strip<1>(a, lda, b + 2 * at, n, c + at, ldc, m, pairs, add); break;
        }
}

// The transpose of rows [count, E], in pairs: out [E / 2, n, 2], zeros behind them up to `filled`.
void pack_transposed(const Bf* x, int64_t stride, int64_t count, int64_t filled, int64_t E, uint32_t* out, int64_t n) {
    for (int64_t e = 0; e < E / 2; e++) {
        uint32_t* to = out + e * n;
        for (int64_t i = 0; i < count; i++) std::memcpy(to + i, x + i * stride + 2 * e, 4);
        for (int64_t i = count; i < filled; i++) to[i] = 0;
    }
}

// Two rows of x beside each other, zeros where there is no second.
WideBits woven(const Bf* x, int64_t stride, bool second) {
    const WideBits first = (WideBits)load(x) >> 16;
    return second ? first | (WideBits)load(x + stride) : first;
}

// Rows [count, E] in pairs: out [filled / 2, E, 2], zeros behind them.
void pack(const Bf* x, int64_t stride, int64_t count, int64_t filled, int64_t E, uint32_t* out) {
    for (int64_t i = 0; i < filled; i += 2, out += E)
        for (int64_t e = 0; e < E; e += W) {
            const WideBits pairs = i < count ? woven(x + i * stride + e, stride, i + 1 < count) : WideBits{};
            *reinterpret_cast<WideBits*>(out + e) = pairs;
        }
}

// The transpose of rows [count, E]: out [E, filled / 2] of two rows' numbers each, zeros behind them.
void transpose(const Bf* x, int64_t stride, int64_t count, int64_t filled, int64_t E, Bf* out) {
    for (int64_t i = 0; i < filled; i += 2)
        for (int64_t e = 0; e < E; e++) {
            const uint32_t low = x[i * stride + e].bits, high = i + 1 < count ? x[(i + 1) * stride + e].bits : 0;
            const uint32_t both = low | (high << 16);
            std::memcpy(out + e * filled + i, &both, 4);
        }
}

// ---- products with weights --------------------------------------------------------------------------------------------

// Weights of several layers as one matrix, of n inputs.
template <class S>
struct Stacked {
    const int64_t* parts;  // of each layer where its weights lie, and the row behind its last
    int64_t n;

    const S* operator()(int64_t output) const {
        int64_t first = 0;
        const int64_t* part = parts;
        for (; output >= part[1]; part += 2) first = part[1];
        return reinterpret_cast<const S*>(part[0]) + (output - first) * n;
    }
};

// A panel of their transpose: for each pair of outputs, of which the last may be a zero, those of PANEL inputs.
template <class S>
void lay_transposed_panel(const Stacked<S>& row, Bf* to, int64_t outputs, int64_t panel) {
    const int64_t first = panel * PANEL, count = std::min<int64_t>(PANEL, row.n - first);
    for (int64_t o = 0; o < outputs; o += 2, to += 2 * PANEL) {
        const S *here = row(o) + first, *next = o + 1 < outputs ? row(o + 1) + first : nullptr;
        for (int64_t i = 0; i < PANEL; i += W) {
            const WideBits a = i < count ? narrowed(load(here + i)) : WideBits{};
            const WideBits b = i < count && next ? narrowed(load(next + i)) : WideBits{};
            *reinterpret_cast<WideBits*>(to + 2 * i) = a | (b << 16);
        }
    }
}

template <class S>
void lay_out(const Stacked<S>& weights, Bf* to, int64_t outputs) {
    const int64_t n = weights.n;
#pragma omp parallel for
    for (int64_t panel = 0; panel < panels_of(outputs); panel++) lay_panel(weights, nullptr, to, outputs, n, panel);
}

template <class S>
void lay_out_transposed(const Stacked<S>& weights, Bf* to, int64_t outputs) {
#pragma omp parallel for
    for (int64_t panel = 0; panel < panels_of(weights.n); panel++)
        lay_transposed_panel(weights, to + panel * PANEL * up(outputs, 2), outputs, panel);
}

// ---- attention ----------------------------------------------------------------------------------------------------------

constexpr int64_t ROWS = 48;  // queries at once

// A stretch of tokens that see a prompt, which may be empty, and themselves up to their own place.
struct Span {
    int64_t begin, length, prompt, known;  // where it begins, its tokens, where the prompt begins, the prompt's tokens

    int64_t own() const { return up(known, W); }                    // the column where its own keys begin
    int64_t columns() const { return own() + up(length, W); }       // of all keys
    int64_t seen(int64_t end) const { return own() + up(end, W); }  // by its first `end` queries
};

// Where a head's numbers stand: rows of [q, k, v].
struct Heads {
    int64_t H, K, E, stride;
    float scale;
    Heads(int64_t H, int64_t K, int64_t E) : H(H), K(K), E(E), stride((H + 2 * K) * E), scale(1 / std::sqrt((float)E)) {}
    const Bf* q(const Bf* x, int64_t t, int64_t h) const { return x + t * stride + h * E; }
    const Bf* k(const Bf* x, int64_t t, int64_t h) const { return x + t * stride + (H + h / (H / K)) * E; }
    const Bf* v(const Bf* x, int64_t t, int64_t h) const { return k(x, t, h) + K * E; }
};

// Scores of some queries against all keys that one of them sees; those that a query does not see are -inf.
void score(const Heads& at, const Bf* qkv, const Span& span, int64_t h, int64_t first, int64_t count,
           const uint32_t* keys, float* scores, int64_t n) {
    const int64_t seen = span.seen(first + count);
    small_product(at.q(qkv, span.begin + first, h), at.stride, (const Bf*)keys, n, scores, n, count, seen, at.E / 2, false);
    for (int64_t i = 0; i < count; i++) {
        float* row = scores + i * n;
        std::fill(row + span.known, row + span.own(), -INFINITY);
        std::fill(row + span.own() + first + i + 1, row + seen, -INFINITY);
    }
}

void attend(const Bf* qkv, Bf* out, float* logs, const int64_t* spans, int64_t count, int64_t T, const Heads at) {
    const int64_t E = at.E;
#pragma omp parallel
    {
        std::vector<uint32_t> keys, values;
        std::vector<float> scores, sums(ROWS * E), scales(ROWS);
        std::vector<Bf> weights;
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < count * at.H; task++) {
            Span span;
            std::memcpy(&span, spans + task / at.H * 4, sizeof span);
            const int64_t h = task % at.H, n = span.columns(), own = span.own();
            keys.resize(n * E / 2), values.resize(n * E / 2), scores.resize(ROWS * n), weights.resize(ROWS * n);
            pack_transposed(at.k(qkv, span.prompt, h), at.stride, span.known, own, E, keys.data(), n);
            pack_transposed(at.k(qkv, span.begin, h), at.stride, span.length, n - own, E, keys.data() + own, n);
            pack(at.v(qkv, span.prompt, h), at.stride, span.known, own, E, values.data());
            pack(at.v(qkv, span.begin, h), at.stride, span.length, n - own, E, values.data() + own * E / 2);
            for (int64_t first = 0; first < span.length; first += ROWS) {
                const int64_t rows = std::min(ROWS, span.length - first), seen = span.seen(first + rows);
                score(at, qkv, span, h, first, rows, keys.data(), scores.data(), n);
                for (int64_t i = 0; i < rows; i++) {
                    float* row = &scores[i * n];
                    Wide high = load(row), total = {};
                    for (int64_t j = W; j < seen; j += W) high = larger(high, load(row + j));
                    const float most = largest(high);
                    for (int64_t j = 0; j < seen; j += W) {
                        Wide w = weight((load(row + j) - most) * at.scale);
                        total += w;
                        store(&weights[i * n + j], w);
                    }
                    scales[i] = 1 / sum(total);
                    logs[h * T + span.begin + first + i] = most * at.scale + std::log(sum(total));
                }
                small_product(weights.data(), n, (const Bf*)values.data(), E, sums.data(), E, rows, E, seen / 2, false);
                for (int64_t i = 0; i < rows; i++)
                    for (int64_t e = 0; e < E; e += W)
                        store(out + ((span.begin + first + i) * at.H + h) * E + e, load(&sums[i * E + e]) * scales[i]);
            }
        }
    }
}

// What one thread needs to go back through a stretch of tokens.
struct Workspace {
    std::vector<uint32_t> keys, values, key_rows, weights, slopes;
    std::vector<float> scores, gains, key_sums, value_sums, query_sums;
    std::vector<Bf> slope_rows, queries, outs;
    void fit(int64_t n, int64_t E) {
        for (auto* x : {&keys, &values, &key_rows}) x->resize(n * E / 2);
        for (auto* x : {&weights, &slopes}) x->resize(ROWS / 2 * n);
        for (auto* x : {&scores, &gains}) x->resize(ROWS * n);
        for (auto* x : {&key_sums, &value_sums}) x->assign(E * n, 0.0f);
        query_sums.resize(ROWS * E), slope_rows.resize(ROWS * n), queries.resize(ROWS * E), outs.resize(ROWS * E);
    }
};

// Weights and their slopes of two rows: in pairs of rows both, the slopes also row by row.
void pair(Workspace& w, int64_t i, int64_t rows, int64_t n, int64_t seen, const float* logs, const float* gains,
          float scale) {
    const bool both = i + 1 < rows;
    const float *s0 = &w.scores[i * n], *s1 = both ? s0 + n : s0, *g0 = &w.gains[i * n], *g1 = both ? g0 + n : g0;
    for (int64_t j = 0; j < seen; j += W) {
        Wide p0 = weight(load(s0 + j) * scale - logs[i]);
        Wide d0 = p0 * (load(g0 + j) - gains[i]) * scale;
        Wide p1 = {}, d1 = {};
        if (both) {
            p1 = weight(load(s1 + j) * scale - logs[i + 1]);
            d1 = p1 * (load(g1 + j) - gains[i + 1]) * scale;
        }
        WideBits low = narrowed(d0), high = narrowed(d1);
        *reinterpret_cast<WideBits*>(&w.weights[i / 2 * n + j]) = narrowed(p0) | (narrowed(p1) << 16);
        *reinterpret_cast<WideBits*>(&w.slopes[i / 2 * n + j]) = low | (high << 16);
        store(&w.slope_rows[i * n + j], (Wide)(low << 16));
        if (both) store(&w.slope_rows[(i + 1) * n + j], (Wide)(high << 16));
    }
}

// Adds the columns [from, from + count) of sums [E, n] to as many of [E, T].
void gather_columns(const std::vector<float>& sums, int64_t n, int64_t from, int64_t count, int64_t E, float* to,
                    int64_t T) {
    for (int64_t e = 0; e < E; e++)
        for (int64_t i = 0; i < count; i++) to[e * T + i] += sums[e * n + from + i];
}

// Rows of E numbers from the sums of M query heads [M, E, T], which share them, for up to 16 tokens.
void share(const float* sums, int64_t M, int64_t E, int64_t T, int64_t count, Bf* rows, int64_t stride) {
    for (int64_t e = 0; e < E; e++) {
        float padded[W] = {};
        uint32_t bits[W];
        Wide total = {};
        for (int64_t m = 0; m < M; m++) {
            const float* from = sums + (m * E + e) * T;
            if (count < W) from = std::copy(from, from + count, padded) - count;
            total += load(from);
        }
        *reinterpret_cast<WideBits*>(bits) = narrowed(total);
        for (int64_t i = 0; i < count; i++) rows[i * stride + e].bits = (uint16_t)bits[i];
    }
}

// The slope of q in its place; those of keys and values by query head, [H, E, T] each, which are zero before.
void attend_back(const Bf* qkv, const Bf* out, const float* logs, const Bf* slope, Bf* qkv_slope, float* key_slopes,
                 float* value_slopes, const int64_t* spans, const int64_t* groups, int64_t count, int64_t T,
                 const Heads at) {
    const int64_t E = at.E, H = at.H;
#pragma omp parallel
    {
        Workspace w;
        std::vector<float> gains(ROWS);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < count * H; task++) {
            const int64_t h = task % H;
            for (int64_t number = groups[task / H]; number < groups[task / H + 1]; number++) {
                Span span;
                std::memcpy(&span, spans + number * 4, sizeof span);
                const int64_t n = span.columns(), own = span.own();
                w.fit(n, E);
                pack_transposed(at.k(qkv, span.prompt, h), at.stride, span.known, own, E, w.keys.data(), n);
                pack_transposed(at.k(qkv, span.begin, h), at.stride, span.length, n - own, E, &w.keys[own], n);
                pack_transposed(at.v(qkv, span.prompt, h), at.stride, span.known, own, E, w.values.data(), n);
                pack_transposed(at.v(qkv, span.begin, h), at.stride, span.length, n - own, E, &w.values[own], n);
                pack(at.k(qkv, span.prompt, h), at.stride, span.known, own, E, w.key_rows.data());
                pack(at.k(qkv, span.begin, h), at.stride, span.length, n - own, E, &w.key_rows[own * E / 2]);
                for (int64_t first = 0; first < span.length; first += ROWS) {
                    const int64_t rows = std::min(ROWS, span.length - first), seen = span.seen(first + rows);
                    const int64_t even = up(rows, 2), row = span.begin + first;
                    const Bf* slope_rows = slope + (row * H + h) * E;
                    const Bf* out_rows = out + (row * H + h) * E;
                    score(at, qkv, span, h, first, rows, w.keys.data(), w.scores.data(), n);
                    small_product(slope_rows, H * E, (const Bf*)w.values.data(), n, w.gains.data(), n, rows, seen, E / 2, false);
                    for (int64_t i = 0; i < rows; i++) {
                        Wide total = {};
                        for (int64_t e = 0; e < E; e += W)
                            total += load(slope_rows + i * H * E + e) * load(out_rows + i * H * E + e);
                        gains[i] = sum(total);
                    }
                    for (int64_t i = 0; i < rows; i += 2)
                        pair(w, i, rows, n, seen, logs + h * T + row, gains.data(), at.scale);
                    small_product(w.slope_rows.data(), n, (const Bf*)w.key_rows.data(), E, w.query_sums.data(), E, rows, E,
                                  seen / 2, false);
                    for (int64_t i = 0; i < rows; i++)
                        for (int64_t e = 0; e < E; e += W)
                            store(qkv_slope + (row + i) * at.stride + h * E + e, load(&w.query_sums[i * E + e]));
                    transpose(slope_rows, H * E, rows, even, E, w.outs.data());
                    transpose(at.q(qkv, row, h), at.stride, rows, even, E, w.queries.data());
                    small_product(w.outs.data(), even, (const Bf*)w.weights.data(), n, w.value_sums.data(), n, E, seen,
                                  even / 2, true);
                    small_product(w.queries.data(), even, (const Bf*)w.slopes.data(), n, w.key_sums.data(), n, E, seen,
                                  even / 2, true);
                }
                for (auto [sums, to] : {std::pair{&w.key_sums, key_slopes}, std::pair{&w.value_sums, value_slopes}}) {
                    gather_columns(*sums, n, 0, span.known, E, to + h * E * T + span.prompt, T);
                    gather_columns(*sums, n, own, span.length, E, to + h * E * T + span.begin, T);
                }
            }
        }
#pragma omp for
        for (int64_t first = 0; first < T; first += W)
            for (int64_t head = 0; head < 2 * at.K; head++) {
                const float* sums = (head < at.K ? key_slopes : value_slopes) + head % at.K * (H / at.K) * E * T + first;
                share(sums, H / at.K, E, T, std::min<int64_t>(W, T - first),
                      qkv_slope + first * at.stride + (H + head) * E, at.stride);
            }
    }
}

}  // namespace

// ---- what Python calls --------------------------------------------------------------------------------------------------

extern "C" {

// Weights [outputs, n] of several layers in panels, and those of their transpose, for both formats of weights.
#define EXPORTED_WEIGHTS(S, name)                                                                                \
    void lay_out_##name(const int64_t* parts, Bf* to, int64_t outputs, int64_t n) {                              \
        lay_out(Stacked<S>{parts, n}, to, outputs);                                                              \
    }                                                                                                            \
    void lay_out_transposed_##name(const int64_t* parts, Bf* to, int64_t outputs, int64_t n) {                   \
        lay_out_transposed(Stacked<S>{parts, n}, to, outputs);                                                   \
    }
EXPORTED_WEIGHTS(float, float32)
EXPORTED_WEIGHTS(Bf, bfloat16)

void multiply(const Bf* x, const Bf* panels, const float* bias, Bf* out, int64_t rows, int64_t n, int64_t outputs) {
    multiply(Rows<Bf>{x}, panels, bias, out, rows, n, outputs, omp_get_max_threads());
}

// gradient [outputs, n] = or += the transpose of slope [rows, outputs], its rows `stride` apart, times x [rows, n].
void learn(const Bf* x, const Bf* slope, float* gradient, int64_t rows, int64_t n, int64_t outputs, int64_t stride,
           int64_t add) {
    constexpr int64_t TOGETHER = 8 * TALL;
    const int64_t depth = up(rows, 2), panels = panels_of(n);
    const auto width = [&](int64_t panel) { return std::min<int64_t>(PANEL, n - panel * PANEL); };
    std::vector<uint32_t> inputs(panels * depth / 2 * PANEL);
#pragma omp parallel
    {
#pragma omp for
        for (int64_t panel = 0; panel < panels; panel++)
            pack(x + panel * PANEL, n, rows, depth, width(panel), &inputs[panel * depth / 2 * PANEL]);
        std::vector<uint32_t> slopes(depth / 2 * TOGETHER + W);
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < outputs; first += TOGETHER) {
            const int64_t count = std::min(TOGETHER, outputs - first);
            for (int64_t o = 0; o < count; o += TALL)  // whole registers are written, the next overwrites what is too much
                for (int64_t t = 0; t < rows; t += 2) {
                    uint32_t* to = &slopes[o * depth / 2 + t / 2 * TALL];
                    const Bf* from = slope + t * stride + first + o;
                    if (first + o + W <= outputs)
                        *reinterpret_cast<WideBits*>(to) = woven(from, stride, t + 1 < rows);
                    else
                        for (int64_t i = 0; first + o + i < outputs; i++)
                            to[i] = from[i].bits | (t + 1 < rows ? (uint32_t)from[stride + i].bits << 16 : 0);
                }
            for (int64_t panel = 0; panel < panels; panel++)
                for (int64_t o = 0; o < count; o += TALL) {
                    const Strided<Bf> a{(const Bf*)&slopes[o * depth / 2], 2, 2 * TALL};
                    const Strided<Bf> b{(const Bf*)&inputs[panel * depth / 2 * PANEL], 2 * B, 2 * width(panel)};
                    float* c = gradient + (first + o) * n + panel * PANEL;
                    if (width(panel) == PANEL)
                        tile_of<TALL, PANEL / B>(count - o, a, b, depth, c, n, add != 0, b.at);
                    else
                        tile_of<TALL, 1>(count - o, a, b, depth, c, n, add != 0, b.at);
                }
        }
    }
}

// sum = x + added, where there is one; out = sum / rms(sum) * scales.
void norm(const float* x, const Bf* added, const float* scales, float* total, Bf* out, int64_t rows, int64_t D,
          float eps) {
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const float* here = x + row * D;
        if (added) {
            for (int64_t d = 0; d < D; d += W) store(total + row * D + d, load(here + d) + load(added + row * D + d));
            here = total + row * D;
        }
        const float length = 1 / std::sqrt(mean_square(here, D) + eps);
        for (int64_t d = 0; d < D; d += W) store(out + row * D + d, load(here + d) * length * load(scales + d));
    }
}

// x_slope = passed + the slope of x, where `slope` is that of out, and rounded once more; out is made again.
void norm_back(const float* x, const float* scales, const Bf* slope, const float* passed, float* x_slope, Bf* narrow,
               float* scales_slope, Bf* out, int64_t rows, int64_t D, float eps) {
    std::vector<float> partial(omp_get_max_threads() * D, 0.0f);
#pragma omp parallel
    {
        float* own = &partial[omp_get_thread_num() * D];
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const float* here = x + row * D;
            const Bf* back = slope + row * D;
            const float length = 1 / std::sqrt(mean_square(here, D) + eps);
            Wide total = {};
            for (int64_t d = 0; d < D; d += W) total += load(back + d) * load(scales + d) * load(here + d);
            const float shrink = sum(total) / D * length * length * length;
            for (int64_t d = 0; d < D; d += W) {
                Wide unit = load(here + d) * length, scaled = load(scales + d), gain = load(back + d);
                store(own + d, load(own + d) + gain * unit);
                Wide found = gain * scaled * length - load(here + d) * shrink;
                if (passed) found += load(passed + row * D + d);
                store(x_slope + row * D + d, found);
                if (narrow) store(narrow + row * D + d, found);
                if (out) store(out + row * D + d, unit * scaled);
            }
        }
    }
    for (int64_t d = 0; d < D; d++) {
        scales_slope[d] = 0;
        for (int t = 0; t < omp_get_max_threads(); t++) scales_slope[d] += partial[t * D + d];
    }
}

// total = x + added
void add(const float* x, const Bf* added, float* total, int64_t rows, int64_t D) {
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++)
        for (int64_t at = row * D; at < (row + 1) * D; at += W) store(total + at, load(x + at) + load(added + at));
}

// Rotates the first `heads` heads of each row of x, `stride` apart, in place; `sign` -1 rotates back.
void rotate(Bf* x, const float* cos, const float* sin, int64_t rows, int64_t heads, int64_t E, int64_t stride,
            float sign) {
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++)
            for (int64_t e = 0; e < E / 2; e += W) {
                Bf *first = x + row * stride + head * E + e, *second = first + E / 2;
                Wide a = load(first), b = load(second), c = load(cos + row * E + e), s = load(sin + row * E + e) * sign;
                store(first, a * c - b * s);
                store(second, b * c + a * s);
            }
}

// out = silu(gate) * up, for rows [gate, up] of F numbers each.
void gate(const Bf* x, Bf* out, int64_t rows, int64_t F) {
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++)
        for (int64_t f = 0; f < F; f += W) {
            Wide g = load(x + row * 2 * F + f), u = load(x + row * 2 * F + F + f);
            store(out + row * F + f, g / (1 + weight(-g)) * u);
        }
}

// The slopes of gate and up from that of what `gate` makes, which is made again in its place.
void gate_back(const Bf* x, Bf* slope, Bf* x_slope, int64_t rows, int64_t F) {
#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++)
        for (int64_t f = 0; f < F; f += W) {
            Wide g = load(x + row * 2 * F + f), u = load(x + row * 2 * F + F + f), s = load(slope + row * F + f);
            Wide share = 1 / (1 + weight(-g)), silu = g * share;
            store(x_slope + row * 2 * F + f, s * u * (share + silu * (1 - share)));
            store(x_slope + row * 2 * F + F + f, s * silu);
            store(slope + row * F + f, silu * u);
        }
}

// Of each row of logits over a temperature: log p(label), the entropy, and the logarithm of the sum of exponentials.
void label_logprobs(const Bf* logits, const int64_t* labels, float* logprobs, float* entropies, float* logs, int64_t C,
                    int64_t V, float temperature) {
    const float scale = 1 / temperature;
#pragma omp parallel
    {
        std::vector<float> rest(W);
#pragma omp for
        for (int64_t row = 0; row < C; row++) {
            const Bf* here = logits + row * V;
            const int64_t whole = V / W * W;
            for (int64_t i = 0; i < W; i++) rest[i] = whole + i < V ? number(here[whole + i]) : -INFINITY;
            Wide high = load(rest.data()), total = {}, mean = {};
            for (int64_t v = 0; v < whole; v += W) high = larger(high, load(here + v));
            const float most = largest(high) * scale;
            for (int64_t v = 0; v < whole + W; v += W) {
                Wide x = (v < whole ? load(here + v) : load(rest.data())) * scale - most;
                Wide p = weight(x);
                total += p;
                mean += p * (x > Wide{} - 87.0f ? x : Wide{});  // p is 0 there, and x may be -inf
            }
            const float label = number(here[labels[row]]), log = std::log(sum(total));
            logs[row] = most + log;
            logprobs[row] = label * scale - most - log;
            entropies[row] = log - sum(mean) / sum(total);
        }
    }
}

// Replaces logits by their slopes: slope * (is the label - p) / temperature.
void label_logprobs_back(Bf* logits, const int64_t* labels, const float* slopes, const float* logs, int64_t C, int64_t V,
                         float temperature) {
    const float scale = 1 / temperature;
#pragma omp parallel for
    for (int64_t row = 0; row < C; row++) {
        Bf* here = logits + row * V;
        const int64_t whole = V / W * W, label = labels[row];
        const float slope = slopes[row] * scale;
        Bf rest[W];
        for (int64_t i = 0; i < W; i++) rest[i].bits = whole + i < V ? here[whole + i].bits : 0xff80;
        const float of_label = slope * (1 - std::exp(number(here[label]) * scale - logs[row]));
        for (int64_t v = 0; v < whole; v += W) store(here + v, weight(load(here + v) * scale - logs[row]) * -slope);
        store(rest, weight(load(rest) * scale - logs[row]) * -slope);
        std::copy(rest, rest + (V - whole), here + whole);
        Wide wide = Wide{} + of_label;
        Bf narrow[W];
        store(narrow, wide);
        here[label] = narrow[0];
    }
}

void attend_forward(const Bf* qkv, Bf* out, float* logs, const int64_t* spans, int64_t count, int64_t T, int64_t H,
                    int64_t K, int64_t E) {
    attend(qkv, out, logs, spans, count, T, Heads(H, K, E));
}

void attend_backward(const Bf* qkv, const Bf* out, const float* logs, const Bf* slope, Bf* qkv_slope, float* key_slopes,
                     float* value_slopes, const int64_t* spans, const int64_t* groups, int64_t count, int64_t T,
                     int64_t H, int64_t K, int64_t E) {
    attend_back(qkv, out, logs, slope, qkv_slope, key_slopes, value_slopes, spans, groups, count, T, Heads(H, K, E));
}

}  // extern "C"
