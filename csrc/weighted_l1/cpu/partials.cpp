#include "cpu/segments.h"
#include "weighted_l1/weighted_l1.h"

namespace fastmunit::cpu {

std::int64_t weighted_l1_partials(const WeightedL1& arguments) { return segments_of(arguments.term, arguments.terms); }

}  // namespace fastmunit::cpu
