// One token through one Mamba-1 mixer in float32, for the CPU; called by step_cpp.py. The general path takes forty
// calls of a library for this, each of which costs as much as the arithmetic of a small model.
//
//   inner, gate = in_proj x;  u = silu(conv(past, inner));  dt, B, C = x_proj u;  dt = softplus(dt_proj dt)
//   h = exp(dt A) h + dt u B;  y = out_proj((C . h + D u) silu(gate))
//
// D is the width of the model, E the inner width (a multiple of W), N the number of states per channel, K the width of
// the convolution, R the rank of dt. Matrices are row-major (out, in); so is A_log (E, N), with A = -exp(A_log). States
// are (batch, N, E) and (batch, K - 1, E).

#include <algorithm>
#include <cmath>
#include <vector>

#include "vector.h"

// A matrix larger than the caches is read at the speed of the memory, which is fastest when read in one stream: row
// after row. Several sums at once keep an addition from waiting for the one before it.
constexpr int SUMS = 4;

// Scalar product of two vectors.
static float dot(const float* row, const float* x, int64_t columns) {
  V acc[SUMS] = {};
  int64_t i = 0;
  for (; i + SUMS * W <= columns; i += SUMS * W)
    for (int m = 0; m < SUMS; m++) acc[m] += load(row + i + m * W) * load(x + i + m * W);
  for (; i + W <= columns; i += W) acc[0] += load(row + i) * load(x + i);
  float total = sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  for (; i < columns; i++) total += row[i] * x[i];
  return total;
}

// (rows, columns) times each of (batch, columns), whose vectors begin `stride` apart -> (batch, rows)
static void product(const float* matrix, const float* x, float* out, int64_t batch, int64_t rows, int64_t columns,
                    int64_t stride, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t row = 0; row < rows; row++)
    for (int64_t b = 0; b < batch; b++) out[b * rows + row] = dot(matrix + row * columns, x + b * stride, columns);
}

static inline V softplus(V x) {
  V e = exp_minus_abs(x);
  for (int i = 0; i < W; i++) e[i] = std::log1p(e[i]);
  return (x > V{} ? x : V{}) + e;
}

struct Sizes {
  int64_t batch, D, E, N, K, R;
  int threads;
};

// Computes u (E) of one row, and the tail of the convolution for the next step.
static void convolve(const float* tail, const float* inner, const float* weight, const float* bias, float* new_tail,
                     float* u, const Sizes s) {
  const int64_t past = s.K - 1;
  std::copy(tail + s.E, tail + past * s.E, new_tail);
  std::copy(inner, inner + s.E, new_tail + (past - 1) * s.E);
  for (int64_t e = 0; e < s.E; e++) {
    u[e] = bias[e] + weight[e * s.K + past] * inner[e];
    for (int64_t k = 0; k < past; k++) u[e] += weight[e * s.K + k] * tail[k * s.E + e];
  }
  for (int64_t e = 0; e < s.E; e += W) store(u + e, silu(load(u + e)));
}

// Replaces u (E) of one row by the gated output, and computes the state after this step.
static void scan_step(float* u, const float* dt, const float* bias, const float* A_log, const float* B, const float* C,
                      const float* D, const float* gate, const float* h, float* new_h, const Sizes s) {
  for (int64_t e = 0; e < s.E; e += W) {
    const V step = softplus(load(dt + e) + load(bias + e)), x = load(u + e), input = step * x;
    V out = load(D + e) * x;
    for (int64_t n = 0; n < s.N; n++) {
      V rate;
      for (int i = 0; i < W; i++) rate[i] = A_log[(e + i) * s.N + n];
      const V decay = exp2_nonpositive(-step * exponential(rate) * LOG2_E);
      const V state = decay * load(h + n * s.E + e) + input * B[n];
      store(new_h + n * s.E + e, state);
      out += state * C[n];
    }
    store(u + e, out * silu(load(gate + e)));
  }
}

extern "C" {

// (rows, columns) times each of (batch, columns) -> (batch, rows)
void matrix_vectors(const float* matrix, const float* x, float* out, int64_t batch, int64_t rows, int64_t columns,
                    int threads) {
  product(matrix, x, out, batch, rows, columns, columns, threads);
}

// Computes y, new_tail and new_h. Shapes are at the top of this file.
void mamba_step(const float* x, const float* in_proj, const float* conv_weight, const float* conv_bias,
                const float* x_proj, const float* dt_proj, const float* dt_bias, const float* A_log, const float* D,
                const float* out_proj, const float* tail, const float* h, float* new_tail, float* new_h, float* y,
                int64_t batch, int64_t d_model, int64_t E, int64_t N, int64_t K, int64_t R, int threads) {
  const Sizes s{batch, d_model, E, N, K, R, threads};
  const int64_t width = R + 2 * N;
  std::vector<float> scratch(batch * (4 * E + width));
  float *both = scratch.data(), *u = both + batch * 2 * E, *low = u + batch * E, *dt = low + batch * width;
  product(in_proj, x, both, batch, 2 * E, d_model, d_model, threads);
  for (int64_t b = 0; b < batch; b++)
    convolve(tail + b * (K - 1) * E, both + b * 2 * E, conv_weight, conv_bias, new_tail + b * (K - 1) * E, u + b * E, s);
  product(x_proj, u, low, batch, width, E, E, threads);
  product(dt_proj, low, dt, batch, E, R, width, 1);
  for (int64_t b = 0; b < batch; b++) {
    const float *B = low + b * width + R, *C = B + N;
    scan_step(u + b * E, dt + b * E, dt_bias, A_log, B, C, D, both + b * 2 * E + E, h + b * N * E, new_h + b * N * E, s);
  }
  product(out_proj, u, y, batch, d_model, E, E, threads);
}
}
