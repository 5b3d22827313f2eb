// Vectors of the instruction set that this file is compiled for, based on the compiler's vector extensions. Lanes are
// float or double and are loaded from and stored to any storage type.
//
// The same source is compiled once per instruction set into one library. Everything here, and every template of a
// kernel, is therefore in an unnamed namespace: with external linkage, the linker would keep one copy for all
// instruction sets.
#pragma once

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/types.h"

namespace fastmunit::cpu {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class Lane, int bytes>
struct VectorOf {
  typedef Lane type __attribute__((vector_size(bytes)));
};

// Number of lanes of float or double in one register.
template <class Lane>
constexpr int lanes = vector_bytes / static_cast<int>(sizeof(Lane));
template <class Lane>
using Vector = typename VectorOf<Lane, vector_bytes>::type;

using Floats = Vector<float>;
using Words = Vector<std::uint32_t>;
using HalfWords = VectorOf<std::uint16_t, vector_bytes / 2>::type;

// The type that values of a storage type are computed in.
template <class Storage>
using Compute = std::conditional_t<std::is_same_v<Storage, double>, double, float>;

template <class To, class From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

template <class Lane>
inline Vector<Lane> broadcast(Lane value) {
  return value - Vector<Lane>{};  // unlike value + 0, keeps -0
}

// The compiler's own conversion between 16 and 32 bits splits the vector into halves (GCC 12).
inline Words words_of(HalfWords bits) {
#if defined(__AVX512F__)
  return (Words)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)bits);
#elif defined(__AVX2__)
  return (Words)_mm256_cvtepu16_epi32((__m128i)bits);
#else
  return __builtin_convertvector(bits, Words);
#endif
}

inline HalfWords half_words_of(Words words) {
#if defined(__AVX512F__)
  return (HalfWords)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)words);
#else
  return __builtin_convertvector(words, HalfWords);
#endif
}

inline Floats widen(HalfWords bits, bfloat16) { return bit_cast<Floats>(words_of(bits) << 16); }

