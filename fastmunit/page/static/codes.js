// Style codes: random numbers from N(0, 1), or seeds of noise. All functions are pure except for random sources.

/** Return a source of uniform random numbers in [0, 1) with a 32-bit seed (mulberry32). */
export function uniform(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Return `count` numbers from N(0, 1), drawn with the Box-Muller transform. */
export function normal(count, random) {
  const values = new Float32Array(count);
  for (let index = 0; index < count; index += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    const angle = 2 * Math.PI * random();
    values[index] = radius * Math.cos(angle);
    if (index + 1 < count) values[index + 1] = radius * Math.sin(angle);
  }
  return values;
}

/** Return what the inputs of a graph for one style are filled with, by kind of input. */
export function filled(input, size, style, dropoutRate) {
  if (input.name === "styles") return Float32Array.from(style.code);
  const random = uniform(style.seed ^ hash(input.name));
  if (input.name === "noise") return normal(size, random);
  const kept = 1 / (1 - dropoutRate);
  return Float32Array.from({ length: size }, () => (random() < dropoutRate ? 0 : kept));
}

/**
 * Return a random style with a code of `length` numbers, and a seed for noise and dropout. With a distribution, the code
 * is mean + factor · z instead of z from N(0, I).
 */
export function randomStyle(length, distribution = null, random = Math.random) {
  const drawn = Array.from(normal(length, random));
  const code = distribution ? moved(drawn, distribution) : drawn;
  return { code, seed: Math.floor(random() * 2 ** 32) };
}

function moved(drawn, { mean, factor }) {
  return mean.map((value, row) => factor[row].reduce((sum, weight, column) => sum + weight * drawn[column], value));
}

/** Return the style between two: the first at weight 0, the second at weight 1. */
export function blended(first, second, weight) {
  const code = first.code.map((value, index) => value + weight * (second.code[index] - value));
  return { code, seed: first.seed };
}

function hash(text) {
  let value = 0;
  for (const letter of text) value = (Math.imul(value, 31) + letter.charCodeAt(0)) >>> 0;
  return value;
}
