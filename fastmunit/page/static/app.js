// The page: connects the drawing, the wall of styles and the engine.
import { Drawing } from "./drawing.js";
import { $, connectDrop, connectFile, contextOf, download, fail, fitted, paint, pictureAt, say, showPictures } from "./elements.js";
import { Engine, Latest } from "./engine.js";
import { Server } from "./server.js";
import { blended, randomStyle } from "./codes.js";
import { Wall } from "./wall.js";

const IDLE_MS = 350;

class Page {
  version = 0;
  jobs = new Latest();
  style = null;
  ready = false;
  pair = null;
  choosesSecond = false;
  loaded = {};
  timer = null;

  constructor(settings) {
    this.settings = settings;
    [this.height, this.width] = settings.size;
    this.drawing = new Drawing($("drawing"), this.width, this.height);
    this.begin(settings.directions[0].name);
    const { width, height } = this;
    Object.assign($("output"), { width, height });
    $("output").style.aspectRatio = `${width} / ${height}`;
    document.documentElement.style.setProperty("--ratio", width / height);
    for (const id of ["blend-first", "blend-second"]) Object.assign($(id), { width, height });
    this.wall = new Wall($("wall"), {
      width,
      height,
      onChoose: (style) => this.choose(style),
      onBlend: (first, second) => this.blend(first, second),
    });
    document.title = $("title").textContent = settings.title;
    $("model").textContent = `Model: ${settings.system}, ${width} × ${height} pixels, fastmunit ${settings.fastmunit}.`;
    if (settings.engine === "server") $("privacy").textContent = "Pictures are sent to this server, which translates them.";
    $("data-license").hidden = !settings.data_license;
    this.setUpTools();
    this.setUpStyles();
  }

  get about() {
    return this.loaded[this.direction];
  }

  setUpTools() {
    const { drawing } = this;
    drawing.addEventListener("change", () => {
      this.version++;
      this.update();
    });
    drawing.addEventListener("cursor", ({ detail: [x, y] }) => {
      $("cursor").hidden = false;
      $("cursor").style.left = `${100 * x}%`;
      $("cursor").style.top = `${100 * y}%`;
    });
    $("drawing").addEventListener("blur", () => ($("cursor").hidden = true));
    $("drawing").addEventListener("pointerdown", () => ($("cursor").hidden = true));
    for (const id of ["brush", "eraser"]) {
      $(id).addEventListener("click", () => {
        drawing.erases = id === "eraser";
        $("brush").setAttribute("aria-pressed", String(id === "brush"));
        $("eraser").setAttribute("aria-pressed", String(id === "eraser"));
      });
    }
    $("brush-size").addEventListener("input", (event) => (drawing.size = Number(event.target.value)));
    $("ink").addEventListener("input", (event) => (drawing.ink = event.target.value));
    $("undo").addEventListener("click", () => drawing.undo());
    $("clear").addEventListener("click", () => drawing.clear());
    connectFile("open", (picture) => drawing.show(picture));
    $("download").addEventListener("click", () => download($("output")));
    if (this.settings.directions.length > 1) {
      $("reverse").hidden = false;
      $("reverse").addEventListener("click", () => this.reverse());
    }
  }

  setUpStyles() {
    $("more-styles").addEventListener("click", () => {
      if (!this.ready) return;
      const count = this.settings.styles[this.direction].length;
      const distribution = this.settings.distributions[this.direction];
      this.showStyles(Array.from({ length: count }, () => randomStyle(this.about.styleDim, distribution)));
    });
    $("blend-start").addEventListener("click", () => this.setChoosesSecond(!this.choosesSecond));
    $("blend-amount").addEventListener("input", () => this.applyBlend());
    $("blend-end").addEventListener("click", () => this.choose(this.style.of ?? this.style));
    connectFile("photo", (picture) => this.usePhoto(picture));
    connectDrop((picture, place) => {
      const isStyle = place.closest("#styles") && !$("photo").hidden;
      return isStyle ? this.usePhoto(picture) : this.drawing.show(picture);
    });
  }

  /** Begin an empty drawing for a direction, in the colors of its samples. */
  begin(direction) {
    const { drawing } = this;
    this.direction = direction;
    [drawing.paper, drawing.ink] = this.settings.directions.find(({ name }) => name === direction).colors;
    $("ink").value = drawing.ink;
    drawing.forget();
  }

