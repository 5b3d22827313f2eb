#include "weighted_l1/torch/bindings.h"

#include "torch/cuda.h"

namespace fastmunit::bindings {
namespace {

std::tuple<Tensor, Tensor, Tensor> weighted_l1_cuda(const std::vector<Tensor>& inputs,
                                                    const std::vector<Tensor>& targets,
                                                    const std::vector<double>& weights, bool keep_signs) {
  return weighted_l1(inputs, targets, weights, keep_signs, cuda::weighted_l1_partials, [&](const WeightedL1& arguments) {
    on_device_of(inputs[0], [&](void* stream) { return cuda::weighted_l1(arguments, stream); });
  });
}

std::vector<Tensor> weighted_l1_backward_cuda(const Tensor& dvalues, const Tensor& dtotal, const Tensor& signs,
                                              const std::vector<Tensor>& inputs, const std::vector<Tensor>& targets,
                                              const std::vector<double>& weights, const std::vector<bool>& needed) {
  return weighted_l1_backward(dvalues, dtotal, signs, inputs, targets, weights, needed, [&](const WeightedL1Backward& arguments) {
    on_device_of(inputs[0], [&](void* stream) { return cuda::weighted_l1_backward(arguments, stream); });
  });
}

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CUDA, library) {
  library.impl("weighted_l1", TORCH_BOX(&fastmunit::bindings::weighted_l1_cuda));
  library.impl("weighted_l1_backward", TORCH_BOX(&fastmunit::bindings::weighted_l1_backward_cuda));
}
