// The symmetric contraction: one polynomial per element and channel, from generated functions.
#pragma once
#include "vec.h"

namespace mm {

// x: components at distance sx; c: coefficients, BLOCK apart; out: components at distance so.
template <class T> struct Contraction {
  int l_max, l_out, correlation, n_terms;
  void (*value)(const T* x, int sx, const T* c, T* out, int so);
  // A scalar and its gradient g (at distance sx), for l_out = 0.
  void (*value_gradient)(const T* x, int sx, const T* c, T* g, T* out);
  // g += gradient of sum_k d_k out_k, for l_out > 0.
  void (*backward)(const T* x, int sx, const T* c, const T* d, int so, T* g);
};

}  // namespace mm

#include "contraction_generated.h"

namespace mm {

template <class T>
static const Contraction<T>* find_contraction(int l_max, int l_out, int correlation) {
  for (const Contraction<T>& c : CONTRACTIONS<T>)
    if (c.l_max == l_max && c.l_out == l_out && c.correlation == correlation) return &c;
  return nullptr;
}

}  // namespace mm
