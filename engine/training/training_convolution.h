// The convolution of one layer, Batatia et al. 2022, eq. 8, and its derivatives:
//   phi[i, k] = sum over edges, sum_m  r[pair] M[pair, m, k] h[sender, m].
// It is linear in r (radial), M (mixing: harmonics times couplings) and h (features), so the second
// derivatives are sums of the same products.
#pragma once
#include "training.h"
#include "vec.h"

namespace mm {

template <class T, int IN, int OUT> struct TrainingConvolution {
  using V = Vec<T>;
  static constexpr int SIZE = IN * OUT;
  static constexpr int PADDED = (SIZE + LANES<T> - 1) / LANES<T> * LANES<T>;

  // Where an edge of a path finds its numbers.
  struct Place {
    int64_t row, mixing, in, out, step;
    T sign;
    Place(const TrainingEdges& g, const TrainingPath& p, int index, int64_t e)
        : row((g.pairs[e] * g.n_paths + index) * g.channels),
          mixing(g.pairs[e] * g.n_mixing + p.mixing),
          in(g.senders[e] * IN * g.channels),
          out((g.receivers[e] * OUT * p.n_places + p.place) * g.channels),
          step(int64_t(p.n_places) * g.channels),
          sign(p.odd && g.reversed[e] ? T(-1) : T(1)) {}
  };

  static void add(T* to, V value) { store(to, load(to) + value); }

  static void add_sums(T* to, V* s) {
    T total[PADDED];
    for (int i = 0; i < PADDED; i += LANES<T>) store(total + i, sum_lanes<T>(s + i));
    for (int i = 0; i < SIZE; i++) to[i] += total[i];
  }

  // Edges with the same receiver usually stand together: their sum stays in registers.
  static void value(const TrainingEdges& g, const TrainingPath& p, int index, const T* radial,
                    const T* mixing, const T* features, T* out) {
    for (int64_t first = 0, last; first < g.n_edges; first = last) {
      for (last = first + 1; last < g.n_edges && g.receivers[last] == g.receivers[first];) last++;
      for (int c = 0; c < g.channels; c += LANES<T>) {
        V sum[OUT] = {};
        for (int64_t e = first; e < last; e++) {
          const Place at(g, p, index, e);
          const V r = load(radial + at.row + c) * at.sign;
          const T* m_row = mixing + at.mixing;
          for (int m = 0; m < IN; m++) {
            const V v = r * load(features + at.in + m * g.channels + c);
            for (int k = 0; k < OUT; k++) sum[k] += v * m_row[m * OUT + k];
          }
        }
        const Place at(g, p, index, first);
        for (int k = 0; k < OUT; k++) add(out + at.out + k * at.step + c, sum[k]);
      }
    }
  }

  // Gradients of sum(phi * d_out).
  static void gradient(const TrainingEdges& g, const TrainingPath& p, int index, const T* radial,
                       const T* mixing, const T* features, const T* d_out, T* d_radial,
                       T* d_mixing, T* d_features) {
    for (int64_t e = 0; e < g.n_edges; e++) {
      const Place at(g, p, index, e);
      const T* m_row = mixing + at.mixing;
      V s[PADDED] = {};
      for (int c = 0; c < g.channels; c += LANES<T>) {
        const V r = load(radial + at.row + c) * at.sign;
        V d[OUT], along = {};
        for (int k = 0; k < OUT; k++) d[k] = load(d_out + at.out + k * at.step + c);
        for (int m = 0; m < IN; m++) {
          const int64_t place = at.in + m * g.channels + c;
          const V h = load(features + place), v = r * h;
          V u = {};
          for (int k = 0; k < OUT; k++) {
            u += d[k] * m_row[m * OUT + k];
            s[m * OUT + k] += v * d[k];
          }
          along += u * h;
          add(d_features + place, r * u);
        }
        add(d_radial + at.row + c, along * at.sign);
      }
      add_sums(d_mixing + at.mixing, s);
    }
  }

  // Gradients of the gradients' inner product with (t_radial, t_mixing, t_features).
  static void second(const TrainingEdges& g, const TrainingPath& p, int index, const T* radial,
                     const T* mixing, const T* features, const T* d_out, const T* t_radial,
                     const T* t_mixing, const T* t_features, T* b_radial, T* b_mixing,
                     T* b_features, T* b_out) {
    for (int64_t e = 0; e < g.n_edges; e++) {
      const Place at(g, p, index, e);
      const T *m_row = mixing + at.mixing, *tm_row = t_mixing + at.mixing;
      V s[PADDED] = {};
      for (int c = 0; c < g.channels; c += LANES<T>) {
        const V r = load(radial + at.row + c) * at.sign;
        const V tr = load(t_radial + at.row + c) * at.sign;
        V d[OUT], b[OUT] = {}, along = {};
        for (int k = 0; k < OUT; k++) d[k] = load(d_out + at.out + k * at.step + c);
        for (int m = 0; m < IN; m++) {
          const int64_t place = at.in + m * g.channels + c;
          const V h = load(features + place), th = load(t_features + place);
          const V v = r * h, tv = tr * h + r * th;
          V u = {}, tu = {};
          for (int k = 0; k < OUT; k++) {
            const T w = m_row[m * OUT + k], tw = tm_row[m * OUT + k];
            u += d[k] * w;
            tu += d[k] * tw;
            b[k] += tv * w + v * tw;
            s[m * OUT + k] += tv * d[k];
          }
          along += tu * h + u * th;
          add(b_features + place, tr * u + r * tu);
        }
        for (int k = 0; k < OUT; k++) add(b_out + at.out + k * at.step + c, b[k]);
        add(b_radial + at.row + c, along * at.sign);
      }
      add_sums(b_mixing + at.mixing, s);
    }
  }
};

// Calls `run` with the kernels of the path's degrees; false where there are none.
template <class T, int IN, class F> static bool with_out(int l_out, F&& run) {
  switch (l_out) {
    case 0: run(TrainingConvolution<T, IN, 1>()); return true;
    case 1: run(TrainingConvolution<T, IN, 3>()); return true;
    case 2: run(TrainingConvolution<T, IN, 5>()); return true;
    case 3: run(TrainingConvolution<T, IN, 7>()); return true;
    default: return false;
  }
}

template <class T, class F> static bool with_path(const TrainingPath& p, F&& run) {
  switch (p.l_in) {
    case 0: return with_out<T, 1>(p.l_out, run);
    case 1: return with_out<T, 3>(p.l_out, run);
    case 2: return with_out<T, 5>(p.l_out, run);
    default: return false;
  }
}

}  // namespace mm
