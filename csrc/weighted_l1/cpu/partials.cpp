#include "weighted_l1/cpu/segments.h"

namespace fastmunit::cpu {

std::int64_t weighted_l1_partials(const WeightedL1& arguments) { return l1_segments(arguments.term, arguments.terms); }

}  // namespace fastmunit::cpu
