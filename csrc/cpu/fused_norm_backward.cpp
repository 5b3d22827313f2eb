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

// Sums in lanes, moved to double often enough to keep the digits.
template <class Lane>
class LaneSums {
 public:
  static constexpr int ways = 2;
  Vector<Lane> dz[ways] = {};
  Vector<Lane> product[ways] = {};

  void added(std::int64_t values) {
    pending += values;
    if (pending >= block_values) flush();
  }
  Sums total() {
    flush();
    return all;
  }

 private:
  void flush() {
    all.dz += sum<Lane>(dz[0] + dz[1]);
    all.product += sum<Lane>(product[0] + product[1]);
    for (int k = 0; k < ways; ++k) dz[k] = product[k] = Vector<Lane>{};
    pending = 0;
  }

  std::int64_t pending = 0;
  Sums all;
};

// `count` values of one plane.
template <Activation activation, Pass pass, bool uses_x, class Gradient, class Storage>
void backward_row(const Storage* x, const Gradient* dy, Storage* dx, std::int64_t count, Affine<Compute<Storage>> affine,
                  Line<Compute<Storage>> line, Compute<Storage> negative_slope, LaneSums<Compute<Storage>>& sums) {
  using Lane = Compute<Storage>;
  using V = Vector<Lane>;
  constexpr int step = lanes<Lane>;
  const V center = broadcast(affine.center), scale = broadcast(affine.scale), shift = broadcast(affine.shift);
  const V gain = broadcast(line.gain), incline = broadcast(line.slope), constant = broadcast(line.constant);
  const V slope = broadcast(negative_slope);
  const auto at = [&](V from, V gradient, int way, int kept) {
    const V deviation = from - center;
    const V dz = activation_gradient<activation>(gradient, deviation * scale + shift, slope);
    if constexpr (sums_up(pass)) {
      const V product = dz * deviation;
      sums.dz[way] += dz;  // zeros where nothing was read
      sums.product[way] += kept == step ? product : keep_first<Lane>(product, kept);
    }
    if constexpr (uses_x) return gain * dz + (incline * deviation + constant);
    return gain * dz;
  };
  std::int64_t i = 0;
  for (; i + 2 * step <= count; i += 2 * step) {
    const V first = at(load(x + i), load(dy + i), 0, step);
    const V second = at(load(x + i + step), load(dy + i + step), 1, step);
    if constexpr (applies(pass)) {
      store(dx + i, first);
      store(dx + i + step, second);
    }
  }
  for (; i + step <= count; i += step) {
    const V value = at(load(x + i), load(dy + i), 0, step);
    if constexpr (applies(pass)) store(dx + i, value);
  }
  const int rest = static_cast<int>(count - i);
  if (rest != 0) {
    const V value = at(load_first(x + i, rest), load_first(dy + i, rest), 1, rest);
    if constexpr (applies(pass)) store_first(dx + i, value, rest);
  }
}

// The rows of dpadded and dinterior that make up the gradient of one row of y in channels_last, and that row of x.
template <class Storage>
struct PixelRow {
  const Storage* x;
  Storage* dx;
  Storage* dresidual;  // null where it is not wanted
  int count;                                 // of rows of dpadded; 0 without it
  const Storage* dpadded[2 * max_pad + 1];   // at the left edge of the pad
  std::int64_t dpadded_stride;
  const Storage* dinterior;  // null without it
  std::int64_t dinterior_stride;
  std::int64_t width, channels;
  int pad;
  PadMode pad_mode;
};

