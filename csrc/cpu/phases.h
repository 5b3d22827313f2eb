// Rows of a map whose pixels lie in four phases: pixel (2 i + a, 2 j + b) of channel c is pixel (i, j) of channel
// 4 c + 2 a + b, as pixel shuffle reads it.
#pragma once

#include <cstdint>

namespace fastmunit::cpu {
namespace {

// Row y = 2 i + a of a plane of height x width pixels, from and to the plane's four phases in NCHW.
template <class Storage>
void shuffle_row(const Storage* phases, std::int64_t y, std::int64_t height, std::int64_t width, Storage* row) {
  const std::int64_t phase_width = width / 2;
  const std::int64_t phase_size = height / 2 * phase_width;
  const Storage* even = phases + y % 2 * 2 * phase_size + y / 2 * phase_width;
  const Storage* odd = even + phase_size;
  for (std::int64_t j = 0; j < phase_width; ++j) {
    row[2 * j] = even[j];
    row[2 * j + 1] = odd[j];
  }
}

template <class Storage>
void unshuffle_row(const Storage* row, std::int64_t y, std::int64_t height, std::int64_t width, Storage* phases) {
  const std::int64_t phase_width = width / 2;
  const std::int64_t phase_size = height / 2 * phase_width;
  Storage* even = phases + y % 2 * 2 * phase_size + y / 2 * phase_width;
  Storage* odd = even + phase_size;
  for (std::int64_t j = 0; j < phase_width; ++j) {
    even[j] = row[2 * j];
    odd[j] = row[2 * j + 1];
  }
}

// Row y of all planes of a sample, from and to its phases in channels_last.
template <class Storage>
void shuffle_pixels(const Storage* phases, std::int64_t y, std::int64_t width, std::int64_t channels, Storage* row) {
  const Storage* from = phases + y / 2 * (width / 2) * 4 * channels + y % 2 * 2;
  for (std::int64_t j = 0; j < width / 2; ++j, from += 4 * channels) {
    Storage* even = row + 2 * j * channels;
    Storage* odd = even + channels;
    for (std::int64_t c = 0; c < channels; ++c) {
      even[c] = from[4 * c];
      odd[c] = from[4 * c + 1];
    }
  }
}

template <class Storage>
void unshuffle_pixels(const Storage* row, std::int64_t y, std::int64_t width, std::int64_t channels, Storage* phases) {
  Storage* to = phases + y / 2 * (width / 2) * 4 * channels + y % 2 * 2;
  for (std::int64_t j = 0; j < width / 2; ++j, to += 4 * channels) {
    const Storage* even = row + 2 * j * channels;
    const Storage* odd = even + channels;
    for (std::int64_t c = 0; c < channels; ++c) {
      to[4 * c] = even[c];
      to[4 * c + 1] = odd[c];
    }
  }
}

}  // namespace
}  // namespace fastmunit::cpu
