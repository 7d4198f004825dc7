#include "ds_cpu_dispatch.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#  include <cpuid.h>
#endif

extern const ds_cpu_kernels ds_cpu_kernels_default;
#if defined(__x86_64__)
extern const ds_cpu_kernels ds_cpu_kernels_avx2;
extern const ds_cpu_kernels ds_cpu_kernels_avx512;

// __builtin_cpu_supports also asks whether the system saves the wide registers. Not every compiler lets it
// ask for F16C, which needs no more of the system than AVX2.
static int has_avx2(void) {
  unsigned eax, ebx, ecx, edx;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) != 0;
}

static int has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

ds_status ds_cpu_kernels_for(const char *capability, const ds_cpu_kernels **kernels) {
  static const char *const names[] = {"default", "avx2", "avx512"};
  size_t highest = sizeof names / sizeof *names - 1;
  if (capability != NULL && *capability != '\0') {
    while (strcmp(capability, names[highest]) != 0) {
      if (highest == 0)
        return ds_error(DS_E_VALUE, DS_CPU_CAPABILITY_VARIABLE " is '%s', must be default, avx2 or avx512",
                        capability);
      highest--;
    }
  }
  *kernels = &ds_cpu_kernels_default;
#if defined(__x86_64__)
  if (highest >= 1 && has_avx2()) *kernels = &ds_cpu_kernels_avx2;
  if (highest >= 2 && has_avx512()) *kernels = &ds_cpu_kernels_avx512;
#endif
  return DS_OK;
}

ds_status ds_cpu_kernels_chosen(const ds_cpu_kernels **kernels) {
  // Threads that come here together find the same table.
  static _Atomic(const ds_cpu_kernels *) chosen;
  *kernels = atomic_load_explicit(&chosen, memory_order_relaxed);
  if (*kernels != NULL) return DS_OK;
  DS_CHECK(ds_cpu_kernels_for(getenv(DS_CPU_CAPABILITY_VARIABLE), kernels));
  atomic_store_explicit(&chosen, *kernels, memory_order_relaxed);
  return DS_OK;
}

#if defined(__x86_64__)
// Bits of cpuid's leaf 7: EDX of its first part, EAX of its second.
enum { AMX_BF16 = 1 << 22, AVX512_FP16 = 1 << 23, AVX512_BF16 = 1 << 5, AMX_FP16 = 1 << 21 };

enum { KNOWN = 1, MULTIPLIES_BFLOAT16 = 2, MULTIPLIES_FLOAT16 = 4 };

static int ask_for_products(void) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0, first = 0, second = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &first)) return KNOWN;
  if (eax >= 1) __get_cpuid_count(7, 1, &second, &ebx, &ecx, &edx);
  return KNOWN | ((first & AMX_BF16) != 0 || (second & AVX512_BF16) != 0 ? MULTIPLIES_BFLOAT16 : 0) |
         ((first & AVX512_FP16) != 0 || (second & AMX_FP16) != 0 ? MULTIPLIES_FLOAT16 : 0);
}

int ds_cpu_multiplies(ds_dtype dtype) {
  // Asking takes a virtual machine longer than a small product.
  static _Atomic int known;
  int products = atomic_load_explicit(&known, memory_order_relaxed);
  if (products == 0) {
    products = ask_for_products();
    atomic_store_explicit(&known, products, memory_order_relaxed);
  }
  return dtype == DS_BFLOAT16  ? (products & MULTIPLIES_BFLOAT16) != 0
         : dtype == DS_FLOAT16 ? (products & MULTIPLIES_FLOAT16) != 0
                               : 1;
}
#else
int ds_cpu_multiplies(ds_dtype dtype) {
  (void)dtype;
  return 1;
}
#endif

#define DS_CPU_KERNEL_ENTRY(name)                                                                            \
  ds_status ds_##name##_cpu(const ds_##name##_params *params, ds_parallel_for_fn parallel_for) {             \
    const ds_cpu_kernels *kernels;                                                                           \
    DS_CHECK(ds_cpu_kernels_chosen(&kernels));                                                               \
    return kernels->name(params, parallel_for);                                                              \
  }
DS_KERNELS(DS_CPU_KERNEL_ENTRY)
