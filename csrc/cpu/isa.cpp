#include "cpu/isa.h"

#include <cstdlib>
#include <stdexcept>

namespace fastmunit::cpu {
namespace {

bool built(Isa isa) {
  switch (isa) {
    case Isa::avx512bf16:
#ifdef FASTMUNIT_HAS_AVX512BF16
      return true;
#else
      return false;
#endif
    case Isa::avx512:
#ifdef FASTMUNIT_HAS_AVX512
      return true;
#else
      return false;
#endif
    case Isa::avx2:
#ifdef FASTMUNIT_HAS_AVX2
      return true;
#else
      return false;
#endif
    case Isa::baseline:
      return true;
  }
  return false;
}

// Checks for every feature that CMakeLists.txt lets the compiler use.
bool supported(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == Isa::avx512bf16) return avx512 && __builtin_cpu_supports("avx512bf16");
  if (isa == Isa::avx512) return avx512;
  if (isa == Isa::avx2) return avx2;
#endif
  return isa == Isa::baseline;
}

constexpr Isa best_first[] = {Isa::avx512bf16, Isa::avx512, Isa::avx2, Isa::baseline};

Isa choose() {
  const char* requested = std::getenv("FASTMUNIT_SIMD");
  for (const Isa isa : best_first) {
    if (requested == nullptr || *requested == '\0') {
      if (built(isa) && supported(isa)) return isa;
    } else if (isa_name(isa) == std::string(requested)) {
      if (!built(isa)) throw std::runtime_error(std::string("FASTMUNIT_SIMD=") + requested + " is not in this build");
      if (!supported(isa)) throw std::runtime_error(std::string("FASTMUNIT_SIMD=") + requested + " needs another processor");
      return isa;
    }
  }
  throw std::runtime_error(std::string("FASTMUNIT_SIMD=") + requested + " is none of avx512bf16, avx512, avx2 and baseline");
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512bf16:
      return "avx512bf16";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    case Isa::baseline:
      return "baseline";
  }
  return "";
}

std::string isas_built() {
  std::string names;
  for (const Isa isa : best_first) {
    if (!built(isa)) continue;
    if (!names.empty()) names += ",";
    names += isa_name(isa);
  }
  return names;
}

}  // namespace fastmunit::cpu
