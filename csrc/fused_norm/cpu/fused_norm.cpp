#include "fused_norm/fused_norm.h"

#include <cmath>

#include "cpu/block_moments.h"
#include "cpu/scratch.h"
#include "cpu/simd.h"
#include "fused_norm/cpu/affine.h"
#include "fused_norm/cpu/pad.h"
#include "fused_norm/cpu/pixel_shuffle.h"
#include "fused_norm/cpu/segments.h"

namespace fastmunit::cpu::FASTMUNIT_ISA {
namespace {

// Computes y = activation(z) + residual for `count` values of one plane. residual may be null.
template <Activation activation, class Storage>
inline void apply_row(const Storage* x, const Storage* residual, Storage* y, std::int64_t count,
                      Affine<Compute<Storage>> affine, Compute<Storage> negative_slope) {
  using Lane = Compute<Storage>;
  using V = Vector<Lane>;
  constexpr int step = lanes<Lane>;
  const V center = broadcast(affine.center), scale = broadcast(affine.scale), shift = broadcast(affine.shift);
  const V slope = broadcast(negative_slope);
  const auto value = [&](V from) { return activate<activation>((from - center) * scale + shift, slope); };
  std::int64_t i = 0;
  if (residual == nullptr) {
    for (; i + 2 * step <= count; i += 2 * step) {
      const V first = value(load(x + i)), second = value(load(x + i + step));
      store(y + i, first);
      store(y + i + step, second);
    }
  } else {
    for (; i + 2 * step <= count; i += 2 * step) {
      const V first = value(load(x + i)) + load(residual + i);
      const V second = value(load(x + i + step)) + load(residual + i + step);
      store(y + i, first);
      store(y + i + step, second);
    }
  }
  while (i < count) {
    const int kept = static_cast<int>(smaller(step, count - i));
    V last = value(load_first(x + i, kept));
    if (residual != nullptr) last += load_first(residual + i, kept);
    store_first(y + i, last, kept);
    i += kept;
  }
}

// The same for `block` pixels of all channels. Pixels are contiguous, except in the residual.
template <Activation activation, int block, class Storage>
void apply_pixels(const Storage* x, const Storage* residual, std::int64_t residual_stride, Storage* y,
                  std::int64_t channels, const Compute<Storage>* centers, const Compute<Storage>* scales,
                  const Compute<Storage>* shifts, Compute<Storage> negative_slope) {
  using Lane = Compute<Storage>;
  using V = Vector<Lane>;
  constexpr int step = lanes<Lane>;
  const V slope = broadcast(negative_slope);
  std::int64_t c = 0;
  for (; c + step <= channels; c += step) {
    const V center = load(centers + c), scale = load(scales + c), shift = load(shifts + c);
    for (int k = 0; k < block; ++k) {
      V value = activate<activation>((load(x + k * channels + c) - center) * scale + shift, slope);
      if (residual != nullptr) value += load(residual + k * residual_stride + c);
      store(y + k * channels + c, value);
    }
  }
  const int rest = static_cast<int>(channels - c);
  if (rest == 0) return;
  const V center = load_first(centers + c, rest), scale = load_first(scales + c, rest), shift = load_first(shifts + c, rest);
  for (int k = 0; k < block; ++k) {
    V value = activate<activation>((load_first(x + k * channels + c, rest) - center) * scale + shift, slope);
    if (residual != nullptr) value += load_first(residual + k * residual_stride + c, rest);
    store_first(y + k * channels + c, value, rest);
  }
}

template <class Storage>
class Forward {
 public:
  using Lane = Compute<Storage>;

  // given_mean and given_rstd are null, or statistics to use instead of those of x.
  Forward(const FusedNorm& arguments, ParallelFor pool, const double* given_mean, const double* given_rstd)
      : a(arguments),
        mean(given_mean),
        rstd(given_rstd),
        takes_statistics(a.statistics != Statistics::none && given_mean == nullptr),
        parallel_for(pool),
        segments(row_segments(a)),
        pixels(a.height * a.width),
        padded_width(a.width + 2 * a.pad),
        padded_pixels((a.height + 2 * a.pad) * padded_width),
        x(static_cast<const Storage*>(a.x)),
        padded(static_cast<Storage*>(a.padded)),
        slope(static_cast<Lane>(a.negative_slope)),
        means(scratch<2, double>(2 * a.batch * a.channels * segments.count)),
        squares(means + a.batch * a.channels * segments.count) {}

