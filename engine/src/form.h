// Reads the evaluation form: a flat block of named arrays, see evaluation_form.py.
#pragma once
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

namespace mm {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum DType : int64_t { F32 = 0, F64 = 1, I64 = 2 };
template <class T> constexpr DType DTYPE = sizeof(T) == 4 ? F32 : F64;

struct Section {
  char name[48];
  int64_t dtype, n_dims, shape[6], offset, bytes;
};
static_assert(sizeof(Section) == 128, "the layout of a section");

class Form {
 public:
  Form(const void* data, int64_t bytes) : base_(static_cast<const char*>(data)), bytes_(bytes) {
    if (!data || bytes < 64 || std::memcmp(base_, "MACEMMEF", 8) != 0)
      throw Error("the model is not an evaluation form");
    int64_t head[3];
    std::memcpy(head, base_ + 8, sizeof head);
    if (head[0] != 2)
      throw Error("evaluation form of version " + std::to_string(head[0]) + ", wanted 2");
    if (head[1] != bytes) throw Error("damaged evaluation form: its size is not what it says");
    count_ = head[2];
    if (count_ < 0 || count_ > (bytes - 64) / 128) throw Error("damaged evaluation form");
    for (int64_t i = 0; i < count_; i++) {
      const Section s = section(i);
      if (s.offset < 0 || s.bytes < 0 || s.offset % 64 || s.offset > bytes - s.bytes)
        throw Error("damaged evaluation form: a section lies outside it");
    }
  }

  const void* data() const { return base_; }
  int64_t bytes() const { return bytes_; }

  bool has(const std::string& name) const { return find(name) >= 0; }

  // Pointer to `count` numbers of type T, or any number where count is -1.
  template <class T> const T* get(const std::string& name, DType dtype, int64_t count) const {
    const int64_t i = find(name);
    if (i < 0) throw Error("the evaluation form lacks " + name);
    const Section s = section(i);
    if (s.dtype != dtype) throw Error("unexpected type of " + name + " in the evaluation form");
    if (count >= 0 && s.bytes != count * int64_t(sizeof(T)))
      throw Error("unexpected size of " + name + " in the evaluation form");
    return reinterpret_cast<const T*>(base_ + s.offset);
  }
  template <class T> const T* reals(const std::string& name, int64_t count) const {
    return get<T>(name, DTYPE<T>, count);
  }
  const int64_t* integers(const std::string& name, int64_t count) const {
    return get<int64_t>(name, I64, count);
  }
  int64_t rows(const std::string& name) const {
    const int64_t i = find(name);
    return i < 0 ? 0 : section(i).shape[0];
  }

 private:
  Section section(int64_t i) const {
    Section s;
    std::memcpy(&s, base_ + 64 + 128 * i, sizeof s);
    s.name[47] = 0;
    return s;
  }
  int64_t find(const std::string& name) const {
    for (int64_t i = 0; i < count_; i++)
      if (name == section(i).name) return i;
    return -1;
  }
  const char* base_;
  int64_t bytes_, count_;
};

}  // namespace mm
