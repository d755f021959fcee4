// The engine as an operator of torch, through torch's C shim: its functions are looked up in the
// torch library that the process has already loaded, with prototypes declared here. So this file
// compiles without torch, and the operator runs from TorchScript and C++ without Python.
#include <dlfcn.h>
#include <sched.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "mace_mm/engine.h"

namespace {

using Value = uint64_t;  // torch's StableIValue
using Tensor = void*;    // torch's AtenTensorHandle
using Status = int32_t;
using Kernel = void (*)(Value*, uint64_t, uint64_t);

struct Torch {
  Status (*init_impl)(const char*, const char*, const char*, uint32_t, void**);
  Status (*impl)(void*, const char*, Kernel);
  Status (*data)(Tensor, void**);
  Status (*dim)(Tensor, int64_t*);
  Status (*numel)(Tensor, int64_t*);
  Status (*sizes)(Tensor, int64_t**);
  Status (*strides)(Tensor, int64_t**);
  Status (*dtype)(Tensor, int32_t*);
  Status (*empty)(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, Tensor*);
  Status (*remove)(Tensor);
  int32_t (*f32)();
  int32_t (*f64)();
  int32_t (*i32)();
  int32_t (*i64)();
  int32_t (*u8)();
  int32_t (*cpu)();
  int (*threads)();
} torch;

template <class F> bool find(void* library, const char* name, F& target) {
  target = reinterpret_cast<F>(dlsym(library, name));
  return target != nullptr;
}

// What was asked cannot be evaluated; what could have been. The package tells them by the text.
[[noreturn]] void refuse(const std::string& text) {
  throw std::runtime_error("mace_mm::energy_forces: " + text);
}
[[noreturn]] void fail(const std::string& text) {
  throw std::runtime_error("mace_mm::energy_forces failed: " + text);
}

void check(Status status, const char* what) {
  if (status != 0) fail(std::string("torch did not ") + what);
}

// A tensor argument: owned by the kernel, read through its strides.
class Argument {
 public:
  explicit Argument(Value v) : handle_(reinterpret_cast<Tensor>(v)) {
    check(torch.data(handle_, &data_), "give the data of a tensor");
    check(torch.dim(handle_, &dim_) | torch.numel(handle_, &numel_) |
              torch.sizes(handle_, &sizes_) | torch.strides(handle_, &strides_),
          "give the shape of a tensor");
    check(torch.dtype(handle_, &dtype_), "give the type of a tensor");
  }
  ~Argument() { torch.remove(handle_); }
  Argument(const Argument&) = delete;

  void* data() const { return data_; }
  int64_t dim() const { return dim_; }
  int64_t numel() const { return numel_; }
  int64_t size(int i) const { return sizes_[i]; }
  int32_t dtype() const { return dtype_; }
  bool real() const { return dtype_ == torch.f32() || dtype_ == torch.f64(); }
  bool integer() const { return dtype_ == torch.i32() || dtype_ == torch.i64(); }

  // Reads element (i, j) of a matrix or (i) of a vector.
  template <class T> T at(int64_t i, int64_t j = 0) const {
    const int64_t k = i * strides_[0] + (dim_ > 1 ? j * strides_[1] : 0);
    if (dtype_ == torch.f32()) return T(static_cast<float*>(data_)[k]);
    if (dtype_ == torch.f64()) return T(static_cast<double*>(data_)[k]);
    if (dtype_ == torch.i32()) return T(static_cast<int32_t*>(data_)[k]);
    return T(static_cast<int64_t*>(data_)[k]);
  }

 private:
  Tensor handle_;
  void* data_ = nullptr;
  int64_t dim_ = 0, numel_ = 0, *sizes_ = nullptr, *strides_ = nullptr;
  int32_t dtype_ = 0;
};

// A new tensor; handed over to torch by release().
class Result {
 public:
  Result(std::initializer_list<int64_t> shape, int32_t dtype) {
    int64_t strides[2] = {shape.size() == 2 ? shape.begin()[1] : 1, 1};
    check(torch.empty(int64_t(shape.size()), shape.begin(), strides, dtype, torch.cpu(), 0, &handle_),
          "make a tensor");
    check(torch.data(handle_, &data_), "give the data of a tensor");
  }
  ~Result() { if (handle_) torch.remove(handle_); }
  Result(const Result&) = delete;
  template <class T> T* as() { return static_cast<T*>(data_); }
  Value release() {
    const Value v = reinterpret_cast<Value>(handle_);
    handle_ = nullptr;
    return v;
  }