  void run() const {
    // If there are enough planes, each is one unit of work, and its second pass reads from cache.
    const std::int64_t planes = a.batch * a.channels;
    if (a.layout == Layout::nchw && !(takes_statistics && a.statistics == Statistics::layer) &&
        (segments.count == 1 || planes >= 4 * a.threads)) {
      for_each(parallel_for, 0, planes, pixels, [&](std::int64_t plane) {
        const std::int64_t n = plane / a.channels, c = plane % a.channels;
        NormStats stats = known_stats(n, c);
        if (takes_statistics) {
          Moments moments = {0.0, 0.0};
          for (std::int64_t s = 0; s < segments.count; ++s) moments = add(moments, s, segment_moments(n, c, s));
          stats = stats_of(moments, pixels);
          write_stats(plane, stats);
        }
        apply_rows(n, c, 0, a.height, stats);
      });
    } else {
      for_sample_groups(a, sizeof(Storage), [&](std::int64_t first, std::int64_t last) {
        if (a.layout == Layout::nchw) {
          run_nchw(first, last);
        } else {
          run_channels_last(first, last);
        }
      });
    }
  }

 private:
  // Computes the statistics of samples first to last, then the result. The second part runs backward: the values that
  // the first part read last are still in cache.
  void run_nchw(std::int64_t first, std::int64_t last) const {
    const std::int64_t pieces = a.channels * segments.count;
    const std::int64_t work = segments.rows * a.width;
    if (takes_statistics) {
      for_each(parallel_for, first * pieces, last * pieces, work, [&](std::int64_t piece) {
        const std::int64_t plane = piece / segments.count;
        const Moments moments = segment_moments(plane / a.channels, plane % a.channels, piece % segments.count);
        means[piece] = moments.mean;
        squares[piece] = moments.squares;
      });
    }
    for_ranges(parallel_for, first * pieces, last * pieces, work, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t sample = -1;
      NormStats stats;
      for (std::int64_t piece = end; piece-- > begin;) {
        const std::int64_t plane = piece / segments.count, s = piece % segments.count;
        const std::int64_t n = plane / a.channels, c = plane % a.channels;
        if (!takes_statistics) {
          stats = known_stats(n, c);
        } else if (a.statistics == Statistics::layer) {
          if (n != sample) {
            stats = sample_stats(n);
            if (begin <= n * pieces) write_stats(n, stats);
          }
        } else {
          stats = stats_of(plane_moments(n, c), pixels);
          if (s == 0) write_stats(plane, stats);
        }
        sample = n;
        apply_rows(n, c, segments.begin(s), segments.end(s), stats);
      }
    });
  }

  void run_channels_last(std::int64_t first, std::int64_t last) const {
    if (takes_statistics) {
      for_each(parallel_for, first * segments.count, last * segments.count, segments.rows * a.width * a.channels,
               [&](std::int64_t piece) { column_segment_moments(piece / segments.count, piece % segments.count); });
    }
    const std::int64_t rows = a.pixel_shuffle ? 2 : 1;  // with pixel shuffle, two rows of y are one row of x
    const std::int64_t turns = a.height / rows, values = a.width * a.channels;
    for_ranges(parallel_for, first * turns, last * turns, rows * values, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t sample = -1;
      Lane* affines = scratch<3, Lane>(3 * a.channels);
      Storage* shuffled = a.pixel_shuffle ? scratch<0, Storage>(2 * values) : nullptr;
      for (std::int64_t turn = end; turn-- > begin;) {
        const std::int64_t n = turn / turns, y = turn % turns * rows;
        if (n != sample) set_affines(n, begin <= n * turns, affines);
        sample = n;
        const Storage* from = x + n * pixels * a.channels;
        if (a.pixel_shuffle) shuffle_pixel_rows(from, y / 2, a.width, a.channels, shuffled);
        for (std::int64_t k = rows; k-- > 0;) {
          apply_pixel_row(a.pixel_shuffle ? shuffled + k * values : from + y * values, n, y + k, affines);
        }
      }
    });
  }

  // Sets the centers, scales and shifts of the channels of sample n in channels_last.
  void set_affines(std::int64_t n, bool writes_stats, Lane* affines) const {
    NormStats stats;
    if (takes_statistics && a.statistics == Statistics::layer) {
      stats = sample_stats(n);
      if (writes_stats) write_stats(n, stats);
    }
    const double* plane_means = takes_statistics && a.statistics == Statistics::instance ? all_plane_moments(n) : nullptr;
    for (std::int64_t c = 0; c < a.channels; ++c) {
      if (!takes_statistics) {
        stats = known_stats(n, c);
      } else if (a.statistics == Statistics::instance) {
        stats = stats_of({plane_means[c], plane_means[a.channels + c]}, pixels);
        if (writes_stats) write_stats(n * a.channels + c, stats);
      }
      const Affine<Lane> affine = affine_of<Lane>(a, n, c, stats);
      affines[c] = affine.center;
      affines[a.channels + c] = affine.scale;
      affines[2 * a.channels + c] = affine.shift;
    }
  }

