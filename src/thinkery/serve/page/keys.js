// The keyboard: each line is both what a key does and what the help says it does.

import { make } from "./turn.js";

const FIXED = [
  ["Enter", "asks the question"],
  ["Shift Enter", "begins a new line"],
  ["Escape", "stops the answer, or leaves the field"],
];

/** Listen for `letters` (`[key, what it does, action]`) outside of fields while `allowed()`, and list them in `list`. */
export function listen(letters, list, allowed) {
  for (const [key, does] of [...FIXED, ...letters]) {
    list.append(make("dt", {}, [make("kbd", {}, [key])]), make("dd", {}, [does]));
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    // A dialog that has just closed keeps the focus until the next frame.
    if (event.target.closest("input, textarea, select, dialog")?.checkVisibility() || !allowed()) return;
    const action = letters.find(([key]) => key === event.key)?.[2];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
