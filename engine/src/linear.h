// Small matrix products, register-tiled over rows that lie anywhere.
#pragma once
#include "convolution.h"

namespace mm {

// Rows of one panel of NV vectors: c = (c +) a W. Every element sums over k in ascending order,
// whatever rows it is computed with, so results do not depend on the tiling.
template <class T, int MR, int NV>
static inline void panel(const T* const* a, T* const* c, int column, const T* w, int ldw, int depth,
                         bool add) {
  using V = Vec<T>;
  V s[MR][NV];
  for (int r = 0; r < MR; r++)
    for (int n = 0; n < NV; n++) s[r][n] = add ? load(c[r] + column + n * LANES<T>) : V{};
  for (int k = 0; k < depth; k++) {
    V x[NV];
    for (int n = 0; n < NV; n++) x[n] = load(w + int64_t(k) * ldw + n * LANES<T>);
    MM_UNROLL(MR, r, {
      const T y = a[r][k];
      MM_UNROLL(NV, n, { s[r][n] += x[n] * y; });
    });
  }
  for (int r = 0; r < MR; r++)
    for (int n = 0; n < NV; n++) store(c[r] + column + n * LANES<T>, s[r][n]);
}

#if defined(__AVX512F__)
constexpr int TILE_VECTORS = 6, TILE_REGISTERS = 24;
#elif defined(__AVX2__)
constexpr int TILE_VECTORS = 3, TILE_REGISTERS = 12;
#else
constexpr int TILE_VECTORS = 4, TILE_REGISTERS = 12;
#endif

template <class T, int NV>
static void columns(int rows, const T* const* a, T* const* c, int column, const T* w, int ldw,
                    int depth, bool add) {
  constexpr int MR = TILE_REGISTERS / NV > 8 ? 8 : TILE_REGISTERS / NV;
  int r = 0;
  for (; r + MR <= rows; r += MR) panel<T, MR, NV>(a + r, c + r, column, w, ldw, depth, add);
  if constexpr (MR > 4)
    for (; r + 4 <= rows; r += 4) panel<T, 4, NV>(a + r, c + r, column, w, ldw, depth, add);
  for (; r + 2 <= rows; r += 2) panel<T, 2, NV>(a + r, c + r, column, w, ldw, depth, add);
  for (; r < rows; r++) panel<T, 1, NV>(a + r, c + r, column, w, ldw, depth, add);
}

// c[r] (+)= a[r] W for `rows` rows, W of shape (depth, width), width a multiple of BLOCK.
template <class T>
static void multiply(int rows, const T* const* a, T* const* c, const T* w, int depth, int width,
                     bool add) {
  const int vectors = width / LANES<T>;
  const int panels = (vectors + TILE_VECTORS - 1) / TILE_VECTORS;
  for (int i = 0, v = 0; i < panels; i++) {
    const int n = (vectors * (i + 1)) / panels - v;
    const T* x = w + v * LANES<T>;
    const int column = v * LANES<T>;
    switch (n) {
      case 1: columns<T, 1>(rows, a, c, column, x, width, depth, add); break;
      case 2: columns<T, 2>(rows, a, c, column, x, width, depth, add); break;
      case 3: columns<T, 3>(rows, a, c, column, x, width, depth, add); break;
      case 4: columns<T, 4>(rows, a, c, column, x, width, depth, add); break;
      case 5: columns<T, TILE_VECTORS < 5 ? 1 : 5>(rows, a, c, column, x, width, depth, add); break;
      default: columns<T, TILE_VECTORS < 6 ? 1 : 6>(rows, a, c, column, x, width, depth, add);
    }
    v += n;
  }
}

}  // namespace mm
