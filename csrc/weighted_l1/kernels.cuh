// Device code of weighted_l1; weighted_l1.h states what it computes. Includes no torch header.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "cuda/convert.cuh"
#include "cuda/segments.cuh"
#include "weighted_l1/segments.h"

namespace fastmunit::cuda::l1 {

template <class Lane>
__device__ std::int8_t sign_of(Lane input, Lane target) {
  return static_cast<std::int8_t>((input > target) - (input < target));  // 0 for NaN
}

template <class Lane>
__device__ Lane absolute(Lane value) {
  return value < Lane(0) ? -value : value;
}

// Returns the thread's part of the sum of |input - target|. Thread t processes chunks t, t + threads, ... of the
// segment, so the accesses of a warp are adjacent.
template <int chunk, class Input, class Target>
__device__ float l1_chunk_sum(const L1Term& term, std::int64_t begin, int count) {
  constexpr int chunks = l1_values_per_thread / chunk;
  const auto* inputs = reinterpret_cast<const Chunk<Input, chunk>*>(static_cast<const Input*>(term.input) + begin);
  const auto* targets = reinterpret_cast<const Chunk<Target, chunk>*>(static_cast<const Target*>(term.target) + begin);
  auto* signs = reinterpret_cast<Chunk<std::int8_t, chunk>*>(term.signs + begin);
  Chunk<Input, chunk> input[chunks];
  Chunk<Target, chunk> target[chunks];
  const int first = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int k = 0; k < chunks; ++k) {
    const int i = first + k * l1_threads;
    if (i * chunk < count) {
      input[k] = ld_global(inputs + i);
      target[k] = ld_global(targets + i);
    }
  }
  float differences[l1_values_per_thread];
#pragma unroll
  for (int k = 0; k < chunks; ++k) {
    const int i = first + k * l1_threads;
    const bool inside = i * chunk < count;
    Chunk<std::int8_t, chunk> sign;
#pragma unroll
    for (int v = 0; v < chunk; ++v) {
      const float a = widen(input[k].values[v]), b = widen(target[k].values[v]);
      differences[k * chunk + v] = inside ? absolute(a - b) : 0.0f;
      sign.values[v] = sign_of(a, b);
    }
    if (inside && term.signs != nullptr) st_global(signs + i, sign);
  }
  return tree_sum<l1_values_per_thread>(differences);
}

template <class Input, class Target>
__device__ float l1_chunk_sum(const L1Term& term, int chunk, std::int64_t begin, int count) {
  if constexpr (sizeof(Input) == 2 && sizeof(Target) == 2) {
    if (chunk == 8) return l1_chunk_sum<8, Input, Target>(term, begin, count);
  } else {
    if (chunk == 4) return l1_chunk_sum<4, Input, Target>(term, begin, count);
  }
  return l1_chunk_sum<1, Input, Target>(term, begin, count);
}

template <class Input>
__device__ float l1_chunk_sum(const L1Term& term, int chunk, std::int64_t begin, int count) {
  if (term.target_dtype == DataType::float32) return l1_chunk_sum<Input, float>(term, chunk, begin, count);
  if (term.target_dtype == DataType::bfloat16) return l1_chunk_sum<Input, __nv_bfloat16>(term, chunk, begin, count);
  return l1_chunk_sum<Input, __half>(term, chunk, begin, count);
}

// The same in float64, value by value.
__device__ inline double l1_wide_sum(const L1Term& term, std::int64_t begin, int count) {
  double sum = 0.0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += l1_threads) {
    const double input = value_at(term.input, term.input_dtype, begin + i);
    const double target = value_at(term.target, term.target_dtype, begin + i);
    sum += absolute(input - target);
    if (term.signs != nullptr) st_global(term.signs + begin + i, sign_of(input, target));
  }
  return sum;
}

// The values of a segment, and the chunk size for accessing them: the last segment of a pair may not be a multiple of
// the chunk.
struct L1Part {
  std::int64_t begin;
  int count, chunk;
};

__device__ inline L1Part l1_part(const L1Term& term, const L1Segments& segments, int k, std::int64_t segment) {
  const std::int64_t begin = (segment - segments.first[k]) * l1_segment;
  const int count = static_cast<int>(term.count - begin < l1_segment ? term.count - begin : l1_segment);
  const int chunk = segments.chunk[k];
  return {begin, count, count % chunk == 0 ? chunk : 1};
}

