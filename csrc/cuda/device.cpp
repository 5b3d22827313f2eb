#include "fastmunit/device.h"

#include <atomic>

#include "fastmunit/fused_norm_tiles.h"
#include "fastmunit/launch.cuh"

namespace fastmunit::cuda {
namespace {

// Stands for the kernels that are launched in clusters, of which a multiprocessor has room for one block.
__global__ void __launch_bounds__(most_threads, 1) any_block() {}

// The largest cluster of blocks that a launch finds room for: GPUs, and parts of one that is shared, differ in how many
// multiprocessors lie together.
int largest_cluster(int shared_bytes) {
  constexpr unsigned most = 16;
  for (unsigned cluster = most; cluster > 1; cluster /= 2) {
    const LaunchShape shape = {cluster, most_threads, static_cast<unsigned>(shared_bytes), cluster};
    int clusters = 0;
    if (allow(any_block, shape) == nullptr &&
        with_configuration(shape, nullptr, [&](const cudaLaunchConfig_t& configuration) {
          return cudaOccupancyMaxActiveClusters(&clusters, any_block, &configuration);
        }) == cudaSuccess &&
        clusters > 0) {
      return static_cast<int>(cluster);
    }
    cudaGetLastError();  // that of a size that the GPU does not know is no error
  }
  return 1;
}

}  // namespace

const char* current_device(Device& device) {
  constexpr int devices = 64;
  static std::atomic<int> clusters[devices];  // asked for once on each; 0 before
  int current = 0, major = 0;
  const auto ask = [&](cudaDeviceAttr attribute, int& value) {
    return message_of(cudaDeviceGetAttribute(&value, attribute, current));
  };
  if (const char* error = message_of(cudaGetDevice(&current))) return error;
  if (const char* error = ask(cudaDevAttrComputeCapabilityMajor, major)) return error;
  if (const char* error = ask(cudaDevAttrMultiProcessorCount, device.multiprocessors)) return error;
  if (const char* error = ask(cudaDevAttrMaxSharedMemoryPerBlockOptin, device.shared_bytes)) return error;
  device.cluster = current < devices ? clusters[current].load() : 0;
  if (device.cluster == 0) {
    device.cluster = major < 9 ? 1 : largest_cluster(device.shared_bytes);
    if (current < devices) clusters[current] = device.cluster;
  }
  return nullptr;
}

}  // namespace fastmunit::cuda
