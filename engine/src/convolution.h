// The kernels of messages, by the degrees of the paths they evaluate together.
#pragma once
#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "path_group.h"

namespace mm {

// The paths (l_edge, l_out) of an l_in, in the order in which splines and couplings are stored:
// those of every kernel stand side by side.
static std::vector<std::array<int, 2>> ordered_paths(int l_in, int l_max) {
  std::vector<std::array<int, 2>> paths;
  if (l_in == 1 && l_max >= 2) paths = {{0, 1}, {1, 0}, {2, 1}};
  for (int l_edge = 0; l_edge <= l_max; l_edge++)
    for (int l_out = std::abs(l_in - l_edge); l_out <= std::min(l_in + l_edge, l_max); l_out += 2) {
      const std::array<int, 2> path = {l_edge, l_out};
      if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
    }
  return paths;
}

// A kernel and the paths it evaluates together, as (l_edge, l_out) for one l_in.
template <class T> struct PathKernel {
  using Forward = void (*)(const EdgeBatch<T>&, const GroupPlace&, const MessageRows*, int, T*,
                           bool);
  using Backward = void (*)(EdgeBatch<T>&, const GroupPlace&, const MessageRows*, int, const T*);
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
    k.backward = G::template backward<true>;
    if constexpr (IN == 1) {
      k.backward_constant = G::template backward<false>;
      k.backward_unit = G::backward_unit;
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
      found.push_back(kernel_of<T, way, 3, D3, P1, P3, P5, P7, P5>(
          {{0, 1}, {1, 0}, {2, 1}, {1, 2}, {2, 3}, {3, 2}}));
      return found;
    }
  }
  if constexpr (many && !forward) {
    if (l_in == 1 && l_max >= 2)
      found.push_back(kernel_of<T, way, 3, D3, P1, P3>({{0, 1}, {1, 0}, {2, 1}}));
  }
  size_t grouped = 0;
  for (const PathKernel<T>& k : found) grouped += k.paths.size();
  const auto paths = ordered_paths(l_in, l_max);
  for (size_t i = grouped; i < paths.size(); i++) {
    const auto [l_edge, l_out] = paths[i];
    found.push_back(l_in == 1 ? single_kernel<T, way, 3>(l_edge, l_out)
                              : single_kernel<T, way, 5>(l_edge, l_out));
  }
  return found;
}

}  // namespace mm
