#include "fused_norm/fused_norm.h"

#include "cpu/block_moments.h"
#include "cpu/scratch.h"
#include "cpu/simd.h"
#include "fused_norm/cpu/affine.h"
#include "fused_norm/cpu/pad.h"
#include "fused_norm/cpu/pixel_shuffle.h"
#include "fused_norm/cpu/segments.h"

namespace fastmunit::cpu::FASTMUNIT_ISA {
namespace {

// The results of one pass over x and the gradient: the sums of dz and dz * (x - center), dx from these sums, or both at
// once if dx does not depend on the sums.
enum class Pass { sums, apply, sums_and_apply };

constexpr bool computes_sums(Pass pass) { return pass != Pass::apply; }
constexpr bool applies(Pass pass) { return pass != Pass::sums; }

// Sums per lane, which are moved to double before they lose digits.
template <class Lane>
struct LaneSums {
  Vector<Lane> dz = {}, product = {};
  std::int64_t values = 0;

  void move_to(GradientSums& sums) {
    sums.dz += sum<Lane>(dz);
    sums.product += sum<Lane>(product);
    *this = {};
  }
};

// The gradient of rows of a plane. `sources` points to the first pixel of each row whose gradients add up to that of
// the first row: rows of dpadded (the row itself and its copies in the padding), then the row of dinterior.
template <class Storage>
struct RowGradient {
  int count = 0;
  int padded = 0;  // number of rows of dpadded, which have padding on both sides
  const Storage* sources[2 * max_pad + 2];
  std::int64_t strides[2 * max_pad + 2];  // distance to the next row
};

// The vectors of a row. The vectors in columns [begin, end) are complete, and the padding does not copy them. The
// others are edges, which store the columns of the padding that copy each of their pixels.
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
        edge.from[edge.copies] = columns.to[k] - pad;
        edge.lane[edge.copies][lane] = 1;
        ++edge.copies;
      }
    }
  }

  struct Edge {
    std::int64_t column;
    int kept;        // number of lanes
    int copies = 0;  // number of columns of the padding that copy its pixels
    std::int64_t from[2 * max_pad];
    Vector<Lane> lane[2 * max_pad] = {};  // 1 in the lane that the column copies

    // Adds the gradients in the padding of `row`.
    template <class Storage>
    void add(const Storage* row, Vector<Lane>& to) const {
      for (int k = 0; k < copies; ++k) to = lane[k] != Vector<Lane>{} ? to + broadcast<Lane>(load_one(row + from[k])) : to;
    }
  };

  std::int64_t begin, end;
  int count = 0, heads = 0;  // number of edges, and of those before column `begin`
  Edge edges[2 * (max_pad + step) / step + 3];
};

// Rows of a plane that are contiguous in x, dx and dresidual. dresidual may be null.
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
                                     const Affine<Compute<Storage>>& affine, const GradientCoefficients<Compute<Storage>>& coefficients,
                                     Compute<Storage> negative_slope, LaneSums<Compute<Storage>>& sums) {
  using Lane = Compute<Storage>;
  using V = Vector<Lane>;
  constexpr int step = lanes<Lane>;
  const V center = broadcast(affine.center), scale = broadcast(affine.scale), shift = broadcast(affine.shift);
  const V gain = broadcast(coefficients.gain), slope = broadcast(coefficients.slope), constant = broadcast(coefficients.constant);
  const V negative_slopes = broadcast(negative_slope);
  const std::int64_t width = rows.width;
  const RowGradient<Storage>& gradient = rows.gradient;
  const bool writes_residual = applies(pass) && rows.dresidual != nullptr;
  V sum_dz = sums.dz, sum_product = sums.product;
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const auto whole = [&](std::int64_t i) {
      V dy = load(gradient.sources[0] + i);
      for (int k = 1; k < gradient.count; ++k) dy += load(gradient.sources[k] + i);
      const V deviation = load(rows.x + i) - center;
      const V dz = activation_gradient<relu>(dy, deviation * scale + shift, negative_slopes);
      if constexpr (computes_sums(pass)) {
        sum_dz += dz;
        sum_product += dz * deviation;
      }
      if constexpr (applies(pass)) {
        store(rows.dx + i, pass == Pass::apply ? gain * dz + (slope * deviation + constant) : gain * dz);
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
      const V dz = activation_gradient<relu>(dy, deviation * scale + shift, negative_slopes);
      if constexpr (computes_sums(pass)) {
        sum_dz += dz;  // the other lanes are zero
        sum_product += kept == step ? dz * deviation : keep_first<Lane>(dz * deviation, kept);
      }
      if constexpr (applies(pass)) {
        store_first(rows.dx + i, pass == Pass::apply ? gain * dz + (slope * deviation + constant) : gain * dz, kept);
        if (writes_residual) store_first(rows.dresidual + i, dy, kept);
      }
    }
    rows.x += width;
    rows.dx += width;
    if (writes_residual) rows.dresidual += width;
    for (int k = 0; k < gradient.count; ++k) rows.gradient.sources[k] += gradient.strides[k];
  }
  sums.dz = sum_dz;
  sums.product = sum_product;
  sums.values += rows.count * width;
}

