// Shared by all bindings: converts tensors to what kernels take, and wraps torch's thread pool. Checks only, no
// mathematics.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

#include "common/parallel.h"
#include "common/types.h"

namespace fastmunit::bindings {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DataType data_type(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DataType::float32;
    case ScalarType::Double:
      return DataType::float64;
    case ScalarType::BFloat16:
      return DataType::bfloat16;
    case ScalarType::Half:
      return DataType::float16;
    default:
      STD_TORCH_CHECK(false, name, " must be float32, bfloat16, float16 or float64");
  }
}

// Statistics are float64 for float64 maps, else float32.
inline ScalarType statistics_type(const Tensor& map) {
  return map.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline bool is_channels_last(const Tensor& map) {
  std::int64_t expected = 1;
  for (const int dim : {1, 3, 2, 0}) {
    if (map.size(dim) != 1 && map.stride(dim) != expected) return false;
    expected *= map.size(dim);
  }
  return true;
}

// A dense (N, C, H, W) map in a layout that kernels support.
struct Map {
  Tensor tensor;
  Layout layout;
  MemoryFormat format() const {
    return layout == Layout::nchw ? MemoryFormat::Contiguous : MemoryFormat::ChannelsLast;
  }
};

// Returns the tensor itself if it is NCHW or channels_last, else an NCHW copy. fastmunit/ops/layout.py has the same
// rule.
inline Map dense_map(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 4, name, " must be (N, C, H, W)");
  if (!tensor.is_contiguous() && is_channels_last(tensor)) return {tensor, Layout::channels_last};
  return {torch::stable::contiguous(tensor), Layout::nchw};
}

// Checks that `tensor` is (N, C), of the statistics type and on the device of the map, and returns it as contiguous.
inline Tensor statistics(const Tensor& tensor, const Tensor& map, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == map.size(0) && tensor.size(1) == map.size(1), name,
                  " must be (N, C)");
  STD_TORCH_CHECK(tensor.scalar_type() == statistics_type(map), name, " must be float32, or float64 where x is");
  STD_TORCH_CHECK(tensor.device() == map.device(), name, " must be on the device of x");
  return torch::stable::contiguous(tensor);
}

inline Tensor empty_statistics(const Tensor& map) {
  return torch::stable::empty({map.size(0), map.size(1)}, statistics_type(map), std::nullopt, map.device());
}

inline Tensor empty_map_like(const Map& map) {
  return torch::stable::empty(map.tensor.sizes(), map.tensor.scalar_type(), std::nullopt, map.tensor.device(),
                              std::nullopt, map.format());
}

// Allocates `count` doubles on the device of `tensor`.
inline Tensor workspace(std::int64_t count, const Tensor& tensor) {
  return torch::stable::empty({count}, ScalarType::Double, std::nullopt, tensor.device());
}

inline void torch_thread_pool(std::int64_t count, std::int64_t grain,
                              void (*body)(std::int64_t begin, std::int64_t end, void* context), void* context) {
  torch::stable::parallel_for(0, count, grain,
                              [&](std::int64_t begin, std::int64_t end) { body(begin, end, context); });
}

}  // namespace fastmunit::bindings
