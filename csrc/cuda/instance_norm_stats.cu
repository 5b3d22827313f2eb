#include "fastmunit/instance_norm_stats.cuh"

#include "fastmunit/instance_norm_stats.h"
#include "fastmunit/launch.cuh"

namespace fastmunit::cuda {
namespace {

template <class Storage, Layout layout>
const char* forward(const InstanceNormStats& a, void* stream) {
  using Lane = Compute<Storage>;
  constexpr int together = layout == Layout::nchw ? 1 : columns;
  const std::int64_t planes = a.batch * a.channels;
  const std::int64_t segments = segments_of(layout, a.pixels);
  const std::int64_t blocks = a.batch * ((a.channels + together - 1) / together) * segments;
  if (blocks > INT32_MAX) return "x is too large for one launch";
  const char* error = launch(segment_moments<Storage, layout>, {static_cast<unsigned>(blocks), threads}, stream,
                             static_cast<const Storage*>(a.x), a.channels, a.pixels, planes, segments, a.partials);
  if (error != nullptr) return error;
  return launch(combine_segments<Lane>, {static_cast<unsigned>((planes + 127) / 128), 128}, stream, a.partials, planes,
                segments, segment_pixels(layout), a.pixels, a.eps, static_cast<Lane*>(a.mean), static_cast<Lane*>(a.rstd));
}

template <class Storage, Layout layout>
const char* backward(const InstanceNormStatsBackward& a, void* stream) {
  using Lane = Compute<Storage>;
  const std::int64_t values = a.batch * a.channels * a.pixels;
  const std::int64_t wanted = (values + threads - 1) / threads;
  const std::int64_t blocks = wanted < 65536 ? wanted : 65536;
  return launch(gradient<Storage, layout>, {static_cast<unsigned>(blocks), threads}, stream,
                static_cast<const Lane*>(a.dmean), static_cast<const Lane*>(a.drstd), static_cast<const Storage*>(a.x),
                static_cast<const Lane*>(a.mean), static_cast<const Lane*>(a.rstd), a.channels, a.pixels, values,
                static_cast<Storage*>(a.dx));
}

template <class Storage>
const char* forward(const InstanceNormStats& a, void* stream) {
  return a.layout == Layout::nchw ? forward<Storage, Layout::nchw>(a, stream)
                                  : forward<Storage, Layout::channels_last>(a, stream);
}

template <class Storage>
const char* backward(const InstanceNormStatsBackward& a, void* stream) {
  return a.layout == Layout::nchw ? backward<Storage, Layout::nchw>(a, stream)
                                  : backward<Storage, Layout::channels_last>(a, stream);
}

}  // namespace

std::int64_t instance_norm_stats_partials(const InstanceNormStats& a) {
  return 2 * a.batch * a.channels * segments_of(a.layout, a.pixels);
}

const char* instance_norm_stats(const InstanceNormStats& a, void* stream) {
  switch (a.dtype) {
    case DataType::float32:
      return forward<float>(a, stream);
    case DataType::float64:
      return forward<double>(a, stream);
    case DataType::bfloat16:
      return forward<__nv_bfloat16>(a, stream);
    case DataType::float16:
      return forward<__half>(a, stream);
  }
  return "unknown dtype";
}

const char* instance_norm_stats_backward(const InstanceNormStatsBackward& a, void* stream) {
  switch (a.dtype) {
    case DataType::float32:
      return backward<float>(a, stream);
    case DataType::float64:
      return backward<double>(a, stream);
    case DataType::bfloat16:
      return backward<__nv_bfloat16>(a, stream);
    case DataType::float16:
      return backward<__half>(a, stream);
  }
  return "unknown dtype";
}

}  // namespace fastmunit::cuda
