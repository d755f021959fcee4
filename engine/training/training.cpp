#include "training_contraction.h"
#include "training_convolution.h"

// features, out and their derivatives hold one array for each degree.
#define MM_TRAINING(T, NAME)                                                                        \
  int mm_convolution_value_##NAME(const mm::TrainingEdges* g, const T* radial, const T* mixing,     \
                                  const T* const* features, T* const* out) {                       \
    bool found = true;                                                                              \
    for (int i = 0; i < g->n_paths; i++) {                                                          \
      const mm::TrainingPath& p = g->paths[i];                                                      \
      found &= mm::with_path<T>(p, [&](auto kernel) {                                               \
        kernel.value(*g, p, i, radial, mixing, features[p.l_in], out[p.l_out]);                     \
      });                                                                                           \
    }                                                                                               \
    return found ? 0 : 1;                                                                           \
  }                                                                                                 \
  int mm_convolution_gradient_##NAME(const mm::TrainingEdges* g, const T* radial, const T* mixing,  \
                                     const T* const* features, const T* const* d_out, T* d_radial,  \
                                     T* d_mixing, T* const* d_features) {                           \
    bool found = true;                                                                              \
    for (int i = 0; i < g->n_paths; i++) {                                                          \
      const mm::TrainingPath& p = g->paths[i];                                                      \
      found &= mm::with_path<T>(p, [&](auto kernel) {                                               \
        kernel.gradient(*g, p, i, radial, mixing, features[p.l_in], d_out[p.l_out], d_radial,       \
                        d_mixing, d_features[p.l_in]);                                              \
      });                                                                                           \
    }                                                                                               \
    return found ? 0 : 1;                                                                           \
  }                                                                                                 \
  int mm_convolution_second_##NAME(const mm::TrainingEdges* g, const T* radial, const T* mixing,    \
                                   const T* const* features, const T* const* d_out,                 \
                                   const T* t_radial, const T* t_mixing, const T* const* t_features,\
                                   T* b_radial, T* b_mixing, T* const* b_features,                  \
                                   T* const* b_out) {                                               \
    bool found = true;                                                                              \
    for (int i = 0; i < g->n_paths; i++) {                                                          \
      const mm::TrainingPath& p = g->paths[i];                                                      \
      found &= mm::with_path<T>(p, [&](auto kernel) {                                               \
        kernel.second(*g, p, i, radial, mixing, features[p.l_in], d_out[p.l_out], t_radial,         \
                      t_mixing, t_features[p.l_in], b_radial, b_mixing, b_features[p.l_in],         \
                      b_out[p.l_out]);                                                              \
      });                                                                                           \
    }                                                                                               \
    return found ? 0 : 1;                                                                           \
  }                                                                                                 \
  int mm_contraction_value_##NAME(const mm::TrainingTerms* g, const T* const* x, const T* weights,  \
                                  T* const* out) {                                                  \
    mm::TrainingContraction<T>::value(*g, x, weights, out);                                         \
    return 0;                                                                                       \
  }                                                                                                 \
  int mm_contraction_gradient_##NAME(const mm::TrainingTerms* g, const T* const* x,                 \
                                     const T* weights, const T* const* d_out, T* const* d_x,        \
                                     T* d_weights) {                                                \
    mm::TrainingContraction<T>::gradient(*g, x, weights, d_out, d_x, d_weights);                    \
    return 0;                                                                                       \
  }                                                                                                 \
  int mm_contraction_second_##NAME(const mm::TrainingTerms* g, const T* const* x, const T* weights, \
                                   const T* const* d_out, const T* const* t_x, const T* t_weights,  \
                                   T* const* b_x, T* b_weights, T* const* b_out) {                  \
    mm::TrainingContraction<T>::second(*g, x, weights, d_out, t_x, t_weights, b_x, b_weights,       \
                                       b_out);                                                      \
    return 0;                                                                                       \
  }

extern "C" {
#pragma GCC visibility push(default)
MM_TRAINING(float, f32)
MM_TRAINING(double, f64)
#pragma GCC visibility pop
}
