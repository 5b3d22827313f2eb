#include "fastmunit/fused_norm.h"

#include "block_moments.h"
#include "fused_norm_affine.h"
#include "fused_norm_segments.h"
#include "pad.h"
#include "phases.h"
#include "scratch.h"
#include "simd.h"

namespace fastmunit::cpu::FASTMUNIT_ISA {
namespace {

// What one reading of x and of the gradient computes: the sums over dz and dz * (x - center), dx from these sums, or, where dx
// needs none, both at once.
enum class Pass { sums, apply, sums_and_apply };

constexpr bool sums_up(Pass pass) { return pass != Pass::apply; }
constexpr bool applies(Pass pass) { return pass != Pass::sums; }

// dx = gain * dz + slope * (x - center) + constant.
template <class Lane>
struct Line {
  Lane gain, slope, constant;
};

// Σ dz and Σ dz * (x - center).
struct Sums {
  double dz = 0.0, product = 0.0;
};

// The gradient of rows of a plane: `sources` are the rows of dinterior and, where the map was padded, of dpadded that show the
// first one, each at its first pixel.
template <class Storage>
struct RowGradient {
  int count = 0;
  int padded = 0;  // the first ones have pad columns on both sides
  const Storage* sources[2 * max_pad + 2];
  std::int64_t strides[2 * max_pad + 2];  // to the next row
};

// The vectors that make up a row: those from column `begin` to `end` are whole, and no pad column shows them. The others are
// edges, each with what the pad columns show of its pixels.
template <class Lane>
class RowVectors {
 public:
  static constexpr int step = lanes<Lane>;

  RowVectors(std::int64_t width, int pad, PadMode mode) {
    const bool any = pad > 0 && mode != PadMode::zero;
    begin = any ? smaller((pad + step) / step * step, width) : 0;
    end = any ? (width - 1 - pad) / step * step : width / step * step;
    if (end < begin) end = begin;
    for (std::int64_t column = 0; column < width; column += step) {
      if (column >= begin && column < end) continue;
      Edge& edge = edges[count++];
      edge.column = column;
      edge.kept = static_cast<int>(smaller(step, width - column));
      if (column < begin) heads = count;
      if (!any) continue;
      const PadColumns columns(width, pad, mode);
      for (int k = 0; k < columns.count; ++k) {
        const std::int64_t lane = columns.from[k] - pad - column;
        if (lane < 0 || lane >= step) continue;
        edge.from[edge.shown] = columns.to[k] - pad;
        edge.lane[edge.shown][lane] = 1;
        ++edge.shown;
      }
    }
  }

  struct Edge {
    std::int64_t column;
    int kept;       // lanes
    int shown = 0;  // number of pad columns
    std::int64_t from[2 * max_pad];
    Vector<Lane> lane[2 * max_pad] = {};  // 1 at the lane that each shows

    // Adds what the pad columns of `row` show.
    template <class Storage>
    void add(const Storage* row, Vector<Lane>& to) const {
      for (int k = 0; k < shown; ++k) to = lane[k] != Vector<Lane>{} ? to + broadcast<Lane>(load_one(row + from[k])) : to;
    }
  };

