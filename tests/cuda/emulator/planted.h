// Which bug is planted: tests/cuda/planted.py writes copies of the kernels' headers that have bugs beside what is right, and
// the environment says which one is taken. 0 is none.
#pragma once

#include <cstdlib>

inline const int planted_bug = [] {
  const char* const number = std::getenv("PLANTED_BUG");
  return number == nullptr ? 0 : std::atoi(number);
}();
