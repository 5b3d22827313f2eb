#include "fastmunit/fused_norm.h"

#include <cmath>

#include "block_moments.h"
#include "fused_norm_affine.h"
#include "fused_norm_segments.h"
#include "pad.h"
#include "phases.h"
#include "scratch.h"
#include "simd.h"

namespace fastmunit::cpu::FASTMUNIT_ISA {
namespace {

// y = activation(z) + residual for `count` values of one plane; residual may be null.
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

// The same for `block` pixels of all channels, contiguous but for the residual's.
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

  Forward(const FusedNorm& arguments, ParallelFor pool)
      : a(arguments),
        parallel_for(pool),
        segments(row_segments(a)),
        pixels(a.height * a.width),
        padded_width(a.width + 2 * a.pad),
        padded_pixels((a.height + 2 * a.pad) * padded_width),
        x(static_cast<const Storage*>(a.x)),
        padded(static_cast<Storage*>(a.padded)),
        slope(static_cast<Lane>(a.negative_slope)),
        means(a.workspace),
        squares(a.workspace + a.channels * segments.count),
        centers(reinterpret_cast<Lane*>(a.workspace + 2 * a.channels * segments.count)),
        scales(centers + a.channels),
        shifts(scales + a.channels) {}

  void run() const {
    if (a.layout == Layout::channels_last) return run_channels_last();
    // A plane is one piece of work where there are enough of them: its second reading is from cache.
    const std::int64_t planes = a.batch * a.channels;
    if (a.statistics != Statistics::layer && (segments.count == 1 || planes >= 4 * a.threads)) {
      for_each(parallel_for, planes, pixels, [&](std::int64_t plane) {
        const std::int64_t n = plane / a.channels, c = plane % a.channels;
        if (a.statistics == Statistics::instance) {
          Moments moments = {0.0, 0.0};
          for (std::int64_t s = 0; s < segments.count; ++s) moments = add(moments, s, segment_moments(n, c, s));
          set_statistics(plane, moments, pixels);
        }
        apply_rows(n, c, 0, a.height);
      });
      return;
    }
    for (std::int64_t n = 0; n < a.batch; ++n) {
      const std::int64_t pieces = a.channels * segments.count;
      const std::int64_t work = segments.rows * a.width;
      if (a.statistics != Statistics::none) {
        for_each(parallel_for, pieces, work, [&](std::int64_t piece) {
          const Moments moments = segment_moments(n, piece / segments.count, piece % segments.count);
          means[piece] = moments.mean;
          squares[piece] = moments.squares;
        });
        combine_segments(n, [&](std::int64_t c, std::int64_t s) { return c * segments.count + s; });
      }
      for_each(parallel_for, pieces, work, [&](std::int64_t piece) {
        const std::int64_t s = piece % segments.count;
        apply_rows(n, piece / segments.count, segments.begin(s), segments.end(s));
      });
    }
  }

 private:
  void run_channels_last() const {
    for (std::int64_t n = 0; n < a.batch; ++n) {
      if (a.statistics != Statistics::none) {
        for_each(parallel_for, segments.count, segments.rows * a.width * a.channels,
                 [&](std::int64_t s) { column_segment_moments(n, s); });
        combine_segments(n, [&](std::int64_t c, std::int64_t s) { return s * a.channels + c; });
      }
      for (std::int64_t c = 0; c < a.channels; ++c) {
        const Affine<Lane> affine = affine_of<Lane>(a, n, c);
        centers[c] = affine.center;
        scales[c] = affine.scale;
        shifts[c] = affine.shift;
      }
      for_each(parallel_for, a.height, a.width * a.channels, [&](std::int64_t y) { apply_pixel_row(n, y); });
    }
  }

  // The moments of segment s of a plane. With phases it is the same share of the plane's four phases, which lie in turn.
  Moments segment_moments(std::int64_t n, std::int64_t c, std::int64_t s) const {
    const Storage* plane = x + (n * a.channels + c) * pixels;
    const std::int64_t begin = segments.begin(s) * a.width, end = segments.end(s) * a.width;
    return contiguous_moments(plane + begin, end - begin);
  }

