// Vectors of W float32 numbers, as wide as the registers of the target, and functions of them for all kernels.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// The vector must not be wider than the target's registers: GCC 12 splits wider ones lane by lane, 14 times slower.
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef float V __attribute__((vector_size(VECTOR_BYTES)));
typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
// Load and store through an unaligned type: GCC 12 sends a 32-byte memcpy through the stack.
typedef float Unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

constexpr int W = VECTOR_BYTES / sizeof(float);
constexpr float LOG2_E = 1.44269504088896341f;
constexpr float LN_2 = 0.693147180559945309f;

static inline V load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
static inline void store(float* p, V v) { *reinterpret_cast<Unaligned*>(p) = v; }
static inline void add_to(float* p, V v) { store(p, load(p) + v); }

// Sum of the lanes, in pairs, so that an addition does not wait for the one before it.
static inline float sum(V v) {
  float parts[W];
  store(parts, v);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) parts[i] += parts[i + half];
  return parts[0];
}

// 2^x for x <= 0 with a relative error of 2e-7, exactly 1 at 0 (a step with dt = 0 must not change the state). Adding
// `magic` rounds x to the integer, the eighth or the sixteenth, which then is in the low bits. It needs IEEE order of
// operations: -ffast-math would remove it.
static inline V exp2_nonpositive(V x) {
  // x = max(x, -126): of two numbers that are not positive, the larger has the smaller bits. GCC 12 makes one
  // instruction of this unsigned minimum (operands in this order), but two of a float maximum: 1.2 times slower.
  const Bits bits = (Bits)x, lowest = (Bits)(V{} - 126.0f);
  x = (V)(lowest < bits ? lowest : bits);
#if VECTOR_BYTES == 64
  // One register holds the powers 2^(j/16), minus the j << 19 that the shift below adds. With them the polynomial needs
  // half as many terms.
  const Bits powers = {
      0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
      0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
  const V magic = V{} + 786432.0f;  // 1.5 * 2^19
  const V shifted = x + magic;
  const V f = x - (shifted - magic);  // in [-1/32, 1/32]
  V p = V{} + 5.550410866e-2f;
  p = p * f + 2.402265070e-1f;
  p = p * f + 6.931471806e-1f;
  p = p * f + 1.0f;
  const Bits power = (Bits)_mm512_permutexvar_epi32((__m512i)shifted, (__m512i)powers);  // by the low 4 bits
  return p * (V)(power + ((Bits)shifted << 19));
#elif defined(__AVX2__)
  // As above, with eighths.
  const Bits powers = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7,
                       0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
  const V magic = V{} + 1572864.0f;  // 1.5 * 2^20
  const V shifted = x + magic;
  const V f = x - (shifted - magic);  // in [-1/16, 1/16]
  V p = V{} + 5.550410866e-2f;
  p = p * f + 2.402576309e-1f;
  p = p * f + 6.931471806e-1f;
  p = p * f + 1.0f;
  const Bits power = (Bits)_mm256_permutevar8x32_epi32((__m256i)powers, (__m256i)shifted);  // by the low 3 bits
  return p * (V)(power + ((Bits)shifted << 20));
#else
  const V magic = V{} + 12582912.0f;  // 1.5 * 2^23
  const V shifted = x + magic;
  const V f = x - (shifted - magic);  // in [-1/2, 1/2]
  V p = V{} + 1.535336188319500e-4f;
  p = p * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  p = p * f + 1.0f;
  return (V)((Bits)p + ((Bits)shifted << 23));  // the integer goes into the exponent field
#endif
}

// exp(-|x|)
static inline V exp_minus_abs(V x) { return exp2_nonpositive((x < V{} ? x : -x) * LOG2_E); }

// exp(x)
static inline V exponential(V x) {
  const V e = exp_minus_abs(x);
  return x < V{} ? e : 1.0f / e;
}

// 1 / (1 + exp(-x)); exp(-|x|) cannot overflow.
static inline V sigmoid(V x) {
  const V e = exp_minus_abs(x);
  return (x < V{} ? e : V{} + 1.0f) / (e + 1.0f);
}

static inline V silu(V x) { return x * sigmoid(x); }
