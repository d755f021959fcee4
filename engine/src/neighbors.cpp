#include "neighbors.h"

namespace mm {

namespace {
constexpr int SMALL_SYSTEM = 512;  // up to here all atoms stay in cache: sort by element alone
constexpr int MAX_IMAGES = 40;     // in one direction
}  // namespace

bool NeighborList::update(int n, const double* positions, const int* kinds, const Cell& cell,
                          double cutoff, double skin, int chunk_atoms, Team& team, int n_threads) {
  if (reuse(n, positions, kinds, cell, cutoff, skin)) return false;
  const double reach = cutoff + skin;
  built_cell_ = cell;
  built_reach_ = 0;  // an exception below must not leave a list that looks valid
  sort_atoms(n, positions, kinds, chunk_atoms);
  bin_atoms(reach);
  set_shifts(cell);
  if (int(scratch_.size()) < n_threads) scratch_.resize(n_threads);
  for (Scratch& s : scratch_) s.stamp.assign(n, 0), s.slot.assign(n, 0), s.mark = 0;
  struct Job {
    NeighborList* list;
    double reach;
  } job{this, reach};
  const int count = int(chunks.size());
  team.run(
      [](void* context, int, int item, int worker) {
        Job* j = static_cast<Job*>(context);
        j->list->find_pairs(j->list->chunks[item], worker, j->reach);
      },
      &job, &count, 1, n_threads);
  index_slots();
  built_x_ = x;
  built_kinds_.assign(kinds, kinds + n);
  built_reach_ = reach;
  n_builds++;
  return true;
}

// Pairs not listed were farther apart than reach, and the deformation F of the box leaves at least
// stretch * reach of that; the atoms' own motion may use up the rest down to the cutoff.
bool NeighborList::reuse(int n, const double* positions, const int* kinds, const Cell& cell,
                         double cutoff, double skin) {
  if (built_reach_ != cutoff + skin || int(built_kinds_.size()) != n) return false;
  if (!std::equal(kinds, kinds + n, built_kinds_.begin())) return false;
  if (std::memcmp(cell.periodic, built_cell_.periodic, 3) != 0) return false;
  const bool deformed = !cell.same(built_cell_);
  double f[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1}, stretch = 1.0;
  if (deformed) {
    for (int a = 0; a < 3; a++) row_times(built_cell_.inverse + 3 * a, cell.h, f + 3 * a);
    stretch = smallest_stretch(f);
  }
  const double limit = 0.5 * (stretch * built_reach_ - cutoff);
  if (!(limit > 0)) return false;
  const double limit2 = limit * limit;
  for (int k = 0; k < n; k++) {
    const double *r = positions + 3 * order[k], *old = &built_x_[3 * k];
    double *now = &x[3 * k], ref[3] = {old[0], old[1], old[2]};
    if (deformed) row_times(old, f, ref);
    for (int attempt = 0;; attempt++) {
      int* image = &image_[3 * k];
      double d2 = 0, u[3];
      for (int c = 0; c < 3; c++) {
        now[c] = r[c];
        for (int a = 0; a < 3; a++)
          if (image[a]) now[c] -= image[a] * cell.h[3 * a + c];
        u[c] = now[c] - ref[c];
        d2 += u[c] * u[c];
      }
      if (d2 <= limit2) break;
      // The caller may have moved the atom to another image of itself.
      if (attempt || !cell.any_periodic || !(d2 < 1e16)) return false;
      for (int a = 0; a < 3; a++) {
        if (!cell.periodic[a]) continue;
        double s = 0;
        for (int c = 0; c < 3; c++) s += u[c] * cell.inverse[3 * c + a];
        image[a] += int(std::nearbyint(s));
      }
    }
  }
  if (!cell.same(shift_cell_)) set_shifts(cell);
  return true;
}

// Large systems: chunks along a space-filling order of cells, so that a chunk's neighbors are few.
void NeighborList::sort_atoms(int n, const double* positions, const int* kinds, int chunk_atoms) {
  const Cell& cell = built_cell_;
  order.resize(n), species.resize(n), x.resize(3 * n), image_.assign(3 * n, 0);
  std::vector<double> wrapped(3 * n);
  std::vector<int> image(3 * n, 0);
  for (int i = 0; i < n; i++) {
    order[i] = i;
    const double* r = positions + 3 * i;
    double s[3];
    row_times(r, cell.inverse, s);
    for (int c = 0; c < 3; c++) wrapped[3 * i + c] = r[c];
    for (int a = 0; a < 3; a++) {
      if (!cell.periodic[a]) continue;
      if (!(std::fabs(s[a]) < 1e8)) throw Error("an atom is too far away from the cell");
      image[3 * i + a] = int(std::floor(s[a]));
      for (int c = 0; c < 3; c++) wrapped[3 * i + c] -= image[3 * i + a] * cell.h[3 * a + c];
    }
  }
  auto by_kind = [&](int a, int b) { return kinds[a] != kinds[b] ? kinds[a] < kinds[b] : a < b; };
  const int n_chunks = std::max(1, (n + chunk_atoms - 1) / chunk_atoms);
  auto chunk_begin = [&](int i) { return int(int64_t(n) * i / n_chunks); };
  if (n <= SMALL_SYSTEM) {
    std::sort(order.begin(), order.end(), by_kind);
  } else {
    double low[3], width = 0;
    for (int c = 0; c < 3; c++) {
      double high = low[c] = wrapped[c];
      for (int i = 0; i < n; i++) {
        low[c] = std::min(low[c], wrapped[3 * i + c]);
        high = std::max(high, wrapped[3 * i + c]);
      }
      width = std::max(width, high - low[c]);
    }
    const double scale = 1023.0 / std::max(width, 1e-9);
    std::vector<uint32_t> code(n);
    for (int i = 0; i < n; i++) {
      uint32_t z = 0;
      for (int c = 0; c < 3; c++) {
        uint32_t v = uint32_t((wrapped[3 * i + c] - low[c]) * scale);
        for (int bit = 0; bit < 10; bit++) z |= ((v >> bit) & 1u) << (3 * bit + c);
      }
      code[i] = z;
    }
    std::sort(order.begin(), order.end(),
              [&](int a, int b) { return code[a] != code[b] ? code[a] < code[b] : a < b; });
    for (int i = 0; i < n_chunks; i++)
      std::sort(order.begin() + chunk_begin(i), order.begin() + chunk_begin(i + 1), by_kind);
  }
  chunks.resize(n_chunks);
  for (int i = 0; i < n_chunks; i++)
    chunks[i].begin = chunk_begin(i), chunks[i].end = chunk_begin(i + 1);
  for (int k = 0; k < n; k++) {
    species[k] = kinds[order[k]];
    for (int c = 0; c < 3; c++)
      x[3 * k + c] = wrapped[3 * order[k] + c], image_[3 * k + c] = image[3 * order[k] + c];
  }
}

void NeighborList::bin_atoms(double reach) {
  const int n = int(order.size());
  const Cell& cell = built_cell_;
  std::vector<double> s(3 * n);
  for (int k = 0; k < n; k++) row_times(&x[3 * k], cell.inverse, &s[3 * k]);
  for (int a = 0; a < 3; a++) {
    origin_[a] = 0, extent_[a] = 1;
    if (!cell.periodic[a]) {
      double low = s[a], high = s[a];
      for (int k = 0; k < n; k++)
        low = std::min(low, s[3 * k + a]), high = std::max(high, s[3 * k + a]);
      origin_[a] = low, extent_[a] = std::max(high - low, 1e-3) * (1 + 1e-9);
    }
    const double height = cell.height[a] * extent_[a];
    bins_[a] = std::max(1, int(std::min(height / reach, 256.0)));
    span_[a] = int(std::ceil(reach / (height / bins_[a]) - 1e-12));
    if (cell.periodic[a] && span_[a] > MAX_IMAGES * bins_[a])
      throw Error("the cell is too thin for the cutoff");
    if (!cell.periodic[a]) span_[a] = std::min(span_[a], bins_[a] - 1);
  }
  // Mostly empty space must not cost memory.
  while (int64_t(bins_[0]) * bins_[1] * bins_[2] > 8 * int64_t(n) + 64) {
    const int a = int(std::max_element(bins_, bins_ + 3) - bins_);
    bins_[a] = std::max(1, bins_[a] / 2);
    const double height = cell.height[a] * extent_[a];
    span_[a] = int(std::ceil(reach / (height / bins_[a]) - 1e-12));
    if (!cell.periodic[a]) span_[a] = std::min(span_[a], bins_[a] - 1);
  }
  const int total = bins_[0] * bins_[1] * bins_[2];
  bin_of_.resize(n), bin_first_.assign(total + 1, 0), bin_atoms_.resize(n);
  for (int k = 0; k < n; k++) {
    int index = 0;
    for (int a = 0; a < 3; a++) {
      const int b = int((s[3 * k + a] - origin_[a]) / extent_[a] * bins_[a]);
      index = index * bins_[a] + std::min(std::max(b, 0), bins_[a] - 1);
    }
    bin_of_[k] = index;
    bin_first_[index + 1]++;
  }
  for (int b = 0; b < total; b++) bin_first_[b + 1] += bin_first_[b];
  std::vector<int> fill(bin_first_.begin(), bin_first_.end() - 1);
  for (int k = 0; k < n; k++) bin_atoms_[fill[bin_of_[k]]++] = k;
}

void NeighborList::set_shifts(const Cell& cell) {
  int range[3], count = 1;
  for (int a = 0; a < 3; a++) {
    range[a] = cell.periodic[a] ? (span_[a] + bins_[a] - 1) / bins_[a] : 0;
    count *= 2 * range[a] + 1;
  }
  shift_cell_ = cell;
  shift_vector.resize(3 * count);
  double* v = shift_vector.data();
  for (int a = -range[0]; a <= range[0]; a++)
    for (int b = -range[1]; b <= range[1]; b++)
      for (int c = -range[2]; c <= range[2]; c++, v += 3)
        for (int k = 0; k < 3; k++)
          v[k] = a * cell.h[k] + b * cell.h[3 + k] + c * cell.h[6 + k];
}

void NeighborList::find_pairs(Chunk& chunk, int worker, double reach) {
  Scratch& scratch = scratch_[worker];
  const int mark = ++scratch.mark;
  const double reach2 = reach * reach;
  int range[3];
  for (int a = 0; a < 3; a++)
    range[a] = built_cell_.periodic[a] ? (span_[a] + bins_[a] - 1) / bins_[a] : 0;
  chunk.first.assign(1, 0);
  chunk.sender.clear(), chunk.shift.clear(), chunk.slot.clear(), chunk.senders.clear();
  for (int i = chunk.begin; i < chunk.end; i++) {
    const double* xi = &x[3 * i];
    const int bin = bin_of_[i];
    const int at[3] = {bin / (bins_[1] * bins_[2]), bin / bins_[2] % bins_[1], bin % bins_[2]};
    int to[3], image[3];
    // The sender's image lies `image` boxes away, so its vector to the receiver has shift -image.
    auto place = [&](int a, int d) {
      const int t = at[a] + d, m = t >= 0 ? t / bins_[a] : -((bins_[a] - 1 - t) / bins_[a]);
      to[a] = t - m * bins_[a], image[a] = -m;
      return m == 0 || built_cell_.periodic[a];
    };
    for (int a = -span_[0]; a <= span_[0]; a++) {
      if (!place(0, a)) continue;
      for (int b = -span_[1]; b <= span_[1]; b++) {
        if (!place(1, b)) continue;
        for (int c = -span_[2]; c <= span_[2]; c++) {
          if (!place(2, c)) continue;
          const int index = ((image[0] + range[0]) * (2 * range[1] + 1) + image[1] + range[1]) *
                                (2 * range[2] + 1) + image[2] + range[2];
          const double* shift = &shift_vector[3 * index];
          const bool home = image[0] == 0 && image[1] == 0 && image[2] == 0;
          const int cell_index = (to[0] * bins_[1] + to[1]) * bins_[2] + to[2];
          for (int q = bin_first_[cell_index]; q < bin_first_[cell_index + 1]; q++) {
            const int j = bin_atoms_[q];
            double d2 = 0;
            for (int k = 0; k < 3; k++) {
              const double d = xi[k] - x[3 * j + k] + shift[k];
              d2 += d * d;
            }
            if (d2 >= reach2 || (j == i && home)) continue;
            if (scratch.stamp[j] != mark) {
              scratch.stamp[j] = mark;
              scratch.slot[j] = int(chunk.senders.size());
              chunk.senders.push_back(j);
            }
            chunk.sender.push_back(j), chunk.shift.push_back(index);
            chunk.slot.push_back(scratch.slot[j]);
          }
        }
      }
    }
    chunk.first.push_back(int(chunk.sender.size()));
  }
}

void NeighborList::index_slots() {
  const int n = int(order.size());
  slots_first.assign(n + 1, 0);
  for (const Chunk& c : chunks)
    for (int j : c.senders) slots_first[j + 1]++;
  for (int j = 0; j < n; j++) slots_first[j + 1] += slots_first[j];
  slots.resize(slots_first[n]);
  std::vector<int> fill(slots_first.begin(), slots_first.end() - 1);
  for (int c = 0; c < int(chunks.size()); c++)
    for (int s = 0; s < int(chunks[c].senders.size()); s++)
      slots[fill[chunks[c].senders[s]]++] = {c, s};
}

}  // namespace mm
