"use strict";
const $ = (id) => document.getElementById(id);
const WORK = 1280; // pixels of the longer side that the mask is drawn at; the studio scales it to the photograph
const TASKS = {
  background: {
    hint: "The product stays as it is; everything else is painted anew.",
    mask: "Mask: the product that stays", prompt: "a product on a blue floor against a white wall", automatic: true, needs: true,
  },
  expand: {
    hint: "The photograph stays as it is; what lies around it is painted.",
    mask: "", prompt: "empty: the same floor and wall going on", automatic: false, needs: false,
  },
  fill: {
    hint: "What you mark is painted anew, from your words; the rest stays.",
    mask: "Mask: what is painted anew", prompt: "a red box on a white floor", automatic: false, needs: true,
  },
  erase: {
    hint: "What you mark goes, and the floor and the wall behind it come.",
    mask: "Mask: what goes", prompt: "empty: an empty floor against an empty wall", automatic: true, needs: true,
  },
};
const state = {
  task: "background", file: null, image: null, width: 0, height: 0, limits: { prompt: 1000 }, busy: null,
  sample: "", // its id, where the photograph is one
  version: "", // of the champion whose samples are shown
  touched: false, // there is a mask to send
  drawn: false, // by hand, at least in part
  grown: false, // the studio found it, with a rim for Erase
};
const mask = document.createElement("canvas"); // opaque where it marks
mask.getContext("2d", { willReadFrequently: true });
const easel = $("easel");
const cursor = { x: 0.5, y: 0.5, shown: false };

function say(text, bad = false) {
  $("said").textContent = text;
  $("said").classList.toggle("bad", bad);
}

async function answerOf(response) {
  if (response.ok) return response;
  let words = `The studio answered ${response.status}.`;
  try {
    const told = await response.json();
    words = [told.error, told.remedy].filter(Boolean).join(" ");
  } catch { /* no JSON: the number has to do */ }
  throw new Error(words);
}

// ── who answers ─────────────────────────────────────────────────────────────────────────────────────────────────
async function askStatus() {
  try {
    const status = await (await fetch("/v1/status")).json();
    const one = status.champion;
    state.limits = status.limits;
    $("who").textContent = one ? `Champion: version ${one.version} · ${one.backend} · ${one.size} px · ${status.local ? "this machine only" : "open to whoever reaches this address"}` : "No champion yet";
    $("where").textContent = status.local ? "Served on this machine only, without a login." : "Served to whoever reaches this address, without a login.";
    const notices = [];
    if (!status.ready) notices.push(`${status.problem} ${status.remedy}`);
    else if (status.problem) notices.push(status.problem);
    if (one && one.tainted) notices.push(`The champion was trained on pictures that were taken down since (${one.tainted}).`);
    if (one && one.fallback) notices.push(`TensorRT could not be used: ${one.fallback}`);
    // Written only where it differs: a screen reader reads it out each time.
    if ($("notice").textContent !== notices.join(" ")) $("notice").textContent = notices.join(" ");
    $("notice").hidden = notices.length === 0;
    $("compare").disabled = !status.challenger;
    if (!status.challenger) $("compare").checked = false;
    $("compare-label").textContent = status.challenger ? `Compare with the challenger, version ${status.challenger.version}` : "Compare with the challenger (there is none)";
    state.ready = status.ready;
    const version = one ? one.version : "";
    // Another champion may have learned from another dataset, whose samples are others.
    if (status.ready && (version !== state.version || !$("samples").children.length)) showSamples(version);
    ready();
  } catch {
    $("who").textContent = "The studio does not answer.";
    state.ready = false;
    ready();
  }
}

async function showSamples(version) {
  const found = await (await fetch("/v1/samples")).json();
  state.version = version;
  $("samples").replaceChildren(...found.map((one, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = one.caption;
    button.setAttribute("aria-label", `Sample ${index + 1}: ${one.caption}`);
    button.setAttribute("aria-pressed", "false");
    const picture = document.createElement("img");
    picture.src = one.picture;
    picture.alt = "";
    button.append(picture);
    button.addEventListener("click", async () => {
      const blob = await (await fetch(one.picture)).blob();
      const file = new File([blob], `sample-${index + 1}.jpg`, { type: blob.type });
      await take(file);
      if (state.file !== file) return; // another one was taken meanwhile
      state.sample = one.id;
      await automatic();
      for (const other of $("samples").children) other.setAttribute("aria-pressed", String(other === button));
    });
    return button;
  }));
  $("samples").hidden = found.length === 0;
}

