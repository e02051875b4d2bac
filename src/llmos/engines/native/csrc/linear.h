// Products of int8 rows with int8 or int4 weights, by VNNI.
//
// Weights lie in tiles of 64 output columns, in the order in which they are read.
//   int8: [n/64][k/4][64][4] bytes w+128; then out = x_scale * w_scale[n] * sum(x * w).
//   int4: [n/64][k/32] groups of 1,024 bytes of nibbles w+8 and 64 float16 scales. A group holds
//         four pairs of [64][4] steps: the first of a pair in the low nibbles.
// Integer sums are exact, so a row's result does not depend on the rows beside it.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "math.h"

constexpr int kTile = 64;
constexpr int kGroup = 32;
constexpr int kMaxRows = 5;  // rows whose sums fit in the registers beside the weights, int8
constexpr int kMaxRowsInt4 = 3;
constexpr size_t kInt4GroupBytes = kGroup * kTile / 2 + kTile * 2;

struct Linear {
  const uint8_t* weight;
  const float* scale;  // [n], int8 only
  const float* bias;   // [n] or null
  int32_t n, k;        // multiples of 64
  int32_t bits;        // 8 or 4; 0: there is no such layer
  int32_t unused;
};

// Quantised rows: x ~ scale * data, each with its own scale.
struct Rows {
  int8_t* data;      // [m][k]
  float* scale;      // [m]
  int32_t* sums;     // [m][k/32] sums of each group of data
  int32_t* total;    // [m]
  int32_t k;
};

// Quantises row r of length n (<= k, the rest is zero) to absmax 127.
inline void quantize_row(const Rows& rows, int r, const float* x, int n) {
  __m512 most = _mm512_setzero_ps();
  __mmask16 nan = 0;
  for (int i = 0; i < n; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(tail_mask(n - i), x + i);
    nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    most = _mm512_max_ps(most, _mm512_abs_ps(v));
  }
  float absmax = _mm512_reduce_max_ps(most);
  if (nan) absmax = NAN;
  const float inverse = absmax > 0 ? 127.0f / absmax : 0.0f;
  const __m512 factor = _mm512_set1_ps(inverse);
  int8_t* out = rows.data + static_cast<size_t>(r) * rows.k;
  int32_t* sums = rows.sums + static_cast<size_t>(r) * (rows.k / kGroup);
  int32_t total = 0;
  for (int i = 0; i < rows.k; i += kGroup) {
    int32_t sum = 0;
    for (int j = i; j < i + kGroup; j += 16) {
      const __m512 v = _mm512_maskz_loadu_ps(tail_mask(n - j), x + j);
      const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(v, factor));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + j), _mm512_cvtsepi32_epi8(q));
      sum += _mm512_reduce_add_epi32(q);
    }
    sums[i / kGroup] = sum;
    total += sum;
  }
  rows.scale[r] = absmax / 127.0f;
  rows.total[r] = total;
}

inline int32_t four_bytes(const int8_t* x) {
  int32_t value;
  std::memcpy(&value, x, 4);
  return value;
}

// sum += the products of four unsigned bytes of w with four signed ones of x. In assembly, as GCC 12
// copies the sums about where the intrinsic is used on many of them.
inline void dot4(__m512i& sum, __m512i w, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
}

// The two products are kept out of line: inlined among other code, their sums leave the registers.
// out is [M][64].
template <int M>
[[gnu::noinline]] void int8_tile(const Linear& w, int tile, const Rows& x, int first, float* out) {
  const int steps = w.k / 4;
  const uint8_t* p = w.weight + static_cast<size_t>(tile) * w.k * kTile;
  const int8_t* a = x.data + static_cast<size_t>(first) * x.k;
  __m512i sum[M][4];
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) sum[r][j] = _mm512_setzero_si512();
  for (int s = 0; s < steps; ++s, p += 256) {
    const __m512i w0 = _mm512_loadu_si512(p), w1 = _mm512_loadu_si512(p + 64);
    const __m512i w2 = _mm512_loadu_si512(p + 128), w3 = _mm512_loadu_si512(p + 192);
    if constexpr (M <= 2) _mm_prefetch(reinterpret_cast<const char*>(p + 4096), _MM_HINT_T0);
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      const __m512i v = _mm512_set1_epi32(four_bytes(a + static_cast<size_t>(r) * x.k + 4 * s));
      dot4(sum[r][0], w0, v);
      dot4(sum[r][1], w1, v);
      dot4(sum[r][2], w2, v);
      dot4(sum[r][3], w3, v);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < 4; ++j) {
    const __m512 scale = _mm512_loadu_ps(w.scale + tile * kTile + 16 * j);
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      const __m512i offset = _mm512_set1_epi32(128 * x.total[first + r]);
      const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum[r][j], offset));
      const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(x.scale[first + r]));
      _mm512_storeu_ps(out + r * kTile + 16 * j, _mm512_mul_ps(exact, factor));
    }
  }
}

