// Starts kernels on a GPU or on the emulator. Launchers call it, so they too can be tested without a GPU.
#pragma once

#include "common/types.h"
#include "cuda/portable.cuh"

namespace fastmunit::cuda {

// Calls run with a value of the storage type for `dtype`.
template <bool with_doubles = false, class Run>
const char* with_storage(DataType dtype, Run run) {
  switch (dtype) {
    case DataType::float32:
      return run(float{});
    case DataType::bfloat16:
      return run(__nv_bfloat16{});
    case DataType::float16:
      return run(__half{});
    default:
      if constexpr (with_doubles) {
        return run(double{});
      } else {
        return "float64 has no CUDA kernel";
      }
  }
}

// A one-dimensional grid. `shared_bytes` is the amount of dynamic shared memory. `cluster` is the number of blocks per
// cluster, which can access each other's shared memory (compute capability 9.0). A `dependent` launch may start before
// the previous launch on the stream ends; its kernel must call wait_for_previous_launch().
struct LaunchShape {
  unsigned blocks, threads;
  unsigned shared_bytes = 0;
  unsigned cluster = 1;
  bool dependent = false;
};

#if defined(__CUDACC__)

inline const char* message_of(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

// Returns null or CUDA's error message. `stream` is a cudaStream_t.
template <class... Parameters, class... Arguments>
const char* launch(void (*kernel)(Parameters...), const LaunchShape& shape, void* stream, Arguments... arguments) {
  constexpr unsigned shared_bytes_for_all = 48 * 1024;
  if (shape.shared_bytes > shared_bytes_for_all) {
    const char* error = message_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                        static_cast<int>(shape.shared_bytes)));
    if (error != nullptr) return error;
  }
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (shape.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = shape.cluster;
    attributes[count].val.clusterDim.y = attributes[count].val.clusterDim.z = 1;
    ++count;
  }
  if (shape.dependent) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count].val.programmaticStreamSerializationAllowed = 1;
    ++count;
  }
  cudaLaunchConfig_t configuration = {};
  configuration.gridDim = dim3(shape.blocks);
  configuration.blockDim = dim3(shape.threads);
  configuration.dynamicSmemBytes = shape.shared_bytes;
  configuration.stream = static_cast<cudaStream_t>(stream);
  configuration.attrs = attributes;
  configuration.numAttrs = count;
  // Unlike cudaGetLastError, this returns the error of this launch only: it neither reports nor clears an earlier error
  // of another library. An error that is returned here is cleared, so the next caller of cudaGetLastError does not see
  // it again.
  const cudaError_t error = cudaLaunchKernelEx(&configuration, kernel, static_cast<Parameters>(arguments)...);
  if (error != cudaSuccess) cudaGetLastError();
  return message_of(error);
}

#else

template <class... Parameters, class... Arguments>
const char* launch(void (*kernel)(Parameters...), const LaunchShape& shape, void*, Arguments... arguments) {
  emulator::launch({shape.blocks, shape.threads, shape.shared_bytes, shape.cluster, shape.dependent},
                   [=] { kernel(static_cast<Parameters>(arguments)...); });
  return nullptr;
}

#endif

}  // namespace fastmunit::cuda
