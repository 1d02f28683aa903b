// One turn on the page: the question, and each answer with its foldable thought.

import { count, dollars, duration } from "./format.js";
import { Flow } from "./markdown.js";

const SHARE = 5; // between two renderings, this many times as long as the last one took is left to the reader

/** The elements of a turn; `actions` are `edit(question)`, `again()`, `sibling(step)` and `copy(text, button)`. */
export class TurnView {
  constructor(turn, siblings, actions) {
    this.turn = turn;
    this.answers = turn.answers.map((answer) => new AnswerView(answer, actions));
    this.element = make("article", { className: "turn" }, [
      this.question(siblings, actions),
      make("div", { className: `answers answers-${turn.answers.length}` }, this.answers.map((one) => one.element)),
    ]);
    this.element.setAttribute("aria-label", `Question: ${turn.question.slice(0, 80)}`);
  }

  question(siblings, actions) {
    this.text = make("div", { className: "question-text" }, [this.turn.question]);
    this.tools = make("div", { className: "tools" }, [button("Edit", () => this.edit(actions))]);
    if (siblings.length > 1) {
      const place = siblings.indexOf(this.turn);
      const earlier = button("Earlier", () => actions.sibling(-1), { disabled: place === 0 });
      const later = button("Later", () => actions.sibling(1), { disabled: place === siblings.length - 1 });
      this.tools.prepend(earlier, make("span", { className: "soft" }, [`${place + 1} of ${siblings.length}`]), later);
    }
    this.head = make("div", { className: "question" }, [make("h2", { className: "hidden" }, ["You"]), this.text, this.tools]);
    return this.head;
  }

  /** Turn the question into a field; asking it anew keeps the old one beside it. */
  edit(actions) {
    const field = make("textarea", { value: this.turn.question, rows: Math.min(12, this.turn.question.split("\n").length + 1) });
    field.setAttribute("aria-label", "Edit the question");
    const close = () => {
      form.replaceWith(this.text, this.tools);
      this.tools.querySelector("button:last-child").focus();
    };
    const form = make("form", { className: "edit" }, [
      field,
      make("div", { className: "tools" }, [
        button("Cancel", close),
        make("button", { type: "submit", className: "primary" }, ["Ask"]),
      ]),
    ]);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) actions.edit(field.value.trim());
    });
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      }
    });
    this.text.replaceWith(form);
    this.tools.remove();
    field.focus();
  }
}

/** One answer; `update` after every piece, `finish` at its end. */
export class AnswerView {
  constructor(answer, actions) {
    this.answer = answer;
    this.touched = false;
    this.label = make("span", { className: "label" });
    this.clock = make("span", { className: "clock" });
    this.thought = make("div", { className: "prose thought-text" });
    this.details = make("details", { className: "thought", open: true, hidden: true }, [
      make("summary", { onclick: () => (this.touched = true) }, [this.label, this.clock]),
      this.thought,
    ]);
    this.content = make("div", { className: "prose answer-text" });
    this.wait = make("p", { className: "wait soft" });
    this.error = make("p", { className: "notice", hidden: true });
    this.facts = make("span", { className: "facts soft" });
    this.copy = button("Copy", () => actions.copy(answer.content || answer.thought, this.copy));
    this.foot = make("div", { className: "tools foot", hidden: true }, [
      this.copy,
      button("Ask again", actions.again),
      this.facts,
    ]);
    this.element = make("section", { className: "answer" }, [
      make("h3", { className: "model" }, [answer.model]),
      this.details,
      this.wait,
      this.content,
      this.error,
      this.foot,
    ]);
    this.element.setAttribute("aria-label", `Answer of ${answer.model}`);
    this.flows = { thought: new Flow(this.thought), content: new Flow(this.content) };
    if (answer.ended !== null) this.finish();
  }

  /** Show what has come, as soon as the page has had time for other things. */
  update() {
    if (this.timer) return;
    this.timer = setTimeout(() => this.paint(), Math.max(16, SHARE * (this.took ?? 0)));
  }

  paint() {
    this.timer = null;
    const begun = performance.now();
    const { thought, content, thoughtEnded } = this.answer;
    if (thought && !this.settled) this.flows.thought.update(thought);
    if (thoughtEnded !== null && thought && !this.settled) this.settle();
    if (content) this.flows.content.update(content);
    this.took = performance.now() - begun;
  }

  /** Show how long it has taken so far, `ms` after the request. */
  tick(ms) {
    const { thought, content, thoughtEnded } = this.answer;
    this.details.hidden = !thought;
    this.wait.hidden = Boolean(thought || content);
    this.wait.textContent = `Waiting ${duration(ms)}`;
    if (thought) this.caption(thoughtEnded === null ? "Thinking" : "Thought", thoughtEnded ?? ms);
  }

  /** Show the whole answer and what it took. */
  finish() {
    clearTimeout(this.timer);
    const { thought, content, thoughtEnded, ended, error, finish } = this.answer;
    if (thought && !this.settled) this.settle();
    this.flows.content.finish(content);
    this.details.hidden = !thought;
    if (thought) this.caption(thoughtEnded === null ? "Thought, not ended" : "Thought", thoughtEnded ?? ended);
    this.wait.hidden = Boolean(thought || content || error);
    this.wait.textContent = finish === "stopped" ? "Stopped before it began." : "An empty answer.";
    this.error.hidden = !error;
    this.error.textContent = error ?? "";
    this.facts.textContent = facts(this.answer);
    this.foot.hidden = false;
  }

  /** The thought is complete: render it whole, and fold it unless the reader has had a hand in it. */
  settle() {
    this.settled = true;
    this.flows.thought.finish(this.answer.thought);
    if (!this.touched && this.answer.thoughtEnded !== null) this.details.open = false;
  }

  caption(word, ms) {
    const exact = this.answer.usage?.completion_tokens_details?.reasoning_tokens;
    const tokens = exact === undefined ? `about ${count(this.answer.pieces.thought)}` : count(exact);
    this.label.textContent = word;
    this.clock.textContent = `${duration(ms)}, ${tokens} tokens`;
  }
}

/** How the answer ended, its tokens, its time, its price. */
function facts({ finish, usage, pieces, ended, cost }) {
  const words = { stopped: "stopped", length: "cut at the longest answer", content_filter: "withheld by the filter" };
  const tokens = usage ? count(usage.completion_tokens) : `about ${count(pieces.thought + pieces.content)}`;
  return [words[finish], `${tokens} tokens`, duration(ended), cost === null ? "" : dollars(cost)].filter(Boolean).join(" · ");
}

export function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function button(text, onclick, properties = {}) {
  return make("button", { type: "button", className: "quiet", onclick, ...properties }, [text]);
}
