// Vector arithmetic of one row; every result is a pure function of the row, in a fixed order.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>

inline __mmask16 tail_mask(int left) {
  return left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1u << left) - 1);
}

inline __m512 load_half(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// e^x to about 2 units in the last place: x = n ln 2 + r, then a Taylor polynomial in r.
inline __m512 exp_ps(__m512 x) {
  // min and max return their second operand where one is NaN, which so comes through.
  const __m512 least = _mm512_set1_ps(-104.0f), most = _mm512_set1_ps(88.7f);
  const __m512 bounded = _mm512_max_ps(least, _mm512_min_ps(most, x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(bounded, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), bounded);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 y = _mm512_set1_ps(1.0f / 5040);
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 720));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 120));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 24));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f / 6));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(0.5f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(y, n);
}

// tanh x = 1 - 2 / (e^2x + 1)
inline __m512 tanh_ps(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
  const __m512 e = exp_ps(_mm512_mul_ps(x, two));
  return _mm512_sub_ps(one, _mm512_div_ps(two, _mm512_add_ps(e, one)));
}

enum Activation : int32_t { kSilu = 0, kGeluTanh = 1, kGelu = 2 };

inline __m512 activate(__m512 x, Activation kind) {
  const __m512 one = _mm512_set1_ps(1.0f), half = _mm512_set1_ps(0.5f);
  if (kind == kSilu)
    return _mm512_div_ps(x, _mm512_add_ps(one, exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), x))));
  if (kind == kGeluTanh) {
    const __m512 cubic = _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_mul_ps(x, _mm512_set1_ps(0.044715f)));
    const __m512 inner = _mm512_mul_ps(_mm512_set1_ps(0.79788456f), _mm512_add_ps(x, cubic));
    return _mm512_mul_ps(_mm512_mul_ps(half, x), _mm512_add_ps(one, tanh_ps(inner)));
  }
  alignas(64) float values[16];
  _mm512_store_ps(values, x);
  for (float& v : values) v = 0.5f * v * (1.0f + std::erf(v * 0.70710678f));
  return _mm512_load_ps(values);
}

// out = x / rms(x) * weight (Zhang and Sennrich 2019); out may be x.
inline void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < n; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(tail_mask(n - i), x + i);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  const __m512 inverse = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / n + eps));
  for (int i = 0; i < n; i += 16) {
    const __mmask16 mask = tail_mask(n - i);
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse);
    _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, weight + i)));
  }
}
