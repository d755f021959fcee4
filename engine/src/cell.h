// Boxes: any three lattice vectors, open directions given as zero rows.
#pragma once
#include <cmath>
#include <cstring>

#include "form.h"

namespace mm {

constexpr double THINNEST = 0.5;  // Å between opposite faces of a box

struct Cell {
  double h[9];        // rows: lattice vectors; unit normals along open directions
  double inverse[9];  // r h^-1 = fractional
  double height[3];   // distance between opposite faces
  bool periodic[3];
  bool any_periodic;

  // `rows` may be null: no periodic direction.
  explicit Cell(const double* rows) {
    int n = 0;
    for (int a = 0; a < 3; a++) {
      double* row = h + 3 * a;
      for (int k = 0; k < 3; k++) row[k] = rows ? rows[3 * a + k] : 0.0;
      for (int k = 0; k < 3; k++)
        if (!std::isfinite(row[k])) throw Error("a periodic cell must be finite and have a volume");
      periodic[a] = row[0] != 0.0 || row[1] != 0.0 || row[2] != 0.0;
      n += periodic[a];
    }
    any_periodic = n > 0;
    complete(n);
    invert();
  }

  double volume() const { return std::fabs(determinant()); }
  bool same(const Cell& o) const {
    return std::memcmp(h, o.h, sizeof h) == 0 && std::memcmp(periodic, o.periodic, 3) == 0;
  }
  static void cross(const double* a, const double* b, double* c) {
    c[0] = a[1] * b[2] - a[2] * b[1];
    c[1] = a[2] * b[0] - a[0] * b[2];
    c[2] = a[0] * b[1] - a[1] * b[0];
  }

 private:
  static double norm(const double* a) {
    return std::sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2]);
  }
  double determinant() const {
    double c[3];
    cross(h + 3, h + 6, c);
    return h[0] * c[0] + h[1] * c[1] + h[2] * c[2];
  }
  void complete(int n_periodic) {
    if (n_periodic == 3) return;
    if (n_periodic == 0) {
      for (int i = 0; i < 9; i++) h[i] = i % 4 == 0;
      return;
    }
    // A vector across the periodic ones, then one across both.
    for (int a = 0; a < 3; a++) {
      if (periodic[a]) continue;
      double *row = h + 3 * a, *u = h + 3 * ((a + 1) % 3), *v = h + 3 * ((a + 2) % 3);
      if (norm(u) == 0.0 || norm(v) == 0.0) {
        const double* w = norm(u) == 0.0 ? v : u;
        int least = 0;
        for (int k = 1; k < 3; k++)
          if (std::fabs(w[k]) < std::fabs(w[least])) least = k;
        double axis[3] = {0, 0, 0};
        axis[least] = 1.0;
        cross(w, axis, row);
      } else {
        cross(u, v, row);
      }
      const double length = norm(row);
      for (int k = 0; k < 3; k++) row[k] /= length;
    }
  }
  void invert() {
    const double det = determinant();
    const double scale = norm(h) * norm(h + 3) * norm(h + 6);
    if (!(std::fabs(det) > 1e-9 * scale))
      throw Error("a periodic cell must be finite and have a volume");
    for (int a = 0; a < 3; a++) {
      double c[3];
      cross(h + 3 * ((a + 1) % 3), h + 3 * ((a + 2) % 3), c);
      height[a] = std::fabs(det) / norm(c);
      if (periodic[a] && height[a] < THINNEST)
        throw Error("a periodic cell must be at least 0.5 Å thick, this one is " +
                    std::to_string(height[a]) + " Å");
      for (int k = 0; k < 3; k++) inverse[3 * k + a] = c[k] / det;
    }
  }
};

inline void row_times(const double* r, const double* m, double* out) {
  for (int k = 0; k < 3; k++) out[k] = r[0] * m[k] + r[1] * m[3 + k] + r[2] * m[6 + k];
}

// The factor by which x -> x F shrinks distances most: the smallest singular value of F.
inline double smallest_stretch(const double* f) {
  double a[9];  // F F^T
  for (int i = 0; i < 3; i++)
    for (int j = 0; j < 3; j++) {
      a[3 * i + j] = 0;
      for (int k = 0; k < 3; k++) a[3 * i + j] += f[3 * i + k] * f[3 * j + k];
    }
  const double q = (a[0] + a[4] + a[8]) / 3;
  const double off = a[1] * a[1] + a[2] * a[2] + a[5] * a[5];
  const double p2 = (a[0] - q) * (a[0] - q) + (a[4] - q) * (a[4] - q) + (a[8] - q) * (a[8] - q);
  const double p = std::sqrt((p2 + 2 * off) / 6);
  double least = q;
  if (p > 1e-14) {
    double b[9];
    for (int i = 0; i < 9; i++) b[i] = (a[i] - (i % 4 == 0 ? q : 0.0)) / p;
    const double det = b[0] * (b[4] * b[8] - b[5] * b[7]) - b[1] * (b[3] * b[8] - b[5] * b[6]) +
                       b[2] * (b[3] * b[7] - b[4] * b[6]);
    const double r = det / 2 < -1 ? -1 : det / 2 > 1 ? 1 : det / 2;
    least = q + 2 * p * std::cos(std::acos(r) / 3 + 2.0943951023931953);
  }
  return std::sqrt(least > 0 ? least : 0.0) - 1e-12;
}

}  // namespace mm
