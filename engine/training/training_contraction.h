// The symmetric contraction, Batatia et al. 2022, eq. 10, as a polynomial of the messages with one
// weight for each term, element and channel; its derivatives up to the second.
#pragma once
#include "training.h"
#include "vec.h"

namespace mm {

constexpr int MAX_COMPONENTS = 16;  // l_max 3
constexpr int MAX_OUTPUTS = 9;      // l_out 2

// One atom's components for some channels, gathered from one array for each degree.
template <class T, int MAX> struct Components {
  Vec<T> at[MAX + 1] = {};

  void read(const T* const* blocks, int l_max, int64_t atom, int channels, int c) {
    for (int l = 0, i = 0; l <= l_max; l++)
      for (int m = 0; m < 2 * l + 1; m++, i++)
        at[i] = load(blocks[l] + (atom * (2 * l + 1) + m) * channels + c);
  }
  void add_to(T* const* blocks, int l_max, int64_t atom, int channels, int c) const {
    for (int l = 0, i = 0; l <= l_max; l++)
      for (int m = 0; m < 2 * l + 1; m++, i++) {
        T* to = blocks[l] + (atom * (2 * l + 1) + m) * channels + c;
        store(to, load(to) + at[i]);
      }
  }
};

template <class T> struct TrainingContraction {
  using V = Vec<T>;
  using In = Components<T, MAX_COMPONENTS>;
  using Out = Components<T, MAX_OUTPUTS>;

  static In inputs(const TrainingTerms& g, const T* const* x, int64_t atom, int c, T one) {
    In in;
    in.read(x, g.l_in, atom, g.channels, c);
    in.at[(g.l_in + 1) * (g.l_in + 1)] = V{} + one;
    return in;
  }
  static int64_t weight(const TrainingTerms& g, int64_t atom, int c) {
    return g.species[atom] * g.n_terms * g.channels + c;
  }

  static void value(const TrainingTerms& g, const T* const* x, const T* weights, T* const* out) {
    for (int c = 0; c < g.channels; c += LANES<T>)
      for (int64_t i = 0; i < g.n_atoms; i++) {
        const In in = inputs(g, x, i, c, T(1));
        const T* w = weights + weight(g, i, c);
        Out sum;
        for (int t = 0; t < g.n_terms; t++, w += g.channels) {
          const TrainingTerm& term = g.terms[t];
          sum.at[term.component] += load(w) * in.at[term.a] * in.at[term.b] * in.at[term.c];
        }
        sum.add_to(out, g.l_out, i, g.channels, c);
      }
  }

  // Gradients of sum(out * d_out); d_weights may be null.
  static void gradient(const TrainingTerms& g, const T* const* x, const T* weights,
                       const T* const* d_out, T* const* d_x, T* d_weights) {
    for (int c = 0; c < g.channels; c += LANES<T>)
      for (int64_t i = 0; i < g.n_atoms; i++) {
        const In in = inputs(g, x, i, c, T(1));
        const int64_t first = weight(g, i, c);
        const T* w = weights + first;
        T* dw = d_weights ? d_weights + first : nullptr;
        Out d;
        In slope;
        d.read(d_out, g.l_out, i, g.channels, c);
        for (int t = 0; t < g.n_terms; t++, w += g.channels) {
          const TrainingTerm& term = g.terms[t];
          const V xa = in.at[term.a], xb = in.at[term.b], xc = in.at[term.c], q = d.at[term.component];
          const V bc = xb * xc, f = q * load(w), fa = f * xa;
          if (dw) {
            store(dw, load(dw) + q * xa * bc);
            dw += g.channels;
          }
          slope.at[term.a] += f * bc;
          slope.at[term.b] += fa * xc;
          slope.at[term.c] += fa * xb;
        }
        slope.add_to(d_x, g.l_in, i, g.channels, c);
      }
  }

  // Gradients of the gradients' inner product with (t_x, t_weights); t_weights may be null.
  static void second(const TrainingTerms& g, const T* const* x, const T* weights,
                     const T* const* d_out, const T* const* t_x, const T* t_weights, T* const* b_x,
                     T* b_weights, T* const* b_out) {
    for (int c = 0; c < g.channels; c += LANES<T>)
      for (int64_t i = 0; i < g.n_atoms; i++) {
        const In in = inputs(g, x, i, c, T(1)), along = inputs(g, t_x, i, c, T(0));
        const int64_t first = weight(g, i, c);
        const T *w = weights + first, *tw = t_weights ? t_weights + first : nullptr;
        T* bw = b_weights + first;
        Out d, back;
        In slope;
        d.read(d_out, g.l_out, i, g.channels, c);
        for (int t = 0; t < g.n_terms; t++, w += g.channels, bw += g.channels) {
          const TrainingTerm& term = g.terms[t];
          const V xa = in.at[term.a], xb = in.at[term.b], xc = in.at[term.c];
          const V va = along.at[term.a], vb = along.at[term.b], vc = along.at[term.c];
          const V ab = xa * xb, bc = xb * xc, ac = xa * xc, q = d.at[term.component];
          const V change = va * bc + vb * ac + vc * ab, f = q * load(w);
          V sum = load(w) * change;
          V sa = f * (vb * xc + xb * vc), sb = f * (va * xc + xa * vc), sc = f * (va * xb + xa * vb);
          if (tw) {
            const V v = load(tw), e = q * v;
            sum += v * ab * xc;
            sa += e * bc, sb += e * ac, sc += e * ab;
            tw += g.channels;
          }
          back.at[term.component] += sum;
          store(bw, load(bw) + q * change);
          slope.at[term.a] += sa;
          slope.at[term.b] += sb;
          slope.at[term.c] += sc;
        }
        slope.add_to(b_x, g.l_in, i, g.channels, c);
        back.add_to(b_out, g.l_out, i, g.channels, c);
      }
  }
};

}  // namespace mm
