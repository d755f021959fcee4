// Vectors of the widest registers of the instruction set this file is compiled for.
// GCC and Clang vector extensions: no intrinsics, so any architecture has a path.
#pragma once
#include <cstdint>

namespace mm {

#if defined(__AVX512F__)
constexpr int VEC_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VEC_BYTES = 32;
#else
constexpr int VEC_BYTES = 16;
#endif
constexpr int BLOCK = 16;  // channels are stored in blocks of this many

template <class T> struct VecOf;
template <> struct VecOf<float> { typedef float type __attribute__((vector_size(VEC_BYTES))); };
template <> struct VecOf<double> { typedef double type __attribute__((vector_size(VEC_BYTES))); };
template <class T> using Vec = typename VecOf<T>::type;
template <class T> constexpr int LANES = VEC_BYTES / int(sizeof(T));

template <class T> static inline Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, VEC_BYTES);
  return v;
}
template <class T> static inline void store(T* p, Vec<T> v) { __builtin_memcpy(p, &v, VEC_BYTES); }

// Integer vectors of the same number of lanes, as masks of shuffles.
template <class T> struct MaskOf;
template <> struct MaskOf<float> { typedef int32_t type __attribute__((vector_size(VEC_BYTES))); };
template <> struct MaskOf<double> { typedef int64_t type __attribute__((vector_size(VEC_BYTES))); };

#if defined(__clang__) || __GNUC__ >= 12
#define MM_SHUFFLE_CONSTANT 1
#endif

template <class T, int... I> static inline Vec<T> shuffle(Vec<T> a, Vec<T> b) {
#ifdef MM_SHUFFLE_CONSTANT
  return __builtin_shufflevector(a, b, I...);
#else
  typename MaskOf<T>::type mask = {I...};
  return __builtin_shuffle(a, b, mask);
#endif
}

template <int... I> struct Ints {};
template <int N, int... I> struct MakeInts : MakeInts<N - 1, N - 1, I...> {};
template <int... I> struct MakeInts<0, I...> { typedef Ints<I...> type; };

// One step of a sum with transposition. Lanes come in groups of 2 * H. The result holds, in each
// group, H lanes of sums from a and H lanes of sums from b.
template <class T, int H, int... I>
static inline Vec<T> fold_step(Vec<T> a, Vec<T> b, Ints<I...>) {
  constexpr int N = LANES<T>;
  Vec<T> low = shuffle<T, ((I % (2 * H)) < H ? I : N + I - H)...>(a, b);
  Vec<T> high = shuffle<T, ((I % (2 * H)) < H ? I + H : N + I)...>(a, b);
  return low + high;
}

// Sums over lanes of LANES vectors at once: lane i of the result is the sum over v[i].
// v is overwritten. The order of the additions is fixed.
template <class T, int H> struct FoldLanes {
  static inline void run(Vec<T>* v) {
    // Pairs at distance H, so that the sums end in order.
    for (int i = 0; i < H; i++)
      v[i] = fold_step<T, H>(v[i], v[i + H], typename MakeInts<LANES<T>>::type());
    FoldLanes<T, H / 2>::run(v);
  }
};
template <class T> struct FoldLanes<T, 0> { static inline void run(Vec<T>*) {} };

template <class T> static inline Vec<T> sum_lanes(Vec<T>* v) {
  FoldLanes<T, LANES<T> / 2>::run(v);
  return v[0];
}

template <class T> static inline T sum(Vec<T> v) {
  T part[LANES<T>];
  store(part, v);
  for (int half = LANES<T> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) part[i] += part[i + half];
  return part[0];
}

}  // namespace mm
