// The chat page: what is said, what is running, and which parts of the page show it.

import * as api from "./api.js";
import { addTurn, asMarkdown, messages, newAnswer, newConversation, parentOf, path, totals } from "./conversation.js";
import { count, dollars } from "./format.js";
import { listen } from "./keys.js";
import { choices, choose, openShelf, readKey, writeKey } from "./store.js";
import { button, make, TurnView } from "./turn.js";

const $ = (id) => document.getElementById(id);
const [field, stopButton, sendButton, main] = [$("question"), $("stop"), $("send"), document.querySelector("main")];

const open = new Map(); // conversations with answers under way, by id: they go on while another one is read
const running = new Map(); // answer → { controller, begun, conversation }
const views = new WeakMap(); // turn → its TurnView, if it is on the page
let conversation = newConversation();
let served = [];
let left = null;
let shelf = null;
let following = true;

/** Ask a question after `parent` (the last turn that is shown, unless given). */
function ask(question, parent = path(conversation).at(-1) ?? conversation) {
  conversation.title ||= question.replace(/\s+/g, " ").slice(0, 80);
  const turn = addTurn(parent, question, chosen());
  history.replaceState(null, "", `#${conversation.id}`);
  show();
  follow();
  run(turn);
}

/** Ask the question of `turn` again: beside it, or in its place where nothing was answered. */
function again(turn) {
  if (turn.answers.some((answer) => running.has(answer))) return;
  if (turn.answers.some(({ thought, content }) => thought || content)) return ask(turn.question, parentOf(conversation, turn));
  turn.answers = chosen().map(newAnswer);
  show();
  run(turn);
}

async function run(turn) {
  const asked = conversation;
  open.set(asked.id, asked);
  const column = (answer, i) => stream(asked, answer, messages(asked, turn, i));
  const all = Promise.all(turn.answers.map(column));
  refresh();
  keep(asked);
  say("Asked.");
  await all;
  if (![...running.values()].some((one) => one.conversation === asked)) open.delete(asked.id);
  refresh();
  say(turn.answers.map(spoken).join(" "));
  await showBalance();
}

/** Stream one answer into `answer`; whatever happens, it has ended when this returns. */
async function stream(asked, answer, said) {
  const controller = new AbortController();
  const begun = performance.now();
  running.set(answer, { controller, begun, conversation: asked });
  try {
    const body = { model: answer.model, messages: said, ...settings() };
    for await (const piece of api.answer(readKey(), body, controller.signal)) {
      take(answer, piece, performance.now() - begun);
      viewOf(answer)?.update();
      keepUp();
    }
  } catch (error) {
    if (controller.signal.aborted) answer.finish = "stopped";
    else refused(error, answer);
    controller.abort(); // what is still being generated is paid for
  }
  answer.ended = performance.now() - begun;
  running.delete(answer);
  asked.updated = Date.now();
  await keep(asked);
  refresh();
  viewOf(answer)?.finish();
  keepUp();
}

/** Add a piece of the stream to the answer. */
function take(answer, { thought, content, finish, usage }, ms) {
  if (thought) {
    answer.thought += thought;
    answer.pieces.thought += 1;
  }
  if (content) {
    answer.content += content;
    answer.pieces.content += 1;
    if (answer.thought) answer.thoughtEnded ??= ms;
  }
  answer.finish = finish ?? answer.finish;
  if (usage) {
    answer.usage = usage;
    answer.cost = price(answer.model, usage);
  }
}

/** Nano-USD of an answer at the server's prices; null where it names none. */
function price(model, usage) {
  const pricing = served.find(({ id }) => id === model)?.pricing;
  if (!pricing) return null;
  const { prompt_cache_hit_tokens: hit, prompt_cache_miss_tokens: miss, completion_tokens: completion } = usage;
  return pricing.hit * hit + pricing.miss * miss + pricing.completion * completion;
}

/** Put an error into the answer that it ended. */
function refused(error, answer) {
  const later = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  answer.error = error.message + later;
  if (error.status === 401) askForKey(error.message);
  if (!(error instanceof api.ApiError)) console.error(error);
}

