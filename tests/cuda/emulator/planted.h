// Selects a planted bug. tests/cuda/planted.py writes copies of the kernel headers that contain the correct code and
// the bugs; the environment variable PLANTED_BUG selects one by number. 0 selects none.
#pragma once

#include <cstdlib>

inline const int planted_bug = [] {
  const char* const number = std::getenv("PLANTED_BUG");
  return number == nullptr ? 0 : std::atoi(number);
}();
