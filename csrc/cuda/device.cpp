#include "cuda/device.h"

#include <mutex>

namespace fastmunit::cuda {
namespace {

const char* message_of(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

constexpr int cluster_threads = 256;

// A stand-in for the kernels that are launched in clusters. Their __launch_bounds__ guarantees that two blocks fit on a
// multiprocessor. This kernel requests half of the shared memory instead, which has the same effect.
__global__ void __launch_bounds__(cluster_threads, 2) cluster_block() {}

// Returns the largest cluster size that can be resident. A partition of a shared GPU may allow less than the whole GPU.
int largest_cluster(int shared_bytes) {
  constexpr int reserved_bytes = 1024;  // per block, by CUDA
  const int half = shared_bytes / 2 - reserved_bytes;
  const bool pending = cudaPeekAtLastError() != cudaSuccess;
  cudaFuncSetAttribute(cluster_block, cudaFuncAttributeMaxDynamicSharedMemorySize, half);
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t configuration = {};
  configuration.blockDim = dim3(cluster_threads);
  configuration.dynamicSmemBytes = static_cast<std::size_t>(half);
  configuration.attrs = &cluster;
  configuration.numAttrs = 1;
  int size = 8;  // the largest portable size: every GPU with clusters supports it without opting in
  for (; size > 1; size /= 2) {
    cluster.val.clusterDim.x = static_cast<unsigned>(size);
    configuration.gridDim = dim3(static_cast<unsigned>(size));
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, cluster_block, &configuration) == cudaSuccess && clusters > 0) break;
  }
  // A cluster size that does not fit is not an error. A pending error of other code is preserved.
  if (!pending) cudaGetLastError();
  return size;
}

const char* ask(int number, Device& device) {
  int major = 0;
  const auto attribute = [&](cudaDeviceAttr name, int& value) {
    return message_of(cudaDeviceGetAttribute(&value, name, number));
  };
  if (const char* error = attribute(cudaDevAttrComputeCapabilityMajor, major)) return error;
  if (const char* error = attribute(cudaDevAttrMultiProcessorCount, device.multiprocessors)) return error;
  if (const char* error = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device.shared_bytes)) return error;
  device.dependent_launches = major >= 9;
  device.cluster = major < 9 ? 1 : largest_cluster(device.shared_bytes);
  return nullptr;
}

}  // namespace

const char* current_device(Device& device) {
  // Cached per device: the queries take longer than a launch. If the process is later given a smaller partition of the
  // GPU, a launch whose cluster no longer fits returns an error.
  constexpr int cached = 64;
  static Device devices[cached];
  static bool known[cached];
  static std::mutex mutex;
  int number = 0;
  if (const char* error = message_of(cudaGetDevice(&number))) return error;
  if (number >= cached) return ask(number, device);
  const std::lock_guard<std::mutex> lock(mutex);
  if (!known[number]) {
    if (const char* error = ask(number, devices[number])) return error;
    known[number] = true;
  }
  device = devices[number];
  return nullptr;
}

}  // namespace fastmunit::cuda
