#include "fastmunit/device.h"

#include "fastmunit/launch.cuh"

namespace fastmunit::cuda {

const char* current_device(Device& device) {
  int current = 0, major = 0;
  const auto ask = [&](cudaDeviceAttr attribute, int& value) {
    return message_of(cudaDeviceGetAttribute(&value, attribute, current));
  };
  if (const char* error = message_of(cudaGetDevice(&current))) return error;
  if (const char* error = ask(cudaDevAttrComputeCapabilityMajor, major)) return error;
  if (const char* error = ask(cudaDevAttrMultiProcessorCount, device.multiprocessors)) return error;
  // Eight blocks are the most that every GPU with clusters takes; data centre GPUs take sixteen.
  device.cluster = major < 9 ? 1 : (major <= 10 ? 16 : 8);
  return ask(cudaDevAttrMaxSharedMemoryPerBlockOptin, device.shared_bytes);
}

}  // namespace fastmunit::cuda
