// Depthwise convolutions over time in float32, for the CPU; called by conv_cpp.py. A silu follows, as in Mamba, or not.
//
//   c_t = bias + sum_k weight_k window_{t+k}        y_t = silu(c_t), or c_t
//
// K is the width of the convolution, E the number of channels, a multiple of W. Channels are innermost:
//   window (batch, steps + K - 1, E), y (batch, steps, E), weight (K, E), bias (E).
// A unit of work is BLOCK steps of one row. They are processed step by step, so that memory is read in one stream. Each
// unit has its own part of the gradients of the weights, and the caller sums the parts: there are no atomics, and sums
// have one order.

#include <algorithm>

#include "vector.h"

constexpr int64_t BLOCK = 64;

// The operands of a convolution.
struct Conv {
  const float *window, *weight, *bias;
  int64_t batch, steps, E, K;
  // Units of work in one row.
  int64_t blocks() const { return (steps + BLOCK - 1) / BLOCK; }
  const float* row(int64_t b, int64_t t) const { return window + (b * (steps + K - 1) + t) * E; }
};

// c of one step for channels e to e + W; `first` is the first of the K steps that it depends on.
static inline V convolved(const Conv& x, const float* first, int64_t e) {
  V c = load(x.bias + e);
  for (int64_t k = 0; k < x.K; k++) c += load(x.weight + k * x.E + e) * load(first + k * x.E + e);
  return c;
}

extern "C" {

// Steps of a unit of work; the caller needs it for the size of dw.
int conv_block() { return BLOCK; }

// Fills y.
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

// Fills dwindow with the gradient of window and adds the gradients of weight (K) and bias (1) to dw, (units, K + 1, E),
// which must be zero at first. dc (batch, steps, E) is scratch for the gradient of c; without a silu it may be dy
// itself.
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
  // Every step of the window gathers from the outputs that depend on it, so no two threads write to the same place.
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