  std::int64_t begin, end;
  int count = 0, heads = 0;  // edges, and those of them that come first
  Edge edges[2 * (max_pad + step) / step + 3];
};

// Rows of a plane that lie one behind the other in x, dx and dresidual, which may be null.
template <class Storage>
struct Rows {
  const Storage* x;
  RowGradient<Storage> gradient;
  Storage* dx;
  Storage* dresidual;
  std::int64_t count, width;
};

template <bool relu, Pass pass, class Storage>
[[gnu::noinline]] void backward_rows(Rows<Storage> rows, const RowVectors<Compute<Storage>>& vectors,
                                     const Affine<Compute<Storage>>& affine, const Line<Compute<Storage>>& line,
                                     Compute<Storage> negative_slope, Sums& sums) {
  using Lane = Compute<Storage>;
  using V = Vector<Lane>;
  constexpr int step = lanes<Lane>;
  const V center = broadcast(affine.center), scale = broadcast(affine.scale), shift = broadcast(affine.shift);
  const V gain = broadcast(line.gain), incline = broadcast(line.slope), constant = broadcast(line.constant);
  const V slope = broadcast(negative_slope);
  const std::int64_t width = rows.width;
  const RowGradient<Storage>& gradient = rows.gradient;
  const bool writes_residual = applies(pass) && rows.dresidual != nullptr;
  V sum_dz = {}, sum_product = {};
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const auto whole = [&](std::int64_t i) {
      V dy = load(gradient.sources[0] + i);
      for (int k = 1; k < gradient.count; ++k) dy += load(gradient.sources[k] + i);
      const V deviation = load(rows.x + i) - center;
      const V dz = activation_gradient<relu>(dy, deviation * scale + shift, slope);
      if constexpr (sums_up(pass)) {
        sum_dz += dz;
        sum_product += dz * deviation;
      }
      if constexpr (applies(pass)) {
        store(rows.dx + i, pass == Pass::apply ? gain * dz + (incline * deviation + constant) : gain * dz);
        if (writes_residual) store(rows.dresidual + i, dy);
      }
    };
    for (int e = 0; e <= vectors.count; ++e) {
      if (e == vectors.heads) {
        for (std::int64_t i = vectors.begin; i < vectors.end; i += step) whole(i);
      }
      if (e == vectors.count) break;
      const auto& edge = vectors.edges[e];
      const std::int64_t i = edge.column;
      const int kept = edge.kept;
      V dy = load_first(gradient.sources[0] + i, kept);
      for (int k = 1; k < gradient.count; ++k) dy += load_first(gradient.sources[k] + i, kept);
      for (int k = 0; k < gradient.padded; ++k) edge.add(gradient.sources[k], dy);
      const V deviation = load_first(rows.x + i, kept) - center;
      const V dz = activation_gradient<relu>(dy, deviation * scale + shift, slope);
      if constexpr (sums_up(pass)) {
        sum_dz += dz;  // zeros in the other lanes
        sum_product += kept == step ? dz * deviation : keep_first<Lane>(dz * deviation, kept);
      }
      if constexpr (applies(pass)) {
        store_first(rows.dx + i, pass == Pass::apply ? gain * dz + (incline * deviation + constant) : gain * dz, kept);
        if (writes_residual) store_first(rows.dresidual + i, dy, kept);
      }
    }
    rows.x += width;
    rows.dx += width;
    if (writes_residual) rows.dresidual += width;
    for (int k = 0; k < gradient.count; ++k) rows.gradient.sources[k] += gradient.strides[k];
  }
  if constexpr (sums_up(pass)) {
    sums.dz += sum<Lane>(sum_dz);
    sums.product += sum<Lane>(sum_product);
  }
}

// What a pass over pixels in channels_last needs to know of their channels. Each is an array over channels.
template <class Lane>
struct ChannelArrays {
  const Lane *centers, *scales, *shifts;        // Affine
  const Lane *gains, *slopes, *constants;       // Line
  Lane *sums_dz, *sums_product;
};

// `block` pixels of all channels. The gradient is that of `dy`, plus that of `second` where it is not null; dresidual may be
// null.
template <bool relu, Pass pass, int block, class Gradient, class Storage>
[[gnu::noinline]] void backward_pixels(const Storage* x, const Gradient* dy, std::int64_t dy_stride, const Storage* second,
                     std::int64_t second_stride, Storage* dx, Storage* dresidual, std::int64_t channels,
                     const ChannelArrays<Compute<Storage>>& arrays, Compute<Storage> negative_slope) {
  using Lane = Compute<Storage>;
  using V = Vector<Lane>;
  constexpr int step = lanes<Lane>;
  const V slope = broadcast(negative_slope);
  const auto vector = [&](std::int64_t c, const auto& read, const auto& write) {
    const V center = read(arrays.centers + c), scale = read(arrays.scales + c), shift = read(arrays.shifts + c);
    V gain = {}, incline = {}, constant = {};
    if constexpr (applies(pass)) gain = read(arrays.gains + c);
    if constexpr (pass == Pass::apply) {
      incline = read(arrays.slopes + c);
      constant = read(arrays.constants + c);
    }
    V sum_dz = {}, sum_product = {};
    for (int k = 0; k < block; ++k) {
      V gradient = read(dy + k * dy_stride + c);
      if (second != nullptr) gradient += read(second + k * second_stride + c);
      const V deviation = read(x + k * channels + c) - center;
      const V dz = activation_gradient<relu>(gradient, deviation * scale + shift, slope);
      if constexpr (sums_up(pass)) {
        sum_dz += dz;
        sum_product += dz * deviation;
      }
      if constexpr (applies(pass)) {
        write(dx + k * channels + c, pass == Pass::apply ? gain * dz + (incline * deviation + constant) : gain * dz);
        if (dresidual != nullptr) write(dresidual + k * channels + c, gradient);
      }
    }
    if constexpr (sums_up(pass)) {
      write(arrays.sums_dz + c, read(arrays.sums_dz + c) + sum_dz);
      write(arrays.sums_product + c, read(arrays.sums_product + c) + sum_product);
    }
  };
  std::int64_t c = 0;
  const auto read_whole = [](const auto* from) { return load(from); };
  const auto write_whole = [](auto* to, V value) { store(to, value); };
  for (; c + step <= channels; c += step) vector(c, read_whole, write_whole);
  const int rest = static_cast<int>(channels - c);
  if (rest == 0) return;
  vector(
      c, [&](const auto* from) { return load_first(from, rest); },
      [&](auto* to, V value) { store_first(to, value, rest); });
}

// Calls function with relu and pass as constants.
template <class Function>
auto with_variant(bool relu, Pass pass, const Function& function) {
  const auto with_pass = [&](auto constant) {
    switch (pass) {
      case Pass::sums:
        return function(constant, std::integral_constant<Pass, Pass::sums>{});
      case Pass::apply:
        return function(constant, std::integral_constant<Pass, Pass::apply>{});
      default:
        return function(constant, std::integral_constant<Pass, Pass::sums_and_apply>{});
    }
  };
  return relu ? with_pass(std::true_type{}) : with_pass(std::false_type{});
}

template <class Storage>
auto rows_function(bool relu, Pass pass) {
  return with_variant(relu, pass, [](auto relu, auto pass) { return &backward_rows<relu, pass, Storage>; });
}

template <int block, class Gradient, class Storage>
auto pixels_function(bool relu, Pass pass) {
  return with_variant(relu, pass,
                      [](auto relu, auto pass) { return &backward_pixels<relu, pass, block, Gradient, Storage>; });
}

template <class Storage>
class Backward {
 public:
  using Lane = Compute<Storage>;

