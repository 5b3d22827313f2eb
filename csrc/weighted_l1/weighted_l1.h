// weighted_l1: the mean absolute difference of each of several pairs of tensors, their weighted sum, and the gradients.
//
//   values[k] = mean |input_k - target_k|,  total = sum_k weight_k * values[k]
//   dinput_k = sign(input_k - target_k) * (weight_k * dtotal + dvalues[k]) / count_k,  dtarget_k = -dinput_k
//
// The forward pass stores the signs, one byte each; the backward pass reads these instead of the tensors.
//
// The kernels split each pair into segments of a fixed number of elements, write the sum of each segment to `partials`,
// and add these in order. The segments do not depend on the number of threads, so neither do the results.
#pragma once

#include <cstdint>

#include "common/parallel.h"
#include "common/types.h"

namespace fastmunit {

constexpr int weighted_l1_terms = 16;  // largest number of pairs; MAX_PAIRS in fastmunit/ops/weighted_l1.py

// A pair of tensors with the same shape and memory order. Arithmetic is in float64 if either is float64, else in
// float32.
struct L1Term {
  DataType input_dtype, target_dtype;
  std::int64_t count;
  double weight;
  std::int8_t* signs;  // (count,), written by forward and read by backward; null in forward if no gradient is needed
  const void* input;   // input and target: only in forward
  const void* target;
  void* dinput;  // dinput and dtarget: only in backward; null if they are not needed
  void* dtarget;
};

struct WeightedL1 {
  int terms;
  L1Term term[weighted_l1_terms];
  DataType dtype;    // of values and total: float32 or float64
  void* values;      // (terms,)
  void* total;       // ()
  double* partials;  // memory for `weighted_l1_partials(...)` doubles
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

// The launchers return null or CUDA's error message. `stream` is a cudaStream_t.
namespace cuda {
std::int64_t weighted_l1_partials(const WeightedL1& arguments);
const char* weighted_l1(const WeightedL1& arguments, void* stream);
const char* weighted_l1_backward(const WeightedL1Backward& arguments, void* stream);
}  // namespace cuda

}  // namespace fastmunit
