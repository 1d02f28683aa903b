// Markdown of a model, as elements that are safe to show. Three walls: markdown-it passes no HTML through, DOMPurify
// keeps only the tags below, and the page's policy runs no script and assigns no HTML but DOMPurify's.

import MarkdownIt from "./vendor/markdown-it.js";
import "./vendor/purify.js";
import hljs from "./vendor/highlight/core.js";
import { maths, typeset } from "./maths.js";

const LANGUAGES = ["bash", "cpp", "java", "javascript", "json", "latex", "python", "rust", "sql", "xml"];
const LONGEST_HIGHLIGHTED = 20_000;
const ALLOWED = {
  ALLOWED_TAGS: [
    ..."a blockquote br code del div em h4 h5 h6 hr li ol p pre s span strong".split(" "),
    ..."table tbody td th thead tr ul".split(" "),
  ],
  ALLOWED_ATTR: ["class", "href", "start", "title"],
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

await Promise.all(
  LANGUAGES.map(async (name) => hljs.registerLanguage(name, (await import(`./vendor/highlight/${name}.js`)).default)),
);

const md = new MarkdownIt({ html: false, linkify: true, breaks: true, highlight }).use(maths);
md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
md.renderer.rules.heading_open = (tokens, i) => `<h${Math.min(6, Number(tokens[i].tag[1]) + 3)}>`;
md.renderer.rules.heading_close = (tokens, i) => `</h${Math.min(6, Number(tokens[i].tag[1]) + 3)}>`;
md.renderer.rules.fence = (tokens, i) => codeBlock(tokens[i].content, tokens[i].info.trim().split(/\s+/)[0]);
md.renderer.rules.code_block = (tokens, i) => codeBlock(tokens[i].content, "");
md.renderer.rules.table_open = () => '<div class="table"><table>';
md.renderer.rules.table_close = () => "</table></div>";
for (const cell of ["th_open", "td_open"]) {
  md.renderer.rules[cell] = (tokens, i) => {
    const align = /(center|right)/.exec(tokens[i].attrGet("style") ?? "");
    return align ? `<${tokens[i].tag} class="${align[1]}">` : `<${tokens[i].tag}>`;
  };
}
// An image would tell its server that, and from where, this conversation is read: its address is shown as a link.
md.renderer.rules.image = (tokens, i) => {
  const source = md.utils.escapeHtml(tokens[i].attrGet("src") ?? "");
  return `<a href="${source}">${md.utils.escapeHtml(tokens[i].content) || source}</a>`;
};

/**
 * Shows a text that grows, inside an element that nobody else fills.
 *
 * A top-level block that another one follows is finished and never touched again; only the last one is made anew.
 */
export class Flow {
  constructor(element) {
    this.element = element;
    this.live = document.createElement("div");
    this.live.className = "live";
    this.element.replaceChildren(this.live);
    this.settled = 0;
    this.env = { open: true };
  }

  /** Show `text`, which begins with what was shown before. */
  update(text) {
    const tail = text.slice(this.settled);
    const tokens = md.parse(tail, this.env);
    const { token, offset } = lastBlock(tokens, tail);
    if (token > 0) {
      this.live.before(safe(tokens.slice(0, token), this.env));
      this.settled += offset;
    }
    this.live.replaceChildren(safe(tokens.slice(token), this.env));
  }

  /** Show the whole `text`, to which nothing will be added. */
  finish(text) {
    this.env = { ...this.env, open: false };
    this.live.replaceWith(safe(md.parse(text.slice(this.settled), this.env), this.env));
    for (const wide of this.element.querySelectorAll("pre, .table, .maths")) {
      if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0; // so that the keyboard can scroll it
    }
  }
}

/** Where the last top-level block begins whose first line is complete: its token and its offset in the text. */
function lastBlock(tokens, text) {
  const complete = text.split("\n").length - 1;
  for (let token = tokens.length - 1; token > 0; token--) {
    const { level, map, nesting } = tokens[token];
    if (level || nesting < 0 || !map || map[0] >= complete || tokens[token].type === "inline") continue;
    return { token, offset: lineStart(text, map[0]) };
  }
  return { token: 0, offset: 0 };
}

function lineStart(text, line) {
  let at = 0;
  for (let i = 0; i < line; i++) at = text.indexOf("\n", at) + 1;
  return at;
}

function safe(tokens, env) {
  const fragment = self.DOMPurify.sanitize(md.renderer.render(tokens, md.options, env), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const block of fragment.querySelectorAll(".code")) block.prepend(codeHead(block));
  typeset(fragment);
  return fragment;
}

function codeBlock(code, language) {
  const name = md.utils.escapeHtml(language.slice(0, 20));
  return `<div class="code"><span class="language">${name}</span><pre><code>${highlight(code, language)}</code></pre></div>`;
}

function codeHead(block) {
  const head = document.createElement("div");
  head.className = "code-head";
  const copy = document.createElement("button");
  Object.assign(copy, { type: "button", className: "quiet copy-code", textContent: "Copy" });
  copy.setAttribute("aria-label", "Copy this code");
  head.append(block.querySelector(".language"), copy);
  return head;
}

function highlight(code, language) {
  if (!hljs.getLanguage(language) || code.length > LONGEST_HIGHLIGHTED) return md.utils.escapeHtml(code);
  return hljs.highlight(code, { language, ignoreIllegals: true }).value;
}
