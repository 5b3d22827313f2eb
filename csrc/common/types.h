// What every kernel's arguments are made of. No torch and no CUDA headers here.
#pragma once

#include <cstdint>

// Before a function that kernels on a GPU call too.
#ifdef __CUDACC__
#define FASTMUNIT_HOST_DEVICE __host__ __device__
#else
#define FASTMUNIT_HOST_DEVICE
#endif

namespace fastmunit {

enum class DataType { float32, float64, bfloat16, float16 };

// Memory order of a dense (N, C, H, W) map: nchw is N, C, H, W and channels_last is N, H, W, C.
enum class Layout { nchw, channels_last };

// Storage of the 16-bit types; arithmetic is float32.
struct bfloat16 {
  std::uint16_t bits;
};
struct float16 {
  std::uint16_t bits;
};

}  // namespace fastmunit
