// Vectors of 16 bytes, the widest access of one instruction.
#pragma once

#include <cstdint>

#include "cuda/convert.cuh"

namespace fastmunit::cuda {

template <class Storage>
constexpr int vector_values = 16 / static_cast<int>(sizeof(Storage));

template <class Storage>
__device__ Storage narrowed(float value) {
  Storage result;
  narrow(value, result);
  return result;
}

}  // namespace fastmunit::cuda
