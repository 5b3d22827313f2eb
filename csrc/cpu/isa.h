// The instruction sets that CPU kernels are compiled for, and the choice among them at run time.
//
// CMakeLists.txt compiles each kernel file once per instruction set with FASTMUNIT_ISA set to its name, and defines
// FASTMUNIT_HAS_AVX512BF16, FASTMUNIT_HAS_AVX512 and FASTMUNIT_HAS_AVX2 for what it built. dispatch.cpp is compiled once.
#pragma once

#include <string>

namespace fastmunit::cpu {

// avx512bf16 is avx512 with the conversion from float to bfloat16.
enum class Isa { baseline, avx2, avx512, avx512bf16 };

// The best one that this build has and this processor runs, or the one that the environment variable FASTMUNIT_SIMD names;
// read once. Throws std::runtime_error where that one is unknown, not built or not supported by the processor.
Isa isa();

const char* isa_name(Isa isa);

// The names of those that this build has, best first, separated by commas.
std::string isas_built();

}  // namespace fastmunit::cpu