template <int M>
[[gnu::noinline]] void int4_tile(const Linear& w, int tile, const Rows& x, int first, float* out) {
  const int groups = w.k / kGroup;
  const uint8_t* p = w.weight + static_cast<size_t>(tile) * groups * kInt4GroupBytes;
  const int8_t* a = x.data + static_cast<size_t>(first) * x.k;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 total[M][4];
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) total[r][j] = _mm512_setzero_ps();
  for (int g = 0; g < groups; ++g, p += kInt4GroupBytes) {
    __m512i sum[M][4];
#pragma GCC unroll 8
    for (int r = 0; r < M; ++r) {
      const int32_t part = x.sums[static_cast<size_t>(first + r) * (x.k / kGroup) + g];
      const __m512i offset = _mm512_set1_epi32(-8 * part);
#pragma GCC unroll 8
      for (int j = 0; j < 4; ++j) sum[r][j] = offset;
    }
    if constexpr (M == 1) _mm_prefetch(reinterpret_cast<const char*>(p + 4608), _MM_HINT_T0);
#pragma GCC unroll 8
    for (int s = 0; s < 4; ++s) {
#pragma GCC unroll 8
      for (int j = 0; j < 4; ++j) {
        const __m512i both = _mm512_loadu_si512(p + 256 * s + 64 * j);
        const __m512i w0 = _mm512_and_si512(both, low);
        const __m512i w1 = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
#pragma GCC unroll 8
        for (int r = 0; r < M; ++r) {
          const int8_t* at = a + static_cast<size_t>(r) * x.k + g * kGroup + 8 * s;
          dot4(sum[r][j], w0, _mm512_set1_epi32(four_bytes(at)));
          dot4(sum[r][j], w1, _mm512_set1_epi32(four_bytes(at + 4)));
        }
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j) {
      const __m512 scale = load_half(p + kGroup * kTile / 2 + 32 * j);
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r)
        total[r][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][j]), scale, total[r][j]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r) {
    const __m512 scale = _mm512_set1_ps(x.scale[first + r]);
#pragma GCC unroll 8
    for (int j = 0; j < 4; ++j)
      _mm512_storeu_ps(out + r * kTile + 16 * j, _mm512_mul_ps(total[r][j], scale));
  }
}

template <int M>
inline void rows_tile(const Linear& w, int tile, const Rows& x, int first, float* out) {
  if constexpr (M <= kMaxRowsInt4)
    if (w.bits == 4) return int4_tile<M>(w, tile, x, first, out);
  int8_tile<M>(w, tile, x, first, out);
}

// Computes one tile of columns for all m rows; store(row, tile, values[4]) takes the results.
template <class Store>
inline void linear_tile(const Linear& w, int tile, const Rows& x, int m, const Store& store) {
  const int most = w.bits == 4 ? kMaxRowsInt4 : kMaxRows;
  alignas(64) float out[kMaxRows * kTile];
  for (int first = 0, blocks = (m + most - 1) / most; blocks > 0; --blocks) {
    const int rows = (m - first + blocks - 1) / blocks;  // as even as can be
    switch (rows) {
      case 1: rows_tile<1>(w, tile, x, first, out); break;
      case 2: rows_tile<2>(w, tile, x, first, out); break;
      case 3: rows_tile<3>(w, tile, x, first, out); break;
      case 4: rows_tile<4>(w, tile, x, first, out); break;
      default: rows_tile<5>(w, tile, x, first, out); break;
    }
    for (int r = 0; r < rows; ++r) {
      __m512 values[4];
#pragma GCC unroll 8
      for (int j = 0; j < 4; ++j) {
        values[j] = _mm512_load_ps(out + r * kTile + 16 * j);
        if (w.bias) values[j] = _mm512_add_ps(values[j], _mm512_loadu_ps(w.bias + tile * kTile + 16 * j));
      }
      store(first + r, tile, values);
    }
    first += rows;
  }
}

// Reads the first count rows of column n of int8 weights: a row of an embedding table.
inline void read_column(const Linear& w, int n, float* out, int count, float factor) {
  const uint8_t* p = w.weight + static_cast<size_t>(n / kTile) * w.k * kTile + (n % kTile) * 4;
  const float scale = w.scale[n] * factor;
  for (int i = 0; i < count; ++i) out[i] = (p[i / 4 * 4 * kTile + i % 4] - 128) * scale;
}
