// Types shared by the arguments of all kernels. Includes neither torch nor CUDA headers.
#pragma once

#include <cstdint>

// Marks a function that GPU kernels also call.
#ifdef __CUDACC__
#define FASTMUNIT_HOST_DEVICE __host__ __device__
#else
#define FASTMUNIT_HOST_DEVICE
#endif

namespace fastmunit {

enum class DataType { float32, float64, bfloat16, float16 };

// Memory order of a dense (N, C, H, W) map: nchw stores N, C, H, W; channels_last stores N, H, W, C.
enum class Layout { nchw, channels_last };

// Storage types of 16 bits. Arithmetic is in float32.
struct bfloat16 {
  std::uint16_t bits;
};
struct float16 {
  std::uint16_t bits;
};

}  // namespace fastmunit
