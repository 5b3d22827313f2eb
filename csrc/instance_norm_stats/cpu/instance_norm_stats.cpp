#include "instance_norm_stats/instance_norm_stats.h"

#include <cmath>

#include "cpu/block_moments.h"
#include "cpu/simd.h"
#include "cpu/storage.h"
#include "instance_norm_stats/cpu/segments.h"

namespace fastmunit::cpu::FASTMUNIT_ISA {
namespace {

template <class Storage>
void forward(const InstanceNormStats& a, ParallelFor parallel_for) {
  using Lane = Compute<Storage>;
  const Storage* x = static_cast<const Storage*>(a.x);
  const std::int64_t segment = segment_pixels(a.layout);
  const std::int64_t segments = segments_of(a.layout, a.pixels);
  const std::int64_t planes = a.batch * a.channels;
  // The index of segment s of plane (n, c) is (n * channels + c) * segments + s; in channels_last, (n * segments + s) *
  // channels + c.
  double* means = a.partials;
  double* squares = a.partials + planes * segments;

  if (a.layout == Layout::nchw) {
    for_each(parallel_for, 0, planes * segments, smaller(segment, a.pixels), [&](std::int64_t item) {
      const std::int64_t plane = item / segments;
      const std::int64_t begin = item % segments * segment;
      const std::int64_t end = smaller(begin + segment, a.pixels);
      const Moments moments = contiguous_moments(x + plane * a.pixels + begin, end - begin);
      means[item] = moments.mean;
      squares[item] = moments.squares;
    });
  } else {
    constexpr int group = 4 * lanes<Lane>;
    const std::int64_t groups = (a.channels + group - 1) / group;
    for_each(parallel_for, 0, a.batch * segments * groups, smaller(segment, a.pixels) * group, [&](std::int64_t item) {
      const std::int64_t channel = item % groups * group;
      const std::int64_t sample_segment = item / groups;
      const std::int64_t begin = sample_segment % segments * segment;
      const std::int64_t rows = smaller(segment, a.pixels - begin);
      const Storage* from = x + (sample_segment / segments * a.pixels + begin) * a.channels + channel;
      column_moments(from, rows, a.channels, smaller(group, a.channels - channel),
                     means + sample_segment * a.channels + channel, squares + sample_segment * a.channels + channel);
    });
  }

  const bool nchw = a.layout == Layout::nchw;
  for_each(parallel_for, 0, planes, segments, [&](std::int64_t plane) {
    const std::int64_t n = plane / a.channels;
    const std::int64_t c = plane % a.channels;
    Moments moments = {0.0, 0.0};
    for (std::int64_t s = 0; s < segments; ++s) {
      const std::int64_t i = nchw ? plane * segments + s : (n * segments + s) * a.channels + c;
      moments = combine(moments, s * segment, {means[i], squares[i]}, smaller(segment, a.pixels - s * segment));
    }
    static_cast<Lane*>(a.mean)[plane] = static_cast<Lane>(moments.mean);
    static_cast<Lane*>(a.rstd)[plane] =
        static_cast<Lane>(1.0 / std::sqrt(moments.squares / static_cast<double>(a.pixels) + a.eps));
  });
}

// The coefficients of dx = constant + slope * (x - mean) of a plane.
template <class Lane>
struct GradientCoefficients {
  Lane mean, constant, slope;
};

template <class Lane>
GradientCoefficients<Lane> coefficients_of(const InstanceNormStatsBackward& a, std::int64_t plane) {
  const double rstd = static_cast<const Lane*>(a.rstd)[plane];
  const double pixels = static_cast<double>(a.pixels);
  return {static_cast<const Lane*>(a.mean)[plane],
          static_cast<Lane>(static_cast<const Lane*>(a.dmean)[plane] / pixels),
          static_cast<Lane>(-static_cast<const Lane*>(a.drstd)[plane] * rstd * rstd * rstd / pixels)};
}

template <class Storage>
void backward_plane(const Storage* x, Storage* dx, std::int64_t count, GradientCoefficients<Compute<Storage>> plane) {
  using Lane = Compute<Storage>;
  constexpr int step = lanes<Lane>;
  std::int64_t i = 0;
  for (; i + step <= count; i += step) store(dx + i, plane.constant + plane.slope * (load(x + i) - plane.mean));
  const int rest = static_cast<int>(count - i);
  if (rest != 0) {
    store_first(dx + i, plane.constant + plane.slope * (load_first(x + i, rest) - plane.mean), rest);
  }
}

// Processes one vector of channels, with `count` lanes in use, over `rows` rows that are `stride`
// values apart.
template <class Storage>
void backward_columns(const InstanceNormStatsBackward& a, const Storage* x, Storage* dx, std::int64_t plane, int count,
                      std::int64_t rows, std::int64_t stride) {
  using Lane = Compute<Storage>;
  Vector<Lane> mean = {}, constant = {}, slope = {};
  for (int lane = 0; lane < count; ++lane) {
    const GradientCoefficients<Lane> coefficients = coefficients_of<Lane>(a, plane + lane);
    mean[lane] = coefficients.mean;
    constant[lane] = coefficients.constant;
    slope[lane] = coefficients.slope;
  }
  for (std::int64_t row = 0; row < rows; ++row, x += stride, dx += stride) {
    if (count == lanes<Lane>) {
      store(dx, constant + slope * (load(x) - mean));
    } else {
      store_first(dx, constant + slope * (load_first(x, count) - mean), count);
    }
  }
}

template <class Storage>
void backward(const InstanceNormStatsBackward& a, ParallelFor parallel_for) {
  using Lane = Compute<Storage>;
  const Storage* x = static_cast<const Storage*>(a.x);
  Storage* dx = static_cast<Storage*>(a.dx);
  if (a.layout == Layout::nchw) {
    const std::int64_t segment = segment_pixels(a.layout);
    const std::int64_t segments = segments_of(a.layout, a.pixels);
    for_each(parallel_for, 0, a.batch * a.channels * segments, smaller(segment, a.pixels), [&](std::int64_t item) {
      const std::int64_t plane = item / segments;
      const std::int64_t begin = item % segments * segment;
      const std::int64_t at = plane * a.pixels + begin;
      backward_plane(x + at, dx + at, smaller(segment, a.pixels - begin), coefficients_of<Lane>(a, plane));
    });
    return;
  }
  const std::int64_t segment = 128;  // rows whose reads and writes fit in the second-level cache
  const std::int64_t segments = (a.pixels + segment - 1) / segment;
  for_each(parallel_for, 0, a.batch * segments, smaller(segment, a.pixels) * a.channels, [&](std::int64_t item) {
    const std::int64_t n = item / segments;
    const std::int64_t begin = item % segments * segment;
    const std::int64_t rows = smaller(segment, a.pixels - begin);
    for (std::int64_t c = 0; c < a.channels; c += lanes<Lane>) {
      const int count = static_cast<int>(smaller(lanes<Lane>, a.channels - c));
      const std::int64_t at = (n * a.pixels + begin) * a.channels + c;
      backward_columns(a, x + at, dx + at, n * a.channels + c, count, rows, a.channels);
    }
  });
}

}  // namespace

void instance_norm_stats(const InstanceNormStats& arguments, ParallelFor parallel_for) {
  with_storage_of_map(arguments.dtype, [&](auto type) { forward<decltype(type)>(arguments, parallel_for); });
}

void instance_norm_stats_backward(const InstanceNormStatsBackward& arguments, ParallelFor parallel_for) {
  with_storage_of_map(arguments.dtype, [&](auto type) { backward<decltype(type)>(arguments, parallel_for); });
}

}  // namespace fastmunit::cpu::FASTMUNIT_ISA