  Backward(const FusedNormBackward& arguments, ParallelFor pool)
      : a(arguments),
        parallel_for(pool),
        segments(row_segments(a)),
        pixels(a.height * a.width),
        x(static_cast<const Storage*>(a.x)),
        dx(static_cast<Storage*>(a.dx)),
        dresidual(static_cast<Storage*>(a.dresidual)),
        slope(static_cast<Lane>(a.activation == Activation::none ? 1.0 : a.negative_slope)),
        relu(a.activation == Activation::relu),
        pad(a.dpadded.data == nullptr ? 0 : a.pad),
        vectors(a.width, pad, a.pad_mode),
        all_dz(a.workspace),
        all_product(all_dz + a.batch * a.channels),
        partial_dz(all_product + a.batch * a.channels),
        partial_product(partial_dz + a.channels * segments.count),
        affines(reinterpret_cast<Lane*>(partial_product + a.channels * segments.count)),
        lines(affines + 3 * a.channels) {}

  void run() const {
    if (a.layout == Layout::channels_last) {
      run_channels_last();
    } else {
      run_nchw();
    }
    write_coefficients(a.dbias, all_dz);
    write_coefficients(a.dweight, all_product);
  }

 private:
  void run_nchw() const {
    const std::int64_t planes = a.batch * a.channels;
    if (a.statistics != Statistics::layer && (segments.count == 1 || planes >= 4 * a.threads)) {
      for_each(parallel_for, planes, pixels, [&](std::int64_t plane) {
        const std::int64_t n = plane / a.channels, c = plane % a.channels;
        Sums sums;
        for (std::int64_t s = 0; s < segments.count; ++s) add(sums, first_pass(n, c, s));
        set_sums(n, c, sums);
        if (a.statistics == Statistics::none) return;
        const Line<Lane> line = instance_line(n, c, sums);
        for (std::int64_t s = 0; s < segments.count; ++s) rows(Pass::apply, n, c, s, line);
      });
      return;
    }
    const std::int64_t pieces = a.channels * segments.count;
    const std::int64_t work = segments.rows * a.width;
    for (std::int64_t n = 0; n < a.batch; ++n) {
      for_each(parallel_for, pieces, work, [&](std::int64_t piece) {
        const Sums sums = first_pass(n, piece / segments.count, piece % segments.count);
        partial_dz[piece] = sums.dz;
        partial_product[piece] = sums.product;
      });
      combine_segments(n, [&](std::int64_t c, std::int64_t s) { return c * segments.count + s; });
      if (a.statistics == Statistics::none) continue;
      for_each(parallel_for, pieces, work, [&](std::int64_t piece) {
        const std::int64_t c = piece / segments.count;
        const Line<Lane> line = {lines[c], lines[a.channels + c], lines[2 * a.channels + c]};
        rows(Pass::apply, n, c, piece % segments.count, line);
      });
    }
  }

