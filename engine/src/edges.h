// A batch of edges of one receiver: harmonics, spline weights and couplings, component by component.
#pragma once
#include "vec.h"

namespace mm {

constexpr int EDGES = 64;            // edges in a batch
constexpr int MAX_HARMONICS = 16;    // l_max 3
constexpr int MAX_COEFFICIENTS = 224;  // harmonics and, after them, the couplings of the paths

// Of a bin's polynomial: cubic in single precision, which reads less memory, quintic in double.
template <class T> constexpr int COEFFICIENTS = sizeof(T) == 4 ? 4 : 6;

// One nonzero of a path's coupling table: M[target] += value * Y[harmonic].
struct CouplingEntry {
  int target, harmonic;
  double value;
};

template <class T> struct EdgeBatch {
  int n;
  const T* rows[EDGES];      // the splines' bin that holds the distance
  const T* features[EDGES];  // the sender's features
  T* gradients[EDGES];       // where the sender's gradient is collected
  alignas(64) T fraction[EDGES];  // place between two knots
  alignas(64) T scale[EDGES];     // bins to the Å there
  alignas(64) T unit[3][EDGES];
  alignas(64) T inverse_distance[EDGES];
  alignas(64) T coefficient[MAX_COEFFICIENTS][EDGES];  // Y, then the couplings M
  alignas(64) T sensitivity[MAX_COEFFICIENTS][EDGES];  // dE/d(coefficient)
  alignas(64) T radial[EDGES];                         // dE/d(distance) through the splines
  alignas(64) T gradient[3][EDGES];                    // dE/d(edge vector)
  T* scratch;                                          // rows of a message
};

// Real harmonics of e3nn's order, "component" normalization, as polynomials of the unit vector.
template <class T> static inline void harmonics(EdgeBatch<T>& b, int l_max) {
  using V = Vec<T>;
  const T s3 = 1.7320508075688772, s5 = 2.23606797749979, s15 = 3.872983346207417;
  const T s7 = 2.6457513110645907, s105 = 10.246950765959598;
  const T a = 2.091650066335189, c = 1.6201851746019651;  // sqrt(35/8), sqrt(21/8)
  for (int e = 0; e < b.n; e += LANES<T>) {
    const V x = load(b.unit[0] + e), y = load(b.unit[1] + e), z = load(b.unit[2] + e);
    auto put = [&](int i, V v) { store(b.coefficient[i] + e, v); };
    put(0, V{} + T(1));
    put(1, s3 * x), put(2, s3 * y), put(3, s3 * z);
    if (l_max < 2) continue;
    const V d = z * z - x * x;
    put(4, s15 * x * z), put(5, s15 * x * y), put(6, s5 * (T(1.5) * y * y - T(0.5)));
    put(7, s15 * y * z), put(8, T(0.5) * s15 * d);
    if (l_max < 3) continue;
    const V f = T(5) * y * y;
    put(9, a * x * (2 * z * z + d)), put(10, s105 * x * y * z), put(11, c * x * (f - T(1)));
    put(12, T(0.5) * s7 * y * (f - T(3))), put(13, c * z * (f - T(1)));
    put(14, T(0.5) * s105 * y * d), put(15, a * z * (d - 2 * x * x));
  }
}

// gradient = dE/d(vector) from the sensitivities of the harmonics and of the distance.
template <class T> static inline void edge_gradient(EdgeBatch<T>& b, int l_max) {
  using V = Vec<T>;
  const T s3 = 1.7320508075688772, s5 = 2.23606797749979, s15 = 3.872983346207417;
  const T s7 = 2.6457513110645907, s105 = 10.246950765959598;
  const T a = 2.091650066335189, c = 1.6201851746019651;
  for (int e = 0; e < b.n; e += LANES<T>) {
    const V x = load(b.unit[0] + e), y = load(b.unit[1] + e), z = load(b.unit[2] + e);
    auto s = [&](int i) { return load(b.sensitivity[i] + e); };
    V gx = s3 * s(1), gy = s3 * s(2), gz = s3 * s(3);
    if (l_max >= 2) {
      gx += s15 * (z * s(4) + y * s(5) - x * s(8));
      gy += s15 * (x * s(5) + z * s(7)) + 3 * s5 * y * s(6);
      gz += s15 * (x * s(4) + y * s(7) + z * s(8));
    }
    if (l_max >= 3) {
      const V xx = x * x, yy = y * y, zz = z * z, d = zz - xx, f = 5 * yy - T(1);
      gx += a * (3 * d * s(9) - 6 * x * z * s(15)) + s105 * y * (z * s(10) - x * s(14));
      gx += c * f * s(11);
      gy += s105 * (x * z * s(10) + T(0.5) * d * s(14)) + 10 * c * y * (x * s(11) + z * s(13));
      gy += T(1.5) * s7 * f * s(12);
      gz += a * (6 * x * z * s(9) + 3 * d * s(15)) + s105 * y * (x * s(10) + z * s(14));
      gz += c * f * s(13);
    }
    const V q = load(b.inverse_distance + e), along = gx * x + gy * y + gz * z;
    const V radial = load(b.radial + e) - along * q;
    store(b.gradient[0] + e, gx * q + x * radial);
    store(b.gradient[1] + e, gy * q + y * radial);
    store(b.gradient[2] + e, gz * q + z * radial);
  }
}

// Couplings M = sum_j C_j Y_j of the paths with l_in > 0, and the way back.
template <class T>
static inline void couple(EdgeBatch<T>& b, const CouplingEntry* entries, int n, int n_targets) {
  for (int i = MAX_HARMONICS; i < MAX_HARMONICS + n_targets; i++)
    for (int e = 0; e < b.n; e += LANES<T>) store(b.coefficient[i] + e, Vec<T>{});
  for (int i = 0; i < n; i++) {
    T* m = b.coefficient[entries[i].target];
    const T* y = b.coefficient[entries[i].harmonic];
    const T w = T(entries[i].value);
    for (int e = 0; e < b.n; e += LANES<T>) store(m + e, load(m + e) + w * load(y + e));
  }
}

template <class T>
static inline void couple_back(EdgeBatch<T>& b, const CouplingEntry* entries, int n) {
  for (int i = 0; i < n; i++) {
    const T* m = b.sensitivity[entries[i].target];
    T* y = b.sensitivity[entries[i].harmonic];
    const T w = T(entries[i].value);
    for (int e = 0; e < b.n; e += LANES<T>) store(y + e, load(y + e) + w * load(m + e));
  }
}

}  // namespace mm
