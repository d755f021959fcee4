#include "evaluator.h"

namespace mm {

namespace {
enum Phase { FORWARD, LAST, BACKWARD, FINISH };
constexpr double COINCIDENT = 1e-3;  // Å; atoms closer than this are an error
}

template <class T>
Results Evaluation<T>::evaluate(int n, const double* positions, const int* species,
                                const double* cell_rows, double skin, int n_threads) {
  Results results;
  if (n == 0) return results;
  for (int i = 0; i < 3 * n; i++)
    if (!std::isfinite(positions[i]))
      throw Error("positions must be finite; those of atom " + std::to_string(i / 3) + " are not");
  const Cell cell(cell_rows);
  // Enough chunks to share, a multiple of 4 so that they share well, and enough rows in a chunk for
  // the matrix products.
  const int fours = (n + 63) / 64;
  const int wanted = n >= 512 ? 32 : (n + 4 * fours - 1) / (4 * fours);
  if (list_.update(n, positions, species, cell, model_.r_max, skin, wanted, team_, n_threads)) {
    first_is_mixed_ = false;  // also where the next line throws
    first_is_mixed_ = pair_splines_.prepare(list_.species);
  }
  reserve(n, n_threads);

  phase_kind_.clear(), phase_layer_.clear();
  const int last = model_.n_layers - 1;
  for (int i = 0; i < last; i++) phase_kind_.push_back(FORWARD), phase_layer_.push_back(i);
  phase_kind_.push_back(LAST), phase_layer_.push_back(last);
  for (int i = last - 1; i >= 0; i--) phase_kind_.push_back(BACKWARD), phase_layer_.push_back(i);
  phase_kind_.push_back(FINISH), phase_layer_.push_back(0);
  const int n_phases = int(phase_kind_.size());
  std::vector<int> counts(n_phases, int(list_.chunks.size()));
  team_.run(
      [](void* self, int phase, int item, int worker) {
        static_cast<Evaluation*>(self)->run(phase, item, worker);
      },
      this, counts.data(), n_phases, n_threads);

  for (ChunkState& c : chunks_) {
    if (c.coincident[0] >= 0) throw Error(coincidence(c));
    if (!c.finite) throw Error("the energy of these positions is not a finite number");
    for (int k = 0; k < 9; k++) results.virial[k] -= c.virial[k];
  }
  for (int a = 0; a < 3; a++)
    for (int b = 0; b < a; b++) {
      const double mean = 0.5 * (results.virial[3 * a + b] + results.virial[3 * b + a]);
      results.virial[3 * a + b] = results.virial[3 * b + a] = mean;
    }
  double isolated = 0;
  for (int k = 0; k < n; k++) {
    results.interaction_energy += node_energies_[k];
    const double e0 = model_.atomic_energies[list_.species[k]];
    node_energies_[k] += e0, isolated += e0;
  }
  results.energy = results.interaction_energy + isolated;
  results.forces = forces_.data();
  results.node_energies = node_energies_.data();
  return results;
}

template <class T> void Evaluation<T>::reserve(int n, int n_threads) {
  const int64_t C = model_.channels;
  const int layers = model_.n_layers;
  features_.resize(layers), messages_.resize(layers);
  outputs_.resize(layers), d_outputs_.resize(layers);
  int rows = 0, width = 1;
  for (int i = 0; i < layers; i++) {
    const Layer<T>& layer = model_.layers[i];
    rows = std::max(rows, layer.phi_rows);
    width = std::max(width, std::max(layer.features_in(), layer.features_out()));
    if (i > 0) features_[i].resize(n * layer.features_in() * C);
    if (i == layers - 1) continue;
    messages_[i].resize(n * components());
    outputs_[i].resize(n * layer.features_out() * C);
    d_outputs_[i].resize(n * layer.features_out() * C);
  }
  node_energies_.resize(n), forces_.resize(3 * n);
  int largest = 0;
  for (const Chunk& c : list_.chunks) largest = std::max(largest, c.end - c.begin);
  while (int(workers_.size()) < n_threads) workers_.push_back(std::make_unique<Worker>());
  for (auto& w : workers_) {
    w->phi.resize(largest * rows * C);
    w->scratch.resize(rows * C);
    w->batch.scratch = w->scratch.data();
    w->gradient.resize(largest * components());
    w->local.resize(largest * width * C * 2);
    w->hidden.resize(int64_t(largest) * model_.readout_width);
    w->d_hidden.resize(int64_t(largest) * model_.readout_width);
    w->from.resize(largest * 8), w->to.resize(largest * 8);
  }
  chunks_.resize(list_.chunks.size());
  for (size_t c = 0; c < chunks_.size(); c++) {
    const Chunk& chunk = list_.chunks[c];
    ChunkState& state = chunks_[c];
    const size_t pairs = chunk.sender.size();
    ActiveEdges<T>& e = state.edges;
    e.first.resize(chunk.end - chunk.begin + 1);
    for (auto* v : {&e.sender, &e.slot, &e.bin}) v->resize(pairs);
    for (auto* v : {&e.fraction, &e.scale, &e.x, &e.y, &e.z, &e.inverse}) v->resize(pairs);
    state.slot_forces.resize(3 * chunk.senders.size());
    for (int parity = 0; parity < 2; parity++)
      if (layers > 1 + (parity == (layers - 1) % 2 ? 0 : 1))
        state.collected[parity].resize(chunk.senders.size() *
                                       model_.layers[layers - 1].features_in() * C);
  }
}

template <class T> void Evaluation<T>::run(int phase, int item, int worker) {
  Worker& w = *workers_[worker];
  if (phase == 0) select_edges(item);
  switch (phase_kind_[phase]) {
    case FORWARD: return forward_layer(phase_layer_[phase], item, w);
    case LAST: return last_layer(item, w);
    case BACKWARD: return backward_layer(phase_layer_[phase], item, w);
    default: return finish(item);
  }
}

template <class T> std::string Evaluation<T>::coincidence(const ChunkState& c) const {
  int a = list_.order[c.coincident[0]], b = list_.order[c.coincident[1]];
  if (a > b) std::swap(a, b);
  return "atoms " + std::to_string(a) + " and " + std::to_string(b) + " coincide: " +
         std::to_string(c.closest) + " Å apart";
}

template <class T> void Evaluation<T>::select_edges(int c) {
  const Chunk& chunk = list_.chunks[c];
  ChunkState& state = chunks_[c];
  ActiveEdges<T>& e = state.edges;
  const double cutoff2 = model_.r_max * model_.r_max;
  const Bins& bins = model_.bins;
  std::fill(state.slot_forces.begin(), state.slot_forces.end(), 0.0);
  std::fill(state.virial, state.virial + 9, 0.0);
  state.finite = true, state.coincident[0] = -1;
  int n = 0;
  for (int i = chunk.begin; i < chunk.end; i++) {
    const int row = i - chunk.begin;
    const double* xi = &list_.x[3 * i];
    const int kind = list_.species[i];
    e.first[row] = n;
    for (int k = 0; k < 3; k++) forces_[3 * i + k] = 0;
    node_energies_[i] = model_.node_constant[kind];
    for (int p = chunk.first[row]; p < chunk.first[row + 1]; p++) {
      const int j = chunk.sender[p];
      const double *xj = &list_.x[3 * j], *s = &list_.shift_vector[3 * chunk.shift[p]];
      const double v[3] = {xi[0] - xj[0] + s[0], xi[1] - xj[1] + s[1], xi[2] - xj[2] + s[2]};
      const double d2 = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
      if (!(d2 < cutoff2)) continue;
      const double d = std::sqrt(d2), q = 1.0 / d;
      if (!(d > COINCIDENT)) {
        state.coincident[0] = i, state.coincident[1] = j, state.closest = d;
        continue;
      }
      const bool far = d >= bins.split;
      const double u = (far ? d - bins.split : d) * bins.per_length[far];
      const int bin = std::min(int(u), bins.n[far] - 1);
      const int64_t table = model_.pair_table[kind * model_.n_species + list_.species[j]];
      e.sender[n] = j, e.slot[n] = chunk.slot[p];
      e.bin[n] = int(table) * bins.total() + (far ? bins.n[0] : 0) + bin;
      e.fraction[n] = T(u - bin), e.scale[n] = T(bins.per_length[far]), e.inverse[n] = T(q);
      e.x[n] = T(v[0] * q), e.y[n] = T(v[1] * q), e.z[n] = T(v[2] * q);
      if (model_.repulsion.present) repel(c, i, kind, v, d, n);
      n++;
    }
  }
  e.first[chunk.end - chunk.begin] = n;
}

// Ziegler-Biersack-Littmark repulsion of one directed edge, with its envelope.
template <class T>
void Evaluation<T>::repel(int c, int i, int kind, const double* v, double d, int edge) {
  const Repulsion& r = model_.repulsion;
  ChunkState& state = chunks_[c];
  const int other = list_.species[state.edges.sender[edge]];
  const double* pair = r.pairs + 3 * (kind * model_.n_species + other);
  const double u = d / pair[2];
  if (u >= 1) return;
  const double p = r.exponent, up = std::pow(u, p);
  const double envelope = 1 - 0.5 * (p + 1) * (p + 2) * up + p * (p + 2) * up * u -
                          0.5 * p * (p + 1) * up * u * u;
  const double slope = -0.5 * p * (p + 1) * (p + 2) * up / u * (1 - u) * (1 - u) / pair[2];
  double phi = 0, d_phi = 0;
  for (int k = 0; k < 4; k++) {
    const double term = r.coefficient[k] * std::exp(-r.decay[k] * pair[1] * d);
    phi += term, d_phi -= r.decay[k] * pair[1] * term;
  }
  const double base = pair[0] / d;
  node_energies_[i] += base * phi * envelope;
  const double along = base * (d_phi * envelope + phi * slope - phi * envelope / d);
  double* slot = &state.slot_forces[3 * state.edges.slot[edge]];
  for (int k = 0; k < 3; k++) {
    const double g = along * v[k] / d;
    forces_[3 * i + k] -= g, slot[k] += g;
    for (int m = 0; m < 3; m++) state.virial[3 * m + k] += v[m] * g;
  }
}

template <class T> void Evaluation<T>::finish(int c) {
  const Chunk& chunk = list_.chunks[c];
  for (int i = chunk.begin; i < chunk.end; i++) {
    double* f = &forces_[3 * i];
    for (int q = list_.slots_first[i]; q < list_.slots_first[i + 1]; q++) {
      const SlotRef ref = list_.slots[q];
      for (int k = 0; k < 3; k++) f[k] += chunks_[ref.chunk].slot_forces[3 * ref.slot + k];
    }
    if (!std::isfinite(f[0] + f[1] + f[2] + node_energies_[i])) chunks_[c].finite = false;
  }
}

}  // namespace mm

#include "layers.inl.h"

namespace mm {
std::unique_ptr<Evaluator> Evaluator::make(const Form& form) {
  if (form.integers("real_type", 1)[0] == F32) return std::make_unique<Evaluation<float>>(form);
  return std::make_unique<Evaluation<double>>(form);
}
}  // namespace mm
