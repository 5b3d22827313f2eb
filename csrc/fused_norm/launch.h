// What the launchers of fused_norm, forward and backward, share.
#pragma once

#include "cuda/launch.cuh"
#include "fused_norm/plan.h"

namespace fastmunit::cuda::norm {

inline LaunchShape shape_of(const Plan& plan, int cluster = 1) {
  LaunchShape shape = {static_cast<unsigned>(plan.blocks), block_threads};
  shape.cluster = static_cast<unsigned>(cluster);
  return shape;
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

}  // namespace fastmunit::cuda::norm
