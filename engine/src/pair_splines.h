// Splines of the first layer that hold its linear map as well. Part of evaluator.cpp.
//
// The first layer's senders are elements, so what a receiver collects from an edge is a function of
// the distance, one for each pair of elements:
//   A[l, m, k'] = sum over edges  Y_lm  F_lk',   F_lk' = sum_k  R_lk h_k W_l[k, k'],
// with the sender's embedding h and the receiver's matrix W. Splines of F save the matrix products
// of every receiver; they are made for the elements that are present.
#pragma once
#include <mutex>

#include "model.h"

namespace mm {

template <class T> class PairSplines {
 public:
  explicit PairSplines(const Model<T>& model)
      : model_(model), n_species_(model.n_species), n_bins_(model.bins.total()),
        bin_(model.layers[0].bin), tables_(size_t(n_species_) * n_species_) {}

  // Makes what is missing for the elements among `species`, sorted in runs. Returns whether the
  // tables of all pairs are there: those of many elements would take too much memory. Any thread
  // may call it, and use bin() afterwards for these elements.
  bool prepare(const std::vector<int>& species) {
    std::vector<int> kinds(species);
    std::sort(kinds.begin(), kinds.end());
    kinds.erase(std::unique(kinds.begin(), kinds.end()), kinds.end());
    const int64_t n_pairs = int64_t(kinds.size() * kinds.size());
    if (n_pairs * n_bins_ * bin_ * int64_t(sizeof(T)) > LARGEST) return false;
    std::lock_guard<std::mutex> guard(lock_);
    for (const int receiver : kinds)
      for (const int sender : kinds)
        if (!tables_[receiver * n_species_ + sender]) make(receiver, sender);
    return true;
  }

  // A bin's splines, arranged as in Layer::radial, whose index of the bin is given.
  const T* bin(int receiver, int sender, int64_t index) const {
    return tables_[receiver * n_species_ + sender].get() + index % n_bins_ * bin_;
  }

 private:
  static constexpr int64_t LARGEST = 256 << 20;  // bytes

  void make(int receiver, int sender);

  const Model<T>& model_;
  int n_species_;
  int64_t n_bins_, bin_;
  std::mutex lock_;
  std::vector<std::shared_ptr<T[]>> tables_;  // (n_species, n_species)
};

template <class T> void PairSplines<T>::make(int receiver, int sender) {
  const Layer<T>& layer = model_.layers[0];
  constexpr int N = COEFFICIENTS<T>;
  const int64_t C = model_.channels, size = n_bins_ * bin_;
  const std::shared_ptr<T[]> table = aligned_memory<T>(size);
  const T* given = layer.radial.get() + model_.pair_table[receiver * n_species_ + sender] * size;
  const T* embedding = layer.up_bias + sender * C;
  std::vector<T> in(N * C), out(N * C);
  const T* from[N];
  T* to[N];
  for (int m = 0; m < N; m++) from[m] = &in[m * C], to[m] = &out[m * C];
  for (int64_t k = 0; k < n_bins_; k++)
    for (int l = 0; l <= model_.l_max; l++) {
      const auto place = [&](int64_t c, int m) {
        return k * bin_ + ((c / BLOCK * layer.n_paths + l) * N + m) * BLOCK + c % BLOCK;
      };
      for (int m = 0; m < N; m++)
        for (int64_t c = 0; c < C; c++) in[m * C + c] = given[place(c, m)] * embedding[c];
      multiply<T>(N, from, to, layer.linear[l].of(receiver), int(C), int(C), false);
      for (int m = 0; m < N; m++)
        for (int64_t c = 0; c < C; c++) table[place(c, m)] = out[m * C + c];
    }
  tables_[receiver * n_species_ + sender] = table;
}

}  // namespace mm
