// The wall of styles: tiles to choose by click or key, and to drag onto each other.

const DRAG_PIXELS = 8;

export class Wall {
  #tiles = [];
  #drag = null;

  /** Fill `element` with tiles. `onChoose(style)` runs for a click, `onBlend(first, second)` for a drag. */
  constructor(element, { width, height, onChoose, onBlend }) {
    Object.assign(this, { element, width, height, onChoose, onBlend });
    element.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("pointermove", (event) => this.#move(event));
    document.addEventListener("pointerup", (event) => this.#drop(event));
    document.addEventListener("pointercancel", () => this.#end());
  }

  /** The styles and their canvases, for drawing previews. */
  get tiles() {
    return this.#tiles;
  }

  /** Replace all tiles. */
  show(styles) {
    this.#tiles = [];
    this.element.replaceChildren();
    for (const style of styles) this.#add(style);
  }

  /** Mark the chosen styles: one, two that are blended, or none. */
  mark(...chosen) {
    for (const { button, style } of this.#tiles) button.setAttribute("aria-pressed", String(chosen.includes(style)));
  }

  /** Return the canvas of a style's tile. */
  canvasOf(style) {
    return this.#tiles.find((tile) => tile.style === style)?.canvas;
  }

  #add(style) {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [this.width, this.height];
    button.type = "button";
    button.className = "tile";
    button.setAttribute("aria-label", style.name);
    button.setAttribute("aria-pressed", "false");
    button.append(canvas);
    button.addEventListener("click", () => this.onChoose(style));
    button.addEventListener("pointerdown", (event) => {
      if (button.hasPointerCapture(event.pointerId)) button.releasePointerCapture(event.pointerId); // by touch
      if (event.button === 0) this.#drag = { style, button, x: event.clientX, y: event.clientY, ghost: null };
    });
    this.element.append(button);
    this.#tiles.push({ style, button, canvas });
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const at = this.#tiles.findIndex(({ button }) => button === document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    this.#tiles[(at + step + this.#tiles.length) % this.#tiles.length].button.focus();
  }

  #move(event) {
    const drag = this.#drag;
    if (!drag) return;
    if (!drag.ghost) {
      if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < DRAG_PIXELS) return;
      drag.ghost = copied(drag.button.querySelector("canvas"));
      document.body.append(drag.ghost);
      drag.button.addEventListener("click", stop, { capture: true, once: true });
    }
    drag.ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px) translate(-50%, -50%)`;
    const target = this.#under(event);
    for (const { button } of this.#tiles) button.classList.toggle("target", button === target?.button);
  }

  #drop(event) {
    const drag = this.#drag;
    const target = drag?.ghost && this.#under(event);
    this.#end();
    if (target && target.style !== drag.style) this.onBlend(drag.style, target.style);
  }

  #end() {
    const drag = this.#drag;
    this.#drag = null;
    drag?.ghost?.remove();
    for (const { button } of this.#tiles) button.classList.remove("target");
    // A click follows a drag only if it ends where it began.
    if (drag?.ghost) setTimeout(() => drag.button.removeEventListener("click", stop, { capture: true }));
  }

  #under(event) {
    const found = document.elementFromPoint(event.clientX, event.clientY)?.closest(".tile");
    return this.#tiles.find(({ button }) => button === found);
  }
}

/** Return a copy of a canvas that follows the pointer. */
function copied(canvas) {
  const ghost = document.createElement("canvas");
  [ghost.width, ghost.height] = [canvas.width, canvas.height];
  ghost.getContext("2d").drawImage(canvas, 0, 0);
  ghost.className = "ghost";
  return ghost;
}

function stop(event) {
  event.stopImmediatePropagation();
}
