#include "fused_norm/torch/bindings.h"

namespace fastmunit::bindings {
namespace {

std::tuple<Tensor, Tensor, Tensor> fused_norm_cpu(const Tensor& x, const std::optional<Tensor>& weight,
                                                  const std::optional<Tensor>& bias,
                                                  const std::optional<Tensor>& residual, const std::string& statistics,
                                                  const std::string& activation, double negative_slope, std::int64_t pad,
                                                  const std::string& pad_mode, double eps, bool pixel_shuffle) {
  return fused_norm(x, weight, bias, residual, statistics, activation, negative_slope, pad, pad_mode, eps, pixel_shuffle,
                    [](const FusedNorm& arguments) { cpu::fused_norm(arguments, torch_thread_pool); });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fused_norm_backward_cpu(
    const std::optional<Tensor>& dpadded, const std::optional<Tensor>& dinterior, const Tensor& x, const Tensor& mean,
    const Tensor& rstd, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, bool needs_weight,
    bool needs_bias, bool needs_residual, const std::string& statistics, const std::string& activation, double negative_slope,
    std::int64_t pad, const std::string& pad_mode, double eps, bool pixel_shuffle) {
  return fused_norm_backward(
      dpadded, dinterior, x, mean, rstd, weight, bias, needs_weight, needs_bias, needs_residual, statistics, activation,
      negative_slope, pad, pad_mode, eps, pixel_shuffle,
      [](const FusedNormBackward& arguments) { cpu::fused_norm_backward(arguments, torch_thread_pool); });
}

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CPU, library) {
  library.impl("fused_norm", TORCH_BOX(&fastmunit::bindings::fused_norm_cpu));
  library.impl("fused_norm_backward", TORCH_BOX(&fastmunit::bindings::fused_norm_backward_cpu));
}