  // Returns the moments of segment s of a plane. With pixel shuffle, this is an equal share of the values of the
  // plane's four contiguous phases.
  Moments segment_moments(std::int64_t n, std::int64_t c, std::int64_t s) const {
    const Storage* plane = x + (n * a.channels + c) * pixels;
    const std::int64_t begin = segments.begin(s) * a.width, end = segments.end(s) * a.width;
    return contiguous_moments(plane + begin, end - begin);
  }

  // Computes the moments of segment s of all channels in channels_last.
  void column_segment_moments(std::int64_t n, std::int64_t s) const {
    double* to_means = means + (n * segments.count + s) * a.channels;
    double* to_squares = squares + (n * segments.count + s) * a.channels;
    if (!a.pixel_shuffle) {
      const std::int64_t begin = segments.begin(s) * a.width, end = segments.end(s) * a.width;
      column_moments(x + (n * pixels + begin) * a.channels, end - begin, a.channels, a.channels, to_means, to_squares);
      return;
    }
    // Two rows of y are one row of x, which has four times as many channels.
    const std::int64_t channels = 4 * a.channels;
    const std::int64_t begin = segments.begin(s) * a.width / 4, count = segments.end(s) * a.width / 4 - begin;
    double* phase_means = scratch<1, double>(2 * channels);
    double* phase_squares = phase_means + channels;
    column_moments(x + (n * (pixels / 4) + begin) * channels, count, channels, channels, phase_means, phase_squares);
    for (std::int64_t c = 0; c < a.channels; ++c) {
      Moments moments = {phase_means[4 * c], phase_squares[4 * c]};
      for (int k = 1; k < 4; ++k) {
        moments = combine(moments, k * count, {phase_means[4 * c + k], phase_squares[4 * c + k]}, count);
      }
      to_means[c] = moments.mean;
      to_squares[c] = moments.squares;
    }
  }

  // Combines the moments of segment s with those of the segments before it.
  Moments add(Moments all, std::int64_t s, Moments segment) const {
    return combine(all, segments.begin(s) * a.width, segment, (segments.end(s) - segments.begin(s)) * a.width);
  }

  // Returns the moments of a plane, combined from those of its segments, in NCHW.
  Moments plane_moments(std::int64_t n, std::int64_t c) const {
    Moments plane = {0.0, 0.0};
    for (std::int64_t s = 0; s < segments.count; ++s) {
      const std::int64_t at = (n * a.channels + c) * segments.count + s;
      plane = add(plane, s, {means[at], squares[at]});
    }
    return plane;
  }

  // Returns the means, followed by the squares, of the planes of sample n in channels_last. Goes segment by segment,
  // the order of the moments in memory.
  const double* all_plane_moments(std::int64_t n) const {
    double* plane_means = scratch<5, double>(2 * a.channels);
    double* plane_squares = plane_means + a.channels;
    for (std::int64_t s = 0; s < segments.count; ++s) {
      const double* segment_means = means + (n * segments.count + s) * a.channels;
      const double* segment_squares = squares + (n * segments.count + s) * a.channels;
      for (std::int64_t c = 0; c < a.channels; ++c) {
        const Moments plane = add({plane_means[c], plane_squares[c]}, s, {segment_means[c], segment_squares[c]});
        plane_means[c] = plane.mean;
        plane_squares[c] = plane.squares;
      }
    }
    return plane_means;
  }

  // Returns the statistics of all values of a sample.
  NormStats sample_stats(std::int64_t n) const {
    Moments sample = {0.0, 0.0};
    const double* plane_means = a.layout == Layout::nchw ? nullptr : all_plane_moments(n);
    for (std::int64_t c = 0; c < a.channels; ++c) {
      const Moments plane =
          a.layout == Layout::nchw ? plane_moments(n, c) : Moments{plane_means[c], plane_means[a.channels + c]};
      sample = combine(sample, c * pixels, plane, pixels);
    }
    return stats_of(sample, a.channels * pixels);
  }

  // Returns the statistics of a plane that are known without a pass over x: the given ones, or those of `none`.
  NormStats known_stats(std::int64_t n, std::int64_t c) const {
    if (mean == nullptr) return {};
    const std::int64_t at = a.statistics == Statistics::instance ? n * a.channels + c : n;
    return {mean[at], rstd[at]};
  }

