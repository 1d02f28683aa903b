// What decoding does between its matrix products, each in one pass over memory: norm, rotation, gate, attention.
//
// Compiled on first use by engine/native/kernels.py, which also says what each pointer is. Numbers are read as float32
// or bfloat16, added up in float32, and rounded once when they are written. A row's result depends on that row alone.
//
// Registers hold 8 numbers at once (model/vectors.h).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#define LANES 8
#include "vectors.h"

namespace {

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

// Makes n scores weights that sum to 1; there is room for as many as make whole registers.
void softmax(float* scores, int64_t n) {
    float largest = -INFINITY;
    for (int64_t j = 0; j < n; j++) largest = std::max(largest, scores[j]);
    for (int64_t j = n; j % W; j++) scores[j] = -INFINITY;
    Wide total = {};
    for (int64_t j = 0; j < n; j += W) {
        Wide weight = exponential(load(scores + j) - largest);
        store(scores + j, weight);
        total += weight;
    }
    const float scale = 1 / sum(total);
    for (int64_t j = 0; j < n; j += W) store(scores + j, load(scores + j) * scale);
}

// Calls work<Q> for `count` queries, as many at a time as registers hold.
#define IN_TURNS(count, work)                                                              \
    for (int64_t q = 0; q < (count);) {                                                    \
        if ((count)-q >= 3 && (count)-q != 4) { constexpr int Q = 3; work; q += Q; }       \
        else if ((count)-q >= 2) { constexpr int Q = 2; work; q += Q; }                    \
        else { constexpr int Q = 1; work; q += Q; }                                        \
    }

template <int E, class T>
void attend(const T* q, const T* k, const T* v, T* prompt_keys, T* prompt_values, T* own_keys, T* own_values, T* out,
            const int64_t* slots, const int64_t* shared, const int64_t* places, int64_t rows, int64_t H, int64_t K,
            int64_t G, int64_t L, int64_t q_stride, int64_t k_stride, int64_t v_stride) {
    const int64_t M = H / K;
    const float scale = 1 / std::sqrt((float)E);
#pragma omp parallel
    {
        std::vector<float> queries(M * E), sums(M * E), scores(M * (G + L + W));
#pragma omp for
        for (int64_t task = 0; task < rows * K; task++) {
            const int64_t row = task / K, head = task % K, n = shared[row], own = places[row] + 1;
            const int64_t stride = (n + own + W - 1) / W * W, place = (row * K + head) * L * E;
            for (int64_t e = 0; e < E; e += W) {
                store(own_keys + place + places[row] * E + e, load(k + row * k_stride + head * E + e));
                store(own_values + place + places[row] * E + e, load(v + row * v_stride + head * E + e));
            }
            for (int64_t e = 0; e < M * E; e += W)
                store(&queries[e], load(q + row * q_stride + head * M * E + e) * scale);
            std::fill(sums.begin(), sums.end(), 0.0f);
            const int64_t prompt = n ? (slots[row] * K + head) * G * E : 0;
            IN_TURNS(M, (compare<Q, E>(&queries[q * E], prompt_keys + prompt, n, &scores[q * stride], stride)))
            IN_TURNS(M, (compare<Q, E>(&queries[q * E], own_keys + place, own, &scores[q * stride + n], stride)))
            for (int64_t m = 0; m < M; m++) softmax(&scores[m * stride], n + own);
            IN_TURNS(M, (mix<Q, E>(&scores[q * stride], stride, prompt_values + prompt, n, &sums[q * E])))
            IN_TURNS(M, (mix<Q, E>(&scores[q * stride + n], stride, own_values + place, own, &sums[q * E])))
            for (int64_t e = 0; e < M * E; e += W) store(out + (row * H + head * M) * E + e, load(&sums[e]));
        }
    }
}

// For the head widths that kernels.py:HEADS lists.
template <class T, class... Args>
void attend_any(int64_t E, Args... args) {
    switch (E) {
        case 16: attend<16, T>(args...); return;
        case 32: attend<32, T>(args...); return;
        case 64: attend<64, T>(args...); return;
        case 80: attend<80, T>(args...); return;
        case 96: attend<96, T>(args...); return;
        case 128: attend<128, T>(args...); return;
    }
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

}  // namespace

#define EXPORTED(T, name)                                                                                             \
    extern "C" void attend_##name(const T* q, const T* k, const T* v, T* prompt_keys, T* prompt_values, T* own_keys,   \
                                 T* own_values, T* out, const int64_t* slots, const int64_t* shared,                  \
                                 const int64_t* places, int64_t rows, int64_t H, int64_t K, int64_t E, int64_t G,     \
                                 int64_t L, int64_t q_stride, int64_t k_stride, int64_t v_stride) {                   \
        attend_any<T>(E, q, k, v, prompt_keys, prompt_values, own_keys, own_values, out, slots, shared,        \
                             places, rows, H, K, G, L, q_stride, k_stride, v_stride);                                 \
    }                                                                                                                 \
    extern "C" void norm_##name(T* x, const T* added, T* out, int64_t rows, int64_t D, float eps) {                   \
        norm(x, added, out, rows, D, eps);                                                                            \
    }                                                                                                                 \
    extern "C" void rotate_##name(T* x, const T* cos, const T* sin, int64_t rows, int64_t heads, int64_t E,           \
                                  int64_t stride) {                                                                   \
        rotate(x, cos, sin, rows, heads, E, stride);                                                                  \
    }                                                                                                                 \
    extern "C" void gate_##name(const T* x, T* out, int64_t rows, int64_t F) { gate(x, out, rows, F); }

EXPORTED(float, float32)
EXPORTED(bfloat16, bfloat16)
