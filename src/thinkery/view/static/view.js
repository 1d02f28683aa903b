// What pages do besides being read: keys, theme, the step slider, finding and sorting questions, following a live run.
"use strict";

const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const LIVE_MS = 2000;

function switchTheme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("thinkery-theme", document.documentElement.dataset.theme);
  document.dispatchEvent(new Event("themed"));
}

function visit(link) {
  if (link) location.assign(link.href);
}

// The neighbour of the open question among those that are shown.
function neighbour(by) {
  const links = all(".questions li:not([hidden]) a");
  const open = links.findIndex((link) => link.ariaCurrent === "true" || link.hasAttribute("aria-current"));
  return links[open + by];
}

const KEYS = {
  j: () => visit(neighbour(1)),
  k: () => visit(neighbour(-1)),
  ArrowLeft: () => visit(find("a[rel=prev]")),
  ArrowRight: () => visit(find("a[rel=next]")),
  "/": () => find("[data-find]")?.focus(),
  t: switchTheme,
  "?": () => find("#keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") return document.activeElement?.blur();
  if (event.target.matches("input, select, textarea, dialog *")) return;
  const act = KEYS[event.key] ?? (/^[1-6]$/.test(event.key) ? () => visit(all("nav a")[event.key - 1]) : null);
  if (!act) return;
  event.preventDefault();
  act();
});

find("[data-theme-switch]").addEventListener("click", switchTheme);

// A menu closes when something else is pressed.
document.addEventListener("click", (event) => {
  for (const menu of all("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});

// The order and the filter of questions are part of the address, so that they can be shared and survive j and k.
const wanted = new URLSearchParams(location.search);

function remember(name, value) {
  if (value) wanted.set(name, value);
  else wanted.delete(name);
  const query = wanted.toString();
  history.replaceState(null, "", (query ? `?${query}` : location.pathname) + location.hash);
  for (const link of all(".questions li a, a[rel=prev], a[rel=next]")) link.search = query;
}

function order(list, key) {
  const place = (item) => Number(item.dataset[key]);
  list.append(...[...list.children].sort((a, b) => place(a) - place(b)));
}

const finder = find("[data-find]");
const sorter = find("[data-sort]");

function findQuestions() {
  const words = finder.value.toLowerCase();
  for (const item of all(".questions li")) item.hidden = !item.textContent.toLowerCase().includes(words);
  remember("find", finder.value);
}

if (sorter) {
  sorter.value = wanted.get("sort") ?? "place";
  finder.value = wanted.get("find") ?? "";
  order(find(".questions ol"), sorter.value);
  findQuestions();
  sorter.addEventListener("change", () => {
    order(find(".questions ol"), sorter.value);
    remember("sort", sorter.value === "place" ? "" : sorter.value);
  });
  finder.addEventListener("input", findQuestions);
  finder.addEventListener("keydown", (event) => {
    if (event.key === "Enter") visit(find(".questions li:not([hidden]) a"));
  });
  if (matchMedia("(max-width: 1100px)").matches && find(".questions a[aria-current]")?.closest("li").dataset.place !== "0") find(".questions").open = false;
  find(".questions a[aria-current]")?.scrollIntoView({ block: "nearest" });
  scrollTo(0, 0);
}

// Samples: sorted, and only those with a fault.
const samples = find(".question .samples");
find("[data-sort-samples]")?.addEventListener("change", (event) => {
  const key = event.target.value;
  order(samples, key);
  if (key !== "sample") samples.append(...[...samples.children].reverse());
});
for (const chip of all("[data-filter] button")) {
  chip.addEventListener("click", () => {
    chip.ariaPressed = chip.ariaPressed === "true" ? "false" : "true";
    const faults = all("[data-filter] button[aria-pressed=true]").map((one) => one.value);
    for (const card of samples.children) {
      const own = card.dataset.faults.split(" ");
      card.hidden = !faults.every((fault) => own.includes(fault));
    }
  });
}

// The step slider shows the number while it moves and goes there when it rests.
const stepper = find(".stepper");
if (stepper) {
  const numbers = stepper.dataset.numbers.split(" ");
  const slider = find("input", stepper);
  slider.addEventListener("input", () => (find("output", stepper).textContent = numbers[slider.value]));
  slider.addEventListener("change", () => {
    const target = new URL(stepper.dataset.pattern.replace("NUMBER", numbers[slider.value]), location);
    target.search = wanted;
    location.assign(target);
  });
}

// The graph: a line from each step to those that read it; what a step came from lights up.
const graph = () => find(".graph");

function drawEdges() {
  const box = graph();
  if (!box || !box.offsetParent) return;
  const from = box.getBoundingClientRect();
  const nodes = new Map(all(".node", box).map((node) => [node.dataset.name, node]));
  const ranks = all(".rank", box);
  const svg = find(".edges", box);
  svg.replaceChildren();
  for (const [name, node] of nodes) {
    for (const read of node.dataset.reads.split(" ").filter((one) => nodes.has(one))) {
      const [a, b] = [nodes.get(read).getBoundingClientRect(), node.getBoundingClientRect()];
      const [x1, y1, x2, y2] = [a.left + a.width / 2 - from.left, a.bottom - from.top, b.left + b.width / 2 - from.left, b.top - from.top];
      const bend = Math.min(60, (y2 - y1) / 2);
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", `M${x1} ${y1}C${x1} ${y1 + bend} ${x2} ${y2 - bend} ${x2} ${y2}`);
      const far = ranks.indexOf(node.parentElement) - ranks.indexOf(nodes.get(read).parentElement) > 2;
      path.classList.toggle("far", far);
      path.dataset.edge = `${read} ${name}`;
      svg.append(path);
    }
  }
}

function lightAncestors(node) {
  const lit = new Set();
  const walk = (name) => {
    if (lit.has(name)) return;
    lit.add(name);
    (find(`.node[data-name="${CSS.escape(name)}"]`)?.dataset.reads ?? "").split(" ").filter(Boolean).forEach(walk);
  };
  if (node) walk(node.dataset.name);
  for (const one of all(".node")) one.classList.toggle("lit", lit.has(one.dataset.name));
  for (const path of all(".edges path")) path.classList.toggle("lit", lit.has(path.dataset.edge.split(" ")[1]));
}

if (graph()) {
  drawEdges();
  new ResizeObserver(drawEdges).observe(graph());
  for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, (event) => lightAncestors(event.target.closest?.(".node")));
}

// A live run: the parts of the page that change are fetched again.
async function follow() {
  if (document.hidden) return;
  const answer = await fetch(location.href).catch(() => null);
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of all("[data-part]")) {
    const now = fresh.getElementById(part.id);
    if (now && now.innerHTML !== part.innerHTML && !part.contains(document.activeElement)) part.replaceChildren(...now.childNodes);
  }
  drawEdges();
  if (!fresh.body.hasAttribute("data-live")) {
    clearInterval(following);
    find(".live")?.remove();
  }
}
const following = document.body.hasAttribute("data-live") && find("[data-part]") ? setInterval(follow, LIVE_MS) : 0;
