// A conversation is a tree of turns: asking again or editing a question adds a sibling, so nothing said is ever lost.
//
//     conversation ─ next ─► turn { question, answers } ─ next ─► turn …      `shown` says which sibling is read
//
// A turn has one answer for each model that was asked; column 1 exists where two were compared. Plain data, no page.

/** An empty conversation. */
export function newConversation() {
  const now = Date.now();
  return { id: crypto.randomUUID(), title: "", created: now, updated: now, system: "", next: [], shown: 0 };
}

/** Add a question after `parent` (a turn, or the conversation itself) for these models; it is the one shown. */
export function addTurn(parent, question, models) {
  const turn = { question, answers: models.map(newAnswer), next: [], shown: 0 };
  parent.shown = parent.next.push(turn) - 1;
  return turn;
}

/** An answer that has not begun; times are milliseconds since the request, costs nano-USD. */
export function newAnswer(model) {
  return {
    model,
    thought: "",
    content: "",
    pieces: { thought: 0, content: 0 },
    thoughtEnded: null,
    ended: null,
    finish: null,
    usage: null,
    cost: null,
    error: null,
  };
}

/** The turns that are read, from the first. */
export function path(conversation) {
  const turns = [];
  for (let turn = conversation.next[conversation.shown]; turn; turn = turn.next[turn.shown]) turns.push(turn);
  return turns;
}

/** What `turn` follows: the turn before it, or the conversation. */
export function parentOf(conversation, turn) {
  return everyTurn(conversation).find((one) => one.next.includes(turn)) ?? conversation;
}

/** The messages that ask `turn`'s question of its model in `column`. Turns without an answer, and thoughts, are left out. */
export function messages(conversation, turn, column) {
  const asked = conversation.system ? [{ role: "system", content: conversation.system }] : [];
  for (const one of path(conversation)) {
    if (one === turn) break;
    const answer = one.answers[column] ?? one.answers[0];
    if (!answer.content) continue;
    asked.push({ role: "user", content: one.question }, { role: "assistant", content: answer.content });
  }
  return [...asked, { role: "user", content: turn.question }];
}

/**
 * Tokens and nano-USD of every answer, also of those no longer shown; `cost` is null where no price was known.
 * `more` says that the server charged more than that: for an answer that was cut short it does not say how much.
 */
export function totals(conversation) {
  const sum = { tokens: 0, cost: null, more: false };
  for (const { answers } of everyTurn(conversation)) {
    for (const { usage, cost, ended, finish, thought, content } of answers) {
      sum.tokens += usage?.total_tokens ?? 0;
      if (cost !== null) sum.cost = (sum.cost ?? 0) + cost;
      sum.more ||= !usage && ended !== null && Boolean(finish === "stopped" || thought || content);
    }
  }
  return sum;
}

/** The part that is shown, as Markdown. */
export function asMarkdown(conversation) {
  const parts = [`# ${conversation.title}`];
  for (const { question, answers } of path(conversation)) {
    parts.push("## Question", question);
    for (const { model, thought, content } of answers) {
      parts.push(`## ${model}`);
      if (thought) parts.push(thought.replace(/^/gm, "> "));
      if (content) parts.push(content);
    }
  }
  return `${parts.join("\n\n")}\n`;
}

function everyTurn(conversation) {
  const turns = [...conversation.next];
  for (let i = 0; i < turns.length; i++) turns.push(...turns[i].next);
  return turns;
}
