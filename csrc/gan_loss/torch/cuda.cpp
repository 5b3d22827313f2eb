#include "gan_loss/torch/bindings.h"

#include "torch/cuda.h"

namespace fastmunit::bindings {
namespace {

std::tuple<Tensor, Tensor> gan_loss_cuda(const std::vector<Tensor>& outputs, const std::vector<std::int64_t>& targets,
                                        const std::vector<double>& weights, const std::string& gan_type) {
  return gan_loss(outputs, targets, weights, gan_type, cuda::gan_loss_partials, [&](const GanLoss& arguments) {
    on_device_of(outputs[0], [&](void* stream) { return cuda::gan_loss(arguments, stream); });
  });
}

std::vector<Tensor> gan_loss_backward_cuda(const Tensor& dvalues, const Tensor& dtotal, const std::vector<Tensor>& outputs,
                                          const std::vector<std::int64_t>& targets, const std::vector<double>& weights,
                                          const std::string& gan_type, const std::vector<bool>& needed) {
  return gan_loss_backward(dvalues, dtotal, outputs, targets, weights, gan_type, needed, [&](const GanLossBackward& arguments) {
    on_device_of(outputs[0], [&](void* stream) { return cuda::gan_loss_backward(arguments, stream); });
  });
}

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CUDA, library) {
  library.impl("gan_loss", TORCH_BOX(&fastmunit::bindings::gan_loss_cuda));
  library.impl("gan_loss_backward", TORCH_BOX(&fastmunit::bindings::gan_loss_backward_cuda));
}
