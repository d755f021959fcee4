// Memory that starts where a cache line does, so that no vector lies across two of them.
#pragma once
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "form.h"

namespace mm {

template <class T> std::shared_ptr<T[]> aligned_memory(int64_t size) {
  void* memory = std::aligned_alloc(64, (size_t(size) * sizeof(T) + 63) / 64 * 64);
  if (!memory) throw std::bad_alloc();
  return std::shared_ptr<T[]>(static_cast<T*>(memory), std::free);
}

// Such a std::vector.
template <class T> struct CacheAligned {
  using value_type = T;
  static constexpr std::align_val_t LINE{64};
  CacheAligned() = default;
  template <class U> CacheAligned(const CacheAligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), LINE)); }
  void deallocate(T* p, size_t) { ::operator delete(p, LINE); }
  bool operator==(const CacheAligned&) const { return true; }
};
template <class T> using Aligned = std::vector<T, CacheAligned<T>>;

}  // namespace mm
