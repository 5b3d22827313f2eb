#include "weighted_l1/torch/bindings.h"

namespace fastmunit::bindings {
namespace {

std::tuple<Tensor, Tensor, Tensor> weighted_l1_cpu(const std::vector<Tensor>& inputs,
                                                   const std::vector<Tensor>& targets,
                                                   const std::vector<double>& weights, bool keep_signs) {
  return weighted_l1(inputs, targets, weights, keep_signs, cpu::weighted_l1_partials, [](const WeightedL1& arguments) {
    cpu::weighted_l1(arguments, torch_thread_pool);
  });
}

std::vector<Tensor> weighted_l1_backward_cpu(const Tensor& dvalues, const Tensor& dtotal, const Tensor& signs,
                                             const std::vector<Tensor>& inputs, const std::vector<Tensor>& targets,
                                             const std::vector<double>& weights, const std::vector<bool>& needed) {
  return weighted_l1_backward(dvalues, dtotal, signs, inputs, targets, weights, needed, [](const WeightedL1Backward& arguments) {
    cpu::weighted_l1_backward(arguments, torch_thread_pool);
  });
}

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CPU, library) {
  library.impl("weighted_l1", TORCH_BOX(&fastmunit::bindings::weighted_l1_cpu));
  library.impl("weighted_l1_backward", TORCH_BOX(&fastmunit::bindings::weighted_l1_backward_cpu));
}