#if defined(__AVX512BF16__)
// Flushes subnormal numbers to zero.
inline HalfWords narrow(Floats value, bfloat16) { return (HalfWords)_mm512_cvtneps_pbh((__m512)value); }
#else
inline HalfWords narrow(Floats value, bfloat16) {
  const Words bits = bit_cast<Words>(value);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  const Words nan = (bits >> 16) | 0x40u;
  return half_words_of((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}
#endif

#if defined(__AVX512F__)
// The masked forms with every lane enabled: GCC 12 warns about an uninitialized value inside the plain ones.
inline Floats widen(HalfWords bits, float16) { return (Floats)_mm512_maskz_cvtph_ps(0xffff, (__m256i)bits); }
inline HalfWords narrow(Floats value, float16) {
  return (HalfWords)_mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__F16C__)
inline Floats widen(HalfWords bits, float16) { return (Floats)_mm256_cvtph_ps((__m128i)bits); }
inline HalfWords narrow(Floats value, float16) {
  return (HalfWords)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
inline Floats widen(HalfWords bits, float16) {
  const Words half = __builtin_convertvector(bits, Words);
  const Words magnitude = (half & 0x7fffu) << 13;
  // Multiplying by 2^112 changes the exponent's bias from 15 to 127 and normalizes subnormals.
  const Floats scaled = bit_cast<Floats>(magnitude) * 0x1p112f;
  const Words finite = bit_cast<Words>(scaled);
  const Words special = magnitude | 0x7f800000u;  // infinities and NaN
  return bit_cast<Floats>((magnitude >= 0x0f800000u ? special : finite) | (half & 0x8000u) << 16);
}
inline HalfWords narrow(Floats value, float16) {
  const Words bits = bit_cast<Words>(value);
  const Words magnitude = bits & 0x7fffffffu;
  const Words normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5 leaves the ten bits of the subnormal, rounded, in the low bits of the sum.
  const Words subnormal = bit_cast<Words>(bit_cast<Floats>(magnitude) + 0.5f) - 0x3f000000u;
  const Words special = magnitude > 0x7f800000u ? (magnitude >> 13 & 0x3ffu) | 0x7e00u : Words{} + 0x7c00u;
  const Words half = magnitude < 0x38800000u ? subnormal : (magnitude < 0x477ff000u ? normal : special);
  return __builtin_convertvector(half | (bits >> 16 & 0x8000u), HalfWords);
}
#endif

// Loads lanes<Compute<Storage>> values.
template <class Storage>
inline Vector<Compute<Storage>> load(const Storage* from) {
  if constexpr (std::is_floating_point_v<Storage>) {
    Vector<Storage> value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  } else {
    HalfWords bits;
    std::memcpy(&bits, from, sizeof(bits));
    return widen(bits, Storage{});
  }
}

// Loads twice as many values into two vectors, in unspecified order.
template <class Storage>
inline void load_two(const Storage* from, Vector<Compute<Storage>>& first, Vector<Compute<Storage>>& second) {
  if constexpr (std::is_same_v<Storage, bfloat16>) {
    Words pairs;
    std::memcpy(&pairs, from, sizeof(pairs));
    first = bit_cast<Floats>(pairs << 16);
    second = bit_cast<Floats>(pairs & 0xffff0000u);
  } else {
    first = load(from);
    second = load(from + lanes<Compute<Storage>>);
  }
}

template <class Storage>
inline void store(Storage* to, Vector<Compute<Storage>> value) {
  if constexpr (std::is_floating_point_v<Storage>) {
    std::memcpy(to, &value, sizeof(value));
  } else {
    const HalfWords bits = narrow(value, Storage{});
    std::memcpy(to, &bits, sizeof(bits));
  }
}

#if defined(__AVX512F__)
template <class Storage>
inline auto first_lanes(int count) {
  using Mask = std::conditional_t<std::is_same_v<Storage, double>, __mmask8, __mmask16>;
  return static_cast<Mask>((1u << count) - 1u);
}
#endif

// Loads the first `count` values; the other lanes are zero.
template <class Storage>
inline Vector<Compute<Storage>> load_first(const Storage* from, int count) {
#if defined(__AVX512F__)
  const auto mask = first_lanes<Storage>(count);
  if constexpr (std::is_same_v<Storage, double>) {
    return (Vector<double>)_mm512_maskz_loadu_pd(mask, from);
  } else if constexpr (std::is_same_v<Storage, float>) {
    return (Floats)_mm512_maskz_loadu_ps(mask, from);
  } else {
    return widen((HalfWords)_mm256_maskz_loadu_epi16(mask, from), Storage{});
  }
#else
  Storage buffer[lanes<Compute<Storage>>] = {};
  std::memcpy(buffer, from, count * sizeof(Storage));
  return load(buffer);
#endif
}

template <class Storage>
inline void store_first(Storage* to, Vector<Compute<Storage>> value, int count) {
  if (count == lanes<Compute<Storage>>) return store(to, value);  // a masked store is slow on some processors
#if defined(__AVX512F__)
  const auto mask = first_lanes<Storage>(count);
  if constexpr (std::is_same_v<Storage, double>) {
    _mm512_mask_storeu_pd(to, mask, (__m512d)value);
  } else if constexpr (std::is_same_v<Storage, float>) {
    _mm512_mask_storeu_ps(to, mask, (__m512)value);
  } else {
    _mm256_mask_storeu_epi16(to, mask, (__m256i)narrow(value, Storage{}));
  }
#else
  Storage buffer[lanes<Compute<Storage>>];
  store(buffer, value);
  std::memcpy(to, buffer, count * sizeof(Storage));
#endif
}

// Loads one value as the type it is computed in.
template <class Storage>
inline Compute<Storage> load_one(const Storage* from) {
  if constexpr (std::is_same_v<Storage, bfloat16>) {
    return bit_cast<float>(static_cast<std::uint32_t>(from->bits) << 16);
  } else if constexpr (std::is_floating_point_v<Storage>) {
    return *from;
  } else {
    return load_first(from, 1)[0];
  }
}

// Returns the first `count` lanes of value; the other lanes are zero.
template <class Lane>
inline Vector<Lane> keep_first(Vector<Lane> value, int count) {
  Lane buffer[lanes<Lane>] = {};
  std::memcpy(buffer, &value, count * sizeof(Lane));
  return load(buffer);
}

// Returns a if a > b, else b, also if either is NaN.
template <class V>
inline V larger(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Vector<float>>) return (V)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
  if constexpr (std::is_same_v<V, Vector<double>>) return (V)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b);
#endif
  return a > b ? a : b;
}

// Returns the sum of all lanes, by repeated halving.
template <class Lane>
inline Lane sum(Vector<Lane> value) {
  Lane buffer[lanes<Lane>];
  std::memcpy(buffer, &value, sizeof(buffer));
  for (int half = lanes<Lane> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) buffer[i] += buffer[i + half];
  }
  return buffer[0];
}

}  // namespace
}  // namespace fastmunit::cpu
