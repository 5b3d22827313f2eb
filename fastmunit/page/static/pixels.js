// Conversion between pixels of a canvas (RGBA bytes) and tensors (NCHW floats in [-1, 1]).

/** Return a tensor of one image with 1 or 3 channels. Gray is made with the weights that Pillow uses. */
export function toTensor(pixels, channels) {
  const count = pixels.length / 4;
  const values = new Float32Array(channels * count);
  for (let index = 0; index < count; index++) {
    const [red, green, blue] = [pixels[4 * index], pixels[4 * index + 1], pixels[4 * index + 2]];
    if (channels === 1) {
      values[index] = Math.round(0.299 * red + 0.587 * green + 0.114 * blue) / 127.5 - 1;
    } else {
      values[index] = red / 127.5 - 1;
      values[count + index] = green / 127.5 - 1;
      values[2 * count + index] = blue / 127.5 - 1;
    }
  }
  return values;
}

/** Return the RGBA bytes of a tensor of one image with 1 or 3 channels. */
export function toPixels(values, channels) {
  const count = values.length / channels;
  const pixels = new Uint8ClampedArray(4 * count);
  for (let index = 0; index < count; index++) {
    for (let channel = 0; channel < 3; channel++) {
      pixels[4 * index + channel] = (values[(channels === 1 ? 0 : channel) * count + index] + 1) * 127.5;
    }
    pixels[4 * index + 3] = 255;
  }
  return pixels;
}

/** Return RGBA bytes of an image whose sides are `factor` times smaller: means of squares of pixels. */
export function reduced(pixels, width, height, factor) {
  const [columns, rows] = [width / factor, height / factor];
  const means = new Uint8ClampedArray(4 * columns * rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      for (let channel = 0; channel < 4; channel++) {
        let sum = 0;
        for (let y = row * factor; y < (row + 1) * factor; y++) {
          for (let x = column * factor; x < (column + 1) * factor; x++) sum += pixels[4 * (y * width + x) + channel];
        }
        means[4 * (row * columns + column) + channel] = sum / factor ** 2;
      }
    }
  }
  return means;
}

/** Return the RGBA bytes of a picture, and its size. */
export function rgbaOf(picture) {
  const { width, height } = picture;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return { pixels: context.getImageData(0, 0, width, height).data, width, height };
}
