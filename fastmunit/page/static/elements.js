// Elements of the page: messages, pictures and files.

export const $ = (id) => document.getElementById(id);

/** Tell the visitor, and screen readers, what has happened. */
export function say(text) {
  $("status").textContent = text;
}

/** Show a message about a problem. */
export function fail(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
  $("loading").hidden = true;
  say("");
}

/** Show a result of the engine. */
export function paint(canvas, { pixels, width, height }) {
  contextOf(canvas).putImageData(new ImageData(pixels, width, height), 0, 0);
}

/** Return the context of a small canvas. It stays in memory, where pixels are read and written faster. */
export function contextOf(canvas) {
  return canvas.getContext("2d", { willReadFrequently: true });
}

/** Return a loaded picture, or null if it cannot be loaded. */
export async function pictureAt(source) {
  const picture = Object.assign(new Image(), { src: source });
  return picture.decode().then(
    () => picture,
    () => null,
  );
}

/** Fill an element with pictures to choose from. */
export function showPictures(element, sources, name, onChoose) {
  element.hidden = sources.length === 0;
  element.replaceChildren(
    ...sources.map((source, index) => {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "tile" });
      button.setAttribute("aria-label", `${name} ${index + 1}`);
      const picture = Object.assign(document.createElement("img"), { src: source, alt: "", draggable: false });
      picture.addEventListener("error", () => button.remove());
      button.append(picture);
      button.addEventListener("click", () => onChoose(picture));
      return button;
    }),
  );
}

/** Let a button open a picture of the visitor. */
export function connectFile(id, onPicture) {
  const input = $(`${id}-file`);
  $(id).addEventListener("click", () => input.click());
  input.addEventListener("change", async () => {
    const [file] = input.files;
    input.value = "";
    if (file) await openFile(file, onPicture);
  });
}

/** Open pictures that are dropped on the page. `onPicture` also gets the element under the pointer. */
export function connectDrop(onPicture) {
  const holdsFiles = ({ dataTransfer }) => dataTransfer.types.includes("Files");
  document.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  document.addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault(); // the browser would leave the page to show the file
    const [file] = event.dataTransfer.files;
    const { target } = event;
    if (file) await openFile(file, (picture) => onPicture(picture, target));
  });
}

async function openFile(file, onPicture) {
  try {
    const picture = await createImageBitmap(file);
    $("problem").hidden = true;
    await onPicture(picture);
  } catch {
    fail(`${file.name} is not a picture that this browser can open.`);
  }
}

/** Save a canvas as a PNG. */
export function download(canvas) {
  canvas.toBlob((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "translation.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

/** Return the RGBA bytes of a picture's center, scaled to fill a size. */
export function fitted(picture, width, height) {
  const context = contextOf(Object.assign(document.createElement("canvas"), { width, height }));
  fill(context, picture);
  return context.getImageData(0, 0, width, height).data;
}

/** Return width and height of a picture itself, not of its place on the page. */
export function sizeOf(picture) {
  return [picture.naturalWidth ?? picture.width, picture.naturalHeight ?? picture.height];
}

/** Draw the center of a picture so that it fills a canvas. */
export function fill(context, picture) {
  const { width, height } = context.canvas;
  const size = sizeOf(picture);
  const scale = Math.max(width / size[0], height / size[1]);
  const [columns, rows] = size.map((side) => side * scale);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (width - columns) / 2, (height - rows) / 2, columns, rows);
}
