// Shared by all CUDA bindings: launches on torch's current stream and errors as exceptions. Includes no CUDA header.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/shim_utils.h>

#include "torch/tensors.h"

// Defined in libtorch_cuda. The weak reference lets this library load with a torch build without CUDA, where no CUDA
// tensor can lead to a call.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(std::int32_t device, void** stream);

namespace fastmunit::bindings {

// Calls launch(stream) with the tensor's device as the current one. launch returns null or an error message.
template <class Launch>
void on_device_of(const Tensor& tensor, Launch launch) {
  const torch::stable::accelerator::DeviceGuard guard(tensor.get_device_index());
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch has no CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  const char* error = launch(stream);
  STD_TORCH_CHECK(error == nullptr, "fastmunit CUDA kernel: ", error == nullptr ? "" : error);
}

}  // namespace fastmunit::bindings
