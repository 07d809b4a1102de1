// Functions of single numbers in float32, for the CPU, with their gradients; called by gates.py.
//
//   silu       y = x sigmoid(x)
//   softplus   y = log(1 + exp(x))
//   gated      out = y silu(z); the rows (of E numbers) of z begin `stride` numbers apart
//
// Numbers and E are multiples of W.

#include "vector.h"

// log(1 + e) for e in [0, 1] with a relative error of 1e-7, by the series of 2 atanh(e / (2 + e)).
static inline V log1p_unit(V e) {
  const V s = e / (e + 2.0f), q = s * s;
  V p = V{} + 1.0f / 13;
  p = p * q + 1.0f / 11;
  p = p * q + 1.0f / 9;
  p = p * q + 1.0f / 7;
  p = p * q + 1.0f / 5;
  p = p * q + 1.0f / 3;
  p = p * q + 1.0f;
  return 2.0f * s * p;
}

static inline V softplus(V x) { return (x > V{} ? x : V{}) + log1p_unit(exp_minus_abs(x)); }

// Derivative of silu.
static inline V silu_slope(V x) {
  const V s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}

// Calls f with the index of every vector of n numbers.
template <typename F>
static void each(int64_t n, int threads, F f) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < n; i += W) f(i);
}

// The same for rows of E numbers, with a second index for a tensor whose rows begin `stride` numbers apart.
template <typename F>
static void each_in_rows(int64_t rows, int64_t E, int64_t stride, int threads, F f) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t row = 0; row < rows; row++)
    for (int64_t e = 0; e < E; e += W) f(row * E + e, row * stride + e);
}

extern "C" {

void silu_forward(const float* x, float* y, int64_t n, int threads) {
  each(n, threads, [=](int64_t i) { store(y + i, silu(load(x + i))); });
}

void silu_backward(const float* x, const float* dy, float* dx, int64_t n, int threads) {
  each(n, threads, [=](int64_t i) { store(dx + i, load(dy + i) * silu_slope(load(x + i))); });
}

void softplus_forward(const float* x, float* y, int64_t n, int threads) {
  each(n, threads, [=](int64_t i) { store(y + i, softplus(load(x + i))); });
}

void softplus_backward(const float* x, const float* dy, float* dx, int64_t n, int threads) {
  each(n, threads, [=](int64_t i) { store(dx + i, load(dy + i) * sigmoid(load(x + i))); });
}

void gated_forward(const float* y, const float* z, float* out, int64_t rows, int64_t E, int64_t stride, int threads) {
  each_in_rows(rows, E, stride, threads,
               [=](int64_t i, int64_t in_z) { store(out + i, load(y + i) * silu(load(z + in_z))); });
}

void gated_backward(const float* y, const float* z, const float* dout, float* dy, float* dz, int64_t rows, int64_t E,
                    int64_t stride, int threads) {
  each_in_rows(rows, E, stride, threads, [=](int64_t i, int64_t in_z) {
    const V d = load(dout + i), x = load(z + in_z), s = sigmoid(x);
    store(dy + i, d * x * s);
    store(dz + i, d * load(y + i) * s * (1.0f + x * (1.0f - s)));
  });
}
}
