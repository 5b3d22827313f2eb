// Values that fill 16 bytes, which one instruction loads or stores.
#pragma once

#include <cstdint>

#include "cuda/convert.cuh"

namespace fastmunit::cuda {

template <class Storage>
constexpr int vector_values = 16 / static_cast<int>(sizeof(Storage));

// Values of a cache line, where a warp's accesses should begin.
template <class Storage>
constexpr int line_values = 128 / static_cast<int>(sizeof(Storage));

// How many values `at` lies behind a multiple of count values.
template <int count, class Storage>
__device__ inline int misalignment(const Storage* at) {
  return static_cast<int>(reinterpret_cast<std::uintptr_t>(at) / sizeof(Storage) % count);
}

template <class Storage>
__device__ Storage narrowed(float value) {
  Storage result;
  narrow(value, result);
  return result;
}

// values[lane] and its assignment with a lane that only the kernel knows, and without memory for the array.
template <int count>
__device__ inline float lane_of(const float (&values)[count], int lane) {
  float value = values[0];
#pragma unroll
  for (int k = 1; k < count; ++k) value = k == lane ? values[k] : value;
  return value;
}
template <int count>
__device__ inline void set_lane(float (&values)[count], int lane, float value) {
#pragma unroll
  for (int k = 0; k < count; ++k) values[k] = k == lane ? value : values[k];
}

}  // namespace fastmunit::cuda
