#include "instance_norm_stats/kernels.cuh"

#include "cuda/launch.cuh"
#include "instance_norm_stats/instance_norm_stats.h"

namespace fastmunit::cuda {

using namespace stats;

namespace {

std::int64_t blocks_of(Layout layout, std::int64_t batch, std::int64_t channels, std::int64_t pixels) {
  const std::int64_t together = planes_of_block(layout);
  return batch * ((channels + together - 1) / together) * segments_of(layout, pixels);
}

// Returns true if `data` is aligned to 16 bytes and `count` values are a whole number of 16-byte chunks.
template <class Storage>
bool takes_chunks(const void* data, std::int64_t count) {
  constexpr std::int64_t values = 16 / sizeof(Storage);
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && count % values == 0;
}

template <class Storage>
auto segment_moments_of(const InstanceNormStats& a) {
  constexpr int chunk = 16 / sizeof(Storage);
  if (a.layout == Layout::channels_last) {
    return takes_chunks<Storage>(a.x, a.channels) ? segment_moments_channels_last<Storage, chunk>
                                                  : segment_moments_channels_last<Storage, 1>;
  }
  return takes_chunks<Storage>(a.x, a.pixels) ? segment_moments_nchw<Storage, chunk> : segment_moments_nchw<Storage, 1>;
}

template <class Storage>
const char* forward(const InstanceNormStats& a, void* stream) {
  using Lane = Compute<Storage>;
  const std::int64_t planes = a.batch * a.channels, segments = segments_of(a.layout, a.pixels);
  const std::int64_t blocks = blocks_of(a.layout, a.batch, a.channels, a.pixels);
  if (blocks > INT32_MAX) return "x is too large for one launch";
  const char* error = launch(segment_moments_of<Storage>(a), {static_cast<unsigned>(blocks), threads}, stream,
                             static_cast<const Storage*>(a.x), a.channels, a.pixels, planes, segments, a.partials);
  if (error != nullptr) return error;
  return launch(combine_segments<Lane>, {static_cast<unsigned>((planes + 127) / 128), 128}, stream, a.partials, planes,
                segments, segment_pixels(a.layout), a.pixels, a.eps, static_cast<Lane*>(a.mean), static_cast<Lane*>(a.rstd));
}

template <class Storage, Layout layout>
auto gradient_of(const InstanceNormStatsBackward& a) {
  const std::int64_t side_by_side = layout == Layout::nchw ? a.pixels : a.channels;
  return takes_chunks<Storage>(a.x, side_by_side) && takes_chunks<Storage>(a.dx, side_by_side)
             ? gradient<Storage, layout, 16 / sizeof(Storage)>
             : gradient<Storage, layout, 1>;
}

template <class Storage>
const char* backward(const InstanceNormStatsBackward& a, void* stream) {
  using Lane = Compute<Storage>;
  const std::int64_t blocks = blocks_of(a.layout, a.batch, a.channels, a.pixels);
  if (blocks > INT32_MAX) return "x is too large for one launch";
  const auto kernel = a.layout == Layout::nchw ? gradient_of<Storage, Layout::nchw>(a)
                                               : gradient_of<Storage, Layout::channels_last>(a);
  return launch(kernel, {static_cast<unsigned>(blocks), threads}, stream, static_cast<const Lane*>(a.dmean),
                static_cast<const Lane*>(a.drstd), static_cast<const Storage*>(a.x), static_cast<const Lane*>(a.mean),
                static_cast<const Lane*>(a.rstd), a.channels, a.pixels, segments_of(a.layout, a.pixels),
                static_cast<Storage*>(a.dx));
}

}  // namespace

std::int64_t instance_norm_stats_partials(const InstanceNormStats& a) {
  return 2 * a.batch * a.channels * segments_of(a.layout, a.pixels);
}

const char* instance_norm_stats(const InstanceNormStats& a, void* stream) {
  return with_storage<true>(a.dtype, [&](auto type) { return forward<decltype(type)>(a, stream); });
}

const char* instance_norm_stats_backward(const InstanceNormStatsBackward& a, void* stream) {
  return with_storage<true>(a.dtype, [&](auto type) { return backward<decltype(type)>(a, stream); });
}

}  // namespace fastmunit::cuda
