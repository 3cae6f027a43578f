const PEN = 22; // of 280: as broad as MNIST's pens, two of a digit's 20 pixels
const COLUMNS = 20;

const paper = document.getElementById("paper");
const ink = paper.getContext("2d");
const pen = document.getElementById("pen");
const seen = document.getElementById("seen");
const status = document.getElementById("status");
const sides = document.getElementById("sides");
ink.lineWidth = PEN;
ink.lineCap = ink.lineJoin = "round";

// Drawing

let stroke = null; // the pointer that draws, and where it was last
const keys = { x: paper.width / 2, y: paper.height / 2, down: false };

function place(event) {
  const box = paper.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width * paper.width, (event.clientY - box.top) / box.height * paper.height];
}

function line(from, to) {
  ink.beginPath();
  ink.moveTo(from[0] - 0.1, from[1]); // a line of no length would not be drawn
  ink.lineTo(...to);
  ink.stroke();
  changed();
}

paper.addEventListener("pointerdown", (event) => {
  if (stroke || event.button) return;
  event.preventDefault();
  paper.focus({ focusVisible: false });
  paper.setPointerCapture(event.pointerId);
  stroke = { pointer: event.pointerId, last: place(event) };
  line(stroke.last, stroke.last);
});
paper.addEventListener("pointermove", (event) => {
  if (stroke?.pointer !== event.pointerId) return;
  const all = event.getCoalescedEvents?.() ?? [];
  for (const one of all.length ? all : [event]) {
    const next = place(one);
    line(stroke.last, next);
    stroke.last = next;
  }
});
for (const end of ["pointerup", "pointercancel"]) {
  paper.addEventListener(end, (event) => {
    if (stroke?.pointer === event.pointerId) stroke = null;
  });
}

const ARROWS = { ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8] };
paper.addEventListener("keydown", (event) => {
  if (event.key === " ") {
    keys.down = !keys.down;
    if (keys.down) line([keys.x, keys.y], [keys.x, keys.y]);
  } else if (event.key in ARROWS) {
    const [from, [dx, dy]] = [[keys.x, keys.y], ARROWS[event.key]];
    keys.x = Math.min(Math.max(keys.x + dx, 0), paper.width);
    keys.y = Math.min(Math.max(keys.y + dy, 0), paper.height);
    if (keys.down) line(from, [keys.x, keys.y]);
  } else {
    return;
  }
  event.preventDefault();
  showPen();
  const [x, y] = [keys.x, keys.y].map((at) => Math.round(at / paper.width * 100));
  status.textContent = `Pen ${keys.down ? "down" : "up"}, ${x} % from the left, ${y} % from the top.`;
});

function showPen() {
  Object.assign(pen.style, { left: `${keys.x}px`, top: `${keys.y}px` });
  pen.classList.toggle("down", keys.down);
}

function clear() {
  ink.clearRect(0, 0, paper.width, paper.height);
  Object.assign(keys, { x: paper.width / 2, y: paper.height / 2, down: false });
  showPen();
  changed();
}
document.getElementById("clear").addEventListener("click", clear);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") clear();
});

// Asking: one drawing at a time, and again where it has changed meanwhile

let asking = false;
let dirty = false;

async function changed() {
  dirty = true;
  if (asking) return;
  asking = true;
  while (dirty) {
    dirty = false;
    try {
      const drawing = await new Promise((done) => paper.toBlob(done, "image/png"));
      const response = await fetch("/drawing", { method: "POST", headers: { "Content-Type": "image/png" }, body: drawing });
      show(await response.json());
    } catch (error) {
      status.textContent = `No answer: ${error.message}. Does the command still run?`;
    }
  }
  asking = false;
}

// Showing

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, attributes);
  made.append(...children);
  return made;
}

function percent(share) {
  return share === null ? "nan" : `${(100 * share).toFixed(1)} %`;
}

function pixels(canvas, rows, colour) {
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, i) => image.data.set(value === undefined ? [0, 0, 0, 0] : [...colour(value), 255], 4 * i));
  context.putImageData(image, 0, 0);
}

function layer(values, number) {
  const largest = Math.max(...values, 1e-9);
  const rows = [];
  for (let i = 0; i < values.length; i += COLUMNS) {
    rows.push(Array.from({ length: Math.min(COLUMNS, values.length) }, (_, j) => values[i + j]));
  }
  const active = values.filter((value) => value > 0).length;
  const caption = `hidden layer ${number}: ${active} of ${values.length} above 0`;
  const grid = element("canvas", { className: "layer", role: "img", ariaLabel: caption });
  pixels(grid, rows, (value) => {
    const share = Math.max(value, 0) / largest;
    return [255 * Math.min(1, 1.6 * share), 255 * share ** 1.3, 90 * share + 30 * (value > 0)];
  });
  return [element("h3", { textContent: caption }), grid];
}

function side({ name, failure }, answer, classes) {
  const card = element("article", { ariaLabel: name }, element("h2", { textContent: name }));
  if (failure) {
    card.append(element("p", { textContent: failure }));
    return card;
  }
  const shares = answer?.probabilities ?? classes.map(() => 0);
  const best = shares.indexOf(Math.max(...shares));
  const guess = element("p", { className: "guess" });
  if (answer) guess.append(classes[best], " ", element("small", { textContent: percent(shares[best]) }));
  const bars = element("table", { className: "bars", ariaLabel: `Probabilities by ${name}` });
  shares.forEach((share, k) => {
    const bar = element("div", { className: "bar" });
    bar.style.setProperty("--share", `${100 * share}%`);
    const row = element(
      "tr",
      { className: answer && k === best ? "best" : "" },
      element("th", { scope: "row", textContent: classes[k] }),
      element("td", {}, bar),
      element("td", { textContent: answer ? percent(share) : "" }),
    );
    bars.append(row);
  });
  card.append(guess, bars, ...(answer?.activations ?? []).flatMap((values, i) => layer(values, i + 1)));
  return card;
}

function show(answer) {
  if (!answer.sides) {
    status.textContent = answer.message;
    return;
  }
  const answers = answer.answers ?? [];
  document.getElementById("run").textContent = `by the network in ${answer.run}`;
  sides.replaceChildren(...answer.sides.map((one, i) => side(one, answers[i], answer.classes)));
  pixels(seen, answer.seen ?? [[0]], (value) => [value, value, value]);
  seen.ariaLabel = answer.seen ? `The drawing in ${seen.height} by ${seen.width} pixels` : "Nothing yet";
  document.getElementById("difference").textContent =
    answer.difference === undefined || answer.difference === null
      ? ""
      : `Largest difference between the two frameworks' probabilities: ${answer.difference.toExponential(1)}`;
  const guesses = answer.sides.flatMap(({ name, failure }, i) => {
    if (failure || !answers[i]) return [];
    const shares = answers[i].probabilities;
    const best = shares.indexOf(Math.max(...shares));
    return [`${name}: ${answer.classes[best]}, ${percent(shares[best])}`];
  });
  status.textContent = answer.message ?? guesses.join("; ");
}

showPen();
show(await (await fetch("/about")).json());
