// A model on the server of this page (`fastmunit serve`), with the tasks of worker.js.
import { rgbaOf } from "./pixels.js";

const MAX_TRIES = 5;
const TOKEN = "fastmunit-token";

export class Server {
  #directions;
  #needsToken;

  /** Run a task. */
  run(task, values = {}) {
    return this[task](values);
  }

  async start() {
    const health = await (await fetch("health")).json();
    this.#directions = health.directions;
    this.#needsToken = health.token_required;
    if (health.token_required && !sessionStorage.getItem(TOKEN)) askForToken();
  }

  /** Return addresses of files. Those that need the token are fetched, because elements of a page cannot send it. */
  sources(paths) {
    if (!this.#needsToken) return paths;
    return Promise.all(
      paths.map(async (path) => {
        const answer = await fetch(path, { headers: authorization() });
        return answer.ok ? URL.createObjectURL(await answer.blob()) : path;
      }),
    );
  }

  load({ direction }) {
    const about = this.#directions[direction];
    const kind = about.style_dim === 0 ? "none" : about.style_values === "integers" ? "seed" : "normal";
    return { kind, styleDim: about.style_dim, hasCodes: kind === "normal", takesPhotos: about.takes_references };
  }

  async translate({ direction, pixels, width, height, style }) {
    const about = this.#directions[direction];
    const code = about.style_values === "integers" ? [String(style.seed)] : style.code;
    const fields = { direction, image: await png(pixels, width, height), output: "png" };
    if (about.style_dim) fields.codes = JSON.stringify([code]);
    const answer = await posted(fields);
    return rgbaOf(await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" }));
  }

  async encodeStyle({ direction, pixels, width, height }) {
    const picture = await png(pixels, width, height);
    const answer = await posted({ direction, image: picture, reference: picture, output: "json" });
    return (await answer.json()).images[0].style;
  }
}

function authorization() {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** Send a form to /translate, again if the queue is full. */
async function posted(fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (let tries = 1; ; tries++) {
    const answer = await fetch("translate", { method: "POST", body: form, headers: authorization() });
    if (answer.ok) return answer;
    if (answer.status === 401) askForToken();
    else if (answer.status !== 429 || tries === MAX_TRIES) throw new Error((await answer.json()).detail);
    else await new Promise((resume) => setTimeout(resume, 1000 * Number(answer.headers.get("Retry-After") ?? 1)));
  }
}

function askForToken() {
  const token = prompt("This server needs a token:");
  if (!token) throw new Error("the server needs a token: reload the page to give it");
  sessionStorage.setItem(TOKEN, token);
}

async function png(pixels, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}
