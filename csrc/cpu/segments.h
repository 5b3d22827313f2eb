// Segments of the tensors in a list: units of work on the CPU that do not depend on the number of threads. A term has the
// number of its elements in `count`.
#pragma once

#include <cstdint>

namespace fastmunit::cpu {
namespace {

constexpr std::int64_t segment_elements = 16384;

template <class Term>
std::int64_t segments_of(const Term& term) {
  return (term.count + segment_elements - 1) / segment_elements;
}

template <class Term>
std::int64_t segments_of(const Term* term, int terms) {
  std::int64_t segments = 0;
  for (int k = 0; k < terms; ++k) segments += segments_of(term[k]);
  return segments;
}

// Calls function(k, begin, end) for the segment with the given index among those of all terms.
template <class Term, class Function>
void with_segment(const Term* term, std::int64_t segment, const Function& function) {
  int k = 0;
  for (; segment >= segments_of(term[k]); ++k) segment -= segments_of(term[k]);
  const std::int64_t begin = segment * segment_elements;
  const std::int64_t end = begin + segment_elements < term[k].count ? begin + segment_elements : term[k].count;
  function(k, begin, end);
}

// Adds the sums of the segments of a term in order, and moves `partial` to the first one of the next term.
template <class Term>
double sum_of_segments(const Term& term, const double*& partial) {
  double sum = 0.0;
  for (const double* end = partial + segments_of(term); partial != end; ++partial) sum += *partial;
  return sum;
}

}  // namespace
}  // namespace fastmunit::cpu
