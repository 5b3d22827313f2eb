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

struct Cuda {
  static void run(const FusedNorm& arguments, const Tensor& x) {
    with_workspace(x, [&](const cuda::Device& device, Workspace workspace, void* stream) {
      return cuda::fused_norm(arguments, device, workspace, stream);
    });
  }
  static void run(const FusedNormWithStatistics& arguments, const Tensor& x) {
    with_workspace(x, [&](const cuda::Device& device, Workspace workspace, void* stream) {
      return cuda::fused_norm_with_statistics(arguments, device, workspace, stream);
    });
  }
  static void run(const FusedNormBackward& arguments, const Tensor& x) {
    with_workspace(x, [&](const cuda::Device& device, Workspace workspace, void* stream) {
      return cuda::fused_norm_backward(arguments, device, workspace, stream);
    });
  }
};

}  // namespace
}  // namespace fastmunit::bindings

STABLE_TORCH_LIBRARY_IMPL(fastmunit, CUDA, library) {
  library.impl("fused_norm", TORCH_BOX(&fastmunit::bindings::fused_norm<fastmunit::bindings::Cuda>));
  library.impl("fused_norm_with_statistics",
               TORCH_BOX(&fastmunit::bindings::fused_norm_with_statistics<fastmunit::bindings::Cuda>));
  library.impl("fused_norm_backward", TORCH_BOX(&fastmunit::bindings::fused_norm_backward<fastmunit::bindings::Cuda>));
}