 private:
  Tensor handle_ = nullptr;
  void* data_ = nullptr;
};

// What the engine keeps between calls for one state tensor.
struct State {
  std::mutex busy;
  mm_context* context = nullptr;
  const void* model = nullptr;
  int64_t bytes = 0;
  uint64_t digest = 0;
  std::vector<double> positions, forces;
  std::vector<int32_t> species;
  ~State() { if (context) mm_destroy(context); }
};

constexpr size_t MAX_STATES = 64;

// Keyed by the address of the state tensor. Never destroyed: threads may outlive static objects.
struct Registry {
  std::mutex lock;
  uint64_t clock = 0;
  std::map<const void*, std::pair<std::shared_ptr<State>, uint64_t>> states;
};
Registry& registry() {
  static Registry* r = new Registry;
  return *r;
}

std::shared_ptr<State> state_of(const void* key) {
  Registry& r = registry();
  std::lock_guard<std::mutex> guard(r.lock);
  auto& entry = r.states[key];
  if (!entry.first) entry.first = std::make_shared<State>();
  entry.second = ++r.clock;
  std::shared_ptr<State> found = entry.first;
  if (r.states.size() > MAX_STATES) {
    auto oldest = r.states.begin();
    for (auto it = r.states.begin(); it != r.states.end(); ++it)
      if (it->second.second < oldest->second.second) oldest = it;
    r.states.erase(oldest);
  }
  return found;
}

int default_threads() {
  if (torch.threads) return torch.threads();
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

double as_double(Value v) {
  double d;
  std::memcpy(&d, &v, sizeof d);
  return d;
}

void prepare(State& s, const Argument& model) {
  uint64_t digest = 0;
  if (model.numel() >= 64) std::memcpy(&digest, static_cast<char*>(model.data()) + 32, 8);
  if (s.context && s.model == model.data() && s.bytes == model.numel() && s.digest == digest) return;
  if (s.context) mm_destroy(s.context);
  char message[512] = "";
  s.context = mm_create(model.data(), model.numel(), message, sizeof message);
  if (!s.context) fail(message);
  s.model = model.data(), s.bytes = model.numel(), s.digest = digest;
}

// energy_forces(positions, species, cell, model, state, skin, threads, length, energy)
void evaluate(Value* stack) {
  const Argument positions(stack[0]), species(stack[1]), cell(stack[2]), model(stack[3]),
      state(stack[4]);
  const double skin = as_double(stack[5]), length = as_double(stack[7]), energy = as_double(stack[8]);
  int threads = int(int64_t(stack[6]));
  if (positions.dim() != 2 || positions.size(1) != 3 || !positions.real())
    refuse("positions must be a float tensor of shape (n_atoms, 3)");
  const int64_t n = positions.size(0);
  if (species.dim() != 1 || species.size(0) != n || !species.integer())
    refuse("species must be an integer tensor of shape (n_atoms,)");
  if (cell.numel() != 0 && (cell.dim() != 2 || cell.size(0) != 3 || cell.size(1) != 3 || !cell.real()))
    refuse("cell must be a float tensor of shape (3, 3), or empty");
  if (model.dim() != 1 || model.dtype() != torch.u8()) refuse("model must be a flat uint8 tensor");
  if (state.numel() < 1) refuse("state must be a tensor of its own with at least one element");
  if (!(skin >= 0) || !(length > 0)) refuse("skin must not be negative, length must be positive");
  if (threads <= 0) threads = default_threads();

  const std::shared_ptr<State> shared = state_of(state.data());
  State& s = *shared;
  std::lock_guard<std::mutex> guard(s.busy);
  prepare(s, model);
  s.positions.resize(size_t(3 * n)), s.species.resize(size_t(n)), s.forces.resize(size_t(3 * n));
  for (int64_t i = 0; i < n; i++) {
    for (int k = 0; k < 3; k++) s.positions[size_t(3 * i + k)] = positions.at<double>(i, k) * length;
    s.species[size_t(i)] = species.at<int32_t>(i);
  }
  double rows[9];
  for (int i = 0; i < 9 && cell.numel(); i++) rows[i] = cell.at<double>(i / 3, i % 3) * length;

  Result energies({2}, torch.f64()), forces({n, 3}, positions.dtype()), virial({3, 3}, torch.f64()),
      nodes({n}, torch.f64());
  char message[512] = "";
  const int status =
      mm_evaluate(s.context, n, s.positions.data(), s.species.data(), cell.numel() ? rows : nullptr,
                  skin, threads, energies.as<double>(), s.forces.data(), virial.as<double>(),
                  nodes.as<double>(), message, sizeof message);
  if (status) status == 1 ? refuse(message) : fail(message);
  for (int i = 0; i < 2; i++) energies.as<double>()[i] *= energy;
  for (int i = 0; i < 9; i++) virial.as<double>()[i] *= energy;
  for (int64_t i = 0; i < n; i++) nodes.as<double>()[i] *= energy;
  const bool narrow = positions.dtype() == torch.f32();
  for (int64_t i = 0; i < 3 * n; i++) {
    const double f = s.forces[size_t(i)] * energy * length;
    if (narrow) forces.as<float>()[i] = float(f);
    else forces.as<double>()[i] = f;
  }
  stack[0] = energies.release(), stack[1] = forces.release();
  stack[2] = virial.release(), stack[3] = nodes.release();
}

void energy_forces(Value* stack, uint64_t, uint64_t) {
  try {
    evaluate(stack);
  } catch (const std::bad_alloc&) {
    fail("not enough memory");
  }
}

}  // namespace

extern "C" {

// Registers the CPU kernel of mace_mm::energy_forces, whose schema exists already, with the torch
// library at `path`. Returns 0, or 1 where this torch lacks the C shim.
int mm_register_operator(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
  if (!library) return 1;
  const bool complete =
      find(library, "aoti_torch_library_init_impl", torch.init_impl) &&
      find(library, "aoti_torch_library_impl", torch.impl) &&
      find(library, "aoti_torch_get_data_ptr", torch.data) &&
      find(library, "aoti_torch_get_dim", torch.dim) &&
      find(library, "aoti_torch_get_numel", torch.numel) &&
      find(library, "aoti_torch_get_sizes", torch.sizes) &&
      find(library, "aoti_torch_get_strides", torch.strides) &&
      find(library, "aoti_torch_get_dtype", torch.dtype) &&
      find(library, "aoti_torch_empty_strided", torch.empty) &&
      find(library, "aoti_torch_delete_tensor_object", torch.remove) &&
      find(library, "aoti_torch_dtype_float32", torch.f32) &&
      find(library, "aoti_torch_dtype_float64", torch.f64) &&
      find(library, "aoti_torch_dtype_int32", torch.i32) &&
      find(library, "aoti_torch_dtype_int64", torch.i64) &&
      find(library, "aoti_torch_dtype_uint8", torch.u8) &&
      find(library, "aoti_torch_device_type_cpu", torch.cpu);
  if (!complete) return 1;
  find(library, "_ZN2at15get_num_threadsEv", torch.threads);
  void* handle = nullptr;  // lives as long as the process
  if (torch.init_impl("mace_mm", "CPU", __FILE__, __LINE__, &handle) != 0) return 1;
  return torch.impl(handle, "energy_forces", energy_forces) != 0;
}

// Forgets what belongs to a state tensor at this address; all where it is null.
void mm_forget(const void* state) {
  Registry& r = registry();
  std::lock_guard<std::mutex> guard(r.lock);
  if (state) r.states.erase(state);
  else r.states.clear();
}

int64_t mm_state_count(void) {
  Registry& r = registry();
  std::lock_guard<std::mutex> guard(r.lock);
  return int64_t(r.states.size());
}

int64_t mm_state_builds(const void* state) {
  Registry& r = registry();
  std::lock_guard<std::mutex> guard(r.lock);
  const auto it = r.states.find(state);
  return it == r.states.end() || !it->second.first->context
             ? 0
             : mm_neighbor_builds(it->second.first->context);
}
}
