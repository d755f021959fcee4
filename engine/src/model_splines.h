// The radial functions of a model, made for the precision from the form's splines. Part of model.h.
#pragma once
#include "model.h"

namespace mm {

// The quintic of a bin, in the place t between two knots, from values, slopes and curvatures there
// (in units of the spacing), one number every `BLOCK`.
struct Quintic {
  double c[6];
  Quintic(const double* x, const double* y) {
    const double f = x[0], step = y[0] - f, d = x[BLOCK], e = y[BLOCK];
    const double g = x[2 * BLOCK], h = y[2 * BLOCK];
    c[0] = f, c[1] = d, c[2] = 0.5 * g;
    c[3] = 10 * step - 6 * d - 4 * e - 1.5 * g + 0.5 * h;
    c[4] = -15 * step + 8 * d + 7 * e + 1.5 * g - h;
    c[5] = 6 * step - 3 * (d + e) - 0.5 * (g - h);
  }
  double value(double t) const {
    return c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * c[5]))));
  }
  double slope(double t) const {
    return c[1] + t * (2 * c[2] + t * (3 * c[3] + t * (4 * c[4] + t * 5 * c[5])));
  }
  // Largest fourth derivative.
  double fourth() const { return 24 * std::max(std::fabs(c[4]), std::fabs(c[4] + 5 * c[5])); }
};

// A layer's radial functions as they stand in the form: quintics between equal knots.
template <class T> struct Model<T>::Knots {
  int64_t blocks, tables, knot, n;
  const double* data;
  Knots(const Form& form, int i, const Model& model) {
    const std::string name = "radial." + std::to_string(i);
    blocks = int64_t(model.channels / BLOCK) * form.rows("paths." + std::to_string(i));
    tables = form.rows(name), knot = blocks * 3 * BLOCK, n = model.bins.form;
    data = form.reals<double>(name, tables * (n + 1) * knot);
  }
  Quintic at(int64_t table, int64_t k, int64_t block, int lane) const {
    const double* x = data + (table * (n + 1) + k) * knot + block * 3 * BLOCK + lane;
    return {x, x + knot};
  }
};

// Double precision keeps the form's quintics. Cubics on finer bins serve single precision: with the
// fourth derivative f4 and the spacing s, the slope of a cubic through values and slopes is off by
// sqrt(3) / 216 s^3 f4. Near atoms, where functions are steep, bins are narrower than beyond.
template <class T> void Model<T>::choose_bins(const Form& form) {
  constexpr double TOLERANCE = 2e-6;  // of the zone's largest slope
  const int near = bins.form * 3 / 8;
  bins.split = r_max * near / bins.form;
  bins.n[0] = near, bins.n[1] = bins.form - near;
  for (int i = 0; i < n_layers && COEFFICIENTS<T> == 4; i++) {
    const Knots knots(form, i, *this);
    double fourth[2] = {0, 0}, slope[2] = {0, 0};
    for (int64_t table = 0; table < knots.tables; table++)
      for (int64_t k = int64_t(CLOSEST * knots.n / r_max); k < knots.n; k++)
        for (int64_t b = 0; b < knots.blocks; b++)
          for (int lane = 0; lane < BLOCK; lane++) {
            const Quintic q = knots.at(table, k, b, lane);
            double &f = fourth[k >= near], &d = slope[k >= near];
            f = std::max(f, q.fourth()), d = std::max(d, std::fabs(q.c[1]));
          }
    for (int zone = 0; zone < 2; zone++) {
      if (!(slope[zone] > 0)) continue;
      const int equal = zone ? bins.form - near : near;
      const double times = std::cbrt(0.00802 * fourth[zone] / (TOLERANCE * slope[zone]));
      bins.n[zone] = std::max(bins.n[zone], int(std::ceil(equal * std::min(times, 64.0))));
    }
  }
  if (bins.total() > MOST_BINS)
    throw Error("the radial functions are too steep for splines in single precision");
  for (int zone = 0; zone < 2; zone++)
    bins.per_length[zone] = bins.n[zone] / (zone ? r_max - bins.split : bins.split);
}

template <class T> void Model<T>::read_splines(const Form& form, int i) {
  constexpr int N = COEFFICIENTS<T>;
  Layer<T>& layer = layers[i];
  const Knots knots(form, i, *this);
  const int64_t bin = knots.blocks * N * BLOCK, n_bins = bins.total();
  for (int p = 0; p < n_species * n_species; p++)
    if (pair_table[p] < 0 || pair_table[p] >= knots.tables)
      throw Error("damaged evaluation form: a spline table that is not there");
  layer.bin = bin;
  layer.radial = aligned_memory<T>(knots.tables * n_bins * bin);
  for (int64_t k = 0; k < knots.tables * n_bins; k++)
    for (int64_t b = 0; b < knots.blocks; b++) {
      const int64_t p = b % layer.n_paths, here = b - p + layer.path_index[p];
      for (int lane = 0; lane < BLOCK; lane++) {
        T* to = layer.radial.get() + k * bin + here * N * BLOCK + lane;
        const auto put = [&](const auto& c) {
          for (int m = 0; m < N; m++) to[m * BLOCK] = T(c[m]);
        };
        if constexpr (N == 6) {
          put(knots.at(k / n_bins, k % n_bins, b, lane).c);
        } else {
          const int64_t zone = k % n_bins >= bins.n[0], place = k % n_bins - zone * bins.n[0];
          const double h = bins.form / r_max / bins.per_length[zone];  // in the form's spacing
          const double start = zone * bins.split * bins.form / r_max + place * h;
          double value[2], slope[2];
          for (int end = 0; end < 2; end++) {
            const double u = start + end * h;
            const int64_t knot = std::min<int64_t>(int64_t(u), bins.form - 1);
            const Quintic q = knots.at(k / n_bins, knot, b, lane);
            value[end] = q.value(u - knot), slope[end] = h * q.slope(u - knot);
          }
          const double step = value[1] - value[0];
          put(std::array<double, 4>{value[0], slope[0], 3 * step - 2 * slope[0] - slope[1],
                                    slope[0] + slope[1] - 2 * step});
        }
      }
    }
}

}  // namespace mm