// One block per segment. Writes the sum to partials.
__global__ void __launch_bounds__(l1_threads)
    l1_segment_sums(const __grid_constant__ WeightedL1 a, const __grid_constant__ L1Segments segments) {
  SMEM_ARRAY(double, sums, l1_threads / warp_threads);
  const std::int64_t segment = blockIdx.x;
  const int k = term_of(segments, segment);
  const L1Term& term = a.term[k];
  const L1Part part = l1_part(term, segments, k, segment);
  double sum;
  if (is_wide(term.input_dtype) || is_wide(term.target_dtype)) {
    sum = l1_wide_sum(term, part.begin, part.count);
  } else if (term.input_dtype == DataType::float32) {
    sum = l1_chunk_sum<float>(term, part.chunk, part.begin, part.count);
  } else if (term.input_dtype == DataType::bfloat16) {
    sum = l1_chunk_sum<__nv_bfloat16>(term, part.chunk, part.begin, part.count);
  } else {
    sum = l1_chunk_sum<__half>(term, part.chunk, part.begin, part.count);
  }
  write_block_sum<l1_threads>(sum, sums, a.partials + segment);
}

// One block, with one warp per pair.
__global__ void __launch_bounds__(weighted_l1_terms* warp_threads)
    l1_values(const __grid_constant__ WeightedL1 a, const __grid_constant__ L1Segments segments) {
  SMEM_ARRAY(double, values, weighted_l1_terms);
  write_values(
      segments, a, a.terms, values, [&](int k) { return a.term[k].count; }, [&](int k) { return a.term[k].weight; });
}

// Backward: writes slope * sign for the thread's values. A sign of 0 gives NaN if the slope is not finite, as in torch.
template <class Storage, int chunk>
__device__ void l1_store_gradient(const Chunk<std::int8_t, chunk>* signs, double slope, Storage* gradient, int count) {
  const Compute<Storage> lane_slope = static_cast<Compute<Storage>>(slope);
  auto* to = reinterpret_cast<Chunk<Storage, chunk>*>(gradient);
#pragma unroll
  for (int k = 0; k < l1_values_per_thread / chunk; ++k) {
    const int i = static_cast<int>(threadIdx.x) + k * l1_threads;
    if (i * chunk >= count) break;
    Chunk<Storage, chunk> values;
#pragma unroll
    for (int v = 0; v < chunk; ++v) {
      narrow(static_cast<Compute<Storage>>(signs[k].values[v]) * lane_slope, values.values[v]);
    }
    st_global(to + i, values);
  }
}

template <int chunk>
__device__ void l1_store_gradient(const Chunk<std::int8_t, chunk>* signs, double slope, void* gradient, DataType dtype,
                                  std::int64_t begin, int count) {
  if (gradient == nullptr) return;
  if constexpr (chunk != 8) {
    if (dtype == DataType::float32) {
      return l1_store_gradient<float, chunk>(signs, slope, static_cast<float*>(gradient) + begin, count);
    }
  }
  if constexpr (chunk == 1) {
    if (dtype == DataType::float64) {
      return l1_store_gradient<double, chunk>(signs, slope, static_cast<double*>(gradient) + begin, count);
    }
  }
  if (dtype == DataType::bfloat16) {
    return l1_store_gradient<__nv_bfloat16, chunk>(signs, slope, static_cast<__nv_bfloat16*>(gradient) + begin, count);
  }
  l1_store_gradient<__half, chunk>(signs, slope, static_cast<__half*>(gradient) + begin, count);
}

template <int chunk>
__device__ void l1_segment_gradients(const L1Term& term, double slope, std::int64_t begin, int count) {
  const auto* from = reinterpret_cast<const Chunk<std::int8_t, chunk>*>(term.signs + begin);
  Chunk<std::int8_t, chunk> signs[l1_values_per_thread / chunk];
#pragma unroll
  for (int k = 0; k < l1_values_per_thread / chunk; ++k) {
    const int i = static_cast<int>(threadIdx.x) + k * l1_threads;
    if (i * chunk < count) signs[k] = ld_global(from + i);
  }
  l1_store_gradient<chunk>(signs, slope, term.dinput, term.input_dtype, begin, count);
  l1_store_gradient<chunk>(signs, -slope, term.dtarget, term.target_dtype, begin, count);
}

// One block per segment.
__global__ void __launch_bounds__(l1_threads)
    l1_gradients(const __grid_constant__ WeightedL1Backward a, const __grid_constant__ L1Segments segments,
                 const __grid_constant__ Slopes<weighted_l1_terms> slopes) {
  const std::int64_t segment = blockIdx.x;
  const int k = term_of(segments, segment);
  const L1Term& term = a.term[k];
  const L1Part part = l1_part(term, segments, k, segment);
  const double slope = slope_of(slopes, a, k);
  if (part.chunk == 8) {
    l1_segment_gradients<8>(term, slope, part.begin, part.count);
  } else if (part.chunk == 4) {
    l1_segment_gradients<4>(term, slope, part.begin, part.count);
  } else {
    l1_segment_gradients<1>(term, slope, part.begin, part.count);
  }
}

}  // namespace fastmunit::cuda::l1