  // The sums over a segment of a plane; without statistics also its dx.
  Sums first_pass(std::int64_t n, std::int64_t c, std::int64_t s) const {
    if (a.statistics != Statistics::none) return rows(Pass::sums, n, c, s, {});
    const Lane weight = static_cast<Lane>(coefficient(a.weight, n, c, 1.0));
    return rows(Pass::sums_and_apply, n, c, s, {weight, 0, 0});
  }

  // One pass over the rows of a segment of a plane.
  Sums rows(Pass pass, std::int64_t n, std::int64_t c, std::int64_t s, Line<Lane> line) const {
    const auto backward_rows = rows_function<Storage>(relu, pass);
    const Affine<Lane> affine = affine_of<Lane>(a, n, c);
    const std::int64_t begin = segments.begin(s), end = segments.end(s);
    const Storage* plane = x + (n * a.channels + c) * pixels;
    Storage* to = dx + (n * a.channels + c) * pixels;
    Storage* residual = dresidual == nullptr ? nullptr : dresidual + (n * a.channels + c) * pixels;
    const auto residual_at = [&](std::int64_t i) { return residual == nullptr ? nullptr : residual + i; };
    Sums sums;
    const auto is_dense = [&](const StridedMap& map) { return map.data == nullptr || map.row_stride == a.width; };
    if (pad == 0 && !a.phases && is_dense(a.dpadded) && is_dense(a.dinterior)) {
      // Rows that lie one behind the other are read as longer ones.
      RowGradient<Storage> gradient = row_gradient(n, c, begin);
      for (std::int64_t i = begin * a.width; i < end * a.width; i += block_values) {
        const std::int64_t count = smaller(block_values, end * a.width - i);
        backward_rows({plane + i, gradient, to + i, residual_at(i), 1, count},
                      RowVectors<Lane>(count, 0, a.pad_mode), affine, line, slope, sums);
        for (int k = 0; k < gradient.count; ++k) gradient.sources[k] += count;
      }
      return sums;
    }
    Storage* shuffled = a.phases ? scratch<2, Storage>(2 * a.width) : nullptr;
    const std::int64_t most = a.phases ? 1 : (a.width < block_values ? block_values / a.width : 1);
    for (std::int64_t y = begin; y < end;) {
      // Rows that no pad row shows go together.
      const std::int64_t rows = is_shown_once(y) ? smaller(most, (pad == 0 ? end : smaller(end, a.height - 1 - pad)) - y) : 1;
      const RowGradient<Storage> gradient = row_gradient(n, c, y);
      if (a.phases) {
        shuffle_row(plane, y, a.height, a.width, shuffled);
        backward_rows({shuffled, gradient, shuffled + a.width, residual_at(y * a.width), 1, a.width}, vectors, affine, line,
                      slope, sums);
        if (applies(pass)) unshuffle_row(shuffled + a.width, y, a.height, a.width, to);
      } else {
        backward_rows({plane + y * a.width, gradient, to + y * a.width, residual_at(y * a.width), rows, a.width}, vectors,
                      affine, line, slope, sums);
      }
      y += rows;
    }
    return sums;
  }