  NormStats stats_of(Moments moments, std::int64_t count) const {
    return norm_stats_of(moments, static_cast<double>(count), a.statistics, a.eps);
  }

  void write_stats(std::int64_t at, NormStats stats) const {
    a.mean[at] = stats.mean;
    a.rstd[at] = stats.rstd;
  }

  // Writes rows begin to end of a plane, and their copies in the padding.
  void apply_rows(std::int64_t n, std::int64_t c, std::int64_t begin, std::int64_t end, NormStats stats) const {
    const Affine<Lane> affine = affine_of<Lane>(a, n, c, stats);
    const Storage* from = x + (n * a.channels + c) * pixels;
    Storage* to = padded + (n * a.channels + c) * padded_pixels;
    with_activation(a.activation, [&](auto activation) {
      const bool dense_residual = a.residual.data == nullptr || a.residual.row_stride == a.width;
      if (a.pad == 0 && !a.pixel_shuffle && dense_residual) {
        apply_row<activation>(from + begin * a.width, row_of<Storage>(a.residual, n, c, begin), to + begin * a.width,
                              (end - begin) * a.width, affine, slope);
        return;
      }
      const PadColumns columns(a.width, a.pad, a.pad_mode);
      Storage* shuffled = a.pixel_shuffle ? scratch<0, Storage>(a.width) : nullptr;
      for (std::int64_t y = begin; y < end; ++y) {
        if (a.pixel_shuffle) shuffle_row(from, y, a.height, a.width, shuffled);
        Storage* row = to + (y + a.pad) * padded_width;
        apply_row<activation>(a.pixel_shuffle ? shuffled : from + y * a.width, row_of<Storage>(a.residual, n, c, y), row + a.pad,
                              a.width, affine, slope);
        columns.fill(row);
        pad_rows(to, y, a.height, padded_width, a.pad, a.pad_mode);
      }
    });
  }

  // The same for one row of all channels in channels_last. `from` holds the row of x.
  void apply_pixel_row(const Storage* from, std::int64_t n, std::int64_t y, const Lane* affines) const {
    const Lane *centers = affines, *scales = centers + a.channels, *shifts = scales + a.channels;
    Storage* sample = padded + n * padded_pixels * a.channels;
    Storage* row = sample + (y + a.pad) * padded_width * a.channels;
    const Storage* residual = row_of<Storage>(a.residual, n, 0, y);
    const std::int64_t stride = a.residual.column_stride;
    with_activation(a.activation, [&](auto activation) {
      constexpr int block = 4;
      std::int64_t j = 0;
      const auto residual_at = [&](std::int64_t i) { return residual == nullptr ? nullptr : residual + i * stride; };
      for (; j + block <= a.width; j += block) {
        apply_pixels<activation, block>(from + j * a.channels, residual_at(j), stride, row + (a.pad + j) * a.channels,
                                        a.channels, centers, scales, shifts, slope);
      }
      for (; j < a.width; ++j) {
        apply_pixels<activation, 1>(from + j * a.channels, residual_at(j), stride, row + (a.pad + j) * a.channels,
                                    a.channels, centers, scales, shifts, slope);
      }
    });
    PadColumns(a.width, a.pad, a.pad_mode).fill(row, a.channels);
    pad_rows(sample, y, a.height, padded_width * a.channels, a.pad, a.pad_mode);
  }

  const FusedNorm& a;
  const double* const mean;
  const double* const rstd;
  const bool takes_statistics;  // of x
  const ParallelFor parallel_for;
  const RowSegments segments;
  const std::int64_t pixels, padded_width, padded_pixels;
  const Storage* const x;
  Storage* const padded;
  const Lane slope;
  // The moments per segment: (batch, channels, segments); in channels_last, (batch, segments, channels).
  double* const means;
  double* const squares;
};

}  // namespace

void fused_norm(const FusedNorm& arguments, ParallelFor parallel_for) {
  with_storage_of_map(arguments.dtype, [&](auto type) {
    Forward<decltype(type)>(arguments, parallel_for, nullptr, nullptr).run();
  });
}

void fused_norm_with_statistics(const FusedNormWithStatistics& arguments, ParallelFor parallel_for) {
  with_storage_of_map(arguments.dtype, [&](auto type) {
    Forward<decltype(type)>(arguments, parallel_for, arguments.given_mean, arguments.given_rstd).run();
  });
}

}  // namespace fastmunit::cpu::FASTMUNIT_ISA
