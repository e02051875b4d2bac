// Attention of a few query rows over the block cache, with an online softmax (Milakov and
// Gimelshein 2018) in chunks of 64 keys counted from position 0. The order of every sum depends on
// the row's own position alone, so a token gets the same numbers alone, in a batch, and recomputed.
//
// Cache of a layer, float16: keys [block][kv_head][dim][16], values [block][kv_head][16][dim].
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "math.h"

constexpr int kBlock = 16;
constexpr int kChunk = 64;  // keys at a time

struct AttentionShape {
  int heads, kv_heads, dim;
  float scale, softcap;  // softcap 0: none (Gemma 2, section 2)
  int window;            // tokens seen, the own one included; 0: all
};

// Room for one thread's work on up to max_rows query rows.
struct AttentionScratch {
  std::vector<float> keys, values, scores, out, query, most, sum;
  void reserve(int rows, int dim) {
    keys.resize(static_cast<size_t>(dim) * kChunk);
    values.resize(static_cast<size_t>(dim) * kChunk);
    scores.resize(static_cast<size_t>(rows) * kChunk);
    out.resize(static_cast<size_t>(rows) * dim);
    query.resize(static_cast<size_t>(rows) * dim);
    most.resize(rows);
    sum.resize(static_cast<size_t>(rows) * 16);
  }
};

// scores[r][64] = query[r] . keys[:][64], each a chain of fused additions over dim.
template <int M>
inline void score_rows(const float* query, const float* keys, int dim, float* scores) {
  __m512 sum[M][4];
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) sum[r][j] = _mm512_setzero_ps();
  for (int d = 0; d < dim; ++d) {
    const float* k = keys + d * kChunk;
    const __m512 k0 = _mm512_loadu_ps(k), k1 = _mm512_loadu_ps(k + 16);
    const __m512 k2 = _mm512_loadu_ps(k + 32), k3 = _mm512_loadu_ps(k + 48);
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      const __m512 q = _mm512_set1_ps(query[r * dim + d]);
      sum[r][0] = _mm512_fmadd_ps(q, k0, sum[r][0]);
      sum[r][1] = _mm512_fmadd_ps(q, k1, sum[r][1]);
      sum[r][2] = _mm512_fmadd_ps(q, k2, sum[r][2]);
      sum[r][3] = _mm512_fmadd_ps(q, k3, sum[r][3]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(scores + r * kChunk + 16 * j, sum[r][j]);
}

// out[r] += sum over keys of scores[r][key] * values[key], 16 numbers of dim at a time.
template <int M>
inline void mix_rows(const float* scores, const float* values, int keys, int dim, float* out) {
  for (int d = 0; d < dim; d += 32) {
    const __mmask16 second = d + 16 < dim ? 0xffff : 0;
    __m512 sum[M][2];
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      sum[r][0] = _mm512_loadu_ps(out + r * dim + d);
      sum[r][1] = _mm512_maskz_loadu_ps(second, out + r * dim + d + 16);
    }
    for (int k = 0; k < keys; ++k) {
      const __m512 v0 = _mm512_loadu_ps(values + k * dim + d);
      const __m512 v1 = _mm512_maskz_loadu_ps(second, values + k * dim + d + 16);
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r) {
        const __m512 p = _mm512_set1_ps(scores[r * kChunk + k]);
        sum[r][0] = _mm512_fmadd_ps(p, v0, sum[r][0]);
        sum[r][1] = _mm512_fmadd_ps(p, v1, sum[r][1]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      _mm512_storeu_ps(out + r * dim + d, sum[r][0]);
      _mm512_mask_storeu_ps(out + r * dim + d + 16, second, sum[r][1]);
    }
  }
}

// Turns the scores of one row into weights relative to its new maximum, and scales what it has.
inline void soften(const AttentionShape& shape, AttentionScratch& s, int row, int first_key, int position) {
  float* scores = s.scores.data() + static_cast<size_t>(row) * kChunk;
  const int first_seen = shape.window > 0 ? position - shape.window + 1 : 0;
  const __m512 minus_inf = _mm512_set1_ps(-INFINITY);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512 v[4], most = minus_inf;
#pragma GCC unroll 8
  for (int j = 0; j < 4; ++j) {
    const __m512i key = _mm512_add_epi32(lanes, _mm512_set1_epi32(first_key + 16 * j));
    const __mmask16 seen = _mm512_cmple_epi32_mask(key, _mm512_set1_epi32(position)) &
                           _mm512_cmpge_epi32_mask(key, _mm512_set1_epi32(first_seen));
    __m512 x = _mm512_loadu_ps(scores + 16 * j);
    if (shape.softcap > 0) {
      const __m512 cap = _mm512_set1_ps(shape.softcap);
      x = _mm512_mul_ps(tanh_ps(_mm512_div_ps(x, cap)), cap);
    }
    v[j] = _mm512_mask_blend_ps(seen, minus_inf, x);
    most = _mm512_max_ps(most, v[j]);
  }
  const float before = s.most[row], now = std::max(before, _mm512_reduce_max_ps(most));
  if (now == -INFINITY) {  // nothing seen yet: the window begins later
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) _mm512_storeu_ps(scores + 16 * j, _mm512_setzero_ps());
    return;
  }
  const __m512 fade = exp_ps(_mm512_set1_ps(before - now));
  float* total = s.sum.data() + static_cast<size_t>(row) * 16;
  __m512 sum = _mm512_mul_ps(_mm512_loadu_ps(total), fade);
#pragma GCC unroll 8
  for (int j = 0; j < 4; ++j) {
    const __mmask16 seen = _mm512_cmp_ps_mask(v[j], minus_inf, _CMP_NEQ_UQ);
    const __m512 p = _mm512_maskz_mov_ps(seen, exp_ps(_mm512_sub_ps(v[j], _mm512_set1_ps(now))));
    _mm512_storeu_ps(scores + 16 * j, p);
    sum = _mm512_add_ps(sum, p);
  }
  _mm512_storeu_ps(total, sum);
  s.most[row] = now;
  if (before != now) {
    float* out = s.out.data() + static_cast<size_t>(row) * shape.dim;
    for (int d = 0; d < shape.dim; d += 16)
      _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_loadu_ps(out + d), fade));
  }
}