function stop() {
  for (const { controller, conversation: asked } of running.values()) {
    if (asked === conversation) controller.abort();
  }
}

function settings() {
  const { temperature, top_p, max_tokens } = choices();
  return Object.fromEntries(Object.entries({ temperature, top_p, max_tokens }).filter(([, value]) => value !== null));
}

function spoken({ model, content, error, finish }) {
  if (error) return `${model}: ${error}`;
  const text = content.length <= 400 ? content : `${content.slice(0, 400)} …`;
  return `${model} ${finish === "stopped" ? "was stopped" : "answered"}: ${text}`;
}

/** Show the conversation's path; turns that are on the page already stay as they are. */
function show() {
  const turns = path(conversation);
  $("turns").replaceChildren(...turns.map((turn) => view(turn).element));
  $("welcome").hidden = turns.length > 0;
  document.body.classList.toggle("wide", turns.some(({ answers }) => answers.length > 1));
  const title = conversation.title || "New conversation";
  $("title").textContent = title;
  document.title = conversation.title ? `${title} · Thinkery` : "Thinkery";
  refresh();
}

function view(turn) {
  const siblings = parentOf(conversation, turn).next;
  const known = views.get(turn);
  if (known && known.siblings === siblings.length && known.turn.answers === known.shown) return known;
  const fresh = new TurnView(turn, siblings, {
    edit: (question) => ask(question, parentOf(conversation, turn)),
    again: () => again(turn),
    sibling: (step) => turnTo(turn, step),
    copy,
  });
  views.set(turn, Object.assign(fresh, { siblings: siblings.length, shown: turn.answers }));
  return fresh;
}

function viewOf(answer) {
  for (const turn of path(conversation)) {
    const place = turn.answers.indexOf(answer);
    if (place >= 0) return views.get(turn)?.answers[place];
  }
}

/** Read the sibling `step` further. */
function turnTo(turn, step) {
  const parent = parentOf(conversation, turn);
  parent.shown = parent.next.indexOf(turn) + step;
  show();
  const shown = parent.next[parent.shown];
  views.get(shown).tools.querySelector("button").focus();
  keep(conversation);
}

/** What depends on whether anything runs, and on what was used. */
function refresh() {
  const busy = [...running.values()].some((one) => one.conversation === conversation);
  stopButton.hidden = !busy;
  sendButton.hidden = busy;
  const { tokens, cost, more } = totals(conversation);
  const parts = tokens ? [`${more ? "at least " : ""}${count(tokens)} tokens`] : [];
  if (cost !== null) parts.push(dollars(cost));
  if (left) parts.push(`${left.total_balance} ${left.currency} left`);
  $("meter").textContent = parts.join(" · ");
  const missing = more ? " Answers that were stopped or broke off are charged too, but not in this sum." : "";
  $("meter").title = `Used by this conversation, as the server counted it.${missing}`;
}

async function copy(text, where) {
  await navigator.clipboard.writeText(text);
  const before = where.textContent;
  where.textContent = "Copied";
  say("Copied.");
  setTimeout(() => (where.textContent = before), 1500);
}

function say(text) {
  $("status").textContent = text;
}

function atEnd() {
  return scrollY + innerHeight > document.documentElement.scrollHeight - 60;
}

function follow() {
  following = true;
  keepUp();
}

function keepUp() {
  if (following) requestAnimationFrame(() => scrollTo(0, document.documentElement.scrollHeight));
}

async function keep(one) {
  if (!shelf || !one.next.length) return;
  try {
    await shelf.put(one);
    await showList();
  } catch (error) {
    notice(`This browser does not keep the conversation: ${error.message}`);
  }
}

async function showList() {
  $("list").replaceChildren(...(await shelf.titles()).map(entry));
}

function entry({ id, title }) {
  const link = make("a", { href: `#${id}` }, [title]);
  if (id === conversation.id) link.setAttribute("aria-current", "page");
  const remove = button("Delete", () => discard(id));
  remove.setAttribute("aria-label", `Delete ${title}`);
  return make("li", {}, [link, remove]);
}

