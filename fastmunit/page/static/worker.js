// Runs the graphs of a model with onnxruntime-web, apart from the page so that drawing never waits for it.
import * as ort from "./engine/ort.wasm.bundle.min.js";
import { toPixels, toTensor } from "./pixels.js";
import { filled } from "./codes.js";

const WASM = new URL("engine/ort-wasm-simd-threaded.wasm", import.meta.url);

/** Graphs and description of each loaded direction. */
const models = new Map();
/** The latest content code, and the version of the drawing that it belongs to. */
let content = { key: null, tensor: null };

const tasks = { start, load, translate, encodeStyle };

// onnxruntime-web fetches its WebAssembly itself, so that the browser compiles it while it arrives, and keeps the code
// for the next visit. It is nearly all that a visitor waits for.
let missing = null;
const fetchAny = self.fetch.bind(self);
self.fetch = async (source, options) => {
  const response = await fetchAny(source, options);
  if (String(source) !== WASM.href) return response;
  if (!response.ok) missing = new Error(`${WASM.pathname} cannot be loaded (${response.status})`);
  reportProgress(response.clone()).catch(() => {});
  return response;
};

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
  ort.env.wasm.wasmPaths = { wasm: WASM.href };
}

/** Load the graphs that translate. The others follow when they are needed. */
async function load({ direction, folder }) {
  const about = JSON.parse(new TextDecoder().decode(await fetched(`${folder}/export.json`)));
  models.set(direction, { about, folder, sessions: {} });
  const files = Object.keys(about.graphs).filter((name) => name !== "encode_style");
  // Files arrive while the engine is compiled; sessions are made one after the other.
  const arriving = files.map((name) => fetched(`${folder}/${about.graphs[name].file}`));
  for (const file of arriving) file.catch(() => {}); // reported where it is awaited
  for (const [index, name] of files.entries()) await makeSession(direction, name, await arriving[index]);
  const takesCodes = Object.values(about.graphs).some(({ inputs }) => inputs.some(({ name }) => name === "styles"));
  return {
    kind: about.styles,
    styleDim: about.style_dim,
    hasCodes: about.styles === "normal" && takesCodes,
    takesPhotos: "encode_style" in about.graphs,
  };
}

async function makeSession(direction, name, file) {
  const { sessions } = models.get(direction);
  try {
    sessions[name] = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  } catch (error) {
    throw missing ?? error;
  }
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
  const { about, folder, sessions } = models.get(direction);
  if (!sessions[name]) await makeSession(direction, name, await fetched(`${folder}/${about.graphs[name].file}`));
  const results = await sessions[name].run(feeds);
  return results[about.graphs[name].output];
}

function image(pixels, channels, width, height) {
  return new ort.Tensor("float32", toTensor(pixels, channels), [1, channels, height, width]);
}

async function fetched(path) {
  const response = await fetch(new URL(path, import.meta.url));
  if (!response.ok) throw new Error(`${path} cannot be loaded (${response.status})`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Report the progress of a response, which others read. */
async function reportProgress(response) {
  const total = Number(response.headers.get("Content-Length"));
  if (!total || response.headers.has("Content-Encoding")) return;
  let length = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    length += value.length;
    self.postMessage({ progress: Math.min(1, length / total) });
  }
}