// Attends rows of s.query (scaled, [rows][dim]; row r at position first + r / group) to one kv head;
// leaves [rows][dim] in s.out. blocks are those of the sequence, in order.
inline void attend(const AttentionShape& shape, AttentionScratch& s, const uint16_t* keys,
                   const uint16_t* values, const int32_t* blocks, int kv_head, int rows, int group,
                   int first) {
  const int dim = shape.dim, last = first + (rows - 1) / group;
  const size_t head_size = static_cast<size_t>(dim) * kBlock;
  std::fill_n(s.out.begin(), static_cast<size_t>(rows) * dim, 0.0f);
  std::fill_n(s.sum.begin(), static_cast<size_t>(rows) * 16, 0.0f);
  std::fill_n(s.most.begin(), rows, -INFINITY);
  const int oldest = shape.window > 0 ? std::max(0, first - shape.window + 1) : 0;
  for (int start = oldest / kChunk * kChunk; start <= last; start += kChunk) {
    const int count = std::min(kChunk, last + 1 - start);
    for (int b = 0; b * kBlock < kChunk; ++b) {
      float* k = s.keys.data() + b * kBlock;
      float* v = s.values.data() + static_cast<size_t>(b) * kBlock * dim;
      if (b * kBlock >= count) {  // beyond the sequence: masked, but must be numbers
        for (int d = 0; d < dim; ++d) _mm512_storeu_ps(k + d * kChunk, _mm512_setzero_ps());
        continue;
      }
      const size_t at = (static_cast<size_t>(blocks[start / kBlock + b]) * shape.kv_heads + kv_head) * head_size;
      for (int d = 0; d < dim; ++d) _mm512_storeu_ps(k + d * kChunk, load_half(keys + at + d * kBlock));
      for (size_t i = 0; i < head_size; i += 16) _mm512_storeu_ps(v + i, load_half(values + at + i));
    }
    for (int r = 0; r < rows; r += 4) {
      const float* q = s.query.data() + static_cast<size_t>(r) * dim;
      float* to = s.scores.data() + static_cast<size_t>(r) * kChunk;
      switch (std::min(4, rows - r)) {
        case 1: score_rows<1>(q, s.keys.data(), dim, to); break;
        case 2: score_rows<2>(q, s.keys.data(), dim, to); break;
        case 3: score_rows<3>(q, s.keys.data(), dim, to); break;
        default: score_rows<4>(q, s.keys.data(), dim, to); break;
      }
    }
    for (int r = 0; r < rows; ++r) soften(shape, s, r, start, first + r / group);
    for (int r = 0; r < rows; r += 4) {
      const float* p = s.scores.data() + static_cast<size_t>(r) * kChunk;
      float* to = s.out.data() + static_cast<size_t>(r) * dim;
      switch (std::min(4, rows - r)) {
        case 1: mix_rows<1>(p, s.values.data(), count, dim, to); break;
        case 2: mix_rows<2>(p, s.values.data(), count, dim, to); break;
        case 3: mix_rows<3>(p, s.values.data(), count, dim, to); break;
        default: mix_rows<4>(p, s.values.data(), count, dim, to); break;
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    const float* total = s.sum.data() + static_cast<size_t>(r) * 16;
    const __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(_mm512_loadu_ps(total)));
    float* out = s.out.data() + static_cast<size_t>(r) * dim;
    for (int d = 0; d < dim; d += 16)
      _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_loadu_ps(out + d), inverse));
  }
}
