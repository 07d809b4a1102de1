// Depthwise convolutions in float32 for the CPU, with a silu behind them as Mamba has it, or without; conv_cpp.py calls
// it.
//
//   c_t = bias + sum_k weight_k window_{t+k}        y_t = silu(c_t), or c_t
//
// Channels innermost: window (batch, steps + K - 1, E), y (batch, steps, E), weight (K, E), bias (E). E is a multiple
// of W. A unit of work is BLOCK steps of one row, gone through step by step, so that memory is read in one stream; each
// unit has its own part of the weights' gradients, which the caller sums: no atomics, one order.

#include <algorithm>

#include "vector.h"

constexpr int64_t BLOCK = 64;

struct Conv {
  const float *window, *weight, *bias;
  int64_t batch, steps, E, K;
  int64_t blocks() const { return (steps + BLOCK - 1) / BLOCK; }
  const float* row(int64_t b, int64_t t) const { return window + (b * (steps + K - 1) + t) * E; }
};

static inline V convolved(const Conv& x, const float* first, int64_t e) {
  V c = load(x.bias + e);
  for (int64_t k = 0; k < x.K; k++) c += load(x.weight + k * x.E + e) * load(first + k * x.E + e);
  return c;
}

extern "C" {

int conv_block() { return BLOCK; }

void conv_forward(const float* window, const float* weight, const float* bias, float* y, int64_t batch, int64_t steps,
                  int64_t E, int64_t K, int with_silu, int threads) {
  const Conv x{window, weight, bias, batch, steps, E, K};
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t unit = 0; unit < batch * x.blocks(); unit++) {
    const int64_t b = unit / x.blocks(), begin = unit % x.blocks() * BLOCK, end = std::min(steps, begin + BLOCK);
    for (int64_t t = begin; t < end; t++)
      for (int64_t e = 0; e < E; e += W) {
        const V c = convolved(x, x.row(b, t), e);
        store(y + (b * steps + t) * E + e, with_silu ? silu(c) : c);
      }
  }
}

// dc (batch, steps, E) takes the gradient of c, which without a silu may be dy itself, dw (units, K + 1, E), zero at
// first, that of weight and bias.
void conv_backward(const float* window, const float* weight, const float* bias, const float* dy, float* dc, float* dw,
                   float* dwindow, int64_t batch, int64_t steps, int64_t E, int64_t K, int with_silu, int threads) {
  const Conv x{window, weight, bias, batch, steps, E, K};
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t unit = 0; unit < batch * x.blocks(); unit++) {
    const int64_t b = unit / x.blocks(), begin = unit % x.blocks() * BLOCK, end = std::min(steps, begin + BLOCK);
    float* part = dw + unit * (K + 1) * E;
    for (int64_t t = begin; t < end; t++)
      for (int64_t e = 0; e < E; e += W) {
        const int64_t at = (b * steps + t) * E + e;
        V d = load(dy + at);
        if (with_silu) {
          const V c = convolved(x, x.row(b, t), e), s = sigmoid(c);
          store(dc + at, d = d * s * (1.0f + c * (1.0f - s)));
        }
        for (int64_t k = 0; k < K; k++) add_to(part + k * E + e, d * load(x.row(b, t + k) + e));
        add_to(part + K * E + e, d);
      }
  }
  const int64_t width = steps + K - 1;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t row = 0; row < batch * width; row++) {
    const int64_t b = row / width, t = row % width;
    for (int64_t e = 0; e < E; e += W) {
      V d = {};
      for (int64_t k = std::max<int64_t>(0, t - steps + 1); k < K && k <= t; k++)
        d += load(weight + k * E + e) * load(dc + (b * steps + t - k) * E + e);
      store(dwindow + row * E + e, d);
    }
  }
}
}