async function discard(id) {
  const gone = await shelf.get(id);
  for (const { controller, conversation: asked } of running.values()) if (asked.id === id) controller.abort();
  await shelf.delete(id);
  if (id === conversation.id) start();
  await showList();
  const toast = $("toast");
  toast.querySelector("span").textContent = "Deleted.";
  toast.querySelector("button").onclick = async () => {
    toast.hidden = true;
    await keep(gone);
  };
  toast.hidden = false;
  setTimeout(() => (toast.hidden = true), 8000);
}

/** Begin a conversation; the address tells which one is read. */
function start() {
  history.pushState(null, "", location.pathname);
  read(newConversation());
  field.focus();
}

function read(one) {
  if ($("conversations").matches(":popover-open")) $("conversations").hidePopover();
  conversation = one;
  for (const { answers } of path(one)) answers.filter((answer) => answer.ended === null && !running.has(answer)).forEach(cutOff);
  show();
  following = true;
  keepUp();
  if (shelf) showList();
}

/** End an answer that was under way when the page was left. */
function cutOff(answer) {
  Object.assign(answer, { finish: "stopped", ended: answer.thoughtEnded ?? 0 });
}

/** Read the conversation that the address names, if it is kept here. */
async function readAddress() {
  const id = location.hash.slice(1);
  if (id === conversation.id) return;
  if (!id) return read(newConversation());
  const found = open.get(id) ?? (await shelf?.get(id));
  if (found) read(found);
  else notice("That conversation is not kept in this browser.");
}

function saveAsFile() {
  const blob = new Blob([asMarkdown(conversation)], { type: "text/markdown" });
  const link = make("a", { href: URL.createObjectURL(blob), download: `${conversation.title.slice(0, 40) || "conversation"}.md` });
  link.click();
  URL.revokeObjectURL(link.href);
}

/** Ask the server what it has; without a key that it takes, ask the reader for one. */
async function connect() {
  try {
    served = await api.models(readKey());
    notice("");
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error;
    if (error.status === 401) askForKey(readKey() ? error.message : "");
    else notice(error.message, connect);
    return;
  }
  showModels();
  await showBalance();
}

function showModels() {
  const ids = served.filter(({ id, root = id }) => root === id).map(({ id }) => id); // without second names
  const kept = choices().models.filter((id) => ids.includes(id));
  for (const [place, select] of [$("model-0"), $("model-1")].entries()) {
    select.replaceChildren(...ids.map((id) => make("option", { value: id }, [id])));
    select.value = kept[place] ?? ids[Math.min(place, ids.length - 1)];
  }
  compare(choices().models.length > 1);
  $("welcome-about").textContent =
    ids.length > 1 ? `${ids.length} models are served here: ${ids.join(", ")}.` : `${ids[0]} is served here.`;
}

/** The models that are asked: one, or two side by side. */
function chosen() {
  const both = [$("model-0").value, $("model-1").value];
  return $("model-1").hidden ? both.slice(0, 1) : both;
}

function compare(two) {
  $("model-1").hidden = $("versus").hidden = !two;
  $("compare").setAttribute("aria-pressed", String(two));
  choose({ models: chosen() });
}

async function showBalance() {
  try {
    left = await api.balance(readKey());
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error;
    left = null; // nothing depends on it: the next answer says what is wrong
  }
  refresh();
}

function askForKey(reason) {
  $("door").returnValue = "";
  $("door-reason").textContent = reason;
  if (!$("door").open) $("door").showModal();
}

/** A line above the conversation, with a button that tries again; "" takes it away. */
function notice(text, retry = null) {
  $("notice").hidden = !text;
  $("notice").replaceChildren(text, ...(retry ? [" ", button("Try again", retry)] : []));
}

const form = $("settings").querySelector("form");
const NUMBERS = ["temperature", "top_p", "max_tokens"];

function openSettings() {
  const made = choices();
  for (const name of NUMBERS) form.elements[name].value = made[name] ?? "";
  form.elements.theme.value = made.theme;
  form.elements.shortcuts.checked = made.shortcuts;
  form.elements.system.value = conversation.system;
  form.elements.key.value = readKey();
  $("settings").showModal();
}

