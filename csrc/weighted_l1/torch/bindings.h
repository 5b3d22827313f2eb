// The device-independent part of weighted_l1's bindings. `run` is called with the kernel's arguments.
#pragma once

#include <tuple>
#include <vector>

#include "torch/lists.h"
#include "weighted_l1/weighted_l1.h"

namespace fastmunit::bindings {

inline bool same_shape(const Tensor& a, const Tensor& b) {
  if (a.dim() != b.dim()) return false;
  for (std::int64_t dim = 0; dim < a.dim(); ++dim) {
    if (a.size(dim) != b.size(dim)) return false;
  }
  return true;
}

// Sets everything but the data pointers of the terms, for forward and backward.
inline void set_terms(const std::vector<Tensor>& inputs, const std::vector<Tensor>& targets, const std::vector<double>& weights,
                      L1Term* term) {
  STD_TORCH_CHECK(!inputs.empty() && inputs.size() <= weighted_l1_terms, "expected 1 to ", weighted_l1_terms, " pairs, got ",
                  inputs.size());
  STD_TORCH_CHECK(inputs.size() == targets.size() && inputs.size() == weights.size(),
                  "expected as many targets and weights as inputs");
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    STD_TORCH_CHECK(same_shape(inputs[k], targets[k]), "input and target of a pair must have the same shape");
    STD_TORCH_CHECK(inputs[k].device() == inputs[0].device() && targets[k].device() == inputs[0].device(),
                    "inputs and targets must be on the same device");
    term[k] = {};
    term[k].input_dtype = data_type(inputs[k], "inputs");
    term[k].target_dtype = data_type(targets[k], "targets");
    term[k].count = inputs[k].numel();
    term[k].weight = weights[k];
  }
}

// Returns float64 if any tensor is float64, else float32.
inline ScalarType result_type(const std::vector<Tensor>& inputs, const std::vector<Tensor>& targets) {
  const bool wide = result_type(inputs) == ScalarType::Double || result_type(targets) == ScalarType::Double;
  return wide ? ScalarType::Double : ScalarType::Float;
}

inline std::int64_t elements(const std::vector<Tensor>& tensors) {
  std::int64_t count = 0;
  for (const Tensor& tensor : tensors) count += tensor.numel();
  return count;
}

template <class Partials, class Run>
std::tuple<Tensor, Tensor, Tensor> weighted_l1(const std::vector<Tensor>& inputs, const std::vector<Tensor>& targets,
                                               const std::vector<double>& weights, bool keep_signs, Partials partials,
                                               Run run) {
  WeightedL1 arguments = {};
  arguments.terms = static_cast<int>(inputs.size());
  set_terms(inputs, targets, weights, arguments.term);
  const auto empty = [&](std::int64_t count, ScalarType dtype) {
    return torch::stable::empty({count}, dtype, std::nullopt, inputs[0].device());
  };
  Tensor values = empty(arguments.terms, result_type(inputs, targets));
  Tensor total = torch::stable::empty({}, values.scalar_type(), std::nullopt, inputs[0].device());
  Tensor signs = empty(keep_signs ? elements(inputs) : 0, ScalarType::Char);
  std::int8_t* next_signs = keep_signs ? static_cast<std::int8_t*>(signs.mutable_data_ptr()) : nullptr;
  std::vector<Tensor> dense_tensors;  // keeps copies alive until the kernel has run
  for (int k = 0; k < arguments.terms; ++k) {
    L1Term& term = arguments.term[k];
    const MemoryFormat format = dense_format(inputs[k]);
    dense_tensors.push_back(dense(inputs[k], format));
    term.input = dense_tensors.back().const_data_ptr();
    dense_tensors.push_back(dense(targets[k], format));
    term.target = dense_tensors.back().const_data_ptr();
    if (keep_signs) {
      term.signs = next_signs;
      next_signs += term.count;
    }
  }
  arguments.dtype = data_type(values, "values");
  arguments.values = values.mutable_data_ptr();
  arguments.total = total.mutable_data_ptr();
  const Tensor memory = workspace(partials(arguments), inputs[0]);
  arguments.partials = static_cast<double*>(memory.mutable_data_ptr());
  run(arguments);
  return {values, total, signs};
}

template <class Run>
std::vector<Tensor> weighted_l1_backward(const Tensor& dvalues, const Tensor& dtotal, const Tensor& signs,
                                         const std::vector<Tensor>& inputs, const std::vector<Tensor>& targets,
                                         const std::vector<double>& weights, const std::vector<bool>& needed, Run run) {
  WeightedL1Backward arguments = {};
  arguments.terms = static_cast<int>(inputs.size());
  set_terms(inputs, targets, weights, arguments.term);
  const std::size_t terms = inputs.size();
  const ScalarType dtype = result_type(inputs, targets);
  STD_TORCH_CHECK(needed.size() == 2 * terms, "expected a needed flag per input and per target");
  check_gradients(dvalues, dtotal, terms, dtype, inputs[0]);
  STD_TORCH_CHECK(signs.device() == inputs[0].device(), "signs must be on the device of inputs");
  STD_TORCH_CHECK(signs.scalar_type() == ScalarType::Char && signs.is_contiguous() && signs.numel() == elements(inputs),
                  "signs must be what weighted_l1 returned with keep_signs");
  const Tensor dense_dvalues = dense(dvalues, MemoryFormat::Contiguous);
  arguments.dtype = data_type(dvalues, "dvalues");
  arguments.dvalues = dense_dvalues.const_data_ptr();
  arguments.dtotal = dtotal.const_data_ptr();
  std::int8_t* next_signs = static_cast<std::int8_t*>(signs.mutable_data_ptr());
  std::vector<Tensor> gradients;
  const auto gradient_of = [&](const Tensor& tensor, std::size_t k) {
    gradients.push_back(torch::stable::empty(tensor.sizes(), tensor.scalar_type(), std::nullopt, tensor.device(),
                                             std::nullopt, dense_format(inputs[k])));
    return gradients.back().mutable_data_ptr();
  };
  for (std::size_t k = 0; k < terms; ++k) {
    arguments.term[k].signs = next_signs;
    next_signs += arguments.term[k].count;
    if (needed[k]) arguments.term[k].dinput = gradient_of(inputs[k], k);
  }
  for (std::size_t k = 0; k < terms; ++k) {
    if (needed[terms + k]) arguments.term[k].dtarget = gradient_of(targets[k], k);
  }
  run(arguments);
  return gradients;
}

}  // namespace fastmunit::bindings
