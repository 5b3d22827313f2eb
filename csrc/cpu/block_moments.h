// Mean and sum of squared deviations of contiguous values, and of columns of channels, in one pass over memory.
//
// Deviations are taken from an estimate of the mean: the mean of the first values, or of the previous block. If the
// estimate is so far off that the sum of squares has lost digits, the block is read again, from cache, with deviations
// from the computed mean.
#pragma once

#include <cstdint>

#include "common/moments.h"
#include "cpu/scratch.h"
#include "cpu/simd.h"

namespace fastmunit::cpu {
namespace {

// Number of values that are summed in float before they are added to a sum in double. They fit in cache for a second
// pass.
constexpr std::int64_t block_values = 4096;
constexpr int block_rows = 64;
// Number of values, and rows, for the first estimate of the mean.
constexpr std::int64_t first_values = 256;
constexpr int first_rows = 16;
constexpr int attempts = 3;
// Independent vector sums: enough to hide the latency of an addition.
constexpr int unroll = 4;

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Returns true if sums of deviations from a shift that is `offset` away from the mean keep the digits of `moments`;
// false for NaN.
inline bool is_near(double offset, Moments moments, std::int64_t count) {
  return offset * offset * static_cast<double>(count) <= moments.squares;
}

// Returns the moments of up to block_values contiguous values, computed from their deviations from `shift`.
template <class Storage>
Moments moments_around(const Storage* x, std::int64_t count, Compute<Storage> shift) {
  using Lane = Compute<Storage>;
  constexpr int step = lanes<Lane>;
  const Vector<Lane> center = broadcast(shift);
  Vector<Lane> deviations[unroll] = {};
  Vector<Lane> squares[unroll] = {};
  const auto add = [&](int k, Vector<Lane> deviation) {
    deviations[k] += deviation;
    squares[k] += deviation * deviation;
  };
  std::int64_t i = 0;
  for (; i + unroll * step <= count; i += unroll * step) {
    for (int k = 0; k < unroll; k += 2) {
      Vector<Lane> first, second;
      load_two(x + i + k * step, first, second);
      add(k, first - center);
      add(k + 1, second - center);
    }
  }
  for (; i + step <= count; i += step) add(0, load(x + i) - center);
  const int rest = static_cast<int>(count - i);
  if (rest != 0) add(1, keep_first<Lane>(load_first(x + i, rest) - center, rest));
  return from_shifted(shift, sum<Lane>((deviations[0] + deviations[1]) + (deviations[2] + deviations[3])),
                      sum<Lane>((squares[0] + squares[1]) + (squares[2] + squares[3])), count);
}

// Returns the moments of any number of contiguous values.
template <class Storage>
Moments contiguous_moments(const Storage* x, std::int64_t count) {
  using Lane = Compute<Storage>;
  Moments all = {0.0, 0.0};
  Lane guess = static_cast<Lane>(moments_around(x, smaller(first_values, count), load_one(x)).mean);
  for (std::int64_t i = 0; i < count; i += block_values) {
    const std::int64_t block = smaller(block_values, count - i);
    Moments moments;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      moments = moments_around(x + i, block, guess);
      const double offset = moments.mean - static_cast<double>(guess);
      guess = static_cast<Lane>(moments.mean);
      if (is_near(offset, moments, block)) break;
    }
    all = combine(all, i, moments, block);
  }
  return all;
}

// Adds the deviations from `shifts` of up to block_rows rows of `channels` channels, and their squares, to sums in
// double.
template <class Storage>
void add_deviations(const Storage* x, int rows, std::int64_t stride, std::int64_t channels, const Compute<Storage>* shifts,
                    double* deviations, double* squares) {
  using Lane = Compute<Storage>;
  using V = Vector<Lane>;
  constexpr int step = lanes<Lane>;
  constexpr int side = 4;
  // A few channels at a time: the sums stay in registers and the rows in the first-level cache.
  const auto add = [&](std::int64_t c, auto vectors, int last) {
    constexpr int count = vectors;
    const auto read = [&](const auto* from, int k) {
      return k == count - 1 && last != step ? load_first(from + k * step, last) : load(from + k * step);
    };
    V shift[count], sums[count] = {}, sums_of_squares[count] = {};
    for (int k = 0; k < count; ++k) shift[k] = read(shifts + c, k);
    for (int row = 0; row < rows; ++row) {
      for (int k = 0; k < count; ++k) {
        const V deviation = read(x + row * stride + c, k) - shift[k];
        sums[k] += deviation;
        sums_of_squares[k] += deviation * deviation;
      }
    }
    for (int k = 0; k < count; ++k) {
      const int kept = k == count - 1 ? last : step;
      for (int lane = 0; lane < kept; ++lane) {
        deviations[c + k * step + lane] += sums[k][lane];
        squares[c + k * step + lane] += sums_of_squares[k][lane];
      }
    }
  };
  std::int64_t c = 0;
  for (; c + side * step <= channels; c += side * step) add(c, std::integral_constant<int, side>{}, step);
  for (; c < channels; c += step) add(c, std::integral_constant<int, 1>{}, static_cast<int>(smaller(step, channels - c)));
}

// Computes the moments of each of `channels` channels over `rows` rows that are `stride` values apart.
template <class Storage>
void column_moments(const Storage* x, std::int64_t rows, std::int64_t stride, std::int64_t channels, double* means,
                    double* squares) {
  using Lane = Compute<Storage>;
  Lane* shifts = scratch<10, Lane>(channels);
  const auto sum_up = [&](std::int64_t until) {
    for (std::int64_t c = 0; c < channels; ++c) means[c] = squares[c] = 0.0;
    for (std::int64_t row = 0; row < until; row += block_rows) {
      const int count = static_cast<int>(smaller(block_rows, until - row));
      add_deviations(x + row * stride, count, stride, channels, shifts, means, squares);
    }
  };
  for (std::int64_t c = 0; c < channels; ++c) shifts[c] = load_one(x + c);
  const std::int64_t first = smaller(first_rows, rows);
  sum_up(first);
  for (std::int64_t c = 0; c < channels; ++c) {
    shifts[c] = static_cast<Lane>(shifts[c] + means[c] / static_cast<double>(first));
  }
  for (int attempt = 0; attempt < attempts; ++attempt) {
    sum_up(rows);
    bool near = true;
    for (std::int64_t c = 0; c < channels; ++c) {
      const Moments moments = from_shifted(shifts[c], means[c], squares[c], rows);
      near = near && is_near(moments.mean - static_cast<double>(shifts[c]), moments, rows);
      means[c] = moments.mean;
      squares[c] = moments.squares;
    }
    if (near) return;
    for (std::int64_t c = 0; c < channels; ++c) shifts[c] = static_cast<Lane>(means[c]);
  }
}

}  // namespace
}  // namespace fastmunit::cpu