// ── photograph and mask ─────────────────────────────────────────────────────────────────────────────────────────
async function take(file) {
  for (const other of $("samples").children) other.setAttribute("aria-pressed", "false");
  if (file.size > state.limits.upload_bytes) return say(`That file has ${Math.round(file.size / 1e6)} MB, ${Math.round(state.limits.upload_bytes / 1e6)} are allowed.`, true);
  const image = new Image();
  const url = URL.createObjectURL(file);
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    return say("That file cannot be shown as a picture: give a JPEG, PNG or WebP.", true);
  }
  if (image.naturalWidth * image.naturalHeight > state.limits.pixels) {
    URL.revokeObjectURL(url);
    return say(`That photograph has ${(image.naturalWidth * image.naturalHeight / 1e6).toFixed(1)} megapixels, ${state.limits.pixels / 1e6} are allowed.`, true);
  }
  if (state.image) URL.revokeObjectURL(state.image.src);
  Object.assign(state, { file, image, width: image.naturalWidth, height: image.naturalHeight, sample: "", touched: false, drawn: false });
  const scale = Math.min(1, WORK / Math.max(state.width, state.height));
  // Small photographs are drawn larger, so that the brush's outline is not a staircase.
  const zoom = Math.max(1, Math.floor(512 / Math.max(state.width, state.height)));
  for (const canvas of [mask, easel]) {
    canvas.width = Math.max(1, Math.round(state.width * scale * zoom));
    canvas.height = Math.max(1, Math.round(state.height * scale * zoom));
  }
  $("stage").hidden = false;
  $("facts").textContent = `${file.name}, ${state.width} × ${state.height} pixels`;
  $("mask-tools").disabled = false;
  say("");
  draw();
  ready();
}

const marks = () => TASKS[state.task].needs;

function draw() {
  if (!state.image) return;
  const pen = easel.getContext("2d");
  pen.clearRect(0, 0, easel.width, easel.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(state.image, 0, 0, easel.width, easel.height);
  if (!marks()) return;
  pen.globalAlpha = 0.5;
  pen.drawImage(mask, 0, 0);
  pen.globalAlpha = 1;
  if (cursor.shown) {
    pen.lineWidth = Math.max(1, easel.width / 300);
    for (const [colour, more] of [["#000", pen.lineWidth], ["#fff", 0]]) {
      pen.strokeStyle = colour;
      pen.beginPath();
      pen.arc(cursor.x * easel.width, cursor.y * easel.height, brush() + more, 0, 7);
      pen.stroke();
    }
  }
}

const brush = () => Number($("size").value) / 200 * Math.max(easel.width, easel.height);

function paint(from, to) {
  const pen = mask.getContext("2d");
  pen.globalCompositeOperation = $("remove").checked ? "destination-out" : "source-over";
  pen.strokeStyle = "#8f5bff";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = 2 * brush();
  pen.beginPath();
  pen.moveTo(from.x * mask.width, from.y * mask.height);
  pen.lineTo(to.x * mask.width + 0.01, to.y * mask.height);
  pen.stroke();
  pen.globalCompositeOperation = "source-over";
  state.touched = state.drawn = true;
  draw();
}

function eachPixel(change) {
  const pen = mask.getContext("2d");
  const pixels = pen.getImageData(0, 0, mask.width, mask.height);
  for (let at = 0; at < pixels.data.length; at += 4) change(pixels.data, at);
  pen.putImageData(pixels, 0, 0);
}

function mark(data, at, on) {
  data[at] = 0x8f; data[at + 1] = 0x5b; data[at + 2] = 0xff; data[at + 3] = on ? 255 : 0;
}

async function showMask(blob, grown) {
  const found = await createImageBitmap(blob);
  const pen = mask.getContext("2d");
  pen.clearRect(0, 0, mask.width, mask.height);
  pen.drawImage(found, 0, 0, mask.width, mask.height);
  eachPixel((data, at) => mark(data, at, data[at] >= 128));
  Object.assign(state, { touched: true, drawn: false, grown });
  draw();
}

async function automatic() {
  const { file, task } = state;
  const form = new FormData();
  if (state.sample) form.append("sample", state.sample);
  else form.append("photograph", file);
  form.append("task", task);
  say("Looking for the product…");
  try {
    const answer = await answerOf(await fetch("/v1/mask", { method: "POST", body: form }));
    const marked = await answer.blob();
    if (state.file !== file || state.task !== task) return; // it is another photograph's, or another task's
    await showMask(marked, task === "erase");
    const sure = answer.headers.get("Mask-Confidence");
    if (Number(answer.headers.get("Mask-Share")) === 0) say("No product was found: mark it with the brush.", true);
    else say(sure === null ? "The mask is the photograph's own." : `Found a product, ${Math.round(100 * sure)} % sure. Correct it with the brush.`);
  } catch (error) {
    say(error.message, true);
  }
}

function maskFile() {
  const sheet = document.createElement("canvas");
  sheet.width = mask.width;
  sheet.height = mask.height;
  const pen = sheet.getContext("2d");
  const pixels = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const level = pixels.data[at + 3] >= 128 ? 255 : 0;
    pixels.data[at] = pixels.data[at + 1] = pixels.data[at + 2] = level;
    pixels.data[at + 3] = 255;
  }
  pen.putImageData(pixels, 0, 0);
  return new Promise((done) => sheet.toBlob(done, "image/png"));
}

