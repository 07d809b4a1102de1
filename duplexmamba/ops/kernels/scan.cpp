// Selective scan of Mamba-1 in float32, for the CPU; called by scan_cpp.py.
//
//   h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t        y_t = C_t . h_t + D u_t
//
// E is the number of channels, a multiple of W, and N the number of states per channel. Everything is contiguous with
// the channels innermost:
//   u, dt, y (batch, length, E); A (N, E); B, C (batch, length, N); D (E); states (batch, N, E).
//
// The work is divided so that numbers that are used repeatedly stay in fast memory:
//   chunk    at most CHUNK time steps. Their u, dt and y stay in the L2 cache, and the backward pass recomputes a chunk
//            from one stored state, so memory grows with length / CHUNK.
//   tile     a few of the N states. Their values, decay rates and gradients stay in registers, scratch in the L1 cache.
//   block    W channels, one vector.
// Threads share batch rows x channel groups. No two threads add to the same number, so there are no atomics and sums
// have one order: results are bitwise repeatable.

#include <algorithm>

#include "vector.h"

constexpr int TILE = 4;    // fills 16 registers; 8 is no faster with 32, and doubles the scratch
constexpr int CHUNK = 16;  // the backward scratch, 4 x CHUNK x TILE vectors, is 16 KiB at most

struct Operands {
  const float *u, *dt, *A, *B, *C, *D;
  int64_t batch, length, E, N;
};

struct Gradients {
  float *u, *dt;  // (batch, length, E)
  float *A, *D;   // (batch, N, E) and (batch, E): one part per row, summed by the caller; start at zero
  float *B, *C;   // (groups, batch, length, N): one part per channel group, summed by the caller; overwritten
};

// The range of one call of a tile function: row b, times [t0, t1), channels [e0, e1), states from n0 on.
// Tile functions take it and the operands by value. Through a reference, the compiler would read them again after every
// store, since a store might change them.
struct Region {
  int64_t b, group, t0, t1, e0, e1, n0;
};

// Scratch of backward_tile. dB and dC sum over the channel blocks, lane by lane. The gaps keep the four arrays from
// having the same offsets in their 4 KiB pages, where a load would wait for an unrelated store.
template <int M>
struct Scratch {
  V decay[CHUNK][M], gap1[3], h[CHUNK + 1][M], gap2[5], dB[CHUNK][M], gap3[7], dC[CHUNK][M];
};

// Steps M states of the region through its times: updates `state` (N, E) and adds their part to y.
template <int M>
static void forward_tile(const Operands x, const Region r, float* state, float* y) {
  for (int64_t e = r.e0; e < r.e1; e += W) {
    V h[M], rate[M];
    for (int m = 0; m < M; m++) {
      h[m] = load(state + (r.n0 + m) * x.E + e);
      rate[m] = load(x.A + (r.n0 + m) * x.E + e) * LOG2_E;
    }
    for (int64_t t = r.t0; t < r.t1; t++) {
      const int64_t row = r.b * x.length + t, at = row * x.E + e;
      const float *B = x.B + row * x.N + r.n0, *C = x.C + row * x.N + r.n0;
      if (r.n0 == 0)  // the processor does not prefetch at strides of E, so the next chunk is prefetched here
        for (const float* p : {x.u, x.dt, static_cast<const float*>(y)}) __builtin_prefetch(p + at + CHUNK * x.E, 0, 2);
      const V dt = load(x.dt + at), u = load(x.u + at), dtu = dt * u;
      V out = r.n0 == 0 ? load(x.D + e) * u : load(y + at);
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) {
        h[m] = exp2_nonpositive(dt * rate[m]) * h[m] + dtu * B[m];
        out += h[m] * C[m];
      }
      store(y + at, out);
    }
    for (int m = 0; m < M; m++) store(state + (r.n0 + m) * x.E + e, h[m]);
  }
}

