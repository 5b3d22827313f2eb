// The drawing area: strokes with mouse, pen, finger or keys, an eraser, undo, and pictures.
import { fill, sizeOf } from "./elements.js";
import { reduced } from "./pixels.js";

const MAX_UNDO = 40;
const SHOWN_PIXELS = 512;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Drawing extends EventTarget {
  ink = "#000000";
  paper = "#ffffff";
  erases = false;
  /** Width of the brush in pixels of the model. */
  size = 2;
  #history = [];
  #last = null;
  #pen = null;
  #drawsWithKeys = false;

  /** Use a canvas for drawings of `width` × `height` pixels of the model. They are drawn finer and reduced for the model. */
  constructor(canvas, width, height) {
    super();
    this.canvas = canvas;
    this.width = width;
    this.height = height;
    this.factor = Math.max(1, Math.round(SHOWN_PIXELS / Math.max(width, height)));
    canvas.width = width * this.factor;
    canvas.height = height * this.factor;
    canvas.style.aspectRatio = `${width} / ${height}`;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.context.lineCap = this.context.lineJoin = "round";
    this.#fill();
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#up(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("keyup", (event) => event.key === " " && (this.#drawsWithKeys = false));
    canvas.addEventListener("blur", () => (this.#drawsWithKeys = false));
  }

  get canUndo() {
    return this.#history.length > 0;
  }

  /** Return the RGBA bytes that the model gets. */
  pixels() {
    const { width, height } = this.canvas;
    return reduced(this.context.getImageData(0, 0, width, height).data, width, height, this.factor);
  }

  clear() {
    this.#remember();
    this.#fill();
    this.#changed();
  }

  undo() {
    const earlier = this.#history.pop();
    if (!earlier) return;
    this.context.putImageData(earlier, 0, 0);
    this.#changed();
  }

  /** Empty the drawing, without a way back. */
  forget() {
    this.dropHistory();
    this.#fill();
  }

  dropHistory() {
    this.#history = [];
  }

  /** Show a picture: its center, as large as the drawing. A picture of the model's size keeps its pixels. */
  show(picture) {
    this.#remember();
    this.#fill();
    const [width, height] = sizeOf(picture);
    this.context.imageSmoothingEnabled = width !== this.width || height !== this.height;
    fill(this.context, picture);
    this.#changed();
  }

  #fill() {
    this.context.fillStyle = this.paper;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  #remember() {
    this.#history.push(this.context.getImageData(0, 0, this.canvas.width, this.canvas.height));
    if (this.#history.length > MAX_UNDO) this.#history.shift();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #down(event) {
    if (event.button > 0 || this.#pen !== null) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.#pen = event.pointerId;
    this.#remember();
    this.#last = this.#position(event);
    this.#line(this.#last, event);
    this.#changed();
  }

  #move(event) {
    if (event.pointerId !== this.#pen) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const part of events.length ? events : [event]) this.#line(this.#position(part), part);
    this.#changed();
  }

  #up(event) {
    if (event.pointerId === this.#pen) this.#pen = null;
  }

  #key(event) {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      event.preventDefault();
      return this.undo();
    }
    const arrow = ARROWS[event.key];
    if (event.key !== " " && !arrow) return undefined;
    event.preventDefault();
    this.#last ??= [this.canvas.width / 2, this.canvas.height / 2];
    if (!arrow) {
      if (event.repeat) return undefined;
      this.#drawsWithKeys = true;
      this.#remember();
      this.#line(this.#last, {});
      return this.#changed();
    }
    const next = this.#last.map((value, axis) => value + 2 * this.factor * arrow[axis]);
    next[0] = Math.min(Math.max(next[0], 0), this.canvas.width);
    next[1] = Math.min(Math.max(next[1], 0), this.canvas.height);
    if (this.#drawsWithKeys) {
      this.#line(next, {});
      this.#changed();
    }
    this.#last = next;
    const place = [next[0] / this.canvas.width, next[1] / this.canvas.height];
    this.dispatchEvent(new CustomEvent("cursor", { detail: place }));
    return undefined;
  }

  #position(event) {
    const box = this.canvas.getBoundingClientRect(); // of no size in a window that is too small
    return [
      ((event.clientX - box.left) * this.canvas.width) / Math.max(1, box.width),
      ((event.clientY - box.top) * this.canvas.height) / Math.max(1, box.height),
    ];
  }

  /** Draw a line from the last position. A pen that is pressed harder draws wider lines. */
  #line(to, { pointerType, pressure }) {
    const pressed = pointerType === "pen" && pressure > 0 ? 0.5 + pressure : 1;
    const { context } = this;
    context.strokeStyle = this.erases ? this.paper : this.ink;
    context.lineWidth = this.size * this.factor * pressed * (this.erases ? 3 : 1);
    context.beginPath();
    context.moveTo(...this.#last);
    context.lineTo(to[0] + 0.01, to[1]); // a line of no length would not be drawn
    context.stroke();
    this.#last = to;
  }
}
