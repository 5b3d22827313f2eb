// What the launch tables of the CUDA kernels need to know of a GPU.
#pragma once

namespace fastmunit::cuda {

struct Device {
  int multiprocessors;
  int shared_bytes;  // that one block may have
  int cluster;       // most blocks of a cluster that a launch finds room for, with two blocks in a multiprocessor; 1 if none
  bool dependent_launches = false;  // whether a launch may be dependent (launch.cuh)
  int most_steps = 32;  // max steps of a tile of fused_norm; tests lower it to split small maps like large ones
};

// The current one. Returns null, or what CUDA says went wrong.
const char* current_device(Device& device);

}  // namespace fastmunit::cuda
