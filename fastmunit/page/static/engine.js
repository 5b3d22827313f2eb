// The page's side of the worker: tasks as promises, and a queue that keeps only the latest translation.

export class Engine {
  #worker;
  #waiting = new Map();
  #next = 0;

  /** Start the worker. `onProgress` receives the loaded fraction of all files. */
  constructor(onProgress) {
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data }) => {
      if (data.progress !== undefined) return onProgress(data.progress);
      const { resolve, reject } = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if (data.error === undefined) resolve(data.result);
      else reject(new Error(data.error));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      const reason = new Error(event.message || "worker.js or engine/ort.wasm.bundle.min.js is missing");
      for (const { reject } of this.#waiting.values()) reject(reason);
      this.#waiting.clear();
    };
  }

  start() {
    return this.run("start");
  }

  /** Return addresses of files, which anyone may read here. */
  sources(paths) {
    return paths;
  }

  /** Run a task of worker.js. */
  run(task, values = {}) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, task, ...values });
    });
  }
}

/** Runs one job at a time. A new urgent job replaces the urgent one that still waits; idle jobs run when nothing else does. */
export class Latest {
  #urgent = null;
  #idle = [];
  #running = false;

  urgent(job) {
    this.#urgent = job;
    this.#step();
  }

  /** Replace all idle jobs that have not started. */
  idle(jobs) {
    this.#idle = jobs;
    this.#step();
  }

  async #step() {
    if (this.#running) return;
    const job = this.#urgent ?? this.#idle.shift();
    if (!job) return;
    if (job === this.#urgent) this.#urgent = null;
    this.#running = true;
    try {
      await job();
    } finally {
      this.#running = false;
      this.#step();
    }
  }
}
