// Access to data whose type is known at run time.
#pragma once

#include <cstdint>

#include "cpu/simd.h"

namespace fastmunit::cpu {
namespace {

// Number of elements that are widened in the first-level cache.
constexpr int block = 1024;

template <class Lane>
constexpr DataType data_type_of = std::is_same_v<Lane, double> ? DataType::float64 : DataType::float32;

constexpr int bytes_of(DataType dtype) {
  return dtype == DataType::float64 ? 8 : dtype == DataType::float32 ? 4 : 2;
}

inline const void* at(const void* data, DataType dtype, std::int64_t index) {
  return static_cast<const char*>(data) + index * bytes_of(dtype);
}

template <class Storage>
void widen_all(const void* data, int count, float* to) {
  const Storage* from = static_cast<const Storage*>(data);
  int i = 0;
  for (; i + lanes<float> <= count; i += lanes<float>) store(to + i, load(from + i));
  if (i < count) store_first(to + i, load_first(from + i, count - i), count - i);
}

// Returns `count` values as floats or doubles: the data itself if it has that type, else a conversion in `buffer`.
template <class Lane>
const Lane* widened(const void* data, DataType dtype, int count, Lane* buffer) {
  if (dtype == data_type_of<Lane>) return static_cast<const Lane*>(data);
  if constexpr (std::is_same_v<Lane, float>) {
    if (dtype == DataType::bfloat16) {
      widen_all<bfloat16>(data, count, buffer);
    } else {
      widen_all<float16>(data, count, buffer);
    }
  } else {
    float floats[block];
    const float* from = widened(data, dtype, count, floats);
    for (int i = 0; i < count; ++i) buffer[i] = from[i];
  }
  return buffer;
}

// Reads and writes one float32 or float64 value.
inline double element(const void* data, DataType dtype, int index) {
  return dtype == DataType::float64 ? static_cast<const double*>(data)[index] : static_cast<const float*>(data)[index];
}

inline void set_element(void* data, DataType dtype, int index, double value) {
  if (dtype == DataType::float64) {
    static_cast<double*>(data)[index] = value;
  } else {
    static_cast<float*>(data)[index] = static_cast<float>(value);
  }
}

}  // namespace
}  // namespace fastmunit::cpu
