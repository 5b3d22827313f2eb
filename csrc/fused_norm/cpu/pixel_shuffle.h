// Pixel shuffle of rows. Each channel is stored as four phases: pixel (2 i + a, 2 j + b) of channel c is pixel (i, j)
// of channel 4 c + 2 a + b, as in torch's pixel_shuffle.
#pragma once

#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

#include <cstdint>

namespace fastmunit::cpu {
namespace {

// Reads or writes row y = 2 i + a of a plane of height x width pixels, stored as four phases in NCHW.
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

// Number of channels that shuffle_channels and unshuffle_channels process at a time; 0 if there is no vectorized
// version.
#if defined(__AVX512BW__)
template <class Storage>
constexpr int shuffled_channels = sizeof(Storage) == 2 ? 16 : 0;
#else
template <class Storage>
constexpr int shuffled_channels = 0;
#endif

// Moves the interleaved phases of a pixel's channels to four pixels, and back.
template <class Storage>
inline void shuffle_channels([[maybe_unused]] const Storage* phases, [[maybe_unused]] Storage* const (&pixels)[4]) {
#if defined(__AVX512BW__)
  alignas(64) static constexpr std::uint16_t order[2][32] = {
      {0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61},
      {2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 42, 46, 50, 54, 58, 62, 3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 51, 55, 59, 63}};
  const __m512i low = _mm512_loadu_si512(phases), high = _mm512_loadu_si512(phases + 32);
  for (int k = 0; k < 2; ++k) {
    const __m512i two = _mm512_permutex2var_epi16(low, _mm512_load_si512(order[k]), high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pixels[2 * k]), _mm512_maskz_extracti64x4_epi64(0xff, two, 0));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pixels[2 * k + 1]), _mm512_maskz_extracti64x4_epi64(0xff, two, 1));
  }
#endif
}

template <class Storage>
inline void unshuffle_channels([[maybe_unused]] const Storage* const (&pixels)[4], [[maybe_unused]] Storage* phases) {
#if defined(__AVX512BW__)
  alignas(64) static constexpr std::uint16_t order[2][32] = {
      {0, 16, 32, 48, 1, 17, 33, 49, 2, 18, 34, 50, 3, 19, 35, 51, 4, 20, 36, 52, 5, 21, 37, 53, 6, 22, 38, 54, 7, 23, 39, 55},
      {8, 24, 40, 56, 9, 25, 41, 57, 10, 26, 42, 58, 11, 27, 43, 59, 12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63}};
  const auto two = [&](int k) {
    const auto load = [&](int at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pixels[at])); };
    return _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(load(k)), load(k + 1), 1);
  };
  const __m512i upper = two(0), lower = two(2);
  for (int k = 0; k < 2; ++k) {
    _mm512_storeu_si512(phases + 32 * k, _mm512_permutex2var_epi16(upper, _mm512_load_si512(order[k]), lower));
  }
#endif
}

// Reads or writes rows 2 i and 2 i + 1 of all channels of a sample, stored as row i of the phases in channels_last.
// Both rows are processed together, as their values are interleaved.
template <class Storage>
void shuffle_pixel_rows(const Storage* phases, std::int64_t i, std::int64_t width, std::int64_t channels, Storage* rows) {
  constexpr int step = shuffled_channels<Storage>;
  phases += i * (width / 2) * 4 * channels;
  for (std::int64_t j = 0; j < width / 2; ++j, phases += 4 * channels) {
    Storage* const upper = rows + 2 * j * channels;
    Storage* const lower = upper + width * channels;
    std::int64_t c = 0;
    if constexpr (step != 0) {
      for (; c + step <= channels; c += step) {
        shuffle_channels(phases + 4 * c, {upper + c, upper + channels + c, lower + c, lower + channels + c});
      }
    }
    for (; c < channels; ++c) {
      upper[c] = phases[4 * c];
      upper[channels + c] = phases[4 * c + 1];
      lower[c] = phases[4 * c + 2];
      lower[channels + c] = phases[4 * c + 3];
    }
  }
}

template <class Storage>
void unshuffle_pixel_rows(const Storage* rows, std::int64_t i, std::int64_t width, std::int64_t channels, Storage* phases) {
  constexpr int step = shuffled_channels<Storage>;
  phases += i * (width / 2) * 4 * channels;
  for (std::int64_t j = 0; j < width / 2; ++j, phases += 4 * channels) {
    const Storage* const upper = rows + 2 * j * channels;
    const Storage* const lower = upper + width * channels;
    std::int64_t c = 0;
    if constexpr (step != 0) {
      for (; c + step <= channels; c += step) {
        unshuffle_channels({upper + c, upper + channels + c, lower + c, lower + channels + c}, phases + 4 * c);
      }
    }
    for (; c < channels; ++c) {
      phases[4 * c] = upper[c];
      phases[4 * c + 1] = upper[channels + c];
      phases[4 * c + 2] = lower[c];
      phases[4 * c + 3] = lower[channels + c];
    }
  }
}

}  // namespace
}  // namespace fastmunit::cpu
