#include "cuda/device.h"

#include <atomic>

#include "fused_norm/backward_tiles.h"

namespace fastmunit::cuda {
namespace {

const char* message_of(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

// Stands for the kernels that are launched in clusters, of which a multiprocessor has room for one block.
__global__ void __launch_bounds__(most_threads, 1) any_block() {}

// The largest cluster of blocks that a launch finds room for: GPUs, and parts of one that is shared, differ in how many
// multiprocessors lie together.
int largest_cluster(int shared_bytes) {
  cudaFuncSetAttribute(any_block, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  cudaFuncSetAttribute(any_block, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t configuration = {};
  configuration.blockDim = dim3(most_threads);
  configuration.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  configuration.attrs = &cluster;
  configuration.numAttrs = 1;
  int size = 16;  // the most that any GPU has
  for (; size > 1; size /= 2) {
    cluster.val.clusterDim.x = static_cast<unsigned>(size);
    configuration.gridDim = dim3(static_cast<unsigned>(size));
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, any_block, &configuration) == cudaSuccess && clusters > 0) break;
    cudaGetLastError();  // a size that the GPU does not have is no error
  }
  return size;
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
  device.dependent_launches = major >= 9;
  device.cluster = current < devices ? clusters[current].load() : 0;
  if (device.cluster == 0) {
    device.cluster = major < 9 ? 1 : largest_cluster(device.shared_bytes);
    if (current < devices) clusters[current] = device.cluster;
  }
  return nullptr;
}

}  // namespace fastmunit::cuda
