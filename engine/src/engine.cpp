#include "mace_mm/engine.h"

#include <cstdio>
#include <exception>

#include "evaluator.h"

struct mm_context {
  std::unique_ptr<mm::Evaluator> evaluator;
};

namespace {
void tell(char* message, int64_t bytes, const char* text) {
  if (message && bytes > 0) std::snprintf(message, size_t(bytes), "%s", text);
}
}  // namespace

extern "C" {

mm_context* mm_create(const void* model, int64_t bytes, char* message, int64_t message_bytes) {
  try {
    mm::Form form(model, bytes);
    auto context = std::make_unique<mm_context>();
    context->evaluator = mm::Evaluator::make(form);
    return context.release();
  } catch (const std::bad_alloc&) {
    tell(message, message_bytes, "not enough memory for the model");
  } catch (const std::exception& error) {
    tell(message, message_bytes, error.what());
  }
  return nullptr;
}

void mm_destroy(mm_context* context) { delete context; }

int mm_evaluate(mm_context* context, int64_t n, const double* positions, const int32_t* species,
                const double* cell, double skin, int32_t n_threads, double* energies, double* forces,
                double* virial, double* node_energies, char* message, int64_t message_bytes) {
  (void)std::current_exception();  // see Team::loop
  try {
    mm::Evaluator& evaluator = *context->evaluator;
    if (n < 0 || n > 100000000) throw mm::Error("impossible number of atoms");
    for (int64_t i = 0; i < n; i++)
      if (species[i] < 0 || species[i] >= evaluator.n_species())
        throw mm::Error("atom " + std::to_string(i) + " has species " + std::to_string(species[i]) +
                        ", the model knows " + std::to_string(evaluator.n_species()));
    const mm::Results r = evaluator.evaluate(int(n), positions, species, cell, skin,
                                             n_threads < 1 ? 1 : n_threads > 256 ? 256 : n_threads);
    if (energies) energies[0] = r.energy, energies[1] = r.interaction_energy;
    if (virial) std::copy(r.virial, r.virial + 9, virial);
    const std::vector<int>& order = evaluator.neighbors().order;
    for (int64_t k = 0; k < n; k++) {
      const int64_t i = order[size_t(k)];
      if (forces)
        for (int a = 0; a < 3; a++) forces[3 * i + a] = r.forces[3 * k + a];
      if (node_energies) node_energies[i] = r.node_energies[k];
    }
    return 0;
  } catch (const mm::Error& error) {
    tell(message, message_bytes, error.what());
    return 1;
  } catch (const std::bad_alloc&) {
    if (message && message_bytes > 0)
      std::snprintf(message, size_t(message_bytes), "not enough memory for %lld atoms", (long long)n);
  } catch (const std::exception& error) {
    tell(message, message_bytes, error.what());
  }
  return 2;
}

int64_t mm_neighbor_builds(const mm_context* context) {
  return context->evaluator->neighbors().n_builds;
}

const char* mm_instruction_set(void) {
#if defined(__AVX512F__)
  return "avx512";
#elif defined(__AVX2__)
  return "avx2";
#else
  return "portable";
#endif
}

int mm_supported(void) {
#if defined(__AVX512F__)
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#elif defined(__AVX2__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return 1;
#endif
}
}