// Takes M states of the region back through its times. `before` is the state at t0. `dstate` is the gradient of the
// state after t1 on entry, and that of the state at t0 on return.
template <int M>
static void backward_tile(const Operands x, const Region r, const float* dy, const float* before, float* dstate,
                          const Gradients d) {
  Scratch<M> s;
  for (int i = 0; i < CHUNK; i++)
    for (int m = 0; m < M; m++) s.dB[i][m] = s.dC[i][m] = V{};
  for (int64_t e = r.e0; e < r.e1; e += W) {
    V rate[M];
    for (int m = 0; m < M; m++) {
      s.h[0][m] = load(before + (r.n0 + m) * x.E + e);
      rate[m] = load(x.A + (r.n0 + m) * x.E + e) * LOG2_E;
    }
    for (int64_t t = r.t0; t < r.t1; t++) {
      const int64_t row = r.b * x.length + t, at = row * x.E + e, i = t - r.t0;
      const float* B = x.B + row * x.N + r.n0;
      const V dt = load(x.dt + at), dtu = dt * load(x.u + at);
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) {
        s.decay[i][m] = exp2_nonpositive(dt * rate[m]);
        s.h[i + 1][m] = s.decay[i][m] * s.h[i][m] + dtu * B[m];
      }
    }
    V dh[M], dA[M], dD = {};
    for (int m = 0; m < M; m++) {
      dh[m] = load(dstate + (r.n0 + m) * x.E + e);
      dA[m] = V{};
    }
    for (int64_t t = r.t1 - 1; t >= r.t0; t--) {
      const int64_t row = r.b * x.length + t, at = row * x.E + e, i = t - r.t0;
      const float *B = x.B + row * x.N + r.n0, *C = x.C + row * x.N + r.n0;
      const V dt = load(x.dt + at), u = load(x.u + at), dyt = load(dy + at), dtu = dt * u;
      V ddtu = {}, dexponent = {};
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) {
        const V g = dh[m] + dyt * C[m];  // gradient of h_t
        s.dC[i][m] += dyt * s.h[i + 1][m];
        s.dB[i][m] += g * dtu;
        ddtu += g * B[m];
        dh[m] = g * s.decay[i][m];
        const V dlog = dh[m] * s.h[i][m];  // gradient of dt_t A
        dexponent += dlog * rate[m];
        dA[m] += dlog * dt;
      }
      const V du = ddtu * dt, ddt = ddtu * u + dexponent * LN_2;
      if (r.n0 == 0) {
        store(d.u + at, du + dyt * load(x.D + e));
        store(d.dt + at, ddt);
        dD += dyt * u;
      } else {
        add_to(d.u + at, du);
        add_to(d.dt + at, ddt);
      }
    }
    for (int m = 0; m < M; m++) {
      store(dstate + (r.n0 + m) * x.E + e, dh[m]);
      add_to(d.A + (r.b * x.N + r.n0 + m) * x.E + e, dA[m]);
    }
    if (r.n0 == 0) add_to(d.D + r.b * x.E + e, dD);
  }
  for (int64_t t = r.t0; t < r.t1; t++)
    for (int m = 0; m < M; m++) {
      const int64_t at = ((r.group * x.batch + r.b) * x.length + t) * x.N + r.n0 + m;
      d.B[at] = sum(s.dB[t - r.t0][m]);
      d.C[at] = sum(s.dC[t - r.t0][m]);
    }
}

// The part of a unit of work that is the same for all chunks: its row and its channels.
static Region region_of(int64_t unit, const Operands& x, int64_t groups) {
  const int64_t b = unit / groups, group = unit % groups, blocks = x.E / W;
  return {b, group, 0, 0, blocks * group / groups * W, blocks * (group + 1) / groups * W, 0};
}

// Sets the times of a region to those of a chunk of its row.
static void select_chunk(Region& r, const int64_t* ends, int64_t chunks, int64_t chunk) {
  const int64_t* row = ends + r.b * chunks;
  r.t0 = chunk ? row[chunk - 1] : 0;
  r.t1 = row[chunk];
}

extern "C" {

int vector_width() { return W; }
int scan_chunk() { return CHUNK; }

// h is h_0 on entry and h_L on return. ends (batch, chunks) holds the end of each chunk of each row; no chunk is longer
// than CHUNK, some may be empty, and the last one of a row ends at its length. checkpoints, (batch, chunks, N, E) or
// null, receives the state before each chunk.
void scan_forward(const float* u, const float* dt, const float* A, const float* B, const float* C, const float* D,
                  float* h, float* y, float* checkpoints, const int64_t* ends, int64_t chunks, int64_t batch,
                  int64_t length, int64_t E, int64_t N, int64_t groups, int threads) {
  const Operands x{u, dt, A, B, C, D, batch, length, E, N};
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t unit = 0; unit < batch * groups; unit++) {
    Region r = region_of(unit, x, groups);
    float* state = h + r.b * N * E;
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      select_chunk(r, ends, chunks, chunk);
      if (checkpoints)
        for (int64_t n = 0; n < N; n++)
          std::copy(state + n * E + r.e0, state + n * E + r.e1,
                    checkpoints + ((r.b * chunks + chunk) * N + n) * E + r.e0);
      for (r.n0 = 0; r.n0 + TILE <= N; r.n0 += TILE) forward_tile<TILE>(x, r, state, y);
      for (; r.n0 < N; r.n0++) forward_tile<1>(x, r, state, y);
    }
  }
}

// dh is the gradient of h_L on entry and that of h_0 on return; dcheckpoints is that of the checkpoints, or null.
void scan_backward(const float* u, const float* dt, const float* A, const float* B, const float* C, const float* D,
                   const float* checkpoints, const float* dy, float* dh, float* du, float* ddt, float* dA, float* dB,
                   float* dC, float* dD, const float* dcheckpoints, const int64_t* ends, int64_t chunks, int64_t batch,
                   int64_t length, int64_t E, int64_t N, int64_t groups, int threads) {
  const Operands x{u, dt, A, B, C, D, batch, length, E, N};
  const Gradients d{du, ddt, dA, dD, dB, dC};
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t unit = 0; unit < batch * groups; unit++) {
    Region r = region_of(unit, x, groups);
    float* dstate = dh + r.b * N * E;
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
      select_chunk(r, ends, chunks, chunk);
      const int64_t at = (r.b * chunks + chunk) * N * E;
      for (r.n0 = 0; r.n0 + TILE <= N; r.n0 += TILE) backward_tile<TILE>(x, r, dy, checkpoints + at, dstate, d);
      for (; r.n0 < N; r.n0++) backward_tile<1>(x, r, dy, checkpoints + at, dstate, d);
      if (dcheckpoints)
        for (int64_t n = 0; n < N; n++)
          for (int64_t e = r.e0; e < r.e1; e += W) add_to(dstate + n * E + e, load(dcheckpoints + at + n * E + e));
    }
  }
}
}
