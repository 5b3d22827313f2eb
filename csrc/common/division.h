// Integer division by a divisor that is fixed before a kernel starts, as a multiplication and a shift.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fastmunit {

// Computes n / divisor for 0 <= n < 2^31; Granlund and Montgomery (1994), figure 4.1.
struct Division {
  std::uint32_t multiplier = 1, shift = 0;
  int divisor = 1;

  Division() = default;
  explicit Division(int by) : divisor(by) {
    while ((std::uint64_t{1} << shift) < static_cast<std::uint64_t>(by)) ++shift;
    const std::uint64_t excess = (std::uint64_t{1} << shift) - static_cast<std::uint64_t>(by);
    multiplier = static_cast<std::uint32_t>((excess << 32) / static_cast<std::uint64_t>(by) + 1);
  }

  FASTMUNIT_HOST_DEVICE int quotient(int n) const {
    const std::uint32_t value = static_cast<std::uint32_t>(n);
    const std::uint32_t high = static_cast<std::uint32_t>(static_cast<std::uint64_t>(value) * multiplier >> 32);
    return static_cast<int>((high + value) >> shift);
  }
};

}  // namespace fastmunit