  bool is_shown_once(std::int64_t y) const { return pad == 0 || (y > pad && y < a.height - 1 - pad); }

  RowGradient<Storage> row_gradient(std::int64_t n, std::int64_t c, std::int64_t y) const {
    RowGradient<Storage> gradient;
    const auto add = [&](const StridedMap& map, std::int64_t row, std::int64_t column) {
      gradient.sources[gradient.count] = row_of<Storage>(map, n, c, row) + column * map.column_stride;
      gradient.strides[gradient.count] = map.row_stride;
      ++gradient.count;
    };
    if (a.dpadded.data != nullptr) {
      const PadTargets targets = pad_targets(y, a.height, pad, a.pad_mode);
      for (int k = 0; k < targets.count; ++k) add(a.dpadded, targets.at[k], pad);
      gradient.padded = targets.count;
    }
    if (a.dinterior.data != nullptr) add(a.dinterior, y, 0);
    return gradient;
  }

  void run_channels_last() const {
    const std::int64_t work = segments.rows * a.width * a.channels;
    for (std::int64_t n = 0; n < a.batch; ++n) {
      for (std::int64_t c = 0; c < a.channels; ++c) {
        const Affine<Lane> affine = affine_of<Lane>(a, n, c);
        affines[c] = affine.center;
        affines[a.channels + c] = affine.scale;
        affines[2 * a.channels + c] = affine.shift;
        if (a.statistics == Statistics::none) {
          set_line(c, {static_cast<Lane>(coefficient(a.weight, n, c, 1.0)), 0, 0});
        }
      }
      for_each(parallel_for, segments.count, work, [&](std::int64_t s) {
        double* dz = partial_dz + s * a.channels;
        double* product = partial_product + s * a.channels;
        for (std::int64_t c = 0; c < a.channels; ++c) dz[c] = product[c] = 0.0;
        for (std::int64_t y = segments.begin(s); y < segments.end(s); ++y) {
          Lane* sums = scratch<3, Lane>(2 * a.channels);
          for (std::int64_t c = 0; c < 2 * a.channels; ++c) sums[c] = 0;
          pixel_row(a.statistics == Statistics::none ? Pass::sums_and_apply : Pass::sums, n, y, sums);
          for (std::int64_t c = 0; c < a.channels; ++c) {
            dz[c] += sums[c];
            product[c] += sums[a.channels + c];
          }
        }
      });
      combine_segments(n, [&](std::int64_t c, std::int64_t s) { return s * a.channels + c; });
      if (a.statistics == Statistics::none) continue;
      for_each(parallel_for, a.height, a.width * a.channels,
               [&](std::int64_t y) { pixel_row(Pass::apply, n, y, nullptr); });
    }
  }

