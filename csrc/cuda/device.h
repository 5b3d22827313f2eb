// The properties of a GPU that the launch tables of the CUDA kernels depend on.
#pragma once

namespace fastmunit::cuda {

struct Device {
  int multiprocessors;
  int shared_bytes;  // largest amount per block
  int cluster;       // largest cluster size that can be resident with two blocks per multiprocessor; 1 without clusters
  bool dependent_launches = false;  // whether programmatic dependent launch is supported (launch.cuh)
  int max_steps = 32;  // largest number of steps per tile of fused_norm; tests lower it to split small maps like large ones
};

// Describes the current device. Returns null or CUDA's error message.
const char* current_device(Device& device);

}  // namespace fastmunit::cuda
