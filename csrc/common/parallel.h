// The caller's thread pool, passed to CPU kernels as a function.
#pragma once

#include <cstdint>

namespace fastmunit {

// Calls body(begin, end, context) on ranges that together cover [0, count), on several threads if count > grain.
using ParallelFor = void (*)(std::int64_t count, std::int64_t grain,
                             void (*body)(std::int64_t begin, std::int64_t end, void* context), void* context);

// Calls function(begin, end) on ranges that together cover [first, last). `work` is the number of elements per item.
// Each range has enough elements to be worth a thread.
template <class Function>
static inline void for_ranges(ParallelFor parallel_for, std::int64_t first, std::int64_t last, std::int64_t work,
                              const Function& function) {
  constexpr std::int64_t worth_a_thread = 16384;
  const std::int64_t grain = work >= worth_a_thread ? 1 : worth_a_thread / (work > 0 ? work : 1);
  const auto shifted = [&](std::int64_t begin, std::int64_t end) { function(first + begin, first + end); };
  parallel_for(
      last - first, grain,
      [](std::int64_t begin, std::int64_t end, void* context) {
        (*static_cast<const decltype(shifted)*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&shifted)));
}

// Calls function(i) for each i in [first, last).
template <class Function>
static inline void for_each(ParallelFor parallel_for, std::int64_t first, std::int64_t last, std::int64_t work,
                            const Function& function) {
  for_ranges(parallel_for, first, last, work, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) function(i);
  });
}

}  // namespace fastmunit