  // One row of pixels in channels_last; the sums over it are added to `sums`.
  void pixel_row(Pass pass, std::int64_t n, std::int64_t y, Lane* sums) const {
    constexpr int block = 4;
    const auto backward_pixel = pixels_function<1, Lane, Storage>(relu, pass);
    const auto backward_block = pixels_function<block, Storage, Storage>(relu, pass);
    const std::int64_t channels = a.channels;
    const std::int64_t values = a.width * channels;
    const Storage* from = x + n * pixels * channels;
    Storage* to = dx + n * pixels * channels;
    Storage* const phases_of_dx = to;
    if (a.phases) {
      Storage* shuffled = scratch<2, Storage>(2 * values);
      shuffle_pixels(from, y, a.width, channels, shuffled);
      from = shuffled;
      to = shuffled + values;
    } else {
      from += y * values;
      to += y * values;
    }
    Storage* residual = dresidual == nullptr ? nullptr : dresidual + (n * pixels + y * a.width) * channels;
    const ChannelArrays<Lane> arrays = {affines,          affines + channels,   affines + 2 * channels,
                                        lines,            lines + channels,     lines + 2 * channels,
                                        sums,             sums + channels};
    const RowGradient<Storage> gradient = row_gradient(n, 0, y);
    const std::int64_t outer_stride = a.dpadded.data == nullptr ? 0 : a.dpadded.column_stride;
    const Storage* const* sources = gradient.sources;
    const auto stride = [&](int k) { return k < gradient.padded ? outer_stride : a.dinterior.column_stride; };
    const auto at = [&](Storage* row, std::int64_t j) { return row == nullptr ? nullptr : row + j * channels; };
    // A pixel that several rows or columns of dpadded show.
    const auto any_pixel = [&](std::int64_t j) {
      Lane* dy = scratch<1, Lane>(channels);
      gather_pixel(sources, stride, gradient.count, gradient.padded, j, dy);
      backward_pixel(from + j * channels, dy, 0, nullptr, 0,
                                     to + j * channels, at(residual, j), channels, arrays, slope);
    };
    const bool shown_once = gradient.padded <= 1;
    const bool any_columns = pad > 0 && a.pad_mode != PadMode::zero;
    const std::int64_t begin = shown_once ? (any_columns ? smaller(pad + 1, a.width) : 0) : a.width;
    const std::int64_t end = any_columns ? a.width - 1 - pad : a.width;
    const Storage* second = gradient.count > 1 ? sources[1] : nullptr;
    std::int64_t j = 0;
    for (; j < begin; ++j) any_pixel(j);
    for (; j + block <= end; j += block) {
      backward_block(from + j * channels, sources[0] + j * stride(0), stride(0),
                                         second == nullptr ? nullptr : second + j * stride(1), stride(1),
                                         to + j * channels, at(residual, j), channels, arrays, slope);
    }
    for (; j < a.width; ++j) any_pixel(j);
    if (applies(pass) && a.phases) unshuffle_pixels(to, y, a.width, channels, phases_of_dx);
  }

  // The gradient of pixel j of a row in channels_last.
  template <class Stride>
  void gather_pixel(const Storage* const* sources, const Stride& stride, int count, int padded, std::int64_t j,
                    Lane* dy) const {
    constexpr int step = lanes<Lane>;
    const PadTargets targets = pad_targets(j, a.width, pad, a.pad_mode);
    for (std::int64_t c = 0; c < a.channels; c += step) {
      const int kept = static_cast<int>(smaller(step, a.channels - c));
      Vector<Lane> total = {};
      for (int k = 0; k < count; ++k) {
        if (k >= padded) {
          total += load_first(sources[k] + j * stride(k) + c, kept);
          continue;
        }
        for (int i = 0; i < targets.count; ++i) {
          total += load_first(sources[k] + (targets.at[i] - pad) * stride(k) + c, kept);
        }
      }
      store_first(dy + c, total, kept);
    }
  }

  static void add(Sums& all, Sums part) {
    all.dz += part.dz;
    all.product += part.product;
  }

  // Adds up the segments of sample n and sets the lines of its channels; at(c, s) is where segment s of channel c lies.
  template <class At>
  void combine_segments(std::int64_t n, const At& at) const {
    double weighted_dz = 0.0, weighted_product = 0.0;
    for (std::int64_t c = 0; c < a.channels; ++c) {
      Sums sums;
      for (std::int64_t s = 0; s < segments.count; ++s) add(sums, {partial_dz[at(c, s)], partial_product[at(c, s)]});
      set_sums(n, c, sums);
      if (a.statistics == Statistics::instance) set_line(c, instance_line(n, c, sums));
      if (a.statistics == Statistics::layer) {
        const double weight = coefficient(a.weight, n, c, 1.0);
        weighted_dz += weight * sums.dz;
        weighted_product += weight * (sums.product - rounding_of_mean(n) * sums.dz);
      }
    }
    if (a.statistics != Statistics::layer) return;
    // dx = rstd * (weight * dz - mean(weight * dz)) - (x - mean) * rstd^2 / ((M - 1) * std) * Σ weight * dz * (x - mean)
    // over the M values of the sample; where std is 0 it counts as a constant, as in torch.
    const double count = static_cast<double>(a.channels * pixels);
    const double rstd = a.rstd[n];
    const double std = 1.0 / rstd - a.eps;
    const double incline = std <= 1e-12 * a.eps ? 0.0 : -rstd * rstd * weighted_product / ((count - 1.0) * std);
    const double constant = -rstd * weighted_dz / count - incline * rounding_of_mean(n);
    for (std::int64_t c = 0; c < a.channels; ++c) {
      set_line(c, {static_cast<Lane>(rstd * coefficient(a.weight, n, c, 1.0)), static_cast<Lane>(incline),
                   static_cast<Lane>(constant)});
    }
  }