  /** Load the engine and the model, then show the first picture. */
  async start() {
    const onServer = this.settings.engine === "server";
    this.engine = onServer ? new Server() : new Engine((fraction) => ($("loading-bar").value = fraction));
    await this.engine.start();
    if (this.settings.data_license) [$("license").href] = await this.engine.sources(["samples/LICENSE.txt"]);
    await this.enter();
    $("loading").hidden = true;
    $("page").setAttribute("aria-busy", "false");
  }

  /** Show the samples and styles of the current direction, and load its model. Visitors may draw meanwhile. */
  async enter() {
    const { direction, settings } = this;
    this.ready = false; // the styles are still those of the other direction
    const [source, target] = direction.split("2");
    await Promise.all([this.showSamples(source), this.load(direction)]);
    const { about } = this;
    const { hasCodes, takesPhotos } = about;
    $("photo").hidden = !takesPhotos;
    const photos = takesPhotos ? await this.engine.sources(settings.samples[target]) : [];
    showPictures($("photos"), photos, "Style of photo", (picture) => this.usePhoto(picture));
    $("photos-hint").hidden = $("photos").hidden;
    $("styles").hidden = about.kind === "none";
    // Codes can be blended and moved; seeds of noise cannot.
    $("blend-start").hidden = $("coordinates").hidden = !hasCodes;
    $("hint").textContent = hasCodes ? "Choose a style. Drag one onto another to blend the two." : "Choose a style.";
    this.makeSliders(hasCodes ? about.styleDim : 0);
    this.version++;
    this.ready = true;
    const names = settings.style_names[direction] ?? [];
    this.showStyles(settings.styles[direction].map((code, index) => ({ code, seed: index, name: names[index] })));
  }

  async load(direction) {
    const { folder } = this.settings.directions.find(({ name }) => name === direction);
    this.loaded[direction] ??= await this.engine.run("load", { direction, folder });
  }

  /** Show the samples of a domain. Draw the first, unless the visitor has begun to draw. */
  async showSamples(domain) {
    const { drawing } = this;
    const sources = await this.engine.sources(this.settings.samples[domain]);
    showPictures($("samples"), sources, "Sample", (picture) => drawing.show(picture));
    const first = sources.length && (await pictureAt(sources[0]));
    if (!first || drawing.canUndo) return;
    drawing.show(first);
    drawing.dropHistory();
    this.update();
  }

  async reverse() {
    const names = this.settings.directions.map(({ name }) => name);
    const other = names[1 - names.indexOf(this.direction)];
    $("reverse").disabled = true;
    say("Loading the other direction …");
    try {
      await this.load(other);
      this.begin(other);
      $("reverse").setAttribute("aria-pressed", String(other !== names[0]));
      await this.enter();
    } catch (error) {
      fail(`The other direction could not be loaded: ${error.message}.`);
    }
    $("reverse").disabled = false;
  }

  showStyles(styles) {
    this.setChoosesSecond(false);
    styles.forEach((style, index) => (style.name ??= `Style ${index + 1}`));
    this.wall.show(styles.length && this.about.kind !== "none" ? styles : []);
    this.choose(styles[0] ?? { code: [], seed: 0 });
  }

  /** Use a style, or if a second one is asked for, blend it with the current one. */
  choose(style) {
    if (this.choosesSecond) {
      const first = this.style.of ?? this.style;
      this.setChoosesSecond(false);
      if (first !== style) return this.blend(first, style);
    }
    this.pair = null;
    $("blend").hidden = true;
    this.wall.mark(style);
    return this.use(style);
  }

  setChoosesSecond(chooses) {
    this.choosesSecond = chooses;
    $("blend-start").setAttribute("aria-pressed", String(chooses));
    if (chooses) say("Choose the style to blend with.");
  }

  /** Use the style halfway between two, and show the slider that moves it. */
  blend(first, second) {
    if (!this.about.hasCodes) return;
    this.setChoosesSecond(false);
    this.pair = [first, second];
    this.wall.mark(first, second);
    $("blend").hidden = false;
    $("blend-amount").value = 50;
    this.copyPreviews();
    this.applyBlend();
  }

  applyBlend() {
    const [first, second] = this.pair;
    const percent = Number($("blend-amount").value);
    $("blend-amount").setAttribute("aria-valuetext", `${percent} percent ${second.name}`);
    this.use({ ...blended(first, second, percent / 100), name: `${first.name} and ${second.name}`, of: first });
  }

