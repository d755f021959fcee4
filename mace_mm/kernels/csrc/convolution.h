// Messages from the neighbors of one receiver, and the way back.
//
// A path couples a sender's feature (IN = 2 l_in + 1 components) with the edge's harmonics to a
// message of OUT = 2 l_out + 1 components: phi_k += R sum_m h_m M_mk, with R the spline of the
// path's radial function and M known for each edge. Paths of one l_in can share a kernel.
#pragma once
#include <array>
#include <cstdlib>
#include <type_traits>
#include <vector>

#include "edges.h"

namespace mm {

// Where a path finds its data.
struct PathRun {
  int radial;       // index among the layer's paths, selects the spline
  int coefficient;  // first row of M in the batch
  int out;          // first row of the message, in rows of `channels`
  int out_stride;   // rows between its components
};

struct RadialLayout {
  int n_paths;
  int64_t bin;  // numbers from one bin to the next
};

template <class F, int... I> static inline void unroll(Ints<I...>, F&& f) {
  (f(std::integral_constant<int, I>{}), ...);
}
#define MM_INLINE __attribute__((always_inline))
// A loop whose index is a constant in its body: for_each(N, i, { ... }).
#define MM_UNROLL(N, i, ...) \
  unroll(typename MakeInts<N>::type(), [&](auto i) MM_INLINE __VA_ARGS__)

// Paths of a kernel. A diagonal path has l_edge = 0: phi_m += R h_m.
template <int OUT_, bool DIAGONAL_> struct Path {
  static constexpr int OUT = OUT_;
  static constexpr bool DIAGONAL = DIAGONAL_;
};

// One bin's polynomials in t, for a block of channels. The slope has coefficients of its own size:
// a difference of two rounded values, divided by the spacing, would not be as exact.
template <class T> struct Spline {
  static constexpr int N = COEFFICIENTS<T>;
  Vec<T> c[N];
  MM_INLINE inline explicit Spline(const T* p) {
    for (int i = 0; i < N; i++) c[i] = load(p + i * BLOCK);
  }
  MM_INLINE inline Vec<T> value(const EdgeBatch<T>& b, int e) const {
    const T t = b.fraction[e];
    Vec<T> v = c[N - 1];
    for (int i = N - 2; i >= 0; i--) v = v * t + c[i];
    return v;
  }
  MM_INLINE inline Vec<T> derivative(const EdgeBatch<T>& b, int e) const {
    Vec<T> v = c[1] * b.slope[0][e];
    for (int i = 2; i < N; i++) v += c[i] * b.slope[i - 1][e];
    return v;
  }
};

template <class T, int IN, class... P> struct PathGroup {
  using V = Vec<T>;
  static constexpr int N = sizeof...(P);
  static constexpr int OUT[N] = {P::OUT...};
  static constexpr bool DIAGONAL[N] = {P::DIAGONAL...};
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

  // phi (+)= messages of the batch; `first` overwrites. UNIT: the features are 1.
  template <bool UNIT>
  static void forward(const EdgeBatch<T>& b, RadialLayout layout, const PathRun* runs,
                      int feature, int channels, T* phi, bool first) {
    for (int c = 0; c < channels; c += LANES<T>) {
      const int64_t place =
          (int64_t(c / BLOCK) * layout.n_paths) * COEFFICIENTS<T> * BLOCK + c % BLOCK;
      V acc[outputs(N)];
      MM_UNROLL(N, p, {
        for (int k = 0; k < OUT[p]; k++)
          acc[outputs(p) + k] =
              first ? V{} : load(phi + (runs[p].out + k * runs[p].out_stride) * channels + c);
      });
      for (int e = 0; e < b.n; e++) {
        V h[IN];
        for (int m = 0; m < IN && !UNIT; m++)
          h[m] = load(b.features[e] + (feature + m) * channels + c);
        const T* row = b.rows[e] + place;
        MM_UNROLL(N, p, {
          const T* bin = row + runs[p].radial * (COEFFICIENTS<T> * BLOCK);
          const V r = Spline<T>(bin).value(b, e);
          const T(*m_row)[EDGES] = b.coefficient + runs[p].coefficient;
          MM_UNROLL(IN, m, {
            const V v = UNIT ? r : r * h[m];
            if constexpr (DIAGONAL[p]) {
              acc[outputs(p) + m] += v;
            } else {
              MM_UNROLL(OUT[p], k, { acc[outputs(p) + k] += v * m_row[m * OUT[p] + k][e]; });
            }
          });
        });
      }
      MM_UNROLL(N, p, {
        for (int k = 0; k < OUT[p]; k++)
          store(phi + (runs[p].out + k * runs[p].out_stride) * channels + c, acc[outputs(p) + k]);
      });
    }
  }

  // From dE/dphi of the receiver: sensitivities of the edges, and gradients of the senders'
  // features where GRADIENT asks for them.
  template <bool GRADIENT, bool UNIT>
  static void backward(EdgeBatch<T>& b, RadialLayout layout, const PathRun* runs, int feature,
                       int channels, const T* dphi) {
    constexpr int n_sums = sums(N) + 1;  // and the derivative along the distance
    constexpr int padded = (n_sums + LANES<T> - 1) / LANES<T> * LANES<T>;
    for (int e = 0; e < b.n; e++) {
      V s[padded];
      for (int i = 0; i < padded; i++) s[i] = V{};
      for (int c = 0; c < channels; c += LANES<T>) {
        const T* row = b.rows[e] + c % BLOCK +
                       (int64_t(c / BLOCK) * layout.n_paths) * COEFFICIENTS<T> * BLOCK;
        V h[IN], dh[IN];
        for (int m = 0; m < IN && !UNIT; m++) {
          h[m] = load(b.features[e] + (feature + m) * channels + c);
          if constexpr (GRADIENT) dh[m] = load(b.gradients[e] + (feature + m) * channels + c);
        }
        MM_UNROLL(N, p, {
          const T* bin = row + runs[p].radial * (COEFFICIENTS<T> * BLOCK);
          const Spline<T> spline(bin);
          const V r = spline.value(b, e);
          const T(*m_row)[EDGES] = b.coefficient + runs[p].coefficient;
          const T* a = dphi + int64_t(runs[p].out) * channels + c;
          const int stride = runs[p].out_stride * channels;
          V along{};
          MM_UNROLL(IN, m, {
            V g{};
            if constexpr (DIAGONAL[p]) {
              g = load(a + m * stride);
            } else {
              const V v = UNIT ? r : r * h[m];
              MM_UNROLL(OUT[p], k, {
                const V d = load(a + k * stride);
                s[sums(p) + m * OUT[p] + k] += d * v;
                g += d * m_row[m * OUT[p] + k][e];
              });
            }
            if constexpr (GRADIENT) dh[m] += r * g;
            along += UNIT ? g : h[m] * g;
          });
          s[n_sums - 1] += along * spline.derivative(b, e);
        });
        if constexpr (GRADIENT)
          for (int m = 0; m < IN; m++)
            store(b.gradients[e] + (feature + m) * channels + c, dh[m]);
      }
      T total[padded];
      for (int i = 0; i < padded; i += LANES<T>) store(total + i, sum_lanes<T>(s + i));
      MM_UNROLL(N, p, {
        if constexpr (!DIAGONAL[p])
          for (int i = 0; i < IN * OUT[p]; i++)
            b.sensitivity[runs[p].coefficient + i][e] = total[sums(p) + i];
      });
      b.radial[e] += total[n_sums - 1];
    }
  }
};

// A kernel and the paths it evaluates together, as (l_edge, l_out) for one l_in.
template <class T> struct PathKernel {
  using Forward = void (*)(const EdgeBatch<T>&, RadialLayout, const PathRun*, int, int, T*, bool);
  using Backward = void (*)(EdgeBatch<T>&, RadialLayout, const PathRun*, int, int, const T*);
  std::vector<std::array<int, 2>> paths;
  Forward forward = nullptr, forward_unit = nullptr;
  // Without gradients of the features, where they are constants.
  Backward backward = nullptr, backward_constant = nullptr, backward_unit = nullptr;
};

enum class Way { FORWARD, BACKWARD };

template <class T, Way way, int IN, class... P>
static PathKernel<T> kernel_of(std::vector<std::array<int, 2>> paths) {
  using G = PathGroup<T, IN, P...>;
  PathKernel<T> k{std::move(paths)};
  if constexpr (way == Way::FORWARD) {
    k.forward = G::template forward<false>;
    if constexpr (IN == 1) k.forward_unit = G::template forward<true>;
  } else {
    k.backward = G::template backward<true, false>;
    if constexpr (IN == 1) {
      k.backward_constant = G::template backward<false, false>;
      k.backward_unit = G::template backward<false, true>;
    }
  }
  return k;
}

template <class T, Way way, int IN> static PathKernel<T> single_kernel(int l_edge, int l_out) {
  if (l_edge == 0) return kernel_of<T, way, IN, Path<IN, true>>({{l_edge, l_out}});
  switch (l_out) {
    case 0: return kernel_of<T, way, IN, Path<1, false>>({{l_edge, l_out}});
    case 1: return kernel_of<T, way, IN, Path<3, false>>({{l_edge, l_out}});
    case 2: return kernel_of<T, way, IN, Path<5, false>>({{l_edge, l_out}});
    default: return kernel_of<T, way, IN, Path<7, false>>({{l_edge, l_out}});
  }
}

// Paths that share the loads of a sender's feature. How many fit depends on the registers: of the
// processor's 32 vectors (with 64 bytes, 16 otherwise), sums and features must leave a few.
template <class T, Way way> static std::vector<PathKernel<T>> kernels_for(int l_in, int l_max) {
  using D1 = Path<1, true>;
  using D3 = Path<3, true>;
  using P1 = Path<1, false>;
  using P3 = Path<3, false>;
  using P5 = Path<5, false>;
  using P7 = Path<7, false>;
  constexpr bool many = VEC_BYTES == 64, forward = way == Way::FORWARD;
  std::vector<PathKernel<T>> found;
  if (l_in == 0) {
    if (l_max == 1) found.push_back(kernel_of<T, way, 1, D1, P3>({{0, 0}, {1, 1}}));
    if (l_max == 2) found.push_back(kernel_of<T, way, 1, D1, P3, P5>({{0, 0}, {1, 1}, {2, 2}}));
    if (l_max == 3)
      found.push_back(
          kernel_of<T, way, 1, D1, P3, P5, P7>({{0, 0}, {1, 1}, {2, 2}, {3, 3}}));
    return found;
  }
  if constexpr (many && forward) {
    if (l_in == 1 && l_max == 3) {
      found.push_back(kernel_of<T, way, 3, D3, P1, P5, P3, P7, P5>(
          {{0, 1}, {1, 0}, {1, 2}, {2, 1}, {2, 3}, {3, 2}}));
      return found;
    }
  }
  if constexpr (many && !forward) {
    if (l_in == 1 && l_max >= 2)
      found.push_back(kernel_of<T, way, 3, D3, P1, P3>({{0, 1}, {1, 0}, {2, 1}}));
  }
  const auto taken = [&](int l_edge, int l_out) {
    for (const PathKernel<T>& k : found)
      for (const auto& path : k.paths)
        if (path[0] == l_edge && path[1] == l_out) return true;
    return false;
  };
  for (int l_edge = 0; l_edge <= l_max; l_edge++)
    for (int l_out = std::abs(l_in - l_edge); l_out <= std::min(l_in + l_edge, l_max); l_out += 2)
      if (!taken(l_edge, l_out))
        found.push_back(l_in == 1 ? single_kernel<T, way, 3>(l_edge, l_out)
                                  : single_kernel<T, way, 5>(l_edge, l_out));
  return found;
}

}  // namespace mm
