// Mean and sum of squared deviations of contiguous values, and of columns of channels: two passes over blocks that the
// first-level cache holds.
#pragma once

#include <cstdint>

#include "fastmunit/moments.h"
#include "simd.h"

namespace fastmunit::cpu {
namespace {

// Values that are read twice, the second time from the first-level cache.
constexpr std::int64_t block_values = 4096;
constexpr int block_rows = 32;
// Vectors side by side: enough to hide the latency of an addition.
constexpr int unroll = 4;

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// The moments of up to block_values contiguous values: their mean first, then deviations from it.
template <class Storage>
Moments block_moments(const Storage* x, std::int64_t count) {
  using Lane = Compute<Storage>;
  constexpr int step = lanes<Lane>;
  const int rest = static_cast<int>(count % step);
  const std::int64_t whole = count - rest;

  Vector<Lane> sums[unroll] = {};
  std::int64_t i = 0;
  for (; i + unroll * step <= whole; i += unroll * step) {
    for (int k = 0; k < unroll; ++k) sums[k] += load(x + i + k * step);
  }
  for (; i < whole; i += step) sums[0] += load(x + i);
  if (rest != 0) sums[1] += load_first(x + whole, rest);
  const Lane shift = sum<Lane>((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<Lane>(count);

  Vector<Lane> deviations[unroll] = {};
  Vector<Lane> squares[unroll] = {};
  for (i = 0; i + unroll * step <= whole; i += unroll * step) {
    for (int k = 0; k < unroll; ++k) {
      const Vector<Lane> deviation = load(x + i + k * step) - shift;
      deviations[k] += deviation;
      squares[k] += deviation * deviation;
    }
  }
  for (; i < whole; i += step) {
    const Vector<Lane> deviation = load(x + i) - shift;
    deviations[0] += deviation;
    squares[0] += deviation * deviation;
  }
  if (rest != 0) {
    const Vector<Lane> deviation = keep_first<Lane>(load_first(x + whole, rest) - shift, rest);
    deviations[1] += deviation;
    squares[1] += deviation * deviation;
  }
  return from_shifted(shift, sum<Lane>((deviations[0] + deviations[1]) + (deviations[2] + deviations[3])),
                      sum<Lane>((squares[0] + squares[1]) + (squares[2] + squares[3])), count);
}

// The moments of `vectors` vectors of channels over `rows` rows that lie `stride` values apart; `last` lanes of the last
// vector count. Written to `means` and `squares`, one value per channel.
template <int vectors, class Storage>
void column_moments(const Storage* x, std::int64_t rows, std::int64_t stride, int last, double* means, double* squares) {
  using Lane = Compute<Storage>;
  constexpr int step = lanes<Lane>;
  const auto read = [&](const Storage* row, int k) {
    return k == vectors - 1 && last != step ? load_first(row + k * step, last) : load(row + k * step);
  };
  double all_means[vectors * step] = {};
  double all_squares[vectors * step] = {};
  for (std::int64_t first = 0; first < rows; first += block_rows) {
    const int count = static_cast<int>(smaller(block_rows, rows - first));
    const Storage* block = x + first * stride;
    Vector<Lane> shift[vectors] = {};
    for (int row = 0; row < count; ++row) {
      for (int k = 0; k < vectors; ++k) shift[k] += read(block + row * stride, k);
    }
    for (int k = 0; k < vectors; ++k) shift[k] /= static_cast<Lane>(count);
    Vector<Lane> deviations[vectors] = {};
    Vector<Lane> deviations_squared[vectors] = {};
    for (int row = 0; row < count; ++row) {
      for (int k = 0; k < vectors; ++k) {
        const Vector<Lane> deviation = read(block + row * stride, k) - shift[k];
        deviations[k] += deviation;
        deviations_squared[k] += deviation * deviation;
      }
    }
    for (int k = 0; k < vectors; ++k) {
      for (int lane = 0; lane < step; ++lane) {
        const int c = k * step + lane;
        const Moments block_moments = from_shifted(shift[k][lane], deviations[k][lane], deviations_squared[k][lane], count);
        const Moments moments = combine({all_means[c], all_squares[c]}, first, block_moments, count);
        all_means[c] = moments.mean;
        all_squares[c] = moments.squares;
      }
    }
  }
  const int channels = (vectors - 1) * step + last;
  for (int c = 0; c < channels; ++c) {
    means[c] = all_means[c];
    squares[c] = all_squares[c];
  }
}

}  // namespace
}  // namespace fastmunit::cpu
