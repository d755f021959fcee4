// Neighbors with a skin: found by a cell list, kept while no pair can have entered the cutoff.
#pragma once
#include <algorithm>
#include <vector>

#include "cell.h"
#include "team.h"

namespace mm {

// A few receivers that are evaluated together, and the pairs listed for them. Each sender that
// occurs has one slot, in which the chunk collects what flows back to it; so no two chunks write
// to the same place.
struct Chunk {
  int begin, end;              // receivers, in sorted order
  std::vector<int> first;      // end - begin + 1 offsets into the pairs
  std::vector<int> sender;     // sorted order
  std::vector<int> shift;      // index into NeighborList::shift_vector
  std::vector<int> slot;
  std::vector<int> senders;    // the sender of each slot
};

// A slot that holds contributions to an atom.
struct SlotRef {
  int chunk, slot;
};

class NeighborList {
 public:
  std::vector<int> order;            // sorted -> caller's index
  std::vector<int> species;          // sorted
  std::vector<double> x;             // sorted, (n, 3): positions without jumps across the box
  std::vector<double> shift_vector;  // (n_shifts, 3) for the present cell
  std::vector<Chunk> chunks;
  std::vector<int> slots_first;      // n + 1 offsets into slots
  std::vector<SlotRef> slots;
  int64_t n_builds = 0;

  // Takes new positions; builds a new list where the old one could miss a pair. Returns whether
  // it did. `chunk_atoms` is the wanted number of receivers in a chunk.
  bool update(int n, const double* positions, const int* kinds, const Cell& cell, double cutoff,
              double skin, int chunk_atoms, Team& team, int n_threads);

 private:
  bool reuse(int n, const double* positions, const int* kinds, const Cell& cell, double cutoff,
             double skin);
  void sort_atoms(int n, const double* positions, const int* kinds, int chunk_atoms);
  void bin_atoms(double reach);
  void find_pairs(Chunk& chunk, int worker, double reach);
  void index_slots();
  void set_shifts(const Cell& cell);

  Cell built_cell_{nullptr};
  Cell shift_cell_{nullptr};  // of shift_vector: a barostat tries a box and returns to the old one
  double built_reach_ = 0;
  std::vector<double> built_x_;   // sorted
  std::vector<int> built_kinds_;  // caller's order
  std::vector<int> image_;        // sorted, (n, 3): r = x + image h
  int bins_[3] = {1, 1, 1}, span_[3] = {0, 0, 0};
  double origin_[3] = {0, 0, 0}, extent_[3] = {1, 1, 1};  // fractional
  std::vector<int> bin_of_, bin_first_, bin_atoms_;
  struct Scratch {
    std::vector<int> stamp, slot;
    int mark = 0;
  };
  std::vector<Scratch> scratch_;
};

}  // namespace mm
