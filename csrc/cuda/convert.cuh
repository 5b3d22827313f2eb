// Conversion between storage types and the types that kernels compute in: float64 for float64, float32 for all others.
#pragma once

#include "cuda/portable.cuh"

namespace fastmunit::cuda {

template <class Storage>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class Storage>
using Compute = typename ComputeOf<Storage>::type;

__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float widen(__half value) { return __half2float(value); }

__device__ inline void narrow(float value, float& to) { to = value; }
__device__ inline void narrow(double value, double& to) { to = value; }
__device__ inline void narrow(float value, __nv_bfloat16& to) { to = __float2bfloat16_rn(value); }
__device__ inline void narrow(float value, __half& to) { to = __float2half_rn(value); }

template <class Storage>
__device__ Compute<Storage> load(const Storage* from) {
  return widen(ld_global(from));
}
template <class Storage>
__device__ void store(Storage* to, Compute<Storage> value) {
  Storage narrowed;
  narrow(value, narrowed);
  st_global(to, narrowed);
}

// Adjacent values that are loaded or stored together, by one instruction if they fill 16 bytes.
template <class Storage, int count>
struct alignas(sizeof(Storage) * count < 16 ? sizeof(Storage) * count : 16) Chunk {
  Storage values[count];
};

}  // namespace fastmunit::cuda
