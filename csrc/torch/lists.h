// Shared by the bindings of ops that take lists of tensors of any shapes.
#pragma once

#include <vector>

#include "torch/tensors.h"

namespace fastmunit::bindings {

// Returns the memory format by the rule of fastmunit/ops/layout.py, for tensors with any number of dimensions.
inline MemoryFormat dense_format(const Tensor& tensor) {
  const bool channels_last = tensor.dim() == 4 && !tensor.is_contiguous() && is_channels_last(tensor);
  return channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

// Checks first: most tensors are dense already, and a call through the dispatcher costs more than the check.
inline Tensor dense(const Tensor& tensor, MemoryFormat format) {
  if (format == MemoryFormat::Contiguous && tensor.is_contiguous()) return tensor;
  return torch::stable::contiguous(tensor, format);
}

// Returns float64 if any tensor of a list is float64, else float32.
inline ScalarType result_type(const std::vector<Tensor>& tensors) {
  for (const Tensor& tensor : tensors) {
    if (tensor.scalar_type() == ScalarType::Double) return ScalarType::Double;
  }
  return ScalarType::Float;
}

// Checks the gradients of values (terms,) and of their total.
inline void check_gradients(const Tensor& dvalues, const Tensor& dtotal, std::size_t terms, ScalarType dtype,
                            const Tensor& input) {
  STD_TORCH_CHECK(dvalues.dim() == 1 && dvalues.numel() == static_cast<std::int64_t>(terms), "dvalues must be (", terms, ",)");
  STD_TORCH_CHECK(dtotal.dim() == 0, "dtotal must have no dimensions");
  STD_TORCH_CHECK(dvalues.scalar_type() == dtype && dtotal.scalar_type() == dtype,
                  "dvalues and dtotal must be float32, or float64 where any input or target is");
  STD_TORCH_CHECK(dvalues.device() == input.device() && dtotal.device() == input.device(),
                  "dvalues and dtotal must be on the device of inputs");
}

}  // namespace fastmunit::bindings
