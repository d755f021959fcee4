// C interface of the training kernels: values, first and second derivatives of the convolution and
// of the symmetric contraction. They are called from one thread and keep no state. Every function
// ends in _f32 or _f64. Outputs are added to what is there.
#pragma once
#include <stdint.h>

namespace mm {

// A path couples a sender's block of degree l_in with an edge to the message block l_out.
struct TrainingPath {
  int32_t l_in, l_out;
  int32_t place, n_places;  // among the paths into l_out
  int32_t mixing;           // first entry of its (2 l_in + 1, 2 l_out + 1) table
  int32_t odd;              // the table changes sign with the direction of the edge
};

// Edges in both directions; what depends on the vector is stored once for a pair of atoms.
struct TrainingEdges {
  int64_t n_edges;
  const int64_t *senders, *receivers, *pairs;
  const uint8_t* reversed;
  const TrainingPath* paths;
  int32_t n_paths, n_mixing, channels;
};

// A term of the contraction: out[component] += weight * x[a] * x[b] * x[c]. The component after
// the last is one.
struct TrainingTerm {
  int32_t component, a, b, c;
};

struct TrainingTerms {
  int64_t n_atoms;
  const int64_t* species;
  const TrainingTerm* terms;
  int32_t n_terms, l_in, l_out, channels;  // degrees 0 to l_in go in, 0 to l_out come out
};

}  // namespace mm
