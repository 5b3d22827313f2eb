#include "cuda/device.h"
#include "fused_norm/torch/bindings.h"
#include "torch/cuda.h"

namespace fastmunit::bindings {
namespace {

// The memory of a Workspace, kept until the launcher has returned.
struct WorkspaceTensor {
  const Tensor& x;
  Tensor tensor;
};

// Calls run(device, workspace, stream) with the device of x as the current one.
template <class Run>
void with_workspace(const Tensor& x, Run run) {
  STD_TORCH_CHECK(x.scalar_type() != ScalarType::Double, "fused_norm has no CUDA kernel for float64");
  on_device_of(x, [&](void* stream) -> const char* {
    cuda::Device device;
    if (const char* error = cuda::current_device(device)) return error;
    WorkspaceTensor memory = {x, Tensor()};
    const auto allocate = [](std::int64_t count, void* context) {
      WorkspaceTensor& own = *static_cast<WorkspaceTensor*>(context);
      own.tensor = workspace(count, own.x);
      return own.tensor.mutable_data_ptr<double>();
    };
    return run(device, Workspace{allocate, &memory}, stream);
  });
}

std::tuple<Tensor, Tensor, Tensor> fused_norm_cuda(const Tensor& x, const std::optional<Tensor>& weight,
                                                  const std::optional<Tensor>& bias,
                                                  const std::optional<Tensor>& residual, const std::string& statistics,
                                                  const std::string& activation, double negative_slope, std::int64_t pad,
                                                  const std::string& pad_mode, double eps, bool pixel_shuffle) {
  return fused_norm(x, weight, bias, residual, statistics, activation, negative_slope, pad, pad_mode, eps, pixel_shuffle,
                    [&](const FusedNorm& arguments) {
                      with_workspace(x, [&](const cuda::Device& device, Workspace workspace, void* stream) {
                        return cuda::fused_norm(arguments, device, workspace, stream);
                      });
                    });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> fused_norm_backward_cuda(
    const std::optional<Tensor>& dpadded, const std::optional<Tensor>& dinterior, const Tensor& x, const Tensor& mean,
    const Tensor& rstd, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias, bool needs_weight,
    bool needs_bias, bool needs_residual, const std::string& statistics, const std::string& activation, double negative_slope,
    std::int64_t pad, const std::string& pad_mode, double eps, bool pixel_shuffle) {
  return fused_norm_backward(
      dpadded, dinterior, x, mean, rstd, weight, bias, needs_weight, needs_bias, needs_residual, statistics, activation,
      negative_slope, pad, pad_mode, eps, pixel_shuffle, [&](const FusedNormBackward& arguments) {
        with_workspace(x, [&](const cuda::Device& device, Workspace workspace, void* stream) {
          return cuda::fused_norm_backward(arguments, device, workspace, stream);
        });
      });
}

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CUDA, library) {
  library.impl("fused_norm", TORCH_BOX(&fastmunit::bindings::fused_norm_cuda));
  library.impl("fused_norm_backward", TORCH_BOX(&fastmunit::bindings::fused_norm_backward_cuda));
}
