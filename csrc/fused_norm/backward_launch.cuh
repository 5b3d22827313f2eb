// What the launchers of fused_norm, forward and backward, share.
#pragma once

#include <cstdint>

#include "cuda/launch.cuh"
#include "fused_norm/backward_plan.h"

namespace fastmunit::cuda {

inline LaunchShape shape_of(const Plan& plan, Pass pass) {
  return {static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.threads), static_cast<unsigned>(plan.shared_bytes),
          static_cast<unsigned>(pass == Pass::whole ? plan.cluster : 1)};
}

inline unsigned blocks_of(std::int64_t count, int of_block) {
  return static_cast<unsigned>((count + of_block - 1) / of_block);
}

inline int value_bytes(DataType dtype) { return dtype == DataType::float32 ? 4 : 2; }

// Whether 16 bytes of channels may be read at once wherever a pixel begins. Absent maps do not mind.
inline bool aligned(const void* data, const FusedNormOptions& a) {
  return reinterpret_cast<std::uintptr_t>(data) % vector_bytes == 0 &&
         a.channels * value_bytes(a.dtype) % vector_bytes == 0;
}
inline bool aligned(const StridedMap& map, const FusedNormOptions& a) {
  const int values = vector_bytes / value_bytes(a.dtype);
  return map.data == nullptr ||
         (aligned(map.data, a) && map.sample_stride % values == 0 && map.row_stride % values == 0 &&
          map.column_stride % values == 0);
}

// Calls run with a value of the storage type.
template <class Run>
const char* with_storage(DataType dtype, Run run) {
  switch (dtype) {
    case DataType::float32:
      return run(float{});
    case DataType::bfloat16:
      return run(__nv_bfloat16{});
    case DataType::float16:
      return run(__half{});
    default:
      return "float64 has no CUDA kernel";
  }
}

}  // namespace fastmunit::cuda