  // mean - center
  double rounding_of_mean(std::int64_t group) const {
    return a.mean[group] - static_cast<double>(static_cast<Lane>(a.mean[group]));
  }

  // dx = rstd * weight * (dz - mean(dz) - (x - mean) * rstd^2 * mean(dz * (x - mean)))
  Line<Lane> instance_line(std::int64_t n, std::int64_t c, Sums sums) const {
    const std::int64_t plane = n * a.channels + c;
    const double rstd = a.rstd[plane];
    const double gain = rstd * coefficient(a.weight, n, c, 1.0);
    const double count = static_cast<double>(pixels);
    const double incline = -gain * rstd * rstd * (sums.product - rounding_of_mean(plane) * sums.dz) / count;
    const double constant = -gain * sums.dz / count - incline * rounding_of_mean(plane);
    return {static_cast<Lane>(gain), static_cast<Lane>(incline), static_cast<Lane>(constant)};
  }

  void set_line(std::int64_t c, Line<Lane> line) const {
    lines[c] = line.gain;
    lines[a.channels + c] = line.slope;
    lines[2 * a.channels + c] = line.constant;
  }

  // Keeps dbias and dweight of a sample and channel: Σ dz and Σ dz * (x - mean) * rstd.
  void set_sums(std::int64_t n, std::int64_t c, Sums sums) const {
    const std::int64_t plane = n * a.channels + c;
    all_dz[plane] = sums.dz;
    if (a.statistics == Statistics::none) {
      all_product[plane] = sums.product;
    } else {
      const std::int64_t group = a.statistics == Statistics::instance ? plane : n;
      all_product[plane] = (sums.product - rounding_of_mean(group) * sums.dz) * a.rstd[group];
    }
  }

  void write_coefficients(const CoefficientsGradient& to, const double* of_planes) const {
    if (to.data == nullptr) return;
    with_storage(to.dtype, [&](auto type) {
      using Coefficient = decltype(type);
      Coefficient* data = static_cast<Coefficient*>(to.data);
      const auto write = [&](std::int64_t i, double value) {
        store_first(data + i, broadcast(static_cast<Compute<Coefficient>>(value)), 1);
      };
      for (std::int64_t c = 0; c < a.channels; ++c) {
        double total = 0.0;
        for (std::int64_t n = 0; n < a.batch; ++n) {
          total += of_planes[n * a.channels + c];
          if (to.of_each_sample) write(n * a.channels + c, of_planes[n * a.channels + c]);
        }
        if (!to.of_each_sample) write(c, total);
      }
    });
  }

  const FusedNormBackward& a;
  const ParallelFor parallel_for;
  const RowSegments segments;
  const std::int64_t pixels;
  const Storage* const x;
  Storage* const dx;
  Storage* const dresidual;
  const Lane slope;  // 1 where there is no activation
  const bool relu;
  const int pad;     // 0 where no gradient of a padded map came
  const RowVectors<Lane> vectors;
  // Of all planes, then of the segments of one sample.
  double* const all_dz;
  double* const all_product;
  double* const partial_dz;
  double* const partial_product;
  // The members of Affine and of Line, each for all channels of one sample.
  Lane* const affines;
  Lane* const lines;
};

}  // namespace

void fused_norm_backward(const FusedNormBackward& arguments, ParallelFor parallel_for) {
  with_storage(arguments.dtype, [&](auto type) { Backward<decltype(type)>(arguments, parallel_for).run(); });
}

}  // namespace fastmunit::cpu::FASTMUNIT_ISA