function closeSettings() {
  const numbers = NUMBERS.map((name) => [name, form.elements[name].value === "" ? null : Number(form.elements[name].value)]);
  choose({ ...Object.fromEntries(numbers), theme: form.elements.theme.value, shortcuts: form.elements.shortcuts.checked });
  conversation.system = form.elements.system.value.trim();
  paintTheme();
  if (form.elements.key.value.trim() !== readKey()) {
    writeKey(form.elements.key.value.trim());
    connect();
  }
}

function paintTheme() {
  document.documentElement.dataset.theme = choices().theme;
}

function switchTheme() {
  const { theme } = choices();
  const dark = theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
  choose({ theme: dark ? "light" : "dark" });
  paintTheme();
}

const lastTurn = () => path(conversation).at(-1);

function foldThoughts() {
  const thoughts = [...document.querySelectorAll("details.thought:not([hidden])")];
  const opened = thoughts.some((one) => one.open);
  for (const one of thoughts) one.open = !opened;
}

function step(direction) {
  const turns = [...document.querySelectorAll(".turn")];
  const at = turns.findIndex((one) => one.getBoundingClientRect().top > 70);
  const here = at < 0 ? turns.length : at;
  turns.at(Math.max(0, Math.min(turns.length - 1, direction > 0 ? here : here - 2)))?.scrollIntoView();
}

const LETTERS = [
  ["/", "goes to the question field", () => field.focus()],
  ["n", "begins a new conversation", start],
  ["r", "asks the last question again", () => lastTurn() && again(lastTurn())],
  ["e", "edits the last question", () => lastTurn() && views.get(lastTurn()).tools.querySelector("button:last-child").click()],
  ["c", "copies the last answer", () => [...document.querySelectorAll(".foot:not([hidden])")].at(-1)?.querySelector("button").click()],
  ["t", "folds or unfolds the thoughts", foldThoughts],
  ["j", "goes to the next question", () => step(1)],
  ["k", "goes to the question before", () => step(-1)],
  ["m", "compares two models, or stops comparing", () => compare($("model-1").hidden)],
  ["s", "saves the conversation as Markdown", saveAsFile],
  ["d", "switches between dark and light", switchTheme],
  ["?", "shows this list", () => $("help").showModal()],
];

function wire() {
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = field.value.trim();
    if (!question || !sendButton.checkVisibility() || !served.length) return;
    field.value = "";
    ask(question);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.target.closest("dialog[open]")) return;
    if (stopButton.hidden) document.activeElement.blur();
    else stop();
  });
  stopButton.addEventListener("click", () => {
    stop();
    field.focus();
  });
  $("new").addEventListener("click", start);
  $("compare").addEventListener("click", () => compare($("model-1").hidden));
  for (const select of [$("model-0"), $("model-1")]) select.addEventListener("change", () => choose({ models: chosen() }));
  $("open-settings").addEventListener("click", openSettings);
  $("settings").addEventListener("close", closeSettings);
  $("open-help").addEventListener("click", () => $("help").showModal());
  $("door").addEventListener("close", () => {
    const key = $("door").querySelector("input");
    const given = key.value.trim();
    key.value = "";
    if ($("door").returnValue !== "enter") return notice("Nothing can be asked without a key.", () => askForKey(""));
    writeKey(given);
    connect();
  });
  $("latest").addEventListener("click", follow);
  addEventListener("scroll", () => {
    following = atEnd();
    $("latest").hidden = following;
  });
  addEventListener("popstate", readAddress);
  main.addEventListener("click", ({ target }) => {
    if (target.closest(".copy-code")) copy(target.closest(".code").querySelector("code").textContent, target);
  });
  setInterval(() => {
    for (const [answer, { begun }] of running) viewOf(answer)?.tick(performance.now() - begun);
  }, 100);
  setInterval(() => open.forEach(keep), 5000);
  listen(LETTERS, $("keys"), () => choices().shortcuts);
}

paintTheme();
wire();
show();
connect();
try {
  shelf = await openShelf();
  await showList();
  if (location.hash) await readAddress();
} catch (error) {
  notice(`This browser keeps no conversations: ${error.message}`);
}
field.focus();