  // The moments of segment s of all channels in channels_last.
  void column_segment_moments(std::int64_t n, std::int64_t s) const {
    double* to_means = means + s * a.channels;
    double* to_squares = squares + s * a.channels;
    if (!a.phases) {
      const std::int64_t begin = segments.begin(s) * a.width, end = segments.end(s) * a.width;
      column_moments(x + (n * pixels + begin) * a.channels, end - begin, a.channels, a.channels, to_means, to_squares);
      return;
    }
    // Two rows of y are one row of x, whose channels are four times as many.
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

  // Adds the moments of segment s to those of the segments before it.
  Moments add(Moments all, std::int64_t s, Moments segment) const {
    return combine(all, segments.begin(s) * a.width, segment, (segments.end(s) - segments.begin(s)) * a.width);
  }

  // Sets the statistics of sample n from the moments of its segments; at(c, s) is where those of segment s of channel c lie.
  template <class At>
  void combine_segments(std::int64_t n, const At& at) const {
    Moments sample = {0.0, 0.0};
    for (std::int64_t c = 0; c < a.channels; ++c) {
      Moments plane = {0.0, 0.0};
      for (std::int64_t s = 0; s < segments.count; ++s) plane = add(plane, s, {means[at(c, s)], squares[at(c, s)]});
      if (a.statistics == Statistics::instance) set_statistics(n * a.channels + c, plane, pixels);
      sample = combine(sample, c * pixels, plane, pixels);
    }
    if (a.statistics == Statistics::layer) set_statistics(n, sample, a.channels * pixels);
  }

  void set_statistics(std::int64_t group, Moments moments, std::int64_t count) const {
    a.mean[group] = moments.mean;
    a.rstd[group] = a.statistics == Statistics::instance
                        ? 1.0 / std::sqrt(moments.squares / static_cast<double>(count) + a.eps)
                        : 1.0 / (std::sqrt(moments.squares / static_cast<double>(count - 1)) + a.eps);
  }

  // Writes rows begin to end of a plane, and the pad that follows from them.
  void apply_rows(std::int64_t n, std::int64_t c, std::int64_t begin, std::int64_t end) const {
    const Affine<Lane> affine = affine_of<Lane>(a, n, c);
    const Storage* from = x + (n * a.channels + c) * pixels;
    Storage* to = padded + (n * a.channels + c) * padded_pixels;
    with_activation(a.activation, [&](auto activation) {
      const bool dense_residual = a.residual.data == nullptr || a.residual.row_stride == a.width;
      if (a.pad == 0 && !a.phases && dense_residual) {
        apply_row<activation>(from + begin * a.width, row_of<Storage>(a.residual, n, c, begin), to + begin * a.width,
                              (end - begin) * a.width, affine, slope);
        return;
      }
      const PadColumns columns(a.width, a.pad, a.pad_mode);
      Storage* shuffled = a.phases ? scratch<0, Storage>(a.width) : nullptr;
      for (std::int64_t y = begin; y < end; ++y) {
        if (a.phases) shuffle_row(from, y, a.height, a.width, shuffled);
        Storage* row = to + (y + a.pad) * padded_width;
        apply_row<activation>(a.phases ? shuffled : from + y * a.width, row_of<Storage>(a.residual, n, c, y), row + a.pad,
                              a.width, affine, slope);
        columns.fill(row);
        pad_rows(to, y, a.height, padded_width, a.pad, a.pad_mode);
      }
    });
  }

  // The same for one row of all channels in channels_last.
  void apply_pixel_row(std::int64_t n, std::int64_t y) const {
    const Storage* from = x + n * pixels * a.channels;
    if (a.phases) {
      Storage* shuffled = scratch<0, Storage>(a.width * a.channels);
      shuffle_pixels(from, y, a.width, a.channels, shuffled);
      from = shuffled;
    } else {
      from += y * a.width * a.channels;
    }
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
  const ParallelFor parallel_for;
  const RowSegments segments;
  const std::int64_t pixels, padded_width, padded_pixels;
  const Storage* const x;
  Storage* const padded;
  const Lane slope;
  // The moments of the segments of one sample, and the affine maps of its channels in channels_last.
  double* const means;
  double* const squares;
  Lane* const centers;
  Lane* const scales;
  Lane* const shifts;
};

}  // namespace

void fused_norm(const FusedNorm& arguments, ParallelFor parallel_for) {
  with_storage(arguments.dtype, [&](auto type) { Forward<decltype(type)>(arguments, parallel_for).run(); });
}

}  // namespace fastmunit::cpu::FASTMUNIT_ISA
