#include "gan_loss/gan_loss.h"

#include "cpu/any_type.h"
#include "cpu/segments.h"
#include "cpu/simd.h"
#include "cpu/storage.h"
#include "gan_loss/element.h"

namespace fastmunit::cpu::FASTMUNIT_ISA {
namespace {

// Independent sums: enough to hide the latency of an addition.
constexpr int width = 8;

// Returns the sum of the losses of values with one target.
template <GanFormula formula>
double sum_of(const double* x, int count, bool real) {
  double sums[width] = {};
  int i = 0;
  for (; i + width <= count; i += width) {
    for (int k = 0; k < width; ++k) sums[k] += gan_loss_of<formula>(x[i + k], real);
  }
  for (int k = 0; i < count; ++i, ++k) sums[k] += gan_loss_of<formula>(x[i], real);
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

template <class Storage>
void narrow_all(const double* from, int count, Storage* to) {
  if constexpr (std::is_floating_point_v<Storage>) {
    for (int i = 0; i < count; ++i) to[i] = static_cast<Storage>(from[i]);
  } else {
    float floats[block];
    for (int i = 0; i < count; ++i) floats[i] = static_cast<float>(from[i]);
    int i = 0;
    for (; i + lanes<float> <= count; i += lanes<float>) store(to + i, load(floats + i));
    if (i < count) store_first(to + i, load_first(floats + i, count - i), count - i);
  }
}

// Calls function(x, i, count, real) for blocks of values that have one target, as doubles: there are few values, and a
// loss that is computed in float64 has no error of its own.
template <class Function>
void for_blocks(const GanMap& map, std::int64_t begin, std::int64_t end, const Function& function) {
  double buffer[block];
  for (std::int64_t i = begin; i < end;) {
    const bool real = i >= map.first_real;
    const std::int64_t last = !real && map.first_real < end ? map.first_real : end;
    const int count = static_cast<int>(last - i < block ? last - i : block);
    function(widened(at(map.x, map.dtype, i), map.dtype, count, buffer), i, count, real);
    i += count;
  }
}

double segment_sum(const GanMap& map, std::int64_t begin, std::int64_t end) {
  double total = 0.0;
  with_formula(map.formula, [&](auto formula) {
    for_blocks(map, begin, end, [&](const double* x, std::int64_t, int count, bool real) {
      total += sum_of<decltype(formula)::value>(x, count, real);
    });
  });
  return total;
}

void segment_gradient(const GanMap& map, std::int64_t begin, std::int64_t end, double slope) {
  with_formula(map.formula, [&](auto formula) {
    for_blocks(map, begin, end, [&](const double* x, std::int64_t first, int count, bool real) {
      double gradient[block];
      for (int i = 0; i < count; ++i) gradient[i] = gan_gradient_of<decltype(formula)::value>(x[i], real, slope);
      with_storage(map.dtype, [&](auto storage) {
        using Storage = decltype(storage);
        narrow_all(gradient, count, static_cast<Storage*>(map.dx) + first);
      });
    });
  });
}

}  // namespace

void gan_loss(const GanLoss& a, ParallelFor parallel_for) {
  for_each(parallel_for, 0, segments_of(a.map, a.maps), segment_elements, [&](std::int64_t segment) {
    with_segment(a.map, segment, [&](int k, std::int64_t begin, std::int64_t end) {
      a.partials[segment] = segment_sum(a.map[k], begin, end);
    });
  });
  const double* partial = a.partials;
  double total = 0.0;
  for (int k = 0; k < a.maps; ++k) {
    const double value = sum_of_segments(a.map[k], partial) / static_cast<double>(a.map[k].averaged);  // NaN if empty
    total += a.map[k].weight * value;
    set_element(a.values, a.dtype, k, value);
  }
  set_element(a.total, a.dtype, 0, total);
}

void gan_loss_backward(const GanLossBackward& a, ParallelFor parallel_for) {
  for_each(parallel_for, 0, segments_of(a.map, a.maps), segment_elements, [&](std::int64_t segment) {
    with_segment(a.map, segment, [&](int k, std::int64_t begin, std::int64_t end) {
      if (a.map[k].dx == nullptr) return;
      const double slope = a.map[k].weight * element(a.dtotal, a.dtype, 0) + element(a.dvalues, a.dtype, k);
      segment_gradient(a.map[k], begin, end, slope / static_cast<double>(a.map[k].averaged));
    });
  });
}

}  // namespace fastmunit::cpu::FASTMUNIT_ISA