// The values per channel for a pass over pixels in channels_last.
template <class Lane>
struct ChannelArrays {
  Lane *centers, *scales, *shifts;   // Affine
  Lane *gains, *slopes, *constants;  // GradientCoefficients
  Lane *sums_dz, *sums_product;
};

// Processes `block` pixels of all channels. The gradient is dy, plus `second` if it is not null. dresidual may be null.
template <bool relu, Pass pass, int block, class Gradient, class Storage>
[[gnu::noinline]] void backward_pixels(const Storage* x, const Gradient* dy, std::int64_t dy_stride, const Storage* second,
                                       std::int64_t second_stride, Storage* dx, Storage* dresidual, std::int64_t channels,
                                       const ChannelArrays<Compute<Storage>>& arrays, Compute<Storage> negative_slope) {
  using Lane = Compute<Storage>;
  using V = Vector<Lane>;
  constexpr int step = lanes<Lane>;
  const V negative_slopes = broadcast(negative_slope);
  const auto vector = [&](std::int64_t c, const auto& read, const auto& write) {
    const V center = read(arrays.centers + c), scale = read(arrays.scales + c), shift = read(arrays.shifts + c);
    V gain = {}, slope = {}, constant = {};
    if constexpr (applies(pass)) gain = read(arrays.gains + c);
    if constexpr (pass == Pass::apply) {
      slope = read(arrays.slopes + c);
      constant = read(arrays.constants + c);
    }
    V sum_dz = {}, sum_product = {};
    for (int k = 0; k < block; ++k) {
      V gradient = read(dy + k * dy_stride + c);
      if (second != nullptr) gradient += read(second + k * second_stride + c);
      const V deviation = read(x + k * channels + c) - center;
      const V dz = activation_gradient<relu>(gradient, deviation * scale + shift, negative_slopes);
      if constexpr (computes_sums(pass)) {
        sum_dz += dz;
        sum_product += dz * deviation;
      }
      if constexpr (applies(pass)) {
        write(dx + k * channels + c, pass == Pass::apply ? gain * dz + (slope * deviation + constant) : gain * dz);
        if (dresidual != nullptr) write(dresidual + k * channels + c, gradient);
      }
    }
    if constexpr (computes_sums(pass)) {
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

// Calls function with relu and pass as compile-time constants.
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
        partial_dz(scratch<4, double>(2 * a.batch * a.channels * segments.count)),
        partial_product(partial_dz + a.batch * a.channels * segments.count) {}

  void run() const {
    const std::int64_t planes = a.batch * a.channels;
    if (a.layout == Layout::nchw && a.statistics != Statistics::layer &&
        (segments.count == 1 || planes >= 4 * a.threads)) {
      for_each(parallel_for, 0, planes, pixels, [&](std::int64_t plane) {
        const std::int64_t n = plane / a.channels, c = plane % a.channels;
        for (std::int64_t s = 0; s < segments.count; ++s) first_pass(n, c, s);
        if (a.statistics == Statistics::none) return;
        const GradientCoefficients<Lane> coefficients = coefficients_of(n, c, {});
        for (std::int64_t s = 0; s < segments.count; ++s) rows(Pass::apply, n, c, s, coefficients);
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
    write_parameter_gradients();
  }

 private:
  // Computes the sums of samples first to last, then their dx.
  void run_nchw(std::int64_t first, std::int64_t last) const {
    const std::int64_t pieces = a.channels * segments.count;
    const std::int64_t work = segments.rows * a.width;
    for_each(parallel_for, first * pieces, last * pieces, work, [&](std::int64_t piece) {
      const std::int64_t plane = piece / segments.count;
      first_pass(plane / a.channels, plane % a.channels, piece % segments.count);
    });
    if (a.statistics == Statistics::none) return;
    // Runs backward: the values that the first pass read last are still in cache.
    for_ranges(parallel_for, first * pieces, last * pieces, work, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t sample = -1;
      GradientSums layer;
      for (std::int64_t piece = end; piece-- > begin;) {
        const std::int64_t plane = piece / segments.count;
        const std::int64_t n = plane / a.channels, c = plane % a.channels;
        if (a.statistics == Statistics::layer && n != sample) layer = layer_sums(n);
        sample = n;
        rows(Pass::apply, n, c, piece % segments.count, coefficients_of(n, c, layer));
      }
    });
  }

  // Computes the sums of a segment of a plane. Without statistics, also writes its dx.
  void first_pass(std::int64_t n, std::int64_t c, std::int64_t s) const {
    const bool none = a.statistics == Statistics::none;
    const GradientSums sums =
        none ? rows(Pass::sums_and_apply, n, c, s, coefficients_of(n, c, {})) : rows(Pass::sums, n, c, s, {});
    partial_dz[partial(n, c, s)] = sums.dz;
    partial_product[partial(n, c, s)] = sums.product;
  }

  // Runs one pass over the rows of a segment of a plane and returns the sums.
  GradientSums rows(Pass pass, std::int64_t n, std::int64_t c, std::int64_t s, GradientCoefficients<Lane> coefficients) const {
    const auto backward_rows = rows_function<Storage>(relu, pass);
    const Affine<Lane> affine = affine_of<Lane>(a, n, c, saved_stats(n, c));
    const std::int64_t begin = segments.begin(s), end = segments.end(s);
    const Storage* plane = x + (n * a.channels + c) * pixels;
    Storage* to = dx + (n * a.channels + c) * pixels;
    Storage* residual = dresidual == nullptr ? nullptr : dresidual + (n * a.channels + c) * pixels;
    const auto residual_at = [&](std::int64_t i) { return residual == nullptr ? nullptr : residual + i; };
    GradientSums sums;
    LaneSums<Lane> lane_sums;
    const auto is_dense = [&](const StridedMap& map) { return map.data == nullptr || map.row_stride == a.width; };
    if (pad == 0 && !a.pixel_shuffle && is_dense(a.dpadded) && is_dense(a.dinterior)) {
      // Contiguous rows are processed as one long row.
      RowGradient<Storage> gradient = row_gradient(n, c, begin);
      for (std::int64_t i = begin * a.width; i < end * a.width; i += block_values) {
        const std::int64_t count = smaller(block_values, end * a.width - i);
        backward_rows({plane + i, gradient, to + i, residual_at(i), 1, count},
                      RowVectors<Lane>(count, 0, a.pad_mode), affine, coefficients, slope, lane_sums);
        lane_sums.move_to(sums);
        for (int k = 0; k < gradient.count; ++k) gradient.sources[k] += count;
      }
      return sums;
    }
    Storage* shuffled = a.pixel_shuffle ? scratch<2, Storage>(2 * a.width) : nullptr;
    const std::int64_t max_rows = a.pixel_shuffle ? 1 : (a.width < block_values ? block_values / a.width : 1);
    for (std::int64_t y = begin; y < end;) {
      // Rows that the padding does not copy are processed together.
      const std::int64_t last = pad == 0 ? end : smaller(end, a.height - 1 - pad);
      const std::int64_t rows = is_in_padding(y) ? 1 : smaller(max_rows, last - y);
      const RowGradient<Storage> gradient = row_gradient(n, c, y);
      if (a.pixel_shuffle) {
        shuffle_row(plane, y, a.height, a.width, shuffled);
        backward_rows({shuffled, gradient, shuffled + a.width, residual_at(y * a.width), 1, a.width}, vectors, affine,
                      coefficients, slope, lane_sums);
        if (applies(pass)) unshuffle_row(shuffled + a.width, y, a.height, a.width, to);
      } else {
        backward_rows({plane + y * a.width, gradient, to + y * a.width, residual_at(y * a.width), rows, a.width}, vectors,
                      affine, coefficients, slope, lane_sums);
      }
      y += rows;
      if (lane_sums.values >= block_values || y == end) lane_sums.move_to(sums);
    }
    return sums;
  }

  // Returns true if the padding may copy row y.
  bool is_in_padding(std::int64_t y) const { return pad > 0 && (y <= pad || y >= a.height - 1 - pad); }

  RowGradient<Storage> row_gradient(std::int64_t n, std::int64_t c, std::int64_t y) const {
    RowGradient<Storage> gradient;
    const auto add = [&](const StridedMap& map, std::int64_t row, std::int64_t column) {
      gradient.sources[gradient.count] = row_of<Storage>(map, n, c, row) + column * map.column_stride;
      gradient.strides[gradient.count] = map.row_stride;
      ++gradient.count;
    };
    if (a.dpadded.data != nullptr) {
      const PadTargets targets(static_cast<int>(y), static_cast<int>(a.height), pad, a.pad_mode);
      for (int k = 0; k < targets.count(); ++k) add(a.dpadded, targets[k] + pad, pad);
      gradient.padded = targets.count();
    }
    if (a.dinterior.data != nullptr) add(a.dinterior, y, 0);
    return gradient;
  }

  void run_channels_last(std::int64_t first, std::int64_t last) const {
    const bool none = a.statistics == Statistics::none;
    const std::int64_t work = a.width * a.channels;
    const std::int64_t rows = a.pixel_shuffle ? 2 : 1;  // with pixel shuffle, two rows of y are one row of x
    const std::int64_t turns = a.height / rows;
    const auto first_pass = [&](std::int64_t begin, std::int64_t end) {
      std::int64_t sample = -1;
      ChannelArrays<Lane> arrays = channel_arrays();
      for (std::int64_t piece = begin; piece < end; ++piece) {
        const std::int64_t n = piece / segments.count, s = piece % segments.count;
        if (n != sample) set_arrays(n, none, arrays);
        sample = n;
        double* dz = partial_dz + piece * a.channels;
        double* product = partial_product + piece * a.channels;
        for (std::int64_t c = 0; c < a.channels; ++c) dz[c] = product[c] = 0.0;
        for (std::int64_t y = segments.begin(s); y < segments.end(s); y += rows) {
          pixel_rows(none ? Pass::sums_and_apply : Pass::sums, n, y, rows, arrays, dz, product);
        }
      }
    };
    for_ranges(parallel_for, first * segments.count, last * segments.count, segments.rows * work, first_pass);
    if (none) return;
    // Runs backward: the values that the first pass read last are still in cache.
    for_ranges(parallel_for, first * turns, last * turns, rows * work, [&](std::int64_t begin, std::int64_t end) {
      std::int64_t sample = -1;
      ChannelArrays<Lane> arrays = channel_arrays();
      for (std::int64_t turn = end; turn-- > begin;) {
        const std::int64_t n = turn / turns;
        if (n != sample) set_arrays(n, true, arrays);
        sample = n;
        pixel_rows(Pass::apply, n, turn % turns * rows, rows, arrays, nullptr, nullptr);
      }
    });
  }

  // Returns the arrays of this thread, with undefined contents.
  ChannelArrays<Lane> channel_arrays() const {
    Lane* memory = scratch<3, Lane>(8 * a.channels);
    const auto next = [&](int k) { return memory + k * a.channels; };
    return {next(0), next(1), next(2), next(3), next(4), next(5), next(6), next(7)};
  }

  // Sets the arrays for sample n; the coefficients only if their sums are known.
  void set_arrays(std::int64_t n, bool sets_coefficients, const ChannelArrays<Lane>& arrays) const {
    const bool of_layer = sets_coefficients && a.statistics == Statistics::layer;
    const GradientSums layer = of_layer ? layer_sums(n) : GradientSums{};
    for (std::int64_t c = 0; c < a.channels; ++c) {
      const Affine<Lane> affine = affine_of<Lane>(a, n, c, saved_stats(n, c));
      arrays.centers[c] = affine.center;
      arrays.scales[c] = affine.scale;
      arrays.shifts[c] = affine.shift;
      if (!sets_coefficients) continue;
      const GradientCoefficients<Lane> coefficients = coefficients_of(n, c, layer);
      arrays.gains[c] = coefficients.gain;
      arrays.slopes[c] = coefficients.slope;
      arrays.constants[c] = coefficients.constant;
    }
  }

  // Runs one pass over `rows` rows in channels_last, starting at row y: two with pixel shuffle, else one. Adds the sums
  // to dz and product.
  void pixel_rows(Pass pass, std::int64_t n, std::int64_t y, std::int64_t rows, const ChannelArrays<Lane>& arrays, double* dz,
                  double* product) const {
    const std::int64_t values = a.width * a.channels;
    const Storage* from = x + n * pixels * a.channels;
    Storage* const phases_of_dx = dx + n * pixels * a.channels;
    Storage* to = phases_of_dx;
    if (a.pixel_shuffle) {
      Storage* shuffled = scratch<2, Storage>(4 * values);
      shuffle_pixel_rows(from, y / 2, a.width, a.channels, shuffled);
      from = shuffled;
      to = shuffled + 2 * values;
    } else {
      from += y * values;
      to += y * values;
    }
    for (std::int64_t k = 0; k < rows; ++k) {
      if (computes_sums(pass)) {
        for (std::int64_t c = 0; c < a.channels; ++c) arrays.sums_dz[c] = arrays.sums_product[c] = 0;
      }
      pixel_row(pass, from + k * values, to + k * values, n, y + k, arrays);
      if (!computes_sums(pass)) continue;
      for (std::int64_t c = 0; c < a.channels; ++c) {
        dz[c] += arrays.sums_dz[c];
        product[c] += arrays.sums_product[c];
      }
    }
    if (a.pixel_shuffle && applies(pass)) unshuffle_pixel_rows(to, y / 2, a.width, a.channels, phases_of_dx);
  }

  // Processes one row of pixels in channels_last, from x to dx. Adds the sums to those of `arrays`.
  void pixel_row(Pass pass, const Storage* from, Storage* to, std::int64_t n, std::int64_t y,
                 const ChannelArrays<Lane>& arrays) const {
    constexpr int block = 4;
    const auto backward_pixel = pixels_function<1, Lane, Storage>(relu, pass);
    const auto backward_block = pixels_function<block, Storage, Storage>(relu, pass);
    const std::int64_t channels = a.channels;
    Storage* residual = dresidual == nullptr ? nullptr : dresidual + (n * pixels + y * a.width) * channels;
    const RowGradient<Storage> gradient = row_gradient(n, 0, y);
    const std::int64_t outer_stride = a.dpadded.data == nullptr ? 0 : a.dpadded.column_stride;
    const Storage* const* sources = gradient.sources;
    const auto stride = [&](int k) { return k < gradient.padded ? outer_stride : a.dinterior.column_stride; };
    const auto at = [&](Storage* row, std::int64_t j) { return row == nullptr ? nullptr : row + j * channels; };
    // Processes a pixel that the padding may copy.
    const auto any_pixel = [&](std::int64_t j) {
      Lane* dy = scratch<1, Lane>(channels);
      gather_pixel(sources, stride, gradient.count, gradient.padded, j, dy);
      backward_pixel(from + j * channels, dy, 0, nullptr, 0, to + j * channels, at(residual, j), channels, arrays, slope);
    };
    const bool single_row = gradient.padded <= 1;
    const bool any_columns = pad > 0 && a.pad_mode != PadMode::zero;
    const std::int64_t begin = single_row ? (any_columns ? smaller(pad + 1, a.width) : 0) : a.width;
    const std::int64_t end = any_columns ? a.width - 1 - pad : a.width;
    const Storage* second = gradient.count > 1 ? sources[1] : nullptr;
    std::int64_t j = 0;
    for (; j < begin; ++j) any_pixel(j);
    for (; j + block <= end; j += block) {
      backward_block(from + j * channels, sources[0] + j * stride(0), stride(0),
                     second == nullptr ? nullptr : second + j * stride(1), stride(1), to + j * channels, at(residual, j), channels,
                     arrays, slope);
    }
    for (; j < a.width; ++j) any_pixel(j);
  }

  // Computes the gradient of pixel j of a row in channels_last.
  template <class Stride>
  void gather_pixel(const Storage* const* sources, const Stride& stride, int count, int padded, std::int64_t j,
                    Lane* dy) const {
    constexpr int step = lanes<Lane>;
    const PadTargets targets(static_cast<int>(j), static_cast<int>(a.width), pad, a.pad_mode);
    for (std::int64_t c = 0; c < a.channels; c += step) {
      const int kept = static_cast<int>(smaller(step, a.channels - c));
      Vector<Lane> total = {};
      for (int k = 0; k < count; ++k) {
        if (k >= padded) {
          total += load_first(sources[k] + j * stride(k) + c, kept);
          continue;
        }
        for (int i = 0; i < targets.count(); ++i) total += load_first(sources[k] + targets[i] * stride(k) + c, kept);
      }
      store_first(dy + c, total, kept);
    }
  }

  std::int64_t partial(std::int64_t n, std::int64_t c, std::int64_t s) const {
    return a.layout == Layout::nchw ? (n * a.channels + c) * segments.count + s : (n * segments.count + s) * a.channels + c;
  }

  // Returns the sums of a plane about the mean, from those of its segments.
  GradientSums plane_sums(std::int64_t n, std::int64_t c) const {
    GradientSums sums;
    for (std::int64_t s = 0; s < segments.count; ++s) {
      sums.dz += partial_dz[partial(n, c, s)];
      sums.product += partial_product[partial(n, c, s)];
    }
    return sums_about_mean<Lane>(saved_stats(n, c), sums);
  }

  NormStats saved_stats(std::int64_t n, std::int64_t c) const {
    if (a.statistics == Statistics::none) return {};
    const std::int64_t at = a.statistics == Statistics::instance ? n * a.channels + c : n;
    return {a.mean[at], a.rstd[at]};
  }

  // Returns the coefficients of channel c of sample n. For layer statistics, `layer` is layer_sums(n).
  GradientCoefficients<Lane> coefficients_of(std::int64_t n, std::int64_t c, GradientSums layer) const {
    const double weight = parameter_value(a.weight, n, c, 1.0);
    switch (a.statistics) {
      case Statistics::instance:
        return instance_coefficients<Lane>(saved_stats(n, c), weight, plane_sums(n, c), static_cast<double>(pixels));
      case Statistics::layer:
        return layer_coefficients<Lane>(saved_stats(n, c), weight, layer, static_cast<double>(a.channels * pixels), a.eps);
      default:
        return {static_cast<Lane>(weight), 0, 0};
    }
  }

  // Returns the weighted sums of a sample.
  GradientSums layer_sums(std::int64_t n) const {
    GradientSums weighted;
    for (std::int64_t c = 0; c < a.channels; ++c) {
      const GradientSums sums = plane_sums(n, c);
      const double weight = parameter_value(a.weight, n, c, 1.0);
      weighted.dz += weight * sums.dz;
      weighted.product += weight * sums.product;
    }
    return weighted;
  }

  // Writes dbias = Σ dz and dweight = Σ dz * (x - mean) * rstd, per sample or summed over samples.
  void write_parameter_gradients() const {
    if (a.dweight.data == nullptr && a.dbias.data == nullptr) return;
    for (std::int64_t c = 0; c < a.channels; ++c) {
      double dweight = 0.0, dbias = 0.0;
      for (std::int64_t n = 0; n < a.batch; ++n) {
        const GradientSums sums = plane_sums(n, c);
        const double sample_dweight = sums.product * saved_stats(n, c).rstd;
        dweight += sample_dweight;
        dbias += sums.dz;
        if (a.dweight.per_sample) write(a.dweight, n * a.channels + c, sample_dweight);
        if (a.dbias.per_sample) write(a.dbias, n * a.channels + c, sums.dz);
      }
      if (!a.dweight.per_sample) write(a.dweight, c, dweight);
      if (!a.dbias.per_sample) write(a.dbias, c, dbias);
    }
  }

  static void write(const ParameterGradient& to, std::int64_t at, double value) {
    if (to.data == nullptr) return;
    with_storage(to.dtype, [&](auto type) {
      using Parameter = decltype(type);
      store_first(static_cast<Parameter*>(to.data) + at, broadcast(static_cast<Compute<Parameter>>(value)), 1);
    });
  }

  const FusedNormBackward& a;
  const ParallelFor parallel_for;
  const RowSegments segments;
  const std::int64_t pixels;
  const Storage* const x;
  Storage* const dx;
  Storage* const dresidual;
  const Lane slope;  // negative slope; 1 without an activation
  const bool relu;
  const int pad;     // 0 if dpadded is absent
  const RowVectors<Lane> vectors;
  // Σ dz and Σ dz * (x - center) per segment: (batch, channels, segments); in channels_last, (batch, segments,
  // channels).
  double* const partial_dz;
  double* const partial_product;
};

}  // namespace

void fused_norm_backward(const FusedNormBackward& arguments, ParallelFor parallel_for) {
  with_storage_of_map(arguments.dtype, [&](auto type) { Backward<decltype(type)>(arguments, parallel_for).run(); });
}

}  // namespace fastmunit::cpu::FASTMUNIT_ISA