// ── generating ──────────────────────────────────────────────────────────────────────────────────────────────────
async function formOf() {
  const form = new FormData();
  form.append("photograph", state.file);
  // An untouched mask is left to the studio, which looks for the product by itself.
  if (marks() && (state.touched || !TASKS[state.task].automatic)) form.append("mask", await maskFile(), "mask.png");
  for (const name of ["prompt", "negative", "seed", "k", "format"]) if ($(name).value.trim()) form.append(name, $(name).value);
  if (state.task === "expand") {
    if ($("ratio").value === "margins") form.append("margins", ["left", "top", "right", "bottom"].map((side) => $(side).value || "0").join(","));
    else form.append("ratio", $("ratio").value);
  }
  if ($("compare").checked) form.append("side", "both");
  return form;
}

async function generate(event) {
  event.preventDefault();
  if ($("go").disabled) return;
  state.busy = new AbortController();
  $("cancel").hidden = false;
  $("go").classList.add("busy");
  ready();
  say("Painting…");
  try {
    const response = await fetch(`/v1/${state.task}`, { method: "POST", body: await formOf(), signal: state.busy.signal });
    show(await (await answerOf(response)).json());
  } catch (error) {
    say(error.name === "AbortError" ? "Cancelled." : error.message, error.name !== "AbortError");
  } finally {
    state.busy = null;
    $("cancel").hidden = true;
    $("go").classList.remove("busy");
    ready();
  }
}

function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function candidate(answer, side, one) {
  const figure = element("figure");
  const caption = element("figcaption");
  if (one.picture) {
    const picture = element("img");
    picture.src = one.picture;
    picture.width = answer.width;
    picture.height = answer.height;
    picture.alt = `Candidate ${one.rank} of version ${side.version}: ${answer.prompt}`;
    const link = element("a", "Download");
    link.href = one.picture;
    link.download = `${answer.task}-v${side.version}-seed${one.seed}.${one.picture.split(".").pop()}`;
    link.setAttribute("aria-label", `Download candidate ${one.rank} of version ${side.version}`);
    figure.append(picture);
    caption.append(element("b", one.score === null ? `#${one.rank}` : `#${one.rank} · score ${one.score.toFixed(2)}`), link);
  }
  const check = one.pixels.identical ? `✓ ${one.pixels.kept.toLocaleString("en")} kept pixels are the input's` : "✗ kept pixels differ: not shown";
  caption.append(element("span", check, one.pixels.identical ? "good" : "bad"));
  figure.append(caption);
  const item = element("li");
  item.append(figure);
  return item;
}

function show(answer) {
  $("empty").hidden = true;
  $("sides").classList.toggle("two", answer.answers.length > 1);
  $("sides").replaceChildren(...answer.answers.map((side) => {
    const section = element("section", "", "side");
    const head = element("header");
    const name = side.side[0].toUpperCase() + side.side.slice(1);
    head.append(element("h2", `${name} · version ${side.version}`));
    const ranked = side.ranked_by === "seed" ? "in the order of seeds" : "ranked by the reward model";
    head.append(element("p", `${ranked} · engine ${side.latency_ms.engine.toFixed(0)} ms · ${side.backend}`, "small"));
    const list = element("ol", "", "candidates");
    list.append(...side.candidates.map((one) => candidate(answer, side, one)));
    section.append(head, list);
    return section;
  }));
  const took = answer.latency_ms;
  $("latency").textContent = `${(took.total / 1000).toFixed(2)} s in all: upload and decoding ${took.upload.toFixed(0)} ms, waiting ${took.queue.toFixed(0)} ms, engine ${took.engine.toFixed(0)} ms, encoding and pixel check ${took.encode.toFixed(0)} ms. Seed ${answer.seed}.`;
  const count = answer.answers.reduce((sum, side) => sum + side.candidates.length, 0);
  const time = took.total < 1000 ? `${took.total.toFixed(0)} ms` : `${(took.total / 1000).toFixed(1)} s`;
  say(`${count} candidate${count === 1 ? "" : "s"} in ${time}.`);
  if (matchMedia("(max-width: 860px)").matches) $("answers").scrollIntoView();
}

