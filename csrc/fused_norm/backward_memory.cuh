// How fused_norm's CUDA kernels read maps: a tile is staged in shared memory, or, where it does not fit, read in place.
#pragma once

#include "common/division.h"
#include "cuda/vectors.cuh"
#include "fused_norm/backward_tiles.h"

namespace fastmunit::cuda {

// Offsets within a tile. One in shared memory is small.
template <bool staged>
struct Offsets {
  using type = std::int64_t;
};
template <>
struct Offsets<true> {
  using type = int;
};
template <bool staged>
using Offset = typename Offsets<staged>::type;

template <bool staged, class Value>
__device__ inline Value fetch(const Value* from) {
  if constexpr (staged) return *from;
  return ld_global(from);
}

template <bool staged, class Storage>
__device__ inline float fetch_float(const Storage* from) {
  return widen(fetch<staged>(from));
}

// Copies `count` values that lie side by side from global to shared memory, or back; `to` is as far behind a multiple of 16
// bytes as `from`.
template <class Storage, class Copy>
__device__ inline void copy_values(const Storage* from, Storage* to, int count, Copy copy) {
  constexpr int N = vector_values<Storage>, together = 4;
  using V = Chunk<Storage, N>;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  int head = (N - misalignment<N>(from)) % N;
  head = head < count ? head : count;
  const int whole = (count - head) / N, tail = head + whole * N;
  const V* source = reinterpret_cast<const V*>(from + head);
  V* target = reinterpret_cast<V*>(to + head);
  int i = thread - misalignment<line_values<Storage>>(copy.global(from, to) + head) / N;
  if (i < 0) i += threads;
  for (; i + (together - 1) * threads < whole; i += together * threads) copy.template values<together>(source, target, i, threads);
  for (; i < whole; i += threads) copy.template values<1>(source, target, i, threads);
  if (thread < head) copy.template values<1>(from, to, thread, 0);
  if (thread < count - tail) copy.template values<1>(from + tail, to + tail, thread, 0);
}

struct Stage {
  template <class Value>
  __device__ static const Value* global(const Value* from, const Value*) {
    return from;
  }
  template <int together, class Value>
  __device__ static void values(const Value* from, Value* to, int i, int step) {
    Value value[together];
#pragma unroll
    for (int k = 0; k < together; ++k) value[k] = ld_global(from + i + k * step);
#pragma unroll
    for (int k = 0; k < together; ++k) to[i + k * step] = value[k];
  }
};

struct Unstage {
  template <class Value>
  __device__ static const Value* global(const Value*, const Value* to) {
    return to;
  }
  template <int together, class Value>
  __device__ static void values(const Value* from, Value* to, int i, int step) {
#pragma unroll
    for (int k = 0; k < together; ++k) st_global(to + i + k * step, from[i + k * step]);
  }
};

// Calls visit(row, column, value) with the values of `rows` rows that begin anywhere, `row_stride` apart. They are read 16 bytes
// at a time with what lies beside them in the same 16 bytes, but for the two ends, beyond which there may be nothing.
// chunks.divisor is chunks_of_row(width).
template <class Storage, class Visit>
__device__ inline void for_rows(const Storage* from, std::int64_t row_stride, int rows, int width, const Division& chunks,
                                Visit visit) {
  constexpr int N = vector_values<Storage>;
  const Storage* const end = from + (rows - 1) * row_stride + width;
  for (int i = static_cast<int>(threadIdx.x); i < rows * chunks.divisor; i += static_cast<int>(blockDim.x)) {
    const int row = chunks.quotient(i);
    const Storage* const begin = from + row * row_stride;
    const int first = (i - row * chunks.divisor) * N - misalignment<N>(begin);
    if (first >= width) continue;
    const Storage* const at = begin + first;
    Chunk<Storage, N> read = {};
    if (at >= from && at + N <= end) {
      read = ld_global(reinterpret_cast<const Chunk<Storage, N>*>(at));
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        if (first + k >= 0 && first + k < width) read.values[k] = ld_global(at + k);
      }
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (first + k >= 0 && first + k < width) visit(row, first + k, read.values[k]);
    }
  }
}

// The tile of x: pixel (y, x) of channel c, all counted from the tile's first.
template <bool staged, class Storage>
struct InputView {
  Storage* data;
  Offset<staged> plane_pitch, phase_pitch;
  int width;  // of y
  bool phases;

  __device__ Storage* at(int c, int y, int x) const {
    Storage* plane = data + c * plane_pitch;
    if (!phases) return plane + static_cast<Offset<staged>>(y) * width + x;
    return plane + (2 * (y & 1) + (x & 1)) * phase_pitch + static_cast<Offset<staged>>(y >> 1) * (width / 2) + (x >> 1);
  }
};

// weight or bias of a channel.
__device__ inline double coefficient(const Coefficients& of, std::int64_t n, std::int64_t c, double absent) {
  if (of.data == nullptr) return absent;
  const std::int64_t at = n * of.sample_stride + c * of.channel_stride;
  switch (of.dtype) {
    case DataType::float32:
      return ld_global(static_cast<const float*>(of.data) + at);
    case DataType::float64:
      return ld_global(static_cast<const double*>(of.data) + at);
    case DataType::bfloat16:
      return widen(ld_global(static_cast<const __nv_bfloat16*>(of.data) + at));
    case DataType::float16:
      return widen(ld_global(static_cast<const __half*>(of.data) + at));
  }
  return absent;
}

// The activation and its gradient. NaN stays NaN; where z is 0, torch's convention.
struct ActivationFunction {
  bool relu = false;
  float slope = 1.0f;  // of negative values; 1 where there is no activation

  ActivationFunction() = default;
  __device__ explicit ActivationFunction(const FusedNormOptions& a)
      : relu(a.activation == Activation::relu),
        slope(a.activation == Activation::none ? 1.0f : static_cast<float>(a.negative_slope)) {}
  __device__ float operator()(float z) const {
    if (relu) return z <= 0.0f ? 0.0f : z;
    return z > 0.0f ? z : z * slope;
  }
  __device__ float gradient(float dy, float z) const {
    if (relu) return z <= 0.0f ? 0.0f : dy;
    return z > 0.0f ? dy : dy * slope;
  }
};

// Hands out shared memory, 16 bytes aligned.
class Room {
 public:
  __device__ explicit Room(unsigned char* begin) : next_(begin) {}
  template <class Value>
  __device__ Value* take(std::int64_t count) {
    Value* const room = reinterpret_cast<Value*>(next_);
    const unsigned bytes = static_cast<unsigned>(count) * static_cast<unsigned>(sizeof(Value));
    next_ += (bytes + vector_bytes - 1) / vector_bytes * vector_bytes;
    return room;
  }

 private:
  unsigned char* next_;
};

}  // namespace fastmunit::cuda
