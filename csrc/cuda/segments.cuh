// Sums over the segments of a list of terms in two launches: one block per segment writes its sum, then one block adds
// these. This needs no atomics, and the order of the sum is the same in every run. Includes no torch header.
#pragma once

#include <cstdint>

#include "cuda/convert.cuh"
#include "cuda/reductions.cuh"
#include "cuda/segments.h"

namespace fastmunit::cuda {

// Returns the index of the term that a segment belongs to.
template <int most>
__device__ int term_of(const Segments<most>& segments, std::int64_t segment) {
  int k = 0;
  while (segment >= segments.first[k + 1]) ++k;
  return k;
}

// Returns the pairwise sum: the error grows only with the depth of the tree.
template <int count, class Lane>
__device__ Lane tree_sum(const Lane* values) {
  if constexpr (count == 1) {
    return values[0];
  } else {
    return tree_sum<count / 2>(values) + tree_sum<count / 2>(values + count / 2);
  }
}

// Reads a value of a type that is known at run time.
__device__ inline double value_at(const void* data, DataType dtype, std::int64_t at) {
  switch (dtype) {
    case DataType::float32:
      return load(static_cast<const float*>(data) + at);
    case DataType::bfloat16:
      return load(static_cast<const __nv_bfloat16*>(data) + at);
    case DataType::float16:
      return load(static_cast<const __half*>(data) + at);
    default:
      return load(static_cast<const double*>(data) + at);
  }
}

// Writes the sum over the threads of a block. `sums` has space for one value per warp.
template <int threads>
__device__ void write_block_sum(double sum, double* sums, double* to) {
  sum = warp_sum(sum);
  if (threadIdx.x % warp_threads == 0) sums[threadIdx.x / warp_threads] = sum;
  __syncthreads();
  if (threadIdx.x == 0) st_global(to, tree_sum<threads / warp_threads>(sums));
}

template <class Value>
__device__ void set_value(void* data, int at, double value) {
  st_global(static_cast<Value*>(data) + at, static_cast<Value>(value));
}

// Writes the values of all terms and their weighted sum, in one block with one warp per term. A value is the sum of the
// partial sums of its segments divided by averaged(k), NaN if that is 0. `sums` has space for one double per term.
template <int most, class Arguments, class Averaged, class Weight>
__device__ void write_values(const Segments<most>& segments, const Arguments& a, int terms, double* sums, Averaged averaged,
                             Weight weight) {
  const int k = static_cast<int>(threadIdx.x) / warp_threads, lane = static_cast<int>(threadIdx.x) % warp_threads;
  if (k < terms) {
    double sum = 0.0;
    for (std::int64_t s = segments.first[k] + lane; s < segments.first[k + 1]; s += warp_threads) {
      sum += ld_global(a.partials + s);
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[k] = sum / static_cast<double>(averaged(k));
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0.0;
  for (int k = 0; k < terms; ++k) total += weight(k) * sums[k];
  if (is_wide(a.dtype)) {
    for (int k = 0; k < terms; ++k) set_value<double>(a.values, k, sums[k]);
    set_value<double>(a.total, 0, total);
  } else {
    for (int k = 0; k < terms; ++k) set_value<float>(a.values, k, sums[k]);
    set_value<float>(a.total, 0, total);
  }
}

// d total / d value and 1 / averaged of each term, computed on the host to avoid divisions in a kernel.
template <int most>
struct Slopes {
  double of_total[most], of_value[most];

  void set(int k, double weight, std::int64_t averaged) {
    const double count = static_cast<double>(averaged > 0 ? averaged : 1);
    of_total[k] = weight / count;
    of_value[k] = 1.0 / count;
  }
};

// Returns the gradient of the sum over term k.
template <int most, class Arguments>
__device__ double slope_of(const Slopes<most>& slopes, const Arguments& a, int k) {
  return slopes.of_total[k] * value_at(a.dtotal, a.dtype, 0) + slopes.of_value[k] * value_at(a.dvalues, a.dtype, k);
}

}  // namespace fastmunit::cuda
