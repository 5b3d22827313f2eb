// Mean and sum of squared deviations of a set of values, and of the union of two sets.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fastmunit {
namespace {

struct Moments {
  double mean;
  double squares;  // sum of squared deviations from the mean
};

// Adds a set of `count` values to a set of `total` values; Chan, Golub and LeVeque (1979), equation 1.5.
FASTMUNIT_HOST_DEVICE inline Moments combine(Moments all, std::int64_t total, Moments set, std::int64_t count) {
  if (total == 0) return set;
  const double share = static_cast<double>(count) / static_cast<double>(total + count);
  const double difference = set.mean - all.mean;
  all.mean += difference * share;
  all.squares += set.squares + difference * difference * share * static_cast<double>(total);
  return all;
}

// Returns the moments of `count` values, given the sums of their deviations and squared deviations from a shift near
// the mean.
FASTMUNIT_HOST_DEVICE inline Moments from_shifted(double shift, double sum, double squares, std::int64_t count) {
  const double offset = sum / static_cast<double>(count);
  const double centered = squares - sum * offset;
  return {shift + offset, centered > 0.0 || centered != centered ? centered : 0.0};
}

}  // namespace
}  // namespace fastmunit
