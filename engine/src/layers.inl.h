// The work of one chunk in one layer, forward and backward. Part of evaluator.cpp.
#pragma once
#include "evaluator.h"

namespace mm {

// Matrix products of `rows` rows of every atom in the chunk, by element where the matrix is.
template <class T>
void Evaluation<T>::product(int c, Worker& w, const T* from, int64_t from_step, T* to,
                            int64_t to_step, int rows, int64_t from_row, int64_t to_row,
                            const Matrix<T>& m, int depth, int width, bool add) {
  const Chunk& chunk = list_.chunks[c];
  const int n = chunk.end - chunk.begin;
  for (int a = 0; a < n;) {
    const int kind = list_.species[chunk.begin + a];
    int count = 0;
    for (; a < n && (m.step == 0 || list_.species[chunk.begin + a] == kind); a++)
      for (int r = 0; r < rows; r++, count++) {
        w.from[count] = from + a * from_step + r * from_row;
        w.to[count] = to + a * to_step + r * to_row;
      }
    multiply<T>(count, w.from.data(), w.to.data(), m.of(kind), depth, width, add);
  }
}

// Loads up to EDGES edges of a row into the batch; returns how many.
template <class T>
int Evaluation<T>::fill_batch(int i, int c, int row, int start, EdgeBatch<T>& b) {
  const Layer<T>& layer = model_.layers[i];
  const ActiveEdges<T>& e = chunks_[c].edges;
  const int n = std::min(EDGES, e.first[row + 1] - start);
  const int kind = list_.species[list_.chunks[c].begin + row];
  b.n = n;
  for (int k = 0; k < EDGES; k++) {
    const int q = start + (k < n ? k : 0);
    b.fraction[k] = e.fraction[q], b.scale[k] = e.scale[q];
    b.unit[0][k] = e.x[q], b.unit[1][k] = e.y[q], b.unit[2][k] = e.z[q];
    b.inverse_distance[k] = e.inverse[q];
    const int j = e.sender[q];
    if (is_mixed(i)) {
      b.rows[k] = pair_splines_.bin(kind, list_.species[j], e.bin[q]);
    } else {
      b.rows[k] = layer.radial.get() + e.bin[q] * layer.bin;
      b.features[k] = sender_features(i, j);
    }
  }
  harmonics(b, model_.l_max);
  couple(b, layer.couplings.data(), int(layer.couplings.size()), layer.n_couplings);
  return n;
}

// A of every receiver in the chunk.
template <class T> void Evaluation<T>::collect(int i, int c, Worker& w, T* a) {
  if (is_mixed(i)) return messages(i, c, w, a);
  messages(i, c, w, w.phi.data());
  mix_messages(i, c, w, a);
}

// phi of every receiver in the chunk, or A where the splines hold the linear map.
template <class T> void Evaluation<T>::messages(int i, int c, Worker& w, T* to) {
  const Chunk& chunk = list_.chunks[c];
  const Layer<T>& layer = model_.layers[i];
  const ActiveEdges<T>& e = chunks_[c].edges;
  const int64_t size = int64_t(layer.phi_rows) * model_.channels;
  for (int row = 0; row < chunk.end - chunk.begin; row++) {
    T* phi = to + row * size;
    if (e.first[row] == e.first[row + 1]) std::fill(phi, phi + size, T(0));
    for (int start = e.first[row]; start < e.first[row + 1]; start += EDGES) {
      fill_batch(i, c, row, start, w.batch);
      for (const KernelCall<T>& call : layer.forward_calls)
        (is_mixed(i) ? call.kernel.forward_unit : call.kernel.forward)(
            w.batch, call.place, call.rows.data(), model_.channels, phi, start == e.first[row]);
    }
  }
}

// A = phi times the linear maps.
template <class T> void Evaluation<T>::mix_messages(int i, int c, Worker& w, T* out) {
  const Layer<T>& layer = model_.layers[i];
  const int64_t C = model_.channels;
  for (int l = 0; l <= model_.l_max; l++)
    product(c, w, w.phi.data() + layer.phi_row[l] * C, layer.phi_rows * C, out + l * l * C,
            components(), 2 * l + 1, layer.paths_of[l] * C, C, layer.linear[l],
            int(layer.paths_of[l] * C), int(C), false);
}

// Outputs of the contraction from A; with_gradient replaces A by the gradient of the scalar.
template <class T>
void Evaluation<T>::contract_forward(int i, int c, bool with_gradient, T* a, Worker& w) {
  const Chunk& chunk = list_.chunks[c];
  const Layer<T>& layer = model_.layers[i];
  const int C = model_.channels;
  const int64_t width = int64_t(layer.features_out()) * C;
  for (int k = chunk.begin; k < chunk.end; k++) {
    T* x = a + (k - chunk.begin) * components();
    T* out = with_gradient ? w.local.data() + (k - chunk.begin) * width
                           : outputs_[i].data() + k * width;
    for (int l = 0; l <= layer.hidden_out; l++) {
      const Contraction<T>& f = *layer.contraction[l];
      const T* table = layer.polynomial[l] + int64_t(list_.species[k]) * C * f.n_terms;
      for (int v = 0; v < C; v += LANES<T>) {
        const T* q = table + int64_t(v / BLOCK) * f.n_terms * BLOCK + v % BLOCK;
        if (with_gradient) f.value_gradient(x + v, C, q, x + v, out + v);
        else f.value(x + v, C, q, out + l * l * C + v, C);
      }
    }
  }
}

// Features that layer i sends, from the outputs of all layers before it.
template <class T> void Evaluation<T>::next_features(int i, int c, Worker& w) {
  const Chunk& chunk = list_.chunks[c];
  const Layer<T>& layer = model_.layers[i];
  const int64_t C = model_.channels, width = layer.features_in() * C;
  T* to = features_[i].data() + chunk.begin * width;
  for (int k = chunk.begin; k < chunk.end; k++) {
    T* row = features_[i].data() + k * width;
    const T* bias = layer.up_bias + list_.species[k] * C;
    std::copy(bias, bias + C, row);
    std::fill(row + C, row + width, T(0));
  }
  for (int l = 0; l <= layer.hidden_in; l++)
    for (int j = 0; j < i; j++) {
      const int64_t from_width = model_.layers[j].features_out() * C;
      product(c, w, outputs_[j].data() + chunk.begin * from_width + l * l * C, from_width,
              to + l * l * C, width, 2 * l + 1, C, C, layer.up[l][j], int(C), int(C), true);
    }
}

template <class T> void Evaluation<T>::forward_layer(int i, int c, Worker& w) {
  T* a = messages_[i].data() + list_.chunks[c].begin * components();
  collect(i, c, w, a);
  contract_forward(i, c, false, a, w);
  next_features(i + 1, c, w);
}

// Node energies, and dE/d(output) of all layers; that of the last layer into w.local's second half.
template <class T> void Evaluation<T>::readout(int c, Worker& w) {
  const Chunk& chunk = list_.chunks[c];
  const int64_t C = model_.channels, W = model_.readout_width;
  const int n = chunk.end - chunk.begin, last = model_.n_layers - 1;
  T *hidden = w.hidden.data(), *d_hidden = w.d_hidden.data();
  for (int k = 0; k < n; k++) {
    const T* bias = model_.readout_bias + list_.species[chunk.begin + k] * W;
    std::copy(bias, bias + W, hidden + k * W);
  }
  auto output = [&](int j) {
    return j == last ? w.local.data() : outputs_[j].data() + chunk.begin * width_of(j);
  };
  auto d_output = [&](int j) {
    return j == last ? w.local.data() + n * C : d_outputs_[j].data() + chunk.begin * width_of(j);
  };
  for (int j = 0; j <= last; j++)
    product(c, w, output(j), width_of(j), hidden, W, 1, 0, 0, model_.layers[j].readout, int(C),
            int(W), true);
  for (int k = 0; k < n; k++) {
    double energy = 0;
    for (int64_t q = 0; q < W; q++) {
      const T x = hidden[k * W + q], s = 1 / (1 + std::exp(-x)), out = model_.readout_out[q];
      energy += double(out * x * s);
      d_hidden[k * W + q] = out * (s + x * s * (1 - s));
    }
    const int kind = list_.species[chunk.begin + k];
    for (int j = 0; j <= last; j++) {
      const T *m = output(j) + k * width_of(j), *r = model_.layers[j].linear_readout + kind * C;
      T* d = d_output(j) + k * width_of(j);
      Vec<T> dot{};
      for (int64_t v = 0; v < C; v += LANES<T>) dot += load(m + v) * load(r + v);
      energy += double(sum<T>(dot));
      std::copy(r, r + C, d);
      std::fill(d + C, d + width_of(j), T(0));
    }
    node_energies_[chunk.begin + k] += energy;
  }
  for (int j = 0; j <= last; j++)
    product(c, w, d_hidden, W, d_output(j), width_of(j), 1, 0, 0, model_.layers[j].readout_t,
            int(W), int(C), true);
}

template <class T> void Evaluation<T>::last_layer(int c, Worker& w) {
  const Chunk& chunk = list_.chunks[c];
  const int i = model_.n_layers - 1;
  const int64_t C = model_.channels;
  const int n = chunk.end - chunk.begin;
  T* g = w.gradient.data();
  collect(i, c, w, g);
  contract_forward(i, c, true, g, w);
  readout(c, w);
  const T* d = w.local.data() + n * C;
  for (int k = 0; k < n; k++)
    for (int r = 0; r < model_.n_components; r++) {
      T* row = g + k * components() + r * C;
      for (int64_t v = 0; v < C; v += LANES<T>) store(row + v, load(row + v) * load(d + k * C + v));
    }
  back_to_edges(i, c, w, g);
}

// dE/dA from dE/dM of layer i.
template <class T> void Evaluation<T>::contract_backward(int i, int c, T* g) {
  const Chunk& chunk = list_.chunks[c];
  const Layer<T>& layer = model_.layers[i];
  const int C = model_.channels;
  T ignored[LANES<T>];
  for (int k = chunk.begin; k < chunk.end; k++) {
    const T* x = messages_[i].data() + k * components();
    const T* d = d_outputs_[i].data() + int64_t(k) * width_of(i);
    T* to = g + (k - chunk.begin) * components();
    for (int l = 0; l <= layer.hidden_out; l++) {
      const Contraction<T>& f = *layer.contraction[l];
      const T* table = layer.polynomial[l] + int64_t(list_.species[k]) * C * f.n_terms;
      for (int v = 0; v < C; v += LANES<T>) {
        const T* q = table + int64_t(v / BLOCK) * f.n_terms * BLOCK + v % BLOCK;
        if (l > 0) {
          f.backward(x + v, C, q, d + l * l * C + v, C, to + v);
          continue;
        }
        f.value_gradient(x + v, C, q, to + v, ignored);
        const Vec<T> scale = load(d + v);
        for (int r = 0; r < model_.n_components; r++)
          store(to + r * C + v, load(to + r * C + v) * scale);
      }
    }
  }
}

// From dE/dA to forces, and to the senders' slots where the layer's features depend on positions.
template <class T> void Evaluation<T>::back_to_edges(int i, int c, Worker& w, const T* g) {
  const Chunk& chunk = list_.chunks[c];
  const Layer<T>& layer = model_.layers[i];
  const int64_t C = model_.channels, size = layer.phi_rows * C;
  for (int l = 0; l <= model_.l_max && !is_mixed(i); l++)
    product(c, w, g + l * l * C, components(), w.phi.data() + layer.phi_row[l] * C, size, 2 * l + 1,
            C, layer.paths_of[l] * C, layer.linear_t[l], int(C), int(layer.paths_of[l] * C), false);
  const T* d_phi = is_mixed(i) ? g : w.phi.data();
  ChunkState& state = chunks_[c];
  const ActiveEdges<T>& e = state.edges;
  Aligned<T>& collected = state.collected[i % 2];
  const int64_t width = layer.features_in() * C;
  if (i > 0) std::fill(collected.begin(), collected.end(), T(0));
  EdgeBatch<T>& b = w.batch;
  for (int row = 0; row < chunk.end - chunk.begin; row++)
    for (int start = e.first[row]; start < e.first[row + 1]; start += EDGES) {
      const int n = fill_batch(i, c, row, start, b);
      for (int k = 0; k < n && i > 0; k++)
        b.gradients[k] = collected.data() + e.slot[start + k] * width;
      std::fill(b.radial, b.radial + EDGES, T(0));
      for (const KernelCall<T>& call : layer.backward_calls) {
        const PathKernel<T>& k = call.kernel;
        auto* kernel = i > 0 ? k.backward : is_mixed(i) ? k.backward_unit : k.backward_constant;
        kernel(b, call.place, call.rows.data(), model_.channels, d_phi + row * size);
      }
      couple_back(b, layer.couplings.data(), int(layer.couplings.size()));
      edge_gradient(b, model_.l_max);
      double* force = &forces_[3 * (chunk.begin + row)];
      for (int k = 0; k < n; k++) {
        double* slot = &state.slot_forces[3 * e.slot[start + k]];
        const double d = 1.0 / double(b.inverse_distance[k]);
        for (int a = 0; a < 3; a++) {
          const double f = double(b.gradient[a][k]);
          force[a] -= f, slot[a] += f;
          for (int m = 0; m < 3; m++) state.virial[3 * m + a] += double(b.unit[m][k]) * d * f;
        }
      }
    }
}

// What reached the senders' features of layer i, collected from the slots, into dE/dM before it.
template <class T> void Evaluation<T>::features_backward(int i, int c, Worker& w) {
  const Chunk& chunk = list_.chunks[c];
  const Layer<T>& layer = model_.layers[i];
  const int64_t C = model_.channels, width = layer.features_in() * C;
  T* total = w.local.data();
  for (int k = chunk.begin; k < chunk.end; k++) {
    T* row = total + (k - chunk.begin) * width;
    std::fill(row, row + width, T(0));
    for (int q = list_.slots_first[k]; q < list_.slots_first[k + 1]; q++) {
      const SlotRef ref = list_.slots[q];
      const T* part = chunks_[ref.chunk].collected[i % 2].data() + ref.slot * width;
      for (int64_t v = 0; v < width; v += LANES<T>) store(row + v, load(row + v) + load(part + v));
    }
  }
  for (int l = 0; l <= layer.hidden_in; l++)
    for (int j = 0; j < i; j++)
      product(c, w, total + l * l * C, width,
              d_outputs_[j].data() + chunk.begin * width_of(j) + l * l * C, width_of(j), 2 * l + 1,
              C, C, layer.up_t[l][j], int(C), int(C), true);
}

template <class T> void Evaluation<T>::backward_layer(int i, int c, Worker& w) {
  features_backward(i + 1, c, w);
  contract_backward(i, c, w.gradient.data());
  back_to_edges(i, c, w, w.gradient.data());
}

}  // namespace mm
