#include "gan_loss/torch/bindings.h"

namespace fastmunit::bindings {
namespace {

std::tuple<Tensor, Tensor> gan_loss_cpu(const std::vector<Tensor>& outputs, const std::vector<std::int64_t>& targets,
                                        const std::vector<double>& weights, const std::string& gan_type) {
  return gan_loss(outputs, targets, weights, gan_type, cpu::gan_loss_partials, [](const GanLoss& arguments) {
    cpu::gan_loss(arguments, torch_thread_pool);
  });
}

std::vector<Tensor> gan_loss_backward_cpu(const Tensor& dvalues, const Tensor& dtotal, const std::vector<Tensor>& outputs,
                                          const std::vector<std::int64_t>& targets, const std::vector<double>& weights,
                                          const std::string& gan_type, const std::vector<bool>& needed) {
  return gan_loss_backward(dvalues, dtotal, outputs, targets, weights, gan_type, needed, [](const GanLossBackward& arguments) {
    cpu::gan_loss_backward(arguments, torch_thread_pool);
  });
}

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CPU, library) {
  library.impl("gan_loss", TORCH_BOX(&fastmunit::bindings::gan_loss_cpu));
  library.impl("gan_loss_backward", TORCH_BOX(&fastmunit::bindings::gan_loss_backward_cpu));
}
