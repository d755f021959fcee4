// The network in the evaluation form, as pointers and the kernels chosen for its layout.
#pragma once
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include "contraction.h"
#include "convolution.h"
#include "form.h"
#include "linear.h"
#include "memory.h"

namespace mm {

// Paths that one kernel evaluates together.
template <class T> struct KernelCall {
  PathKernel<T> kernel;
  std::vector<MessageRows> rows;  // of each path
  GroupPlace place;
};

// A matrix, one for all elements or one for each.
template <class T> struct Matrix {
  const T* data = nullptr;
  int64_t step = 0;  // numbers between two elements' matrices, 0 if shared
  const T* of(int species) const { return data + step * species; }
};

// A path's place among those of its layer, in the order of ordered_paths.
struct PathPlace {
  int index, coefficient;
  MessageRows rows;
};
using PathPlaces = std::map<std::array<int, 3>, PathPlace>;  // by l_in, l_edge, l_out

template <class T> struct Layer {
  int hidden_in, hidden_out, correlation;
  int n_paths, phi_rows, n_couplings;
  int64_t bin;                  // numbers from one bin of the splines to the next
  std::shared_ptr<T[]> radial;  // (tables, bins, blocks, paths, coefficients, 16)
  std::vector<KernelCall<T>> forward_calls, backward_calls;
  std::vector<CouplingEntry> couplings;
  std::vector<int> path_index;  // of the form's paths, among the splines
  int paths_of[4], phi_row[4];  // by l_out
  Matrix<T> linear[4], linear_t[4];
  bool linear_by_species;
  const Contraction<T>* contraction[3];
  const T* polynomial[3];
  // features = sum_j M_j up[j] + bias, by l; for layer 0 the bias is the embedding.
  std::vector<Matrix<T>> up[3], up_t[3];
  const T* up_bias;
  // Readout of the node's own output: M readout into the last hidden layer, M . linear_readout.
  Matrix<T> readout, readout_t;
  const T* linear_readout;

  int features_in() const { return (hidden_in + 1) * (hidden_in + 1); }
  int features_out() const { return (hidden_out + 1) * (hidden_out + 1); }
};

struct Repulsion {
  bool present = false;
  const double* pairs = nullptr;  // (n_species, n_species, 3): strength, 1 / screening, reach
  double coefficient[4], decay[4], exponent;
};

// Bins of the splines: of one width up to the distance `split`, of another beyond.
struct Bins {
  int form;  // in the evaluation form, all of one width
  int n[2];
  double split, per_length[2];
  int total() const { return n[0] + n[1]; }
};

template <class T> struct Model {
  int n_species, channels, l_max, n_layers, readout_width, n_components;
  Bins bins;
  double r_max;
  std::vector<Layer<T>> layers;
  const int64_t* pair_table;
  const T *readout_bias, *readout_out;
  const double *node_constant, *atomic_energies;
  Repulsion repulsion;

  explicit Model(const Form& form) { read(form); }

 private:
  static constexpr double CLOSEST = 0.3;  // Å, see splines.py
  static constexpr int MOST_BINS = 16384;

  void read(const Form& form);
  void read_layer(const Form& form, int i);
  void read_paths(const Form& form, int i);
  void read_couplings(const Form& form, int i, const int64_t* paths,
                      const std::vector<PathPlace*>& places);
  void read_splines(const Form& form, int i);
  void choose_bins(const Form& form);
  struct Knots;
  Matrix<T> matrix(const Form& form, const std::string& name, int64_t size) {
    const int64_t n = form.rows(name);
    if (n != 1 && n != n_species) throw Error("unexpected number of matrices in " + name);
    return {form.reals<T>(name, n * size), n == 1 ? 0 : size};
  }
};

template <class T> void Model<T>::read(const Form& form) {
  const int64_t* c = form.integers("config", 8);
  n_species = int(c[0]), channels = int(c[1]), l_max = int(c[2]), n_layers = int(c[3]);
  bins.form = int(c[4]), readout_width = int(c[6]);
  if (c[5] != 3) throw Error("unexpected order of the splines");
  if (channels < BLOCK || channels % BLOCK)
    throw Error("the engine needs a multiple of 16 channels, got " + std::to_string(channels));
  if (l_max < 1 || l_max > 3) throw Error("the engine needs l_max 1 to 3");
  if (n_layers < 1 || n_layers > 16 || n_species < 1 || bins.form < 8 || readout_width % BLOCK)
    throw Error("damaged evaluation form: impossible sizes");
  n_components = (l_max + 1) * (l_max + 1);
  r_max = form.reals<double>("r_max", 1)[0];
  pair_table = form.integers("pair_table", int64_t(n_species) * n_species);
  layers.resize(n_layers);
  choose_bins(form);
  for (int i = 0; i < n_layers; i++) read_layer(form, i);
  readout_bias = form.reals<T>("readout_bias", int64_t(n_species) * readout_width);
  readout_out = form.reals<T>("readout_out", readout_width);
  node_constant = form.reals<double>("node_constant", n_species);
  atomic_energies = form.reals<double>("atomic_energies", n_species);
  repulsion.present = c[7] != 0;
  if (repulsion.present) {
    repulsion.pairs = form.reals<double>("repulsion_pairs", int64_t(n_species) * n_species * 3);
    const double* shape = form.reals<double>("repulsion_shape", 9);
    for (int k = 0; k < 4; k++)
      repulsion.coefficient[k] = shape[k], repulsion.decay[k] = shape[4 + k];
    repulsion.exponent = shape[8];
  }
}

template <class T> void Model<T>::read_layer(const Form& form, int i) {
  Layer<T>& layer = layers[i];
  const std::string tag = "." + std::to_string(i);
  const int64_t* c = form.integers("layer" + tag, 4);
  layer.hidden_in = int(c[0]), layer.hidden_out = int(c[1]), layer.correlation = int(c[2]);
  layer.linear_by_species = c[3] != 0;
  if (layer.hidden_in < 0 || layer.hidden_in > 2 || layer.hidden_out < 0 || layer.hidden_out > 2)
    throw Error("the engine needs hidden l 0 to 2");
  if (i == 0 && layer.hidden_in) throw Error("damaged evaluation form: an impossible path");
  read_paths(form, i);
  const int64_t C = channels;
  for (int l = 0; l <= l_max; l++) {
    const std::string end = tag + "." + std::to_string(l);
    layer.linear[l] = matrix(form, "linear" + end, layer.paths_of[l] * C * C);
    layer.linear_t[l] = matrix(form, "linear_t" + end, layer.paths_of[l] * C * C);
  }
  for (int l = 0; l <= layer.hidden_out; l++) {
    layer.contraction[l] = find_contraction<T>(l_max, l, layer.correlation);
    if (!layer.contraction[l]) throw Error("the engine lacks this symmetric contraction");
    layer.polynomial[l] = form.reals<T>("polynomial" + tag + "." + std::to_string(l),
                                        n_species * C * layer.contraction[l]->n_terms);
  }
  layer.up_bias = form.reals<T>("up_bias" + tag, n_species * C);
  for (int l = 0; l <= layer.hidden_in && i > 0; l++)
    for (int j = 0; j < i; j++) {
      const std::string end = tag + "." + std::to_string(j) + "." + std::to_string(l);
      layer.up[l].push_back(matrix(form, "up" + end, C * C));
      layer.up_t[l].push_back(matrix(form, "up_t" + end, C * C));
    }
  layer.readout = matrix(form, "readout" + tag, C * readout_width);
  layer.readout_t = matrix(form, "readout_t" + tag, C * readout_width);
  layer.linear_readout = form.reals<T>("linear_readout" + tag, n_species * C);
}

template <class T>
static void add_calls(std::vector<KernelCall<T>>& calls, std::vector<PathKernel<T>> kernels,
                      const PathPlaces& places, int l_in) {
  for (PathKernel<T>& kernel : kernels) {
    KernelCall<T> call{kernel, {}, {l_in * l_in, 0, 0, int(places.size())}};
    for (const auto& path : kernel.paths) {
      const PathPlace& place = places.at({l_in, path[0], path[1]});
      if (call.rows.empty()) call.place.radial = place.index;
      if (!call.place.coefficient) call.place.coefficient = place.coefficient;
      call.rows.push_back(place.rows);
    }
    calls.push_back(std::move(call));
  }
}

// Places of the paths that a layer can have; rows are left to the form, which orders its messages.
static inline PathPlaces path_places(int hidden_in, int l_max) {
  PathPlaces places;
  int target = MAX_HARMONICS;
  for (int l_in = 0; l_in <= hidden_in; l_in++)
    for (const auto& [l_edge, l_out] : ordered_paths(l_in, l_max)) {
      const bool coupled = l_in && l_edge;
      const int index = int(places.size());
      const int coefficient = coupled ? target : l_in ? 0 : l_out * l_out;
      places[{l_in, l_edge, l_out}] = {index, coefficient, {0, 0}};
      if (coupled) target += (2 * l_in + 1) * (2 * l_out + 1);
    }
  return places;
}

template <class T> void Model<T>::read_paths(const Form& form, int i) {
  Layer<T>& layer = layers[i];
  const std::string tag = "." + std::to_string(i);
  layer.n_paths = int(form.rows("paths" + tag));
  const int64_t* paths = form.integers("paths" + tag, layer.n_paths * 3);
  PathPlaces places = path_places(layer.hidden_in, l_max);
  if (int(places.size()) != layer.n_paths)
    throw Error("damaged evaluation form: unexpected paths");
  std::vector<PathPlace*> found;
  for (int l = 0; l < 4; l++) layer.paths_of[l] = 0;
  for (int p = 0; p < layer.n_paths; p++) {
    const int64_t* q = paths + 3 * p;
    const auto place = places.find({int(q[0]), int(q[1]), int(q[2])});
    if (place == places.end() || std::count(found.begin(), found.end(), &place->second))
      throw Error("damaged evaluation form: an impossible path");
    found.push_back(&place->second);
    layer.path_index.push_back(place->second.index);
    place->second.rows.first = layer.paths_of[q[2]]++;
  }
  layer.phi_rows = 0;
  for (int l = 0; l <= l_max; l++) {
    layer.phi_row[l] = layer.phi_rows;
    layer.phi_rows += (2 * l + 1) * layer.paths_of[l];
  }
  for (int p = 0; p < layer.n_paths; p++) {
    const int64_t l_out = paths[3 * p + 2];
    found[p]->rows.first += layer.phi_row[l_out];
    found[p]->rows.stride = layer.paths_of[l_out];
  }
  for (int l_in = 0; l_in <= layer.hidden_in; l_in++) {
    add_calls(layer.forward_calls, kernels_for<T, Way::FORWARD>(l_in, l_max), places, l_in);
    add_calls(layer.backward_calls, kernels_for<T, Way::BACKWARD>(l_in, l_max), places, l_in);
  }
  read_couplings(form, i, paths, found);
  read_splines(form, i);
}

template <class T>
void Model<T>::read_couplings(const Form& form, int i, const int64_t* paths,
                              const std::vector<PathPlace*>& places) {
  Layer<T>& layer = layers[i];
  layer.n_couplings = 0;
  for (int p = 0; p < layer.n_paths; p++)
    if (paths[3 * p] && paths[3 * p + 1])
      layer.n_couplings += int((2 * paths[3 * p] + 1) * (2 * paths[3 * p + 2] + 1));
  const int end = MAX_HARMONICS + layer.n_couplings;
  if (end > MAX_COEFFICIENTS) throw Error("damaged evaluation form: unexpected paths");
  const std::string tag = "." + std::to_string(i);
  const int n = int(form.rows("coupling_index" + tag));
  const int64_t* index = form.integers("coupling_index" + tag, n * 4);
  const double* value = form.reals<double>("coupling_value" + tag, n);
  for (int k = 0; k < n; k++) {
    const int64_t *q = index + 4 * k, p = q[0];
    if (p < 0 || p >= layer.n_paths || q[3] < 0 || q[3] >= n_components || !paths[3 * p])
      throw Error("damaged evaluation form: an impossible coupling");
    const int columns = 2 * int(paths[3 * p + 2]) + 1;
    const int to = places[p]->coefficient + int(q[1]) * columns + int(q[2]);
    if (to < MAX_HARMONICS || to >= end)
      throw Error("damaged evaluation form: an impossible coupling");
    layer.couplings.push_back({to, int(q[3]), value[k]});
  }
}

}  // namespace mm

#include "model_splines.h"
