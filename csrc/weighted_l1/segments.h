// The distribution of weighted_l1's pairs over blocks on a GPU. Host code without torch and CUDA.
#pragma once

#include <cstdint>

#include "cuda/segments.h"
#include "weighted_l1/weighted_l1.h"

namespace fastmunit::cuda::l1 {

constexpr int l1_threads = 256;
constexpr int l1_values_per_thread = 16;  // in registers: in forward, eight loads of 16 bytes are in flight
constexpr int l1_segment = l1_threads * l1_values_per_thread;

// Number of values of a pair that a thread loads or stores at a time. 16 bytes hold 8 values if both tensors have a
// 16-bit type, else 4. It is 1 for float64 and for tensors that are not aligned to their chunk.
using L1Chunk = std::int8_t;

struct L1Segments : Segments<weighted_l1_terms> {
  L1Chunk chunk[weighted_l1_terms];
};

constexpr int bytes_of(DataType dtype) {
  return dtype == DataType::float64 ? 8 : dtype == DataType::float32 ? 4 : 2;
}

// Returns true if `data` is aligned for accesses of `chunk` values of `bytes` bytes. Null always passes.
inline bool takes_chunks(const void* data, int bytes, int chunk) {
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<unsigned>(bytes * chunk < 16 ? bytes * chunk : 16) == 0;
}

inline L1Chunk l1_chunk(const L1Term& term) {
  if (is_wide(term.input_dtype) || is_wide(term.target_dtype)) return 1;
  const int input = bytes_of(term.input_dtype), target = bytes_of(term.target_dtype);
  const int chunk = input == 2 && target == 2 ? 8 : 4;
  const bool aligned = takes_chunks(term.input, input, chunk) && takes_chunks(term.target, target, chunk) &&
                       takes_chunks(term.dinput, input, chunk) && takes_chunks(term.dtarget, target, chunk) &&
                       takes_chunks(term.signs, 1, chunk);
  return static_cast<L1Chunk>(aligned ? chunk : 1);
}

inline L1Segments l1_segments(const L1Term* term, int terms) {
  L1Segments segments = {};
  set_segments(segments, term, terms, l1_segment);
  for (int k = 0; k < terms; ++k) segments.chunk[k] = l1_chunk(term[k]);
  return segments;
}

}  // namespace fastmunit::cuda::l1
