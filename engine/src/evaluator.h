// Energy, forces and virial of one system: the phases of an evaluation and its memory.
//
//   forward i    layers before the last: messages, contraction, features of the next layer
//   last         the last layer forward, the readout, and the last layer backward, chunk by chunk
//   backward i   the other layers, from the last but one to the first
//   finish       forces
//
// Receivers own their edges in both directions. What flows back to a sender is collected in the
// chunk's own slot for it and summed by the sender later, in a fixed order.
#pragma once
#include <limits>
#include <memory>

#include "model.h"
#include "neighbors.h"
#include "shared_model.h"

namespace mm {

struct Results {
  double energy = 0, interaction_energy = 0;
  double virial[9] = {};              // -dE/d(strain)
  const double* forces = nullptr;     // sorted order, (n, 3)
  const double* node_energies = nullptr;  // sorted order, E0 included
};

class Evaluator {
 public:
  virtual ~Evaluator() = default;
  virtual Results evaluate(int n, const double* positions, const int* species, const double* cell,
                           double skin, int n_threads) = 0;
  const NeighborList& neighbors() const { return list_; }
  virtual int n_species() const = 0;
  static std::unique_ptr<Evaluator> make(const Form& form);

 protected:
  NeighborList list_;
  Team team_;
};

// Pairs of a chunk that are inside the cutoff at this step, compacted.
template <class T> struct ActiveEdges {
  std::vector<int> first, sender, slot, bin;
  Aligned<T> fraction, scale;       // place in the bin, bins to the Å
  Aligned<T> x, y, z, inverse;      // unit vector and 1 / distance
};

template <class T> class Evaluation final : public Evaluator {
 public:
  explicit Evaluation(const Form& form)
      : shared_(SharedModel<T>::of(form)), model_(shared_->model()),
        pair_splines_(shared_->pair_splines()) {}
  Results evaluate(int n, const double* positions, const int* species, const double* cell,
                   double skin, int n_threads) override;
  int n_species() const override { return model_.n_species; }

 private:
  struct Worker {
    EdgeBatch<T> batch;
    Aligned<T> phi, gradient, hidden, d_hidden, local, scratch;
    std::vector<const T*> from;
    std::vector<T*> to;
  };
  struct ChunkState {
    ActiveEdges<T> edges;
    Aligned<T> collected[2];           // (slots, features, channels), layers alternate
    std::vector<double> slot_forces;   // (slots, 3)
    double virial[9];
    bool finite;
    int coincident[2];                 // two atoms at one place, sorted order; -1 if there are none
    double closest;                    // their distance
  };

  void reserve(int n, int n_threads);
  void run(int phase, int item, int worker);
  void select_edges(int c);
  void repel(int c, int row, int species, const double* v, double d, int edge);
  void forward_layer(int i, int c, Worker& w);
  void last_layer(int c, Worker& w);
  void backward_layer(int i, int c, Worker& w);
  void finish(int c);
  std::string coincidence(const ChunkState& c) const;

  void collect(int i, int c, Worker& w, T* a);
  void messages(int i, int c, Worker& w, T* phi);
  void mix_messages(int i, int c, Worker& w, T* out);
  void contract_forward(int i, int c, bool with_gradient, T* a, Worker& w);
  void next_features(int i, int c, Worker& w);
  void readout(int c, Worker& w);
  void contract_backward(int i, int c, T* g);
  void back_to_edges(int i, int c, Worker& w, const T* g);
  int fill_batch(int i, int c, int row, int start, EdgeBatch<T>& b);
  void features_backward(int i, int c, Worker& w);
  void product(int c, Worker& w, const T* from, int64_t from_step, T* to, int64_t to_step,
               int rows, int64_t from_row, int64_t to_row, const Matrix<T>& m, int depth,
               int width, bool add);

  const T* sender_features(int i, int j) const {
    if (i == 0) return model_.layers[0].up_bias + int64_t(list_.species[j]) * model_.channels;
    return features_[i].data() + int64_t(j) * model_.layers[i].features_in() * model_.channels;
  }
  int64_t width_of(int i) const {
    return int64_t(model_.layers[i].features_out()) * model_.channels;
  }
  int64_t components() const { return int64_t(model_.n_components) * model_.channels; }

  // Whether layer i has its linear map in its splines.
  bool is_mixed(int i) const { return i == 0 && first_is_mixed_; }

  const std::shared_ptr<SharedModel<T>> shared_;
  const Model<T>& model_;
  PairSplines<T>& pair_splines_;
  bool first_is_mixed_ = false;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<ChunkState> chunks_;
  // By layer, in sorted order: features of its senders, summed messages A, outputs M, dE/dM.
  std::vector<Aligned<T>> features_, messages_, outputs_, d_outputs_;
  std::vector<double> node_energies_, forces_;
  std::vector<int> phase_kind_, phase_layer_;
};

}  // namespace mm