  copyPreviews() {
    for (const [index, id] of ["blend-first", "blend-second"].entries()) {
      const canvas = this.pair && this.wall.canvasOf(this.pair[index]);
      if (canvas) contextOf($(id)).drawImage(canvas, 0, 0);
    }
  }

  use(style) {
    this.style = style;
    for (const [index, slider] of [...$("sliders").querySelectorAll("input")].entries()) {
      slider.value = style.code[index];
      slider.nextElementSibling.textContent = style.code[index].toFixed(1);
    }
    this.update();
  }

  async usePhoto(picture) {
    const { direction, width, height } = this;
    const picked = { direction, pixels: fitted(picture, width, height), width, height };
    try {
      const code = await this.engine.run("encodeStyle", picked);
      if (direction === this.direction) this.choose({ code, seed: 0, name: "Style of a photo" });
    } catch (error) {
      fail(`The style of the photo could not be computed: ${error.message}.`);
    }
  }

  makeSliders(count) {
    $("sliders").replaceChildren();
    for (let index = 0; index < count; index++) {
      const label = document.createElement("label");
      const slider = Object.assign(document.createElement("input"), { type: "range", min: -3, max: 3, step: 0.05 });
      slider.addEventListener("input", () => {
        const code = [...this.style.code];
        code[index] = Number(slider.value);
        this.pair = null;
        $("blend").hidden = true;
        this.wall.mark();
        this.use({ code, seed: this.style.seed, name: "Your style" });
      });
      label.append(`${index + 1} `, slider, document.createElement("output"));
      $("sliders").append(label);
    }
  }

  /** Translate the drawing in the current style as soon as possible, and preview all styles when nothing changes. */
  update() {
    $("undo").disabled = !this.drawing.canUndo;
    if (!this.ready) return;
    const { direction } = this;
    $("output").dataset.current = "false";
    this.jobs.urgent(async () => {
      const began = performance.now();
      const result = await this.translated(direction, this.style);
      if (!result) return;
      paint($("output"), result);
      $("problem").hidden = true;
      $("download").disabled = false;
      const milliseconds = Math.round(performance.now() - began);
      Object.assign($("output").dataset, { direction, milliseconds });
      if (this.version === result.version && this.style === result.style) $("output").dataset.current = "true";
      this.settle(`${this.style.name ?? "Translated"}, ${milliseconds} ms`);
    });
    this.jobs.idle([]);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.preview(), IDLE_MS);
  }

  /** Report a result once changes have ended: a live region must not speak with every stroke. */
  settle(text) {
    clearTimeout(this.spoken);
    this.spoken = setTimeout(() => say(text), IDLE_MS);
  }

  preview() {
    const { direction, version } = this;
    const shown = this.wall.tiles.filter(({ canvas }) => canvas.dataset.key !== `${direction} ${version}`);
    this.jobs.idle(
      shown.map(({ style, canvas }) => async () => {
        const result = await this.translated(direction, style);
        if (!result) return;
        paint(canvas, result);
        canvas.dataset.key = `${direction} ${result.version}`;
        if (this.pair?.includes(style)) this.copyPreviews();
      }),
    );
  }

  /** Return the translation of the drawing, or null if the direction has changed or it failed. */
  async translated(direction, style) {
    if (direction !== this.direction) return null;
    const { version, width, height, drawing } = this;
    const pixels = drawing.pixels();
    try {
      const result = await this.engine.run("translate", { direction, version, pixels, width, height, style });
      return direction === this.direction ? { ...result, version, style, input: pixels } : null;
    } catch (error) {
      fail(`The picture could not be translated: ${error.message}.`);
      return null;
    }
  }
}

async function main() {
  try {
    const response = await fetch("page.json");
    if (!response.ok) throw new Error(`page.json cannot be loaded (${response.status})`);
    const settings = await response.json();
    if (settings.engine === "browser" && typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly");
    const page = new Page(settings);
    window.fastmunit = page; // for the browser's console, and tests
    await page.start();
  } catch (error) {
    $("page").setAttribute("aria-busy", "false");
    fail(`The model could not be loaded: ${error.message}. Check that all files of this page's folder are on the server, and use a current browser.`);
  }
}

main();
