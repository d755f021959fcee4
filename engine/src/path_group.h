// Messages from the neighbors of one receiver, and the way back, for paths of one l_in.
//
// A path couples a sender's feature (IN = 2 l_in + 1 components) with the edge's harmonics to a
// message of OUT = 2 l_out + 1 components: phi_k += R sum_m h_m M_mk, with R the spline of the
// path's radial function and M known for each edge. The paths of a group lie side by side in the
// splines and in M, so that all places inside the loops are constants.
#pragma once
#include <type_traits>

#include "edges.h"

namespace mm {

template <class F, int... I> static inline void unroll(Ints<I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}
#define MM_INLINE __attribute__((always_inline))
// A loop whose index is a constant in its body: for_each(N, i, { ... }).
#define MM_UNROLL(N, i, ...) \
  unroll(typename MakeInts<N>::type(), [&](auto i) MM_INLINE __VA_ARGS__)

// Rows of the message that a path writes, in rows of `channels`.
struct MessageRows {
  int first, stride;
};

// Where a group of paths finds its data.
struct GroupPlace {
  int feature;      // first row of the sender's feature
  int radial;       // the first path's index in the splines
  int coefficient;  // the first row of M in the batch
  int n_paths;      // of the layer
};

// Paths of a kernel. A diagonal path has l_edge = 0: phi_m += R h_m.
template <int OUT_, bool DIAGONAL_> struct Path {
  static constexpr int OUT = OUT_;
  static constexpr bool DIAGONAL = DIAGONAL_;
};

// One bin's polynomial in t, for a vector of channels: its value, and its slope by t.
template <class T> struct Spline {
  static constexpr int N = COEFFICIENTS<T>;
  MM_INLINE static inline Vec<T> value(const T* p, T t) {
    Vec<T> v = load(p + (N - 1) * BLOCK);
    for (int i = N - 2; i >= 0; i--) v = v * t + load(p + i * BLOCK);
    return v;
  }
  Vec<T> v, slope;
  MM_INLINE inline Spline(const T* p, T t) {
    v = slope = load(p + (N - 1) * BLOCK);
    for (int i = N - 2; i >= 0; i--) {
      v = v * t + load(p + i * BLOCK);
      if (i > 0) slope = slope * t + v;
    }
  }
};

template <class T, int IN, class... P> struct PathGroup {
  using V = Vec<T>;
  static constexpr int N = sizeof...(P);
  static constexpr int OUT[N] = {P::OUT...};
  static constexpr bool DIAGONAL[N] = {P::DIAGONAL...};
  static constexpr int SPLINE = COEFFICIENTS<T> * BLOCK;  // numbers of a path in a block
  static constexpr int outputs(int before) {
    int n = 0;
    for (int i = 0; i < before; i++) n += OUT[i];
    return n;
  }
  static constexpr int sums(int before) {
    int n = 0;
    for (int i = 0; i < before; i++) n += DIAGONAL[i] ? 0 : IN * OUT[i];
    return n;
  }
  static constexpr int padded(int n) { return (n + LANES<T> - 1) / LANES<T> * LANES<T>; }

  // phi (+)= messages of the batch; `first` overwrites. UNIT: the features are 1.
  template <bool UNIT>
  static void forward(const EdgeBatch<T>& b, const GroupPlace& at, const MessageRows* rows,
                      int channels, T* phi, bool first) {
    const T(*coefficient)[EDGES] = b.coefficient + at.coefficient;
    for (int c = 0; c < channels; c += LANES<T>) {
      const int64_t place = (int64_t(c / BLOCK) * at.n_paths + at.radial) * SPLINE + c % BLOCK;
      V acc[outputs(N)];
      MM_UNROLL(N, p, {
        for (int k = 0; k < OUT[p]; k++)
          acc[outputs(p) + k] =
              first ? V{} : load(phi + (rows[p].first + k * rows[p].stride) * channels + c);
      });
      for (int e = 0; e < b.n; e++) {
        V h[IN];
        for (int m = 0; m < IN && !UNIT; m++)
          h[m] = load(b.features[e] + (at.feature + m) * channels + c);
        const T* spline = b.rows[e] + place;
        const T t = b.fraction[e];
        MM_UNROLL(N, p, {
          const V r = Spline<T>::value(spline + p * SPLINE, t);
          MM_UNROLL(IN, m, {
            const V v = UNIT ? r : r * h[m];
            if constexpr (DIAGONAL[p]) {
              acc[outputs(p) + m] += v;
            } else {
              MM_UNROLL(OUT[p], k, {
                acc[outputs(p) + k] += v * coefficient[sums(p) + m * OUT[p] + k][e];
              });
            }
          });
        });
      }
      MM_UNROLL(N, p, {
        for (int k = 0; k < OUT[p]; k++)
          store(phi + (rows[p].first + k * rows[p].stride) * channels + c, acc[outputs(p) + k]);
      });
    }
  }

  // dE/dphi of the receiver in the order in which it is used: (vectors of channels, outputs).
  static void gather(const MessageRows* rows, int channels, const T* dphi, T* to) {
    for (int c = 0; c < channels; c += LANES<T>)
      MM_UNROLL(N, p, {
        for (int k = 0; k < OUT[p]; k++, to += LANES<T>)
          store(to, load(dphi + (rows[p].first + k * rows[p].stride) * channels + c));
      });
  }

  // dE/dM of edge e and what reaches its distance, from sums that stand in `s` in this order.
  static void finish(EdgeBatch<T>& b, const GroupPlace& at, int e, V* s) {
    constexpr int n = sums(N) + 1;
    T total[padded(n)];
    for (int i = n; i < padded(n); i++) s[i] = V{};
    for (int i = 0; i < padded(n); i += LANES<T>) store(total + i, sum_lanes<T>(s + i));
    for (int i = 0; i + 1 < n; i++) b.sensitivity[at.coefficient + i][e] = total[i];
    b.radial[e] += b.scale[e] * total[n - 1];
  }

  // From dE/dphi of the receiver: sensitivities of the edges, and gradients of the senders'
  // features where GRADIENT asks for them.
  template <bool GRADIENT>
  static void backward(EdgeBatch<T>& b, const GroupPlace& at, const MessageRows* rows,
                       int channels, const T* dphi) {
    const T(*coefficient)[EDGES] = b.coefficient + at.coefficient;
    gather(rows, channels, dphi, b.scratch);
    for (int e = 0; e < b.n; e++) {
      V s[padded(sums(N) + 1)];
      for (int i = 0; i <= sums(N); i++) s[i] = V{};
      const T *spline = b.rows[e] + at.radial * SPLINE, *d = b.scratch;
      const T* feature = b.features[e] + at.feature * channels;
      T* gradient = GRADIENT ? b.gradients[e] + at.feature * channels : nullptr;
      const T t = b.fraction[e];
      for (int c = 0; c < channels; c += LANES<T>) {
        V h[IN], dh[IN], along{};
        for (int m = 0; m < IN; m++) {
          h[m] = load(feature + m * channels + c);
          if constexpr (GRADIENT) dh[m] = load(gradient + m * channels + c);
        }
        MM_UNROLL(N, p, {
          const Spline<T> r(spline + p * SPLINE, t);
          V inner{};
          MM_UNROLL(IN, m, {
            V g{};
            if constexpr (DIAGONAL[p]) {
              g = load(d + (outputs(p) + m) * LANES<T>);
            } else {
              const V v = r.v * h[m];
              MM_UNROLL(OUT[p], k, {
                constexpr int i = sums(p) + m * OUT[p] + k;
                const V x = load(d + (outputs(p) + k) * LANES<T>);
                s[i] += x * v;
                g += x * coefficient[i][e];
              });
            }
            if constexpr (GRADIENT) dh[m] += r.v * g;
            inner = IN == 1 ? g : inner + h[m] * g;
          });
          along += inner * r.slope;
        });
        s[sums(N)] += IN == 1 ? along * h[0] : along;
        if constexpr (GRADIENT)
          for (int m = 0; m < IN; m++) store(gradient + m * channels + c, dh[m]);
        d += outputs(N) * LANES<T>;
        spline += (c + LANES<T>) % BLOCK ? LANES<T> : at.n_paths * SPLINE - (BLOCK - LANES<T>);
      }
      finish(b, at, e, s);
    }
  }

  // The same where all features are 1: dE/dM = sum d R, and the distance gets M sum d R'.
  static void backward_unit(EdgeBatch<T>& b, const GroupPlace& at, const MessageRows* rows,
                            int channels, const T* dphi) {
    gather(rows, channels, dphi, b.scratch);
    for (int e = 0; e < b.n; e++) {
      V s[padded(sums(N) + 1)];
      s[sums(N)] = V{};
      unit_sums<0>(b, at, channels, e, s);
      finish(b, at, e, s);
    }
  }

 private:
  // Paths from `begin` that are summed together: as many as there are registers for two sums each.
  static constexpr int end_of_pass(int begin) {
    int end = begin + 1;
    while (end < N && 2 * (outputs(end + 1) - outputs(begin)) <= (VEC_BYTES == 64 ? 18 : 8)) end++;
    return end;
  }

  template <int BEGIN>
  MM_INLINE static inline void unit_sums(const EdgeBatch<T>& b, const GroupPlace& at, int channels,
                                         int e, V* s) {
    constexpr int END = end_of_pass(BEGIN), FIRST = outputs(BEGIN), COUNT = outputs(END) - FIRST;
    V value[COUNT], slope[COUNT];
    for (int i = 0; i < COUNT; i++) value[i] = slope[i] = V{};
    const T *spline = b.rows[e] + (at.radial + BEGIN) * SPLINE, *d = b.scratch + FIRST * LANES<T>;
    const T t = b.fraction[e];
    for (int c = 0; c < channels; c += LANES<T>) {
      MM_UNROLL(END - BEGIN, q, {
        constexpr int p = BEGIN + q;
        const Spline<T> r(spline + q * SPLINE, t);
        MM_UNROLL(OUT[p], k, {
          constexpr int i = outputs(p) - FIRST + k;
          const V x = load(d + i * LANES<T>);
          if constexpr (!DIAGONAL[p]) value[i] += x * r.v;
          slope[i] += x * r.slope;
        });
      });
      d += outputs(N) * LANES<T>;
      spline += (c + LANES<T>) % BLOCK ? LANES<T> : at.n_paths * SPLINE - (BLOCK - LANES<T>);
    }
    MM_UNROLL(END - BEGIN, q, {
      constexpr int p = BEGIN + q;
      MM_UNROLL(OUT[p], k, {
        constexpr int i = outputs(p) - FIRST + k;
        if constexpr (DIAGONAL[p]) {
          s[sums(N)] += slope[i];
        } else {
          s[sums(p) + k] = value[i];
          s[sums(N)] += slope[i] * b.coefficient[at.coefficient + sums(p) + k][e];
        }
      });
    });
    if constexpr (END < N) unit_sums<END>(b, at, channels, e, s);
  }
};

}  // namespace mm
