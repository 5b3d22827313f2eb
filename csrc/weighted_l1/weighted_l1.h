// weighted_l1: the mean absolute difference of each of several pairs of tensors, their weighted sum, and the gradients.
//
//   values[k] = mean |input_k - target_k|,  total = sum_k weight_k * values[k]
//   dinput_k = sign(input_k - target_k) * (weight_k * dtotal + dvalues[k]) / count_k,  dtarget_k = -dinput_k
//
// The forward pass keeps the signs, a byte each: the backward pass then reads these instead of the tensors.
//
// The kernel cuts each pair into segments of a fixed number of elements, writes the sum of each segment to `partials`, and
// adds these up in order. The cut does not depend on the number of threads, hence neither do the results.
#pragma once

#include <cstdint>

#include "common/parallel.h"
#include "common/types.h"

namespace fastmunit {

constexpr int weighted_l1_terms = 16;

// A pair of tensors of one shape in one memory order. Arithmetic is in float64 where either is float64, else in float32.
struct L1Term {
  DataType input_dtype, target_dtype;
  std::int64_t count;
  double weight;
  std::int8_t* signs;  // (count,), written forward and read backward; forward, null where no gradient is wanted
  const void* input;   // forward alone, as target
  const void* target;
  void* dinput;  // backward alone, as dtarget; null where it is not wanted
  void* dtarget;
};

struct WeightedL1 {
  int terms;
  L1Term term[weighted_l1_terms];
  DataType dtype;    // of values and total: float32 or float64
  void* values;      // (terms,)
  void* total;       // ()
  double* partials;  // room for `weighted_l1_partials(...)` doubles
};

struct WeightedL1Backward {
  int terms;
  L1Term term[weighted_l1_terms];
  DataType dtype;       // of dvalues and dtotal: float32 or float64
  const void* dvalues;  // (terms,)
  const void* dtotal;   // ()
};

namespace cpu {
std::int64_t weighted_l1_partials(const WeightedL1& arguments);
void weighted_l1(const WeightedL1& arguments, ParallelFor parallel_for);
void weighted_l1_backward(const WeightedL1Backward& arguments, ParallelFor parallel_for);
}  // namespace cpu

// The launchers return null, or what CUDA says went wrong. `stream` is a cudaStream_t.
namespace cuda {
std::int64_t weighted_l1_partials(const WeightedL1& arguments);
const char* weighted_l1(const WeightedL1& arguments, void* stream);
const char* weighted_l1_backward(const WeightedL1Backward& arguments, void* stream);
}  // namespace cuda

}  // namespace fastmunit
