// Maths in Markdown: \( \) and $ $ within a line, \[ \] and $$ $$ within or across lines, set by KaTeX.

import "./vendor/katex/katex.js";

const LONGEST = 5000;
const PAIRS = [["\\[", "\\]", true], ["\\(", "\\)", false], ["$$", "$$", true], ["$", "$", false]];

/** The markdown-it plugin: maths become elements of class "maths" that hold their TeX as text, for `typeset`. */
export function maths(md) {
  md.block.ruler.before("fence", "maths", block, { alt: ["paragraph", "reference", "blockquote", "list"] });
  md.inline.ruler.before("escape", "maths", inline);
  md.renderer.rules.maths_block = (tokens, i) => `<div class="maths">${md.utils.escapeHtml(tokens[i].content)}</div>`;
  md.renderer.rules.maths_inline = (tokens, i) => {
    const display = tokens[i].display ? " display" : "";
    return `<span class="maths${display}">${md.utils.escapeHtml(tokens[i].content)}</span>`;
  };
}

/** Replace the TeX inside `root` by formulas; what KaTeX refuses stays as its source. */
export function typeset(root) {
  for (const place of root.querySelectorAll(".maths")) {
    const tex = place.textContent;
    const displayMode = place.tagName === "DIV" || place.classList.contains("display");
    try {
      if (tex.length > LONGEST) throw new RangeError("too long to set");
      self.katex.render(tex, place, { displayMode, trust: false, maxExpand: 200, maxSize: 20, strict: "ignore" });
    } catch (error) {
      place.replaceChildren(tex);
      place.classList.add("unset");
      place.title = error.message;
    }
  }
}

/** A formula that begins a line and may go on over many; while the text still streams (`env.open`) it may lack its end. */
function block(state, first, end, silent) {
  const start = state.bMarks[first] + state.tShift[first];
  const pair = PAIRS.find(([opener, , display]) => display && state.src.startsWith(opener, start));
  if (!pair || state.sCount[first] - state.blkIndent >= 4) return false;
  const close = closing(state, start + 2, pair[1]);
  const last = close < 0 ? end : lineAfter(state, first, end, close);
  if (last < 0 || close - start > LONGEST || (close < 0 && !state.env.open)) return false;
  if (silent) return true;
  const [tex, rest] = parts(state.getLines(first, last, state.blkIndent, false), pair);
  const ended = /^[.,;:!?]$/.test(rest);
  const token = close < 0 ? state.push("code_block", "code", 0) : state.push("maths_block", "div", 0);
  Object.assign(token, { content: ended ? `${tex}\\text{${rest}}` : tex, map: [first, last] });
  if (rest && !ended) paragraph(state, rest, last);
  state.line = last;
  return true;
}

/** The line after the one that holds `position`; -1 if the list or quote around line `first` ends before. */
function lineAfter(state, first, end, position) {
  for (let line = first; line < end; line++) {
    if (line > first && !state.isEmpty(line) && state.sCount[line] < state.blkIndent) return -1;
    if (state.eMarks[line] > position) return line + 1;
  }
  return -1;
}

/** The TeX of a block, and what follows it on its last line. */
function parts(text, [opener, closer]) {
  const body = text.trimStart().slice(opener.length);
  const close = body.indexOf(closer);
  return close < 0 ? [body.trim(), ""] : [body.slice(0, close).trim(), body.slice(close + closer.length).trim()];
}

function paragraph(state, content, line) {
  state.push("paragraph_open", "p", 1).map = [line - 1, line];
  Object.assign(state.push("inline", "", 0), { content, children: [], map: [line - 1, line] });
  state.push("paragraph_close", "p", -1);
}

/** A formula within a paragraph; a dollar opens only before and closes only after something that is no space. */
function inline(state, silent) {
  const from = state.pos;
  const pair = PAIRS.find(([opener]) => state.src.startsWith(opener, from));
  if (!pair) return false;
  const [opener, closer, display] = pair;
  const begin = from + opener.length;
  const close = closing(state, begin, closer);
  const tex = close < 0 ? "" : state.src.slice(begin, close);
  if (!tex.trim()) return false;
  if (opener === "$" && (/^\s|\s$/.test(tex) || /\d/.test(state.src[close + 1] ?? ""))) return false;
  if (!silent) Object.assign(state.push("maths_inline", "span", 0), { content: tex, display });
  state.pos = close + closer.length;
  return true;
}

/** Where `closer` comes next, -1 if never; a search that failed is not made again for the same text. */
function closing(state, begin, closer) {
  state.unclosed ??= new Set();
  if (state.unclosed.has(closer)) return -1;
  let at = state.src.indexOf(closer, begin);
  while (closer[0] === "$" && at > 0 && state.src[at - 1] === "\\") at = state.src.indexOf(closer, at + 1);
  if (at < 0) state.unclosed.add(closer);
  return at;
}