// ── the form ────────────────────────────────────────────────────────────────────────────────────────────────────
function ready() {
  const length = [...$("prompt").value].length;
  $("count").textContent = `${length} of ${state.limits.prompt} characters`;
  const told = length > 0 || state.task === "expand" || state.task === "erase";
  $("go").disabled = !(state.ready && state.image && told && length <= state.limits.prompt) || state.busy !== null;
}

function choose(task, focus = false) {
  state.task = task;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.dataset.task === task;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen && focus) tab.focus();
  }
  $("panel").setAttribute("aria-labelledby", `tab-${task}`);
  $("hint").textContent = TASKS[task].hint;
  $("mask-title").textContent = TASKS[task].mask;
  $("mask-tools").hidden = !TASKS[task].needs;
  $("expand-tools").hidden = task !== "expand";
  $("prompt").placeholder = TASKS[task].prompt;
  // What goes is marked with a rim, what stays without.
  if (state.touched && !state.drawn && TASKS[task].automatic && state.grown !== (task === "erase")) automatic();
  draw();
  ready();
}

const tabs = [...document.querySelectorAll("[role=tab]")];
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => choose(tab.dataset.task));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(tabs[(to + tabs.length) % tabs.length].dataset.task, true);
  });
});

$("file").addEventListener("change", () => {
  const file = $("file").files[0];
  $("file").value = ""; // so that the same one can be chosen again
  if (file) take(file);
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    if (name === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
$("automatic").addEventListener("click", automatic);
$("invert").addEventListener("click", () => { eachPixel((data, at) => mark(data, at, data[at + 3] < 128)); state.touched = state.drawn = true; draw(); });
$("clear").addEventListener("click", () => { mask.getContext("2d").clearRect(0, 0, mask.width, mask.height); state.touched = state.drawn = true; draw(); });
$("size").addEventListener("input", draw);
$("prompt").addEventListener("input", ready);
$("ratio").addEventListener("change", () => { $("margins").hidden = $("ratio").value !== "margins"; });
$("desk").addEventListener("submit", generate);
$("cancel").addEventListener("click", () => state.busy && state.busy.abort());

// object-fit leaves bands beside the picture where the canvas is not as wide as its box.
function placeOf(event) {
  const box = easel.getBoundingClientRect();
  const scale = Math.min(box.width / easel.width, box.height / easel.height);
  const left = box.left + (box.width - scale * easel.width) / 2, top = box.top + (box.height - scale * easel.height) / 2;
  return { x: (event.clientX - left) / (scale * easel.width), y: (event.clientY - top) / (scale * easel.height) };
}
let last = null;
easel.addEventListener("pointerdown", (event) => {
  if (!marks() || event.button !== 0) return;
  easel.setPointerCapture(event.pointerId);
  last = placeOf(event);
  paint(last, last);
});
easel.addEventListener("pointermove", (event) => {
  Object.assign(cursor, placeOf(event), { shown: marks() });
  if (last === null) return draw();
  const now = placeOf(event);
  paint(last, now);
  last = now;
});
for (const name of ["pointerup", "pointercancel"]) easel.addEventListener(name, () => { last = null; });
for (const name of ["pointerleave", "blur"]) easel.addEventListener(name, () => { cursor.shown = false; draw(); });
easel.addEventListener("focus", () => { cursor.shown = easel.matches(":focus-visible") && marks(); draw(); });
easel.addEventListener("keydown", (event) => {
  if (!marks()) return;
  const step = event.shiftKey ? 0.1 : 0.02;
  const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  const size = { "+": 2, "=": 2, "-": -2 }[event.key];
  if (move) Object.assign(cursor, { x: Math.min(1, Math.max(0, cursor.x + move[0])), y: Math.min(1, Math.max(0, cursor.y + move[1])) });
  else if (size) $("size").value = Number($("size").value) + size;
  else if (event.key === " ") paint(cursor, cursor);
  else return;
  event.preventDefault();
  cursor.shown = true;
  draw();
});

choose("background");
askStatus();
setInterval(askStatus, 5000);
