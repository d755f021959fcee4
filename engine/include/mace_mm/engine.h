// The engine's C interface. Every function may be called from any thread; one context is used by
// one thread at a time.
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

typedef struct mm_context mm_context;

// The context keeps a copy of the model, one for all contexts with equal models. Null on failure,
// with the reason in `message`.
mm_context* mm_create(const void* model, int64_t bytes, char* message, int64_t message_bytes);
void mm_destroy(mm_context* context);

// Energies (total, interaction) in eV; forces (n, 3) in eV/A; virial (3, 3), -dE/d(strain), in eV;
// node energies (n) in eV with E0. positions (n, 3) in A; cell (3, 3) as rows, zero rows along
// open directions, or null. Any output may be null. Returns 0; or, with the reason in `message`,
// 1 where the input is refused, 2 where the engine failed and may be called again.
int mm_evaluate(mm_context* context, int64_t n_atoms, const double* positions, const int32_t* species,
                const double* cell, double skin, int32_t n_threads, double* energies, double* forces,
                double* virial, double* node_energies, char* message, int64_t message_bytes);

int64_t mm_neighbor_builds(const mm_context* context);
const char* mm_instruction_set(void);
int mm_supported(void);

// torch_op.cpp
int mm_register_operator(const char* torch_library);
void mm_forget(const void* state);
int64_t mm_state_count(void);
int64_t mm_state_builds(const void* state);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