// One row of pixels, for `vectors` vectors of channels from channel c on; `last` lanes of the last one count.
template <Activation activation, Pass pass, bool uses_x, int vectors, class Storage>
void backward_pixels(const PixelRow<Storage>& row, std::int64_t c, int last, const Compute<Storage>* affines,
                     const Compute<Storage>* lines, Compute<Storage> negative_slope, double* sums_dz,
                     double* sums_product) {
  using Lane = Compute<Storage>;
  using V = Vector<Lane>;
  constexpr int step = lanes<Lane>;
  const bool whole = last == step;
  const auto read = [&](const auto* from, int k) {
    return k == vectors - 1 && !whole ? load_first(from + k * step, last) : load(from + k * step);
  };
  const auto write = [&](Storage* to, int k, V value) {
    if (k == vectors - 1 && !whole) {
      store_first(to + k * step, value, last);
    } else {
      store(to + k * step, value);
    }
  };
  V center[vectors], scale[vectors], shift[vectors], gain[vectors], incline[vectors], constant[vectors];
  V sum_dz[vectors] = {}, sum_product[vectors] = {};
  const V slope = broadcast(negative_slope);
  for (int k = 0; k < vectors; ++k) {
    center[k] = read(affines + c, k);
    scale[k] = read(affines + row.channels + c, k);
    shift[k] = read(affines + 2 * row.channels + c, k);
    if constexpr (applies(pass)) {
      gain[k] = read(lines + c, k);
      incline[k] = read(lines + row.channels + c, k);
      constant[k] = read(lines + 2 * row.channels + c, k);
    }
  }
  const auto pixel = [&](std::int64_t j, const auto& gradient) {
    const std::int64_t at = j * row.channels + c;
    for (int k = 0; k < vectors; ++k) {
      const V dy = gradient(k);
      const V deviation = read(row.x + at, k) - center[k];
      const V dz = activation_gradient<activation>(dy, deviation * scale[k] + shift[k], slope);
      if constexpr (sums_up(pass)) {
        sum_dz[k] += dz;
        sum_product[k] += dz * deviation;
      }
      if constexpr (applies(pass)) {
        write(row.dx + at, k, uses_x ? gain[k] * dz + (incline[k] * deviation + constant[k]) : gain[k] * dz);
        if (row.dresidual != nullptr) write(row.dresidual + at, k, dy);
      }
    }
  };
  const auto inner = [&](std::int64_t j) { return row.dinterior + j * row.dinterior_stride + c; };
  const auto outer = [&](int r, std::int64_t j) { return row.dpadded[r] + j * row.dpadded_stride + c; };
  // A pixel that pad pixels copy, or in a row that pad rows copy: the sum of all that shows it.
  const auto any_pixel = [&](std::int64_t j) {
    V total[vectors] = {};
    if (row.dinterior != nullptr) {
      for (int k = 0; k < vectors; ++k) total[k] = read(inner(j), k);
    }
    const PadTargets targets = pad_targets(j, row.width, row.pad, row.pad_mode);
    for (int r = 0; r < row.count; ++r) {
      for (int i = 0; i < targets.count; ++i) {
        for (int k = 0; k < vectors; ++k) total[k] += read(outer(r, targets.at[i]), k);
      }
    }
    pixel(j, [&](int k) { return total[k]; });
  };
  // The pixels from `begin` to `end` are copied by no pad column.
  const std::int64_t begin = row.count == 1 ? smaller(row.pad + 1, row.width) : row.width;
  const std::int64_t end = row.width - 1 - row.pad;
  std::int64_t j = 0;
  for (; j < begin; ++j) any_pixel(j);
  if (row.dinterior == nullptr) {
    for (; j < end; ++j) pixel(j, [&](int k) { return read(outer(0, j + row.pad), k); });
  } else {
    for (; j < end; ++j) pixel(j, [&](int k) { return read(outer(0, j + row.pad), k) + read(inner(j), k); });
  }
  for (; j < row.width; ++j) any_pixel(j);

  if constexpr (sums_up(pass)) {
    for (int k = 0; k < vectors; ++k) {
      const int count = k == vectors - 1 ? last : step;
      for (int lane = 0; lane < count; ++lane) {
        sums_dz[c + k * step + lane] += sum_dz[k][lane];
        sums_product[c + k * step + lane] += sum_product[k][lane];
      }
    }
  }
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
        slope(static_cast<Lane>(a.negative_slope)),
        all_dz(a.workspace),
        all_product(all_dz + a.batch * a.channels),
        partial_dz(all_product + a.batch * a.channels),
        partial_product(partial_dz + a.channels * segments.count),
        affines(reinterpret_cast<Lane*>(partial_product + a.channels * segments.count)),
        lines(affines + 3 * a.channels) {}

  void run() const {
    with_activation(a.activation, [&](auto activation) {
      if (a.layout == Layout::channels_last) {
        run_channels_last<activation>();
      } else {
        run_nchw<activation>();
      }
    });
    write_coefficients(a.dbias, all_dz);
    write_coefficients(a.dweight, all_product);
  }

 private:
  template <Activation activation>
  void run_nchw() const {
    const std::int64_t planes = a.batch * a.channels;
    if (a.statistics != Statistics::layer && (segments.count == 1 || planes >= 4 * a.threads)) {
      for_each(parallel_for, planes, pixels, [&](std::int64_t plane) {
        const std::int64_t n = plane / a.channels, c = plane % a.channels;
        Sums sums;
        for (std::int64_t s = 0; s < segments.count; ++s) add(sums, first_pass<activation>(n, c, s));
        set_sums(n, c, sums);
        if (a.statistics == Statistics::none) return;
        const Line<Lane> line = instance_line(n, c, sums);
        for (std::int64_t s = 0; s < segments.count; ++s) rows<activation, Pass::apply, true>(n, c, s, line);
      });
      return;
    }
    const std::int64_t pieces = a.channels * segments.count;
    const std::int64_t work = segments.rows * a.width;
    for (std::int64_t n = 0; n < a.batch; ++n) {
      for_each(parallel_for, pieces, work, [&](std::int64_t piece) {
        const Sums sums = first_pass<activation>(n, piece / segments.count, piece % segments.count);
        partial_dz[piece] = sums.dz;
        partial_product[piece] = sums.product;
      });
      combine_segments(n, [&](std::int64_t c, std::int64_t s) { return c * segments.count + s; });
      if (a.statistics == Statistics::none) continue;
      for_each(parallel_for, pieces, work, [&](std::int64_t piece) {
        const std::int64_t c = piece / segments.count;
        const Line<Lane> line = {lines[c], lines[a.channels + c], lines[2 * a.channels + c]};
        rows<activation, Pass::apply, true>(n, c, piece % segments.count, line);
      });
    }
  }

  // The sums over a segment of a plane; without statistics also its dx.
  template <Activation activation>
  Sums first_pass(std::int64_t n, std::int64_t c, std::int64_t s) const {
    if (a.statistics != Statistics::none) return rows<activation, Pass::sums, true>(n, c, s, {});
    const Lane weight = static_cast<Lane>(coefficient(a.weight, n, c, 1.0));
    return rows<activation, Pass::sums_and_apply, false>(n, c, s, {weight, 0, 0});
  }

  // One pass over the rows of a segment of a plane.
  template <Activation activation, Pass pass, bool uses_x>
  Sums rows(std::int64_t n, std::int64_t c, std::int64_t s, Line<Lane> line) const {
    const Affine<Lane> affine = affine_of<Lane>(a, n, c);
    const std::int64_t begin = segments.begin(s), end = segments.end(s);
    const Storage* plane = x + (n * a.channels + c) * pixels;
    Storage* to = dx + (n * a.channels + c) * pixels;
    LaneSums<Lane> sums;
    const bool one_source = (a.dpadded.data == nullptr) != (a.dinterior.data == nullptr);
    const StridedMap& source = a.dpadded.data == nullptr ? a.dinterior : a.dpadded;
    // One gradient without pad is read as it lies.
    if (one_source && (a.pad == 0 || a.dpadded.data == nullptr) && !a.phases && dresidual == nullptr) {
      for (std::int64_t y = begin; y < end; ++y) {
        backward_row<activation, pass, uses_x>(plane + y * a.width, row_of<Storage>(source, n, c, y), to + y * a.width,
                                               a.width, affine, line, slope, sums);
        sums.added(a.width);
      }
      return sums.total();
    }
    Lane* dy = scratch<1, Lane>(a.width);
    Storage* shuffled = a.phases ? scratch<2, Storage>(2 * a.width) : nullptr;
    Storage* shuffled_dx = shuffled + a.width;
    for (std::int64_t y = begin; y < end; ++y) {
      gather_row(n, c, y, dy);
      if (applies(pass) && dresidual != nullptr) {
        store_row(dy, dresidual + (n * a.channels + c) * pixels + y * a.width);
      }
      if (a.phases) shuffle_row(plane, y, a.height, a.width, shuffled);
      backward_row<activation, pass, uses_x>(a.phases ? shuffled : plane + y * a.width, dy,
                                             a.phases ? shuffled_dx : to + y * a.width, a.width, affine, line, slope, sums);
      if (applies(pass) && a.phases) unshuffle_row(shuffled_dx, y, a.height, a.width, to);
      sums.added(a.width);
    }
    return sums.total();
  }

  // The gradient of row y of a plane: what dpadded has for each pixel that shows it, and dinterior.
  void gather_row(std::int64_t n, std::int64_t c, std::int64_t y, Lane* dy) const {
    const Storage* inner = row_of<Storage>(a.dinterior, n, c, y);
    if (a.dpadded.data == nullptr) {
      combine_rows(dy, inner, [](auto, auto from) { return from; });
      return;
    }
    const PadTargets targets = pad_targets(y, a.height, a.pad, a.pad_mode);
    const Storage* outer = row_of<Storage>(a.dpadded, n, c, targets.at[0]);
    combine_rows(dy, outer + a.pad, [](auto, auto from) { return from; });
    for (int k = 1; k < targets.count; ++k) {
      combine_rows(dy, row_of<Storage>(a.dpadded, n, c, targets.at[k]) + a.pad, [](auto to, auto from) { return to + from; });
    }
    if (inner != nullptr) combine_rows(dy, inner, [](auto to, auto from) { return to + from; });
    if (a.pad_mode == PadMode::zero) return;
    for (int k = 0; k < targets.count; ++k) {
      const Storage* row = row_of<Storage>(a.dpadded, n, c, targets.at[k]);
      for (int i = 0; i < a.pad; ++i) {
        dy[pad_source(i - a.pad, a.width, a.pad_mode)] += load_first(row + i, 1)[0];
        dy[pad_source(a.width + i, a.width, a.pad_mode)] += load_first(row + a.width + a.pad + i, 1)[0];
      }
    }
  }

  // to = function(to, from) over one row.
  template <class Function>
  void combine_rows(Lane* to, const Storage* from, const Function& function) const {
    constexpr int step = lanes<Lane>;
    std::int64_t i = 0;
    for (; i + step <= a.width; i += step) store(to + i, function(load(to + i), load(from + i)));
    const int rest = static_cast<int>(a.width - i);
    if (rest != 0) store_first(to + i, function(load_first(to + i, rest), load_first(from + i, rest)), rest);
  }

  void store_row(const Lane* from, Storage* to) const {
    constexpr int step = lanes<Lane>;
    std::int64_t i = 0;
    for (; i + step <= a.width; i += step) store(to + i, load(from + i));
    const int rest = static_cast<int>(a.width - i);
    if (rest != 0) store_first(to + i, load_first(from + i, rest), rest);
  }

  template <Activation activation>
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
          if (a.statistics == Statistics::none) {
            pixel_row<activation, Pass::sums_and_apply, false>(n, y, dz, product);
          } else {
            pixel_row<activation, Pass::sums, true>(n, y, dz, product);
          }
        }
      });
      combine_segments(n, [&](std::int64_t c, std::int64_t s) { return s * a.channels + c; });
      if (a.statistics == Statistics::none) continue;
      for_each(parallel_for, a.height, a.width * a.channels, [&](std::int64_t y) {
        pixel_row<activation, Pass::apply, true>(n, y, nullptr, nullptr);
      });
    }
  }

  template <Activation activation, Pass pass, bool uses_x>
  void pixel_row(std::int64_t n, std::int64_t y, double* dz, double* product) const {
    constexpr int step = lanes<Lane>;
    const std::int64_t values = a.width * a.channels;
    PixelRow<Storage> row;
    row.x = x + n * pixels * a.channels;
    row.dx = dx + n * pixels * a.channels;
    Storage* const phases_of_dx = row.dx;
    if (a.phases) {
      Storage* shuffled = scratch<2, Storage>(2 * values);
      shuffle_pixels(row.x, y, a.width, a.channels, shuffled);
      row.x = shuffled;
      row.dx = shuffled + values;
    } else {
      row.x += y * values;
      row.dx += y * values;
    }
    row.dresidual = dresidual == nullptr ? nullptr : dresidual + (n * pixels + y * a.width) * a.channels;
    row.width = a.width;
    row.channels = a.channels;
    row.pad = a.pad;
    row.pad_mode = a.pad_mode;
    row.count = 0;
    row.dinterior = row_of<Storage>(a.dinterior, n, 0, y);
    row.dinterior_stride = a.dinterior.column_stride;
    row.dpadded_stride = a.dpadded.column_stride;
    if (a.dpadded.data != nullptr) {
      const PadTargets targets = pad_targets(y, a.height, a.pad, a.pad_mode);
      row.count = targets.count;
      for (int k = 0; k < targets.count; ++k) row.dpadded[k] = row_of<Storage>(a.dpadded, n, 0, targets.at[k]);
    } else {  // a map without pad
      row.count = 1;
      row.dpadded[0] = row.dinterior;
      row.dpadded_stride = row.dinterior_stride;
      row.dinterior = nullptr;
      row.pad = 0;
    }
    std::int64_t c = 0;
    constexpr int vectors = vector_bytes == 64 ? 4 : 1;
    for (; c + vectors * step <= a.channels; c += vectors * step) {
      backward_pixels<activation, pass, uses_x, vectors>(row, c, step, affines, lines, slope, dz, product);
    }
    for (; c < a.channels; c += step) {
      const int last = static_cast<int>(smaller(step, a.channels - c));
      backward_pixels<activation, pass, uses_x, 1>(row, c, last, affines, lines, slope, dz, product);
    }
    if (applies(pass) && a.phases) unshuffle_pixels(row.dx, y, a.width, a.channels, phases_of_dx);
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
  const Lane slope;
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
