#include "weighted_l1/weighted_l1.h"

#include "cpu/any_type.h"
#include "cpu/segments.h"
#include "cpu/simd.h"

namespace fastmunit::cpu::FASTMUNIT_ISA {
namespace {

// Independent vector sums: enough to hide the latency of an addition.
constexpr int width = 4;

template <class Lane>
Vector<Lane> absolute(Vector<Lane> value) {
  return value < Lane{0} ? -value : value;
}

// Returns the sum of |input - target| over one block.
template <class Lane>
double block_sum(const Lane* input, const Lane* target, int count) {
  constexpr int step = lanes<Lane>;
  Vector<Lane> sums[width] = {};
  int i = 0;
  for (; i + width * step <= count; i += width * step) {
    for (int k = 0; k < width; ++k) sums[k] += absolute<Lane>(load(input + i + k * step) - load(target + i + k * step));
  }
  for (; i + step <= count; i += step) sums[0] += absolute<Lane>(load(input + i) - load(target + i));
  if (i < count) sums[1] += absolute<Lane>(load_first(input + i, count - i) - load_first(target + i, count - i));
  return sum<Lane>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Writes 1, 0 or -1 for each difference, 0 for NaN. This and the next function are plain loops: GCC 12 vectorizes them,
// but converts between bytes and its vector extension element by element.
template <class Lane>
void block_signs(const Lane* input, const Lane* target, int count, std::int8_t* signs) {
  for (int i = 0; i < count; ++i) signs[i] = static_cast<std::int8_t>((input[i] > target[i]) - (input[i] < target[i]));
}

// Selects one of the three values of a gradient by its sign. It works on bit patterns, as the compiler has no
// arithmetic type for the 16-bit storage types.
template <class Bits>
void select_all(const std::int8_t* signs, std::int64_t count, Bits positive, Bits zero, Bits negative, Bits* to) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = signs[i] > 0 ? positive : signs[i] < 0 ? negative : zero;
}

#if defined(__AVX512F__)
inline void store_signs(std::int8_t* to, Vector<float> a, Vector<float> b) {
  const __mmask16 above = _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
  const __mmask16 below = _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
  const __m128i signs = _mm_sub_epi8(_mm_movm_epi8(below), _mm_movm_epi8(above));
  std::memcpy(to, &signs, sizeof(signs));
}

// Returns the sum of |input - target| over as many values as fill whole vectors, counted in `done`, and writes the
// signs unless `signs` is null. 16-bit values are widened when they are loaded.
template <class Storage>
double vectors_sum(const Storage* input, const Storage* target, std::int64_t count, std::int8_t* signs,
                   std::int64_t& done) {
  constexpr int step = lanes<float>;
  double total = 0.0;
  while (done + width * step <= count) {
    const std::int64_t left = count - done < block ? count - done : block;
    const std::int64_t end = done + left / (width * step) * (width * step);
    Floats sums[width] = {};
    for (; done < end; done += width * step) {
      for (int k = 0; k < width; ++k) {
        const Floats a = load(input + done + k * step), b = load(target + done + k * step);
        sums[k] += absolute<float>(a - b);
        if (signs != nullptr) store_signs(signs + done + k * step, a, b);
      }
    }
    total += sum<float>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
  return total;
}

// The same for a segment of a term. Does nothing if the tensors have different types, or are float64.
double vectors_sum(const L1Term& term, std::int64_t begin, std::int64_t end, std::int64_t& done) {
  if (term.input_dtype != term.target_dtype) return 0.0;
  const void* input = at(term.input, term.input_dtype, begin);
  const void* target = at(term.target, term.target_dtype, begin);
  std::int8_t* signs = term.signs == nullptr ? nullptr : term.signs + begin;
  const auto of = [&](auto type) {
    using Storage = decltype(type);
    return vectors_sum(static_cast<const Storage*>(input), static_cast<const Storage*>(target), end - begin, signs, done);
  };
  switch (term.input_dtype) {
    case DataType::float32:
      return of(float{});
    case DataType::bfloat16:
      return of(bfloat16{});
    case DataType::float16:
      return of(float16{});
    case DataType::float64:
      break;
  }
  return 0.0;
}
#endif

template <class Lane>
double segment_sum(const L1Term& term, std::int64_t begin, std::int64_t end) {
  Lane input_buffer[block], target_buffer[block];
  double total = 0.0;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<Lane, float>) {
    std::int64_t done = 0;
    total = vectors_sum(term, begin, end, done);
    begin += done;
  }
#endif
  for (std::int64_t i = begin; i < end; i += block) {
    const int count = static_cast<int>(end - i < block ? end - i : block);
    const Lane* input = widened(at(term.input, term.input_dtype, i), term.input_dtype, count, input_buffer);
    const Lane* target = widened(at(term.target, term.target_dtype, i), term.target_dtype, count, target_buffer);
    total += block_sum(input, target, count);
    if (term.signs != nullptr) block_signs(input, target, count, term.signs + i);
  }
  return total;
}

// Writes slope * sign. A sign of 0 gives NaN if the slope is not finite, as in torch.
template <class Storage>
void segment_gradient(const std::int8_t* signs, std::int64_t begin, std::int64_t end, double slope, void* gradient) {
  using Lane = Compute<Storage>;
  Storage* to = static_cast<Storage*>(gradient) + begin;
  const Lane lane_slope = static_cast<Lane>(slope);
  if constexpr (std::is_same_v<Storage, Lane>) {
    for (std::int64_t i = begin; i < end; ++i) *to++ = static_cast<Lane>(signs[i]) * lane_slope;
  } else {
    const auto bits = [&](Lane value) {
      Storage narrowed;
      store_first(&narrowed, broadcast(value), 1);
      return bit_cast<std::uint16_t>(narrowed);
    };
    select_all(signs + begin, end - begin, bits(lane_slope), bits(Lane{0} * lane_slope), bits(-lane_slope),
               reinterpret_cast<std::uint16_t*>(to));
  }
}

void segment_gradient(const std::int8_t* signs, std::int64_t begin, std::int64_t end, double slope, void* gradient,
                      DataType dtype) {
  switch (dtype) {
    case DataType::float32:
      return segment_gradient<float>(signs, begin, end, slope, gradient);
    case DataType::float64:
      return segment_gradient<double>(signs, begin, end, slope, gradient);
    case DataType::bfloat16:
      return segment_gradient<bfloat16>(signs, begin, end, slope, gradient);
    case DataType::float16:
      return segment_gradient<float16>(signs, begin, end, slope, gradient);
  }
}

bool is_wide(const L1Term& term) {
  return term.input_dtype == DataType::float64 || term.target_dtype == DataType::float64;
}

}  // namespace

void weighted_l1(const WeightedL1& a, ParallelFor parallel_for) {
  for_each(parallel_for, 0, segments_of(a.term, a.terms), segment_elements, [&](std::int64_t segment) {
    with_segment(a.term, segment, [&](int k, std::int64_t begin, std::int64_t end) {
      a.partials[segment] =
          is_wide(a.term[k]) ? segment_sum<double>(a.term[k], begin, end) : segment_sum<float>(a.term[k], begin, end);
    });
  });
  const double* partial = a.partials;
  double total = 0.0;
  for (int k = 0; k < a.terms; ++k) {
    const double value = sum_of_segments(a.term[k], partial) / static_cast<double>(a.term[k].count);  // NaN if the term is empty
    total += a.term[k].weight * value;
    set_element(a.values, a.dtype, k, value);
  }
  set_element(a.total, a.dtype, 0, total);
}

void weighted_l1_backward(const WeightedL1Backward& a, ParallelFor parallel_for) {
  double slope[weighted_l1_terms] = {};
  for (int k = 0; k < a.terms; ++k) {
    slope[k] = (a.term[k].weight * element(a.dtotal, a.dtype, 0) + element(a.dvalues, a.dtype, k)) /
               static_cast<double>(a.term[k].count);
  }
  for_each(parallel_for, 0, segments_of(a.term, a.terms), segment_elements, [&](std::int64_t segment) {
    with_segment(a.term, segment, [&](int k, std::int64_t begin, std::int64_t end) {
      const L1Term& term = a.term[k];
      if (term.dinput != nullptr) segment_gradient(term.signs, begin, end, slope[k], term.dinput, term.input_dtype);
      if (term.dtarget != nullptr) segment_gradient(term.signs, begin, end, -slope[k], term.dtarget, term.target_dtype);
    });
  });
}

}  // namespace fastmunit::cpu::FASTMUNIT_ISA
