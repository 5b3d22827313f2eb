// The instruction sets that CPU kernels are compiled for, and the choice between them at run time.
//
// CMakeLists.txt compiles each kernel file once per instruction set, with FASTMUNIT_ISA set to its name, and defines
// FASTMUNIT_HAS_AVX512BF16, FASTMUNIT_HAS_AVX512 and FASTMUNIT_HAS_AVX2 for those it built. dispatch.cpp is compiled
// once.
#pragma once

#include <string>

namespace fastmunit::cpu {

// avx512bf16 is avx512 with the conversion from float to bfloat16.
enum class Isa { baseline, avx2, avx512, avx512bf16 };

// Returns the best instruction set that is built and supported by the processor, or the one that the environment
// variable FASTMUNIT_SIMD names. The variable is read once. Throws std::runtime_error if it names an instruction set
// that is unknown, not built or not supported by the processor.
Isa isa();

const char* isa_name(Isa isa);

// Returns the names of the instruction sets in this build, best first, separated by commas.
std::string isas_built();

}  // namespace fastmunit::cpu
