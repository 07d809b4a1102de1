// One token through one Mamba-1 mixer in float32, for the CPU: what the general path does in forty calls of a library,
// each of which costs as much as the arithmetic of a small model. native.py builds it, step_cpp.py calls it.
//
//   inner, gate = in_proj x;  u = silu(conv(past, inner));  dt, B, C = x_proj u;  dt = softplus(dt_proj dt)
//   h = exp(dt A) h + dt u B;  y = out_proj((C . h + D u) silu(gate))
//
// Matrices are row-major (out, in), states (batch, N, E) and (batch, K - 1, E), A (N, E). E is a multiple of W.

#include <algorithm>
#include <cmath>
#include <vector>

#include "vector.h"

constexpr int ROWS = 4;  // rows of a matrix that share the loads of the vector

template <int M>
static void dot_rows(const float* matrix, const float* x, float* out, int64_t columns) {
  V acc[M] = {};
  int64_t i = 0;
  for (; i + W <= columns; i += W)
    for (int m = 0; m < M; m++) acc[m] += load(matrix + m * columns + i) * load(x + i);
  for (int m = 0; m < M; m++) {
    out[m] = sum(acc[m]);
    for (int64_t j = i; j < columns; j++) out[m] += matrix[m * columns + j] * x[j];
  }
}

// (rows, columns) times each of (batch, columns), which lie `stride` apart -> (batch, rows)
static void product(const float* matrix, const float* x, float* out, int64_t batch, int64_t rows, int64_t columns,
                    int64_t stride, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t block = 0; block < (rows + ROWS - 1) / ROWS; block++)
    for (int64_t b = 0; b < batch; b++) {
      int64_t row = block * ROWS;
      if (row + ROWS <= rows)
        dot_rows<ROWS>(matrix + row * columns, x + b * stride, out + b * rows + row, columns);
      else
        for (; row < rows; row++) dot_rows<1>(matrix + row * columns, x + b * stride, out + b * rows + row, columns);
    }
}

static inline V exp_minus_abs(V x) { return exp2_nonpositive((x < V{} ? x : -x) * LOG2_E); }

static inline V silu(V x) {
  const V e = exp_minus_abs(x);
  return x * (x < V{} ? e : V{} + 1.0f) / (e + 1.0f);
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

// u (E) of one row; the convolution's window moves on by one step.
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

// The gated output (E) of one row, in the place of u; the state moves on by one step.
static void scan_step(float* u, const float* dt, const float* bias, const float* A, const float* B, const float* C,
                      const float* D, const float* gate, const float* h, float* new_h, const Sizes s) {
  for (int64_t e = 0; e < s.E; e += W) {
    const V step = softplus(load(dt + e) + load(bias + e)), x = load(u + e), input = step * x;
    V out = load(D + e) * x;
    for (int64_t n = 0; n < s.N; n++) {
      const V decay = exp2_nonpositive(step * load(A + n * s.E + e) * LOG2_E);
      const V state = decay * load(h + n * s.E + e) + input * B[n];
      store(new_h + n * s.E + e, state);
      out += state * C[n];
    }
    store(u + e, out * silu(load(gate + e)));
  }
}

extern "C" {

int step_width() { return W; }

void mamba_step(const float* x, const float* in_proj, const float* conv_weight, const float* conv_bias,
                const float* x_proj, const float* dt_proj, const float* dt_bias, const float* A, const float* D,
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
    scan_step(u + b * E, dt + b * E, dt_bias, A, B, C, D, both + b * 2 * E + E, h + b * N * E, new_h + b * N * E, s);
  }
  product(out_proj, u, y, batch, d_model, E, E, threads);
}
}
