// Runs the graphs of a model with onnxruntime-web, apart from the page so that drawing never waits for it.
import * as ort from "./engine/ort.wasm.bundle.min.js";
import { toPixels, toTensor } from "./pixels.js";
import { filled } from "./codes.js";

const WASM = "engine/ort-wasm-simd-threaded.wasm";

/** Graphs and description of each loaded direction. */
const models = new Map();
/** The latest content code, and the version of the drawing that it belongs to. */
let content = { key: null, tensor: null };

const tasks = { start, load, translate, encodeStyle };

// One task after the other: sessions are not made for overlapping runs.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id: data.id, result: await tasks[data.task](data) });
    } catch (error) {
      self.postMessage({ id: data.id, error: error?.message ?? String(error) });
    }
  });
};

async function start() {
  ort.env.logLevel = "error";
  // More threads need a page that is isolated from other origins, which plain file servers do not declare.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency ?? 1) : 1;
  ort.env.wasm.wasmBinary = await fetched(WASM, 0.85, 0);
}

async function load({ direction, folder }) {
  const about = JSON.parse(new TextDecoder().decode(await fetched(`${folder}/export.json`, 0, 0.85)));
  const names = Object.keys(about.graphs);
  const sessions = {};
  for (const [index, name] of names.entries()) {
    const share = 0.15 / names.length;
    const file = await fetched(`${folder}/${about.graphs[name].file}`, share, 0.85 + index * share);
    sessions[name] = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  }
  models.set(direction, { about, sessions });
  const takesCodes = Object.values(about.graphs).some(({ inputs }) => inputs.some(({ name }) => name === "styles"));
  return {
    kind: about.styles,
    styleDim: about.style_dim,
    hasCodes: about.styles === "normal" && takesCodes,
    takesPhotos: "encode_style" in about.graphs,
  };
}

async function translate({ direction, version, pixels, width, height, style }) {
  const { about } = models.get(direction);
  const last = about.graphs.decode ? "decode" : "translate";
  const [first, ...rest] = about.graphs[last].inputs;
  const tensor = await encoded(direction, version, pixels, width, height);
  const feeds = { [first.name]: tensor };
  const [rows, columns] = tensor.dims.slice(2);
  for (const input of rest) {
    const sides = input.divisor ? [rows / input.divisor, columns / input.divisor] : [1, 1];
    const shape = [1, input.channels, ...sides];
    const size = shape.reduce((product, side) => product * side, 1);
    feeds[input.name] = new ort.Tensor("float32", filled(input, size, style, about.dropout_rate), shape);
  }
  const output = await run(direction, last, feeds);
  return { pixels: toPixels(output.data, about.channels[1]), height: output.dims[2], width: output.dims[3] };
}

async function encodeStyle({ direction, pixels, width, height }) {
  const { about } = models.get(direction);
  const images = image(pixels, about.channels[1], width, height);
  return Array.from((await run(direction, "encode_style", { images })).data);
}

/** Return the content code of a drawing, or the drawing itself if the model has no content codes. */
async function encoded(direction, version, pixels, width, height) {
  const { about } = models.get(direction);
  const images = () => image(pixels, about.channels[0], width, height);
  if (!about.graphs.encode_content) return images();
  const key = `${direction} ${version}`;
  if (content.key !== key) content = { key, tensor: await run(direction, "encode_content", { images: images() }) };
  return content.tensor;
}

async function run(direction, name, feeds) {
  const { about, sessions } = models.get(direction);
  const results = await sessions[name].run(feeds);
  return results[about.graphs[name].output];
}

function image(pixels, channels, width, height) {
  return new ort.Tensor("float32", toTensor(pixels, channels), [1, channels, height, width]);
}

/** Fetch a file and report progress: it is `share` of everything, after `done` of everything. */
async function fetched(path, share, done) {
  const response = await fetch(new URL(path, import.meta.url));
  if (!response.ok) throw new Error(`${path} cannot be loaded (${response.status})`);
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let length = 0;
  for (let reader = response.body.getReader(); ; ) {
    const { done: ended, value } = await reader.read();
    if (ended) break;
    parts.push(value);
    length += value.length;
    if (total) self.postMessage({ progress: done + share * Math.min(1, length / total) });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
